"""The HTTP service over a bank: a queue that groups requests by mask, limits, a page."""
