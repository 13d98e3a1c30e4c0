"""Delivery through a broker: what any transport has to give, and what is the same on all of them."""
