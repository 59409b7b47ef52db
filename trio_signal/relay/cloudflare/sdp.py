"""Reads and changes a few things in session descriptions. Pure."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from trio_signal.sdp import split_sections

_DIRECTIONS = ("sendrecv", "sendonly", "recvonly", "inactive")


class Media(NamedTuple):
    """One media section."""

    kind: str
    mid: str
    direction: str
    #: The section was refused, or has ended.
    is_off: bool

    @property
    def sends(self) -> bool:
        """Whether the description's author sends audio or video here."""
        return (
            self.kind in ("audio", "video")
            and self.direction in ("sendrecv", "sendonly")
            and not self.is_off
        )


def sending(sdp: str) -> dict[str, str]:
    """What is sent: `audio` or `video`, by the section's mid."""
    media = map(_media, split_sections(sdp)[1:])
    return {each.mid: each.kind for each in media if each.sends and each.mid}


def fingerprints(sdp: str) -> frozenset[str]:
    """The certificates' fingerprints, which differ for each peer connection."""
    lines = (line for section in split_sections(sdp) for line in section)
    return frozenset(
        line.partition(":")[2].lower() for line in lines if line.startswith("a=fingerprint:")
    )


def in_one_stream(sdp: str, stream: str) -> str:
    """Put everything that is sent into one stream: pages show `event.streams[0]`."""
    session, *sections = split_sections(sdp)
    return _join(session, *(_in_stream(section, stream) for section in sections))


def with_bitrate(sdp: str, bits: int) -> str:
    """Limit the video of the other side to so many bits per second."""
    session, *sections = split_sections(sdp)
    return _join(session, *(_capped(section, bits) for section in sections))


def _join(*sections: Sequence[str]) -> str:
    return "".join(f"{line}\r\n" for section in sections for line in section)


def _media(section: Sequence[str]) -> Media:
    kind, _, rest = section[0].removeprefix("m=").partition(" ")
    attributes = {line.removeprefix("a=") for line in section if line.startswith("a=")}
    mid = next((each[4:] for each in attributes if each.startswith("mid:")), "")
    direction = next((each for each in _DIRECTIONS if each in attributes), "sendrecv")
    # The port of a bundled section may be 0 as well: RFC 9143 section 6.
    is_off = rest.startswith("0 ") and "bundle-only" not in attributes
    return Media(kind, mid, direction, is_off)


def _in_stream(section: list[str], stream: str) -> list[str]:
    media = _media(section)
    if not media.sends:
        return section
    kept = [line for line in section if not line.startswith("a=msid:")]
    return [*kept, f"a=msid:{stream} {media.kind}-{media.mid}"]


def _capped(section: list[str], bits: int) -> list[str]:
    if _media(section).kind != "video":
        return section
    kept = [line for line in section if not line.startswith("b=")]
    return list(_with_bandwidth(kept, bits))


def _with_bandwidth(section: Sequence[str], bits: int) -> Iterator[str]:
    """Insert the line where RFC 4566 section 5 wants it: after `m=`, `i=` and `c=`."""
    place = next(
        (i for i, line in enumerate(section) if not line.startswith(("m=", "i=", "c="))),
        len(section),
    )
    yield from section[:place]
    yield f"b=AS:{max(bits // 1000, 1)}"
    yield f"b=TIAS:{bits}"
    yield from section[place:]
