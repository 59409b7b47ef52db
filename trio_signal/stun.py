"""STUN (RFC 8489): asks a server, or one end of ICE (RFC 8445), whether UDP reaches it."""

import hmac
import secrets
import struct
import zlib
from collections.abc import Callable

import trio

_BINDING, _COOKIE = 0x0001, 0x2112A442
_USERNAME, _INTEGRITY, _PRIORITY = 0x0006, 0x0008, 0x0024
_FINGERPRINT, _CONTROLLING = 0x8028, 0x802A
#: The priority of a peer-reflexive candidate.
_PEER_REFLEXIVE = 110 << 24 | 0xFFFF << 8 | 0xFF
#: Seconds before a request is repeated.
_AGAIN = 0.5


def binding_request(transaction: bytes) -> bytes:
    """Encode a request that any STUN server answers."""
    return _message(transaction, b"")


def connectivity_check(transaction: bytes, username: str, password: str) -> bytes:
    """Encode a connectivity check of ICE, with the other end's password.

    `username` is the other end's fragment, a colon, and ours.
    """
    attributes = (
        _attribute(_USERNAME, username.encode())
        + _attribute(_PRIORITY, struct.pack(">I", _PEER_REFLEXIVE))
        + _attribute(_CONTROLLING, secrets.token_bytes(8))
    )
    # Both of the last two attributes protect what comes before, and a length that includes them.
    text = _message(transaction, attributes, 24)
    attributes += _attribute(_INTEGRITY, hmac.digest(password.encode(), text, "sha1"))
    text = _message(transaction, attributes, 8)
    attributes += _attribute(_FINGERPRINT, struct.pack(">I", zlib.crc32(text) ^ 0x5354554E))
    return _message(transaction, attributes)


def _message(transaction: bytes, attributes: bytes, more: int = 0) -> bytes:
    head = struct.pack(">HHI", _BINDING, len(attributes) + more, _COOKIE)
    return head + transaction + attributes


def _attribute(type_: int, value: bytes) -> bytes:
    return struct.pack(">HH", type_, len(value)) + value + bytes(-len(value) % 4)


async def reach(host: str, port: int, request: Callable[[bytes], bytes] = binding_request) -> None:
    """Send a request by UDP until there is an answer. Has no time limit; raises OSError.

    `request` encodes it with a transaction id. A refusal is an answer.
    """
    (family, kind, protocol, _, target), *_ = await trio.socket.getaddrinfo(
        host, port, type=trio.socket.SOCK_DGRAM
    )
    with trio.socket.socket(family, kind, protocol) as sock:
        await sock.connect(target)
        transaction = secrets.token_bytes(12)
        while True:  # a datagram may be lost
            await sock.send(request(transaction))
            with trio.move_on_after(_AGAIN):
                if (await sock.recv(1500))[8:20] == transaction:
                    return
