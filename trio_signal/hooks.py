"""Webhooks: events and signatures. No I/O; the time is an argument."""

import base64
import binascii
import hmac
from collections.abc import Mapping

from msgspec import UNSET, Struct, UnsetType
from msgspec.json import Encoder

from trio_signal.messages.identity import Announcement, Member

encode = Encoder().encode

STARTED, ENDED = "room.started", "room.ended"
JOINED, LEFT = "peer.joined", "peer.left"
LIVE, NOT_LIVE = "broadcast.started", "broadcast.stopped"
ANNOUNCED = "announcement.created"
EVENTS = frozenset({STARTED, ENDED, JOINED, LEFT, LIVE, NOT_LIVE, ANNOUNCED})

#: Seconds by which the time of a signature may differ from the receiver's clock.
TOLERANCE = 300.0


class Peer(Struct, frozen=True):
    """A peer in a room, as it joined."""

    peer_id: str
    user_id: str
    username: str
    dialect: str
    joined_at: str
    replica: str

    @classmethod
    def of(cls, member: Member) -> "Peer":
        """The fields of a member that webhooks contain."""
        return cls(
            *(member.peer_id, member.user_id, member.username, member.dialect),
            *(member.joined_at, member.replica),
        )


class HookEvent(Struct, frozen=True, kw_only=True):
    """One event. `seq` numbers the events of a room, from 1 and without a gap, until it is empty.

    `at` is RFC 3339. `replica` is the replica on which it happened. An announcement has no room.
    """

    id: str
    event: str
    room: str | None
    seq: int
    at: str
    peer: Peer | UnsetType = UNSET
    cause: str | UnsetType = UNSET
    replica: str
    announcement: Announcement | UnsetType = UNSET


class SignatureError(Exception):
    """The signature of a webhook is missing, wrong, or too old."""


def sign(secret: str, id_: str, timestamp: int, body: bytes) -> str:
    """The signature of a webhook, as Standard Webhooks defines it."""
    signed = b".".join((id_.encode(), str(timestamp).encode(), body))
    return "v1," + base64.b64encode(hmac.digest(secret.encode(), signed, "sha256")).decode()


def signed_headers(secret: str, id_: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The headers of a signed request."""
    return {
        "Content-Type": "application/json",
        "Webhook-Id": id_,
        "Webhook-Timestamp": str(timestamp),
        "Webhook-Signature": sign(secret, id_, timestamp, body),
    }


def check_signature(headers: Mapping[str, str], body: bytes, secret: str, now: float) -> None:
    """Raise SignatureError unless one of the signatures is valid and not too old.

    The names of `headers` may be in upper or lower case. `now` is in seconds since 1970.
    """
    found = {name.lower(): value for name, value in headers.items()}
    id_, timestamp = found.get("webhook-id", ""), found.get("webhook-timestamp", "")
    if not id_ or not (timestamp.isascii() and timestamp.isdecimal() and len(timestamp) < 16):
        raise SignatureError("Webhook-Id or Webhook-Timestamp is missing")
    if abs(int(timestamp) - now) > TOLERANCE:
        raise SignatureError("Webhook-Timestamp is too far from the current time")
    expected = sign(secret, id_, int(timestamp), body).partition(",")[2].encode()
    for signature in found.get("webhook-signature", "").split():
        version, _, given = signature.partition(",")
        try:
            matches = hmac.compare_digest(given.encode(), expected)
        except (UnicodeEncodeError, binascii.Error):
            continue
        if version == "v1" and matches:
            return
    raise SignatureError("Webhook-Signature is wrong")
