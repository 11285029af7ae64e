"""Where pretrained networks come from, and what one must know of each to use it."""
