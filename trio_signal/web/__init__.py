"""HTTP: the Quart application and the server that runs it."""
