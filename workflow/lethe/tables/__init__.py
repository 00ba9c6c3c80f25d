"""Measures to numbers to tables."""
