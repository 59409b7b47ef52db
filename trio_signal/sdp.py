"""SDP: reads the few lines of session descriptions that WHIP requires. No I/O.

Most of a description concerns only the publisher and the media server. RFC 9725 requires the server
between them to refuse invalid offers, and to read and write fragments.
"""

import re
from collections.abc import Iterator

from msgspec import Struct

from trio_signal.errors import SdpError
from trio_signal.messages.identity import MediaType

#: Allowed characters of ICE attributes: RFC 8839, sections 5.1 and 5.4.
_UFRAG = re.compile(r"[A-Za-z0-9+/]{4,256}")
_PASSWORD = re.compile(r"[A-Za-z0-9+/]{22,256}")
_CANDIDATE = re.compile(r"candidate:[\x20-\x7e]{1,1000}")
#: Maximum candidates in a fragment; each one is a message to the media server.
_MOST_CANDIDATES = 100
_VERSION = re.compile(r"^(o=\S+ \S+ )(\d{1,19})( .*)$", re.MULTILINE)
_RECEIVING = frozenset({"recvonly", "inactive"})


class Credentials(Struct, frozen=True):
    """ICE credentials; new ones begin a new ICE session."""

    ufrag: str
    password: str

    def __repr__(self) -> str:
        """Without the password."""
        return f"Credentials({self.ufrag!r})"


class Fragment(Struct, frozen=True):
    """An update that a publisher sends after its offer: RFC 8840, section 9.

    A candidate consists of its attribute and the `mid` of its section. `complete` says that no more
    candidates follow.
    """

    credentials: Credentials
    candidates: tuple[tuple[str, str], ...] = ()
    complete: bool = False


def check_offer(sdp: str) -> Credentials:
    """The ICE credentials of an offer; raises SdpError if the offer cannot be published."""
    session, *sections = split_sections(sdp)
    if not session or session[0] != "v=0":
        raise SdpError("The body must be an SDP, which begins with v=0")
    kinds = [section[0].removeprefix("m=").partition(" ")[0] for section in sections]
    if not set(kinds) <= {"audio", "video"} or len(kinds) != len(set(kinds)) or not kinds:
        raise SdpError("The offer must have one audio or video section, or one of each")
    for section in sections:
        if not _RECEIVING.isdisjoint(_flags(section)):
            raise SdpError("Each section of the offer must be sendonly or sendrecv")
        is_complete = any(_attributes([*session, *section], "fingerprint"))
        if not is_complete and not _is_bundled(section):
            raise SdpError("The offer has no fingerprint")
    return _credentials([*session, *sections[0]])


def read_fragment(text: str) -> Fragment:
    """Parse a publisher's fragment; raises SdpError."""
    session, *sections = split_sections(text)
    found: list[tuple[str, str]] = []
    complete = any("end-of-candidates" in _flags(lines) for lines in (session, *sections))
    for section in sections:
        mid = next(_attributes(section, "mid"), None)
        if mid is None or len(mid) > 255:
            raise SdpError("Each section of the fragment must have a mid")
        for value in _attributes(section, "candidate"):
            if not _CANDIDATE.fullmatch(f"candidate:{value}"):
                raise SdpError("A candidate is malformed")
            found.append((f"candidate:{value}", mid))
    if len(found) > _MOST_CANDIDATES:
        raise SdpError("The fragment has too many candidates")
    first = sections[0] if sections else []
    return Fragment(_credentials([*session, *first]), tuple(found), complete)


def restarted(offer: str, fragment: Fragment) -> str:
    """A publisher's offer with the ICE session of a fragment."""
    lines: list[str] = []
    for line in offer.splitlines():
        if line.startswith("a=ice-ufrag:"):
            lines.append(f"a=ice-ufrag:{fragment.credentials.ufrag}")
        elif line.startswith("a=ice-pwd:"):
            lines.append(f"a=ice-pwd:{fragment.credentials.password}")
        elif not line.startswith(("a=candidate:", "a=end-of-candidates")):
            lines.append(line)
    # The sections are bundled, so the attributes of the first one apply to all.
    starts = [number for number, line in enumerate(lines) if line.startswith("m=")]
    end = starts[1] if len(starts) > 1 else len(lines)
    lines[end:end] = [f"a={candidate}" for candidate, _ in fragment.candidates]
    text = "\r\n".join(lines) + "\r\n"
    return _VERSION.sub(lambda o: f"{o[1]}{int(o[2]) + 1}{o[3]}", text, count=1)


def fragment_of(answer: str) -> str:
    """The fragment that answers an ICE restart, from the answer to the offer; raises SdpError."""
    session, *sections = split_sections(answer)
    first = sections[0] if sections else []
    credentials = _credentials([*session, *first])
    lines = ["a=ice-lite"] if "ice-lite" in _flags(session) else []
    lines += [f"a=ice-options:{options}" for options in _attributes(session + first, "ice-options")]
    lines += [f"a=ice-ufrag:{credentials.ufrag}", f"a=ice-pwd:{credentials.password}"]
    candidates = list(_attributes(first, "candidate"))
    if candidates:
        lines += [first[0], *(f"a=mid:{mid}" for mid in _attributes(first, "mid"))]
        lines += [*(f"a=candidate:{value}" for value in candidates), "a=end-of-candidates"]
    return "\r\n".join(lines) + "\r\n"


def refuses_some(answer: str) -> bool:
    """Whether the answer rejects some of the offered media."""
    sections = split_sections(answer)[1:]
    return not sections or any(
        section[0].split(" ")[1:2] == ["0"] and not _is_bundled(section) for section in sections
    )


def media_of(offer: str) -> MediaType:
    """`video` if the offer has video, else `audio`."""
    return "video" if re.search(r"^m=video ", offer, re.MULTILINE) else "audio"


def mids_of(sdp: str) -> list[str]:
    """The `mid` of each section."""
    return [next(_attributes(section, "mid"), "") for section in split_sections(sdp)[1:]]


def split_sections(sdp: str) -> list[list[str]]:
    """The lines of the session, and then those of each section."""
    sections: list[list[str]] = [[]]
    for line in sdp.splitlines():
        if line.startswith("m="):
            sections.append([])
        if line:
            sections[-1].append(line)
    return sections


def _attributes(lines: list[str], name: str) -> Iterator[str]:
    prefix = f"a={name}:"
    return (line.removeprefix(prefix).strip() for line in lines if line.startswith(prefix))


def _flags(lines: list[str]) -> set[str]:
    return {line.removeprefix("a=").strip() for line in lines if line.startswith("a=")}


def _is_bundled(section: list[str]) -> bool:
    """Whether the transport of the first section is used, which alone describes it: RFC 9143."""
    return "bundle-only" in _flags(section)


def _credentials(lines: list[str]) -> Credentials:
    ufrag = next(_attributes(lines, "ice-ufrag"), "")
    password = next(_attributes(lines, "ice-pwd"), "")
    if not _UFRAG.fullmatch(ufrag) or not _PASSWORD.fullmatch(password):
        raise SdpError("The ice-ufrag and ice-pwd are missing")
    return Credentials(ufrag, password)
