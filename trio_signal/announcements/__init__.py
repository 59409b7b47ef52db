"""Announcements: what creators say to every user, until each has seen it.

docs/announcements.md says how it works, and what happens when something fails.
"""

from trio_signal.announcements.announcements import Announcements, open_announcements
from trio_signal.announcements.draft import MAX_CHARACTERS, check_message, check_type

__all__ = [
    "MAX_CHARACTERS",
    "Announcements",
    "check_message",
    "check_type",
    "open_announcements",
]
