"""Doctor: finds the usual mistakes of a deployment, and says how to correct them.

`gather` collects the facts once; `examine` then judges them without I/O.
"""

from trio_signal.doctor.checks import Finding, examine, wrong_settings
from trio_signal.doctor.facts import Facts, gather

__all__ = ["Facts", "Finding", "examine", "gather", "wrong_settings"]
