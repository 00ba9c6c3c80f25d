"""The configuration: what a valid one is, and what is known when planning."""
