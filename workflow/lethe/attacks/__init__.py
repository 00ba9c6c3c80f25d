"""What probes share: judges and their thresholds, prompts and embeddings to search over, drawing, counting, trials."""
