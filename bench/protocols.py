"""The messages of clients in each protocol, as settings for load.c.

load.c replaces `{me}`, `{to}`, `{room}`, `{number}`, `{token}`, `{mark}`, `{filler}`, `{session}`
and `{seen}`.
"""

import time
from functools import cache
from typing import NamedTuple

import jwt

_LINES = (
    "v=0",
    "o=- 4611731400430051336 2 IN IP4 127.0.0.1",
    "a=group:BUNDLE 0 1",
    "m=audio 9 UDP/TLS/RTP/SAVPF 111 63 9 0 8 13 110 126",
    "a=candidate:1467250027 1 udp 2122260223 192.168.0.196 46243 typ host generation 0",
    "a=ice-options:trickle",
    "a=fingerprint:sha-256 7B:8B:F0:65:5F:78:E2:51:3B:AC:6F:F3:3F:46:1B:35:DC:B8:5F:64",
    "a=rtpmap:111 opus/48000/2",
    "a=rtcp-fb:111 transport-cc",
)
#: As in JSON: an offer has an escape every 40 characters or so.
SDP = "".join(line + r"\r\n" for line in _LINES)


#: Signs the tokens of our clients, in this benchmark only.
SECRET = "a-secret-of-the-benchmark-that-protects-nothing"
#: The number of users, each with a token; load.c distributes them to its clients.
_USERS = 1000


def make_token(user_id: str, **grants: object) -> str:
    """A token that our server accepts."""
    said = {"sub": user_id, "exp": int(time.time()) + 86400, **grants}
    return jwt.encode(said, SECRET, algorithm="HS256")


@cache
def tokens() -> tuple[str, ...]:
    """The tokens of all users."""
    return tuple(make_token(f"user{number}") for number in range(_USERS))


class Session(NamedTuple):
    """How a client resumes after it lost its connection; see load.c."""

    session: str
    come_back: str
    resumed: str
    confirm: str | None = None
    offsets: str | None = None
    uncounted: tuple[str, ...] = ()


class Protocol(NamedTuple):
    """How to join, send signals and messages; without `speech` there are no rooms."""

    path: str
    #: Messages to wait for, and the answers; after the last one the client has joined.
    steps: tuple[tuple[str, str | None], ...]
    signal: str
    speech: str | None = None
    joins: str | None = None
    leaves: str | None = None
    text_ping: tuple[str, str] | None = None
    filler: str = SDP
    #: An HTTP request that sends something to everybody.
    post: str | None = None
    #: Whether clients use tokens.
    has_tokens: bool = False
    session: Session | None = None

    def settings(self) -> str:
        """The settings as lines for load.c."""
        lines = [f"path {self.path}", f"signal {self.signal}", f"filler {self.filler}"]
        for expected, answer in self.steps:
            lines.append(f"expect {expected}")
            if answer is not None:
                lines.append(f"say {answer}")
        for name in ("speech", "joins", "leaves", "post"):
            value = getattr(self, name)
            if value is not None:
                lines.append(f"{name} {value}")
        if self.session is not None:
            *single, uncounted = self.session._asdict().items()
            lines += [f"{name} {value}" for name, value in single if value is not None]
            lines += [f"uncounted {text}" for text in uncounted[1]]
        if self.has_tokens:
            lines += [f"token {token}" for token in tokens()]
        if self.text_ping is not None:
            lines += [f"text_ping {self.text_ping[0]}", f"text_pong {self.text_ping[1]}"]
        return "\n".join(lines) + "\n"


MESH = Protocol(
    path="/ws/{room}",
    steps=(
        (
            '"auth_required"',
            '{"type":"auth_token","clientId":"{me}","username":"User {number}"}',
        ),
        ('"users_in_room"', None),
    ),
    signal='{"type":"offer","to":"{to}","offer":{"type":"offer","sdp":"{mark}{filler}"}}',
    speech='{"type":"message","data":{"text":"{mark}{filler}"}}',
    joins='"user_joined"',
    leaves='"user_left"',
)

#: The same with a token, as our clients use it.
MESH_WITH_TOKEN = MESH._replace(
    steps=(
        (
            '"auth_required"',
            '{"type":"auth_token","token":"{token}","clientId":"{me}","username":"User {number}"}',
        ),
        ('"users_in_room"', None),
    ),
    has_tokens=True,
)

#: The same with clients that resume, as ours do.
MESH_WITH_SESSION = MESH_WITH_TOKEN._replace(
    steps=(
        (
            '"auth_required"',
            '{"type":"auth_token","token":"{token}","clientId":"{me}","username":"User {number}",'
            '"resume":true}',
        ),
        ('"users_in_room"', None),
    ),
    session=Session(
        session='"session":{"id":"',
        come_back=(
            '{"type":"auth_token","token":"{token}","clientId":"{me}","username":"User {number}",'
            '"session":"{session}","received":{seen}}'
        ),
        resumed='"resumed"',
        confirm='{"type":"ping","received":{seen}}',
        uncounted=tuple(
            f'{{"type":"{kind}' for kind in ("pong", "auth_", "token_", "resumed", "not_resumed")
        ),
    ),
)

#: The size of the announcing request in bytes; its Content-Length must be right.
ANNOUNCEMENT_CALL = 500
_BODY = '{"message":"{mark} {filler}"}'


def announcements() -> Protocol:
    """Users that receive announcements, and a creator who makes them."""
    token = make_token("creator", creator=True)
    head = (
        "POST /api/creator/broadcast HTTP/1.1{crlf}Host: 127.0.0.1{crlf}"
        f"Authorization: Bearer {token}{{crlf}}Content-Type: application/json{{crlf}}"
        "Content-Length: %d{crlf}{crlf}"
    )
    size = len((head % 100).replace("{crlf}", "__"))  # the length has three digits
    return Protocol(
        path="/api/creator/broadcast/ws?token={token}",
        steps=(("live updates", None),),
        signal="-",
        filler="words ",
        post=head % (ANNOUNCEMENT_CALL - size) + _BODY,
        has_tokens=True,
    )


SOCKET_IO = Protocol(
    path="/socket.io/?EIO=4&transport=websocket",
    steps=(
        ('0{"sid"', "40"),
        ('40{"sid"', '42["join",{"room":"{room}","clientId":"{me}","username":"User {number}"}]'),
        ('42["users_in_room"', None),
    ),
    signal='42["offer",{"to":"{to}","offer":{"type":"offer","sdp":"{mark}{filler}"}}]',
    speech='42["message",{"data":{"text":"{mark}{filler}"}}]',
    joins='"user_joined"',
    leaves='"user_left"',
    text_ping=("2", "3"),
)

#: The same with "connection state recovery", as Socket.IO's clients use it.
SOCKET_IO_WITH_SESSION = SOCKET_IO._replace(
    session=Session(
        session='"pid":"',
        come_back='40{"pid":"{session}","offset":"{seen}"}',
        resumed='"pid":"{session}"',
        offsets="42[",
    )
)

PEERJS = Protocol(
    path="/peerjs?key=peerjs&id={me}&token=t{number}&version=1.5.4",
    steps=(('"OPEN"', None),),
    signal='{"type":"OFFER","dst":"{to}","payload":{"sdp":{"type":"offer","sdp":"{mark}{filler}"}}}',
)
