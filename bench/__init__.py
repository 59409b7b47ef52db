"""The benchmark: this server beside those that one would otherwise pick. `make bench`."""
