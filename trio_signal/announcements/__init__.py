"""Announcements: what creators say to every user, until each has seen it.

docs/announcements.md says how it works, and what happens when something fails.
"""

from trio_signal.announcements.announcements import Announcements, open_announcements

__all__ = ["Announcements", "open_announcements"]
