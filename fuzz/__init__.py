"""Arbitrary input for everything that reads data from clients."""
