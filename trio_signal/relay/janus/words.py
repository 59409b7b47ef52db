"""The messages to and from Janus and its VideoRoom; no I/O.

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
#: Marks the rooms that we have created.
DESCRIPTION = "trio-signal"
#: Bits of Janus's random numbers: one less than JavaScript's integers hold.
_BITS = 52
_SCHEMES = {"janus+ws": (False, 8188), "janus+wss": (True, 443)}
_FEED = re.compile(r"(\d{1,16})-(\d{1,16})-([0-9a-f]{32})")
_FINGERPRINT = re.compile(r"^a=fingerprint:(.*\S)", re.MULTILINE)
#: Largest candidate in bytes; usual ones have about a hundred.
_MAX_CANDIDATE = 2048

#: Error codes of Janus.
UNAUTHORIZED, NO_SESSION, NO_PLUGIN = 403, 458, 460
#: Error codes of its VideoRoom.
NO_ROOM, ROOM_EXISTS = 426, 427
#: The reason that Janus gives when the browser has closed a peer connection.
CLOSED_BY_BROWSER = "DTLS alert"


class Address(NamedTuple):
    """The address of a Janus, and its secret."""

    #: The URL without secrets.
    name: str
    host: str
    port: int
    secure: bool
    path: str
    #: The `api_secret`; empty if there is none.
    secret: str
    #: Host and port, for the `Host` header.
    netloc: str

    @classmethod
    def of(cls, url: str, token: str = "") -> Self:
        """Read `janus+ws://host:8188`, or with a secret `janus+wss://:SECRET@host/janus`.

        Raises ValueError, whose text does not contain the secret.
        """
        parts = urlsplit(url)
        if parts.scheme not in _SCHEMES or not parts.hostname:
            raise ValueError("must be like janus+ws://HOST:8188 or janus+wss://HOST/janus")
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
    """A broadcast, as subscribers name it; knowing the feed is enough to watch."""

    room: int
    publisher: int
    pin: str

    def __str__(self) -> str:
        """The text form, for other replicas."""
        return f"{self.room}-{self.publisher}-{self.pin}"

    @classmethod
    def of(cls, text: str) -> Self:
        """Read the text form; raises RelayError."""
        if (found := _FEED.fullmatch(text)) is None:
            raise RelayError("this is not a feed of a Janus")
        return cls(int(found[1]), int(found[2]), found[3])


# Messages from Janus. Unknown ones are ignored.


class Failure(Struct, frozen=True):
    """Why a request was refused."""

    code: int
    reason: str = ""


class Made(Struct, frozen=True):
    """The id of a new session or handle."""

    id: int


class Description(Struct, frozen=True):
    """An offer or an answer."""

    type: str
    sdp: str


class Stream(Struct, frozen=True):
    """One track of a publisher."""

    mid: str
    disabled: bool = False


class Publisher(Struct, frozen=True):
    """A publisher in a room."""

    id: int
    streams: tuple[Stream, ...] = ()


class Listed(Struct, frozen=True):
    """One of the rooms of a Janus."""

    room: int | str
    description: str = ""
    #: Subscribers are not counted.
    num_participants: int = 1


class VideoRoom(Struct, frozen=True):
    """A message of the plugin."""

    videoroom: str = ""
    #: Our own id, after joining.
    id: int | None = None
    publishers: tuple[Publisher, ...] = ()
    #: The publisher that has stopped or left.
    unpublished: int | str | None = None
    leaving: int | str | None = None
    rooms: tuple[Listed, ...] = msgspec.field(default=(), name="list")
    error_code: int | None = None
    error: str = ""


class PluginData(Struct, frozen=True):
    """Wraps a message of the plugin."""

    data: VideoRoom


class Message(Struct, frozen=True):
    """One message of Janus: the answer to a request, or an event."""

    janus: str
    transaction: str | None = None
    session_id: int | None = None
    #: The handle that the message concerns.
    sender: int | None = None
    data: Made | None = None
    plugindata: PluginData | None = None
    jsep: Description | None = None
    error: Failure | None = None
    #: Why the peer connection has ended.
    reason: str = ""
    #: In the answer to `info`.
    version_string: str = ""

    @property
    def room(self) -> VideoRoom:
        """The message of the plugin; an empty one if there is none."""
        return self.plugindata.data if self.plugindata else VideoRoom()


_decoder = msgspec.json.Decoder(Message)


def read(text: str | bytes) -> Message | None:
    """Decode a message; None if it is unreadable."""
    try:
        return _decoder.decode(text)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None


# Messages to Janus


def new_room(bitrate: int) -> tuple[int, str, dict[str, Any]]:
    """A new room's random id, its pin, and the request that creates it."""
    room, pin = secrets.randbits(_BITS - 1) + 1, secrets.token_hex(16)
    return (
        room,
        pin,
        {
            "request": "create",
            "room": room,
            "pin": pin,
            # Listed, so that any replica can remove the rooms of one that died.
            "is_private": False,
            "description": DESCRIPTION,
            "publishers": 1,
            "bitrate": bitrate,
            "bitrate_cap": True,
            "videocodec": "vp8,h264,vp9,av1",
            "audiocodec": "opus",
            # Without this extension, the browser itself rotates the video, so each viewer gets it
            # upright.
            "videoorient_ext": False,
        },
    )


def streams(feed: Feed, tracks: Iterable[tuple[int, str]]) -> list[dict[str, Any]]:
    """The request's list of these tracks of a feed; only their mids count."""
    return [{"feed": feed.publisher, "mid": mid} for _, mid in sorted(tracks)]


def candidate(value: object) -> dict[str, Any] | None:
    """A browser's candidate in Janus's form; None if it is no candidate."""
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
    """Whether a version such as `1.1.2` came before another; False for other texts."""
    one, two = (re.findall(r"\d+", text) for text in (version, other))
    return bool(one) and [int(part) for part in one] < [int(part) for part in two]


def _is_short(text: str) -> bool:
    return len(text) <= _MAX_CANDIDATE and text.isascii()


def has_credentials(sdp: str) -> bool:
    """Whether a description has ICE credentials: Janus writes `(null)` if its ICE agent is gone."""
    return "a=ice-ufrag:(null)" not in sdp


def fingerprints(sdp: str) -> frozenset[str]:
    """The fingerprints of the certificates; each peer connection of a browser has its own."""
    return frozenset(text.lower() for text in _FINGERPRINT.findall(sdp))
