"""What a command does, as functions that return a typed result."""
