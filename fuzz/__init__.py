"""Anything at all, given to what reads what clients send."""
