"""Files of every kind that Lethe writes and reads."""
