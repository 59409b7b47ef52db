"""How many random examples to try: few in `make test`, many in `make thorough`."""

import os

#: A factor for the number of examples that `make test` tries.
EFFORT = int(os.environ.get("EFFORT", "1"))
