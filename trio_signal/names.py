"""Cleans names and pictures from clients, since they are shown to people and written to logs."""

import unicodedata

#: The name of a user without a name.
ANONYMOUS = "Anonymous"
#: Maximum characters of a name; the rest is cut off.
MAX_NAME = 64
#: Maximum characters of a picture's address. Each newcomer receives those of all peers.
MAX_PICTURE = 2048
#: Maximum characters of a user's id. Ids are compared, so a longer one is refused, not cut.
MAX_ID = 256

#: Zero-width joiner and non-joiner: emoji and some scripts need them.
_JOINERS = "\u200c\u200d"
#: Control, format (the bidirectional overrides among them), surrogate.
_UNSHOWN = frozenset({"Cc", "Cf", "Cs"})
_FULL_WIDTH = str.maketrans("<>&", "＜＞＆")


def clean_name(text: str | None) -> str | None:
    """A name that is safe to show: one line, of bounded length; None if nothing is left."""
    if text is None:
        return None
    shown = " ".join(text[: 16 * MAX_NAME].split())
    if not shown.isascii() or not shown.isprintable():
        shown = "".join(character for character in shown if _is_shown(character))
        shown = " ".join(shown.split())  # removed characters may leave two spaces
    shown = shown[:MAX_NAME].strip()
    return shown if shown.strip(_JOINERS) else None


def clean_picture(url: str | None) -> str | None:
    """A picture's address, unchanged; None if it is too long, because a part is useless."""
    return url if url is not None and len(url) <= MAX_PICTURE else None


def _is_shown(character: str) -> bool:
    return character in _JOINERS or unicodedata.category(character) not in _UNSHOWN


def to_harmless(text: str) -> str:
    """The text without characters that can begin HTML: old clients insert it into pages unchanged.

    `<`, `>` and `&` become their full-width forms, so its length stays the same.
    """
    return text.translate(_FULL_WIDTH)
