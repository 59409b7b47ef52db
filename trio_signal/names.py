"""Names and pictures from clients: shown to people and written to logs, so made harmless."""

import unicodedata

#: What a user without any name is called.
ANONYMOUS = "Anonymous"
#: Characters of a name; the rest is cut off.
MAX_NAME = 64
#: Characters of a picture's address. Each newcomer is told those of all who are there.
MAX_PICTURE = 2048
#: Characters of a user's id. An id is compared, so it is taken as it is or not at all.
MAX_ID = 256

#: Zero-width joiner and non-joiner: emoji and some scripts are written with them.
_JOINERS = "\u200c\u200d"
#: Control, format (the bidirectional overrides among them), surrogate.
_UNSHOWN = frozenset({"Cc", "Cf", "Cs"})
_FULL_WIDTH = str.maketrans("<>&", "＜＞＆")


def clean_name(text: str | None) -> str | None:
    """A name as it may be shown: one line, as it reads, not long; None if nothing is left."""
    if text is None:
        return None
    shown = " ".join(text[: 16 * MAX_NAME].split())
    if not shown.isascii() or not shown.isprintable():
        shown = "".join(character for character in shown if _is_shown(character))
        shown = " ".join(shown.split())  # there may have been space on both sides of one
    shown = shown[:MAX_NAME].strip()
    return shown if shown.strip(_JOINERS) else None


def clean_picture(url: str | None) -> str | None:
    """A picture's address as it is; None if it is too long, since a part of it shows nothing."""
    return url if url is not None and len(url) <= MAX_PICTURE else None


def _is_shown(character: str) -> bool:
    return character in _JOINERS or unicodedata.category(character) not in _UNSHOWN


def to_harmless(text: str) -> str:
    """The text without what can begin HTML: old clients put it into their pages as it is.

    `<`, `>` and `&` become their full-width forms, so its length stays the same.
    """
    return text.translate(_FULL_WIDTH)
