"""Embeddings: made by a network, kept in a file that says by which, searched exactly."""
