"""Diffusion pipelines to edit: their folders, how they are loaded, what reads text in them, how they draw."""
