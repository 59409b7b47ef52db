"""Fuzz one target with atheris; the options are libFuzzer's.

python -m fuzz.one TARGET [OPTION]... [CORPUS]...
"""

import logging
import sys

import atheris  # type: ignore[import-untyped,import-not-found,unused-ignore]

with atheris.instrument_imports(include=["trio_signal", "websockets"]):
    from fuzz.targets import TARGETS


def main() -> None:
    """Fuzz until the time is over or something fails."""
    name = sys.argv.pop(1)
    logging.disable()  # clients' mistakes are no errors here; the targets raise real ones
    atheris.Setup(sys.argv, TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
