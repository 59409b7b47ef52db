"""What is said to Janus and its VideoRoom, and what they say; nothing here does I/O.

https://janus.conf.meetecho.com/docs/rest.html and videoroom.html
"""

import re
import secrets
from collections.abc import Iterable
from typing import Any, NamedTuple, Self
from urllib.parse import unquote, urlsplit

import msgspec
from msgspec import Struct

from trio_signal.relay import RelayError

PLUGIN = "janus.plugin.videoroom"
#: By this the rooms that we have made are known.
DESCRIPTION = "trio-signal"
#: Janus's random numbers have so many bits: all that JavaScript's can hold, and one less.
_BITS = 52
_SCHEMES = {"janus+ws": (False, 8188), "janus+wss": (True, 443)}
_FEED = re.compile(r"(\d{1,16})-(\d{1,16})-([0-9a-f]{32})")
_FINGERPRINT = re.compile(r"^a=fingerprint:(.*\S)", re.MULTILINE)
#: Bytes of a candidate: they are some hundred.
_MAX_CANDIDATE = 2048

#: What Janus answers with.
UNAUTHORIZED, NO_SESSION, NO_PLUGIN = 403, 458, 460
#: What its VideoRoom answers with.
NO_ROOM, ROOM_EXISTS = 426, 427
#: Why a peer connection ended that its browser has closed.
CLOSED_BY_BROWSER = "DTLS alert"


class Address(NamedTuple):
    """Where a Janus is, and what it wants to hear."""

    #: Its URL, without what is secret.
    name: str
    host: str
    port: int
    secure: bool
    path: str
    #: Its `api_secret`; none if empty.
    secret: str
    #: As the `Host` header has it.
    netloc: str

    @classmethod
    def of(cls, url: str, token: str = "") -> Self:
        """Read `janus+ws://host:8188`, with a secret as in `janus+wss://:SECRET@host/janus`.

        Raises ValueError, which does not say the secret.
        """
        parts = urlsplit(url)
        if parts.scheme not in _SCHEMES or not parts.hostname:
            raise ValueError("must be as janus+ws://HOST:8188 or janus+wss://HOST/janus")
        secure, port = _SCHEMES[parts.scheme]
        where = parts.netloc.rpartition("@")[2]
        return cls(
            name=f"{parts.scheme}://{where}{parts.path}",
            host=parts.hostname,
            port=parts.port or port,
            secure=secure,
            path=parts.path or "/",
            secret=unquote(parts.password or "") or token,
            netloc=where,
        )


class Feed(NamedTuple):
    """A broadcast, as subscribers name it; whoever has it may watch."""

    room: int
    publisher: int
    pin: str

    def __str__(self) -> str:
        """The text for the other replicas."""
        return f"{self.room}-{self.publisher}-{self.pin}"

    @classmethod
    def of(cls, text: str) -> Self:
        """Read the text; raises RelayError."""
        if (found := _FEED.fullmatch(text)) is None:
            raise RelayError("this is no feed of a Janus")
        return cls(int(found[1]), int(found[2]), found[3])


# What Janus says. What does not fit is not looked at.


class Failure(Struct, frozen=True):
    """Why a request was refused."""

    code: int
    reason: str = ""


class Made(Struct, frozen=True):
    """The number of a new session, or of a new handle."""

    id: int


class Description(Struct, frozen=True):
    """An offer or an answer."""

    type: str
    sdp: str


class Stream(Struct, frozen=True):
    """One of the tracks of a publisher."""

    mid: str
    disabled: bool = False


class Publisher(Struct, frozen=True):
    """Who publishes in a room."""

    id: int
    streams: tuple[Stream, ...] = ()


class Listed(Struct, frozen=True):
    """One of the rooms of a Janus."""

    room: int | str
    description: str = ""
    #: Without those that only watch.
    num_participants: int = 1


class VideoRoom(Struct, frozen=True):
    """What the plugin says."""

    videoroom: str = ""
    #: Ours, after joining.
    id: int | None = None
    publishers: tuple[Publisher, ...] = ()
    #: Who does not publish any more, or has left.
    unpublished: int | str | None = None
    leaving: int | str | None = None
    rooms: tuple[Listed, ...] = msgspec.field(default=(), name="list")
    error_code: int | None = None
    error: str = ""


class PluginData(Struct, frozen=True):
    """The wrapping of it."""

    data: VideoRoom


class Message(Struct, frozen=True):
    """One message of Janus: the answer to a request, or something that it tells."""

    janus: str
    transaction: str | None = None
    session_id: int | None = None
    #: The handle that it is about.
    sender: int | None = None
    data: Made | None = None
    plugindata: PluginData | None = None
    jsep: Description | None = None
    error: Failure | None = None
    #: Why there is no peer connection any more.
    reason: str = ""
    #: In the answer to `info`.
    version_string: str = ""

    @property
    def room(self) -> VideoRoom:
        """What the plugin says; nothing if it says nothing."""
        return self.plugindata.data if self.plugindata else VideoRoom()


_decoder = msgspec.json.Decoder(Message)


def read(text: str | bytes) -> Message | None:
    """A message, or None if it is none."""
    try:
        return _decoder.decode(text)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None


# What is said to it


def new_room(bitrate: int) -> tuple[int, str, dict[str, Any]]:
    """The number of a room that nobody else has, its pin, and how it is made."""
    room, pin = secrets.randbits(_BITS - 1) + 1, secrets.token_hex(16)
    return (
        room,
        pin,
        {
            "request": "create",
            "room": room,
            "pin": pin,
            # It is listed, so that any replica can remove what one that died has left.
            "is_private": False,
            "description": DESCRIPTION,
            "publishers": 1,
            "bitrate": bitrate,
            "bitrate_cap": True,
            "videocodec": "vp8,h264,vp9,av1",
            "audiocodec": "opus",
            # Without it a browser turns the picture itself, and each viewer has it upright.
            "videoorient_ext": False,
        },
    )


def streams(feed: Feed, tracks: Iterable[tuple[int, str]]) -> list[dict[str, Any]]:
    """These tracks of a feed; of each only its mid counts."""
    return [{"feed": feed.publisher, "mid": mid} for _, mid in sorted(tracks)]


def candidate(value: object) -> dict[str, Any] | None:
    """A browser's candidate for Janus, None for what is none."""
    if value is None:
        return {"completed": True}
    match value:
        case {"candidate": ""}:
            return {"completed": True}
        case {"candidate": str(text), **others} if _is_short(text):
            mid, index = others.get("sdpMid"), others.get("sdpMLineIndex")
            found: dict[str, Any] = {"candidate": text}
            if isinstance(mid, str) and _is_short(mid):
                found["sdpMid"] = mid
            if type(index) is int and 0 <= index < _MAX_CANDIDATE:
                found["sdpMLineIndex"] = index
            return found if len(found) > 1 else None
    return None


def is_older(version: str, other: str) -> bool:
    """Whether a version, as `1.1.2`, came before another; one that is no such text did not."""
    one, two = (re.findall(r"\d+", text) for text in (version, other))
    return bool(one) and [int(part) for part in one] < [int(part) for part in two]


def _is_short(text: str) -> bool:
    return len(text) <= _MAX_CANDIDATE and text.isascii()


def fingerprints(sdp: str) -> frozenset[str]:
    """Of the certificates; each peer connection of a browser makes one for itself."""
    return frozenset(text.lower() for text in _FINGERPRINT.findall(sdp))
