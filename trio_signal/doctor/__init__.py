"""Doctor: the usual mistakes of a deployment, each with its mend.

`gather` asks the machine and its neighbours once; `examine` then judges without I/O.
"""

from trio_signal.doctor.checks import Finding, examine, wrong_settings
from trio_signal.doctor.facts import Facts, gather

__all__ = ["Facts", "Finding", "examine", "gather", "wrong_settings"]
