"""One thin module per rule: parse arguments, load, call the library, write."""
