"""The STUN and TURN servers that clients use, and credentials for them.

TURN credentials are those of coturn's `use-auth-secret`: they contain their expiry and their user,
and the TURN server checks them by itself, since it has the same secret.
The credentials of a hosted service were fetched in advance: see `turn.py`. Nothing here blocks.
"""

import base64
import hashlib
import hmac
import re
import time
from typing import NamedTuple

from trio_signal.config import Settings
from trio_signal.turn import HostedTurn

#: User ids that a TURN username contains unchanged; all others are hashed. The name is sent in
#: the clear, and names that are not ASCII are normalized by rules of their own (RFC 8265).
_PLAIN = re.compile(r"[A-Za-z0-9._@-]{1,128}")


class TurnCredentials(NamedTuple):
    """A name and a password for TURN servers."""

    username: str
    credential: str


class TurnAccess(NamedTuple):
    """TURN servers, and credentials for them that are valid for `ttl` seconds."""

    username: str
    credential: str
    urls: tuple[str, ...]
    ttl: int


def turn_access(
    settings: Settings, user_id: str, hosted: HostedTurn | None = None
) -> TurnAccess | None:
    """TURN access for this user; None without a TURN server or valid credentials."""
    if hosted is not None:
        issued = hosted.issued
        if issued is None:
            return None
        return TurnAccess(issued.username, issued.credential, issued.urls, hosted.seconds_left)
    if not settings.turn_urls or settings.turn_secret is None:
        return None
    credentials = turn_credentials(settings, user_id)
    return TurnAccess(*credentials, settings.turn_urls, settings.turn_ttl)


def turn_credentials(settings: Settings, user_id: str) -> TurnCredentials:
    """TURN credentials for this user, valid for `turn_ttl` seconds from now."""
    assert settings.turn_secret is not None  # noqa: S101  else there is no TURN server
    username = f"{int(time.time()) + settings.turn_ttl}:{_turn_name(user_id)}"
    secret = settings.turn_secret.get_secret_value().encode()
    digest = hmac.digest(secret, username.encode(), hashlib.sha1)
    return TurnCredentials(username, base64.b64encode(digest).decode())


def ice_servers(
    settings: Settings, user_id: str, hosted: HostedTurn | None = None
) -> tuple[dict[str, object], ...]:
    """The `iceServers` of a browser's `RTCPeerConnection`, for an authenticated user."""
    servers: list[dict[str, object]] = []
    if settings.stun_urls:
        servers.append({"urls": settings.stun_urls})
    if hosted is not None:
        servers += hosted.issued.servers if hosted.issued is not None else ()
    elif settings.turn_urls:
        credentials = turn_credentials(settings, user_id)
        servers.append({"urls": settings.turn_urls, **credentials._asdict()})
    return tuple(servers)


def _turn_name(user_id: str) -> str:
    if _PLAIN.fullmatch(user_id):
        return user_id
    return hashlib.sha256(user_id.encode(errors="replace")).hexdigest()
