"""``python -m trio_signal``."""

from trio_signal.cli import app

app(prog_name="trio-signal")
