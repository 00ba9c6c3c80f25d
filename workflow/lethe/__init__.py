"""Erase concepts from text-to-image diffusion models, one or a thousand at a time, and measure what that cost."""

__version__ = "0.1.0"
