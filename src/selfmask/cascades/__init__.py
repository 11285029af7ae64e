"""Cascades (PAPER §8): a dispatcher, a router, experts, and one embedding out of all of them."""
