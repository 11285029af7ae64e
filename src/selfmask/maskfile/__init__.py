"""The mask file: exactly what it takes to make the adapted network from its base (docs/format.md)."""
