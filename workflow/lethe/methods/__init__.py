"""One module per method: (base, a task's concepts, settings) to an edit."""
