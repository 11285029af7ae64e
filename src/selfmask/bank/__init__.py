"""Many masks over one backbone: switching, mixed batches, the folder they come from."""
