"""See what was learnt: densities, magnitudes, similarities, embeddings, and one report page."""
