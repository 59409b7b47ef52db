"""How much is tried of what is left to chance: a little by `make test`, much by `make thorough`."""

import os

#: How many times what `make test` tries.
EFFORT = int(os.environ.get("EFFORT", "1"))
