"""What a user gives: concepts, suites, priors, templates, models by their hub ids."""
