"""The jobs that make the embedded emoji world: one function for each rule."""
