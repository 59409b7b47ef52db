"""Checks of announcements. Pure."""

import unicodedata
from typing import get_args

from trio_signal.errors import AnnouncementError
from trio_signal.messages.identity import AnnouncementType

#: In characters, not bytes.
MAX_CHARACTERS = 280
TYPES: tuple[AnnouncementType, ...] = get_args(AnnouncementType)
#: A banner has one line, but creators write in fields with several.
_BREAKS = str.maketrans(dict.fromkeys("\t\n\v\f\r\x85\u2028\u2029", " "))
#: Control characters, and halves of surrogate pairs.
_REFUSED = frozenset({"Cc", "Cs"})


def check_message(text: str) -> str:
    """Return the message as one line, without surrounding spaces; raises AnnouncementError."""
    message = text.translate(_BREAKS).strip()
    if not message:
        raise AnnouncementError("Broadcast message cannot be empty")
    if len(message) > MAX_CHARACTERS:
        raise AnnouncementError(
            f"Broadcast message too long. Maximum {MAX_CHARACTERS} characters allowed. "
            f"Current: {len(message)}"
        )
    if any(unicodedata.category(character) in _REFUSED for character in message):
        raise AnnouncementError("Broadcast message cannot have control characters")
    return message


def check_type(text: str) -> AnnouncementType:
    """Return the type; raises AnnouncementError if it is unknown."""
    for type_ in TYPES:
        if text == type_:
            return type_
    raise AnnouncementError(f"Unknown broadcast type. Allowed: {', '.join(TYPES)}")
