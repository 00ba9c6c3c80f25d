"""What stands around jobs and shapes no result: what a person sees of a run, and how its jobs start."""
