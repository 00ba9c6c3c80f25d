"""What a method makes: save, load, apply, export."""
