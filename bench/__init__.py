"""The benchmark: this server compared to the usual alternatives. `make bench`."""
