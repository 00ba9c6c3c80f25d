"""The emoji world: how the embedded models, their data and their card were made."""
