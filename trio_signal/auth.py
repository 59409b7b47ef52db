"""Authentication: which user a connection belongs to."""

import base64
import binascii
import re
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from fnmatch import fnmatchcase
from functools import lru_cache
from hashlib import sha256
from itertools import accumulate
from operator import and_
from typing import NamedTuple, Protocol

import jwt
import msgspec
import trio
from msgspec.structs import asdict

from trio_signal.config import Settings
from trio_signal.errors import AuthenticationError, ConfigError, IdentityMismatchError
from trio_signal.keys import Key, KeySet, read_public_key, secret_key
from trio_signal.messages.commands import Authenticate
from trio_signal.messages.identity import OPEN_GRANTS, Grants, Identity
from trio_signal.names import clean_name, clean_picture
from trio_signal.supervision import supervise
from trio_signal.tokens import LEEWAY, BadTokenError, Claims, read_token

_PREFIX = "open."

#: Maximum characters of a token.
MAX_TOKEN = 8192
#: The only answer to a client whose token is missing, invalid or expired.
_INVALID = "Invalid token"
#: Exceptions of reading an invalid token. Clients control all of it, even the depth of its JSON.
_UNREADABLE = (
    *(jwt.PyJWTError, msgspec.ValidationError, ValueError, TypeError),
    *(OverflowError, RecursionError),
)
_DEFAULT_GRANTS = Grants()
#: The special characters of a glob, its parts, and the maximum product of the lengths of two globs
#: that are compared.
_WILD = re.compile(r"[*?[]")
_PARTS = re.compile(r"\[!?\]?[^\]]*\]|.", re.DOTALL)
_MAX_COMPARED = 1 << 16


class _LoginToken(msgspec.Struct):
    """The claims of the tokens that open mode's login returns. Anyone can forge them."""

    sub: str
    name: str


class FoundToken(NamedTuple):
    """A token that came with a request, and whether a cookie carried it: browsers also send cookies
    when another site's page makes the request.
    """

    text: str
    from_cookie: bool = False

    def __repr__(self) -> str:
        """Without the token, which is a secret."""
        return f"FoundToken(from_cookie={self.from_cookie})"


def find_token(
    get_all: Callable[[str], Iterable[str]], query: Mapping[str, str]
) -> FoundToken | None:
    """Find the token of a request, in its headers (`get_all` returns those of a name) or its query.

    A token that was sent deliberately comes first: `Authorization: Bearer`, the subprotocols
    `bearer, TOKEN` (a browser's WebSocket can send no other header), `?token=`. Then come the
    cookies `session_id` and `session`.
    """
    for value in get_all("Authorization"):
        scheme, _, token = value.strip().partition(" ")
        if scheme.lower() == "bearer" and token.strip():
            return FoundToken(token.strip())
    offered = [
        item.strip() for value in get_all("Sec-WebSocket-Protocol") for item in value.split(",")
    ]
    if len(offered) > 1 and offered[0] == "bearer" and offered[1]:
        return FoundToken(offered[1])
    if query.get("token"):
        return FoundToken(query["token"])
    cookies = read_cookies(get_all("Cookie"))
    session = cookies.get("session_id") or cookies.get("session")
    return FoundToken(session, from_cookie=True) if session else None


def read_cookies(headers: Iterable[str]) -> dict[str, str]:
    """Read cookies by name. http.cookies would drop all of them because of a single invalid one."""
    cookies: dict[str, str] = {}
    for header in headers:
        for item in header.split(";"):
            name, _, value = item.strip().partition("=")
            cookies.setdefault(name, value.strip('"'))
    return cookies


@lru_cache(maxsize=10_000)
def share_room(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether both grants allow at least one common room, whether or not anybody is in it."""
    if not set(one).isdisjoint(other):
        return True
    wild = [glob for glob in one if _WILD.search(glob)]
    others_wild = [glob for glob in other if _WILD.search(glob)]
    return any(_overlap(a, b) for a in wild for b in other) or any(
        _overlap(a, b) for a in one for b in others_wild
    )


def _overlap(one: str, other: str) -> bool:
    """Whether any text matches both globs. Long globs that differ count as disjoint."""
    if one == other or one == "*" or other == "*":
        return True
    if not _WILD.search(one):
        return fnmatchcase(one, other)
    if not _WILD.search(other):
        return fnmatchcase(other, one)
    if len(one) * len(other) > _MAX_COMPARED:
        return False
    return _meet(tuple(_PARTS.findall(one)), tuple(_PARTS.findall(other)))


def _meet(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether any text matches both globs, given in parts: a character, a set, `?` or `*`."""
    # For each position in `other`: whether both match up to it.
    row = [True, *accumulate((part == "*" for part in other), and_)]
    for a in one:
        before, row = row, [row[0] and a == "*"]
        for i, b in enumerate(other):
            if a == "*" or b == "*":
                # The star matches nothing, or the other glob's part as well.
                row.append(before[i + 1] or row[i])
            else:
                row.append(before[i] and _share_character(a, b))
    return bool(row[-1])


def _share_character(one: str, other: str) -> bool:
    """Whether any character matches both parts; it is enough to check the edges of their ranges."""
    edges = {ord(character) + step for character in one + other for step in (-1, 0, 1)}
    return any(
        fnmatchcase(chr(edge), one) and fnmatchcase(chr(edge), other)
        for edge in edges
        if 0 <= edge <= sys.maxunicode
    )


class Auth(Protocol):
    """Decides who a client is."""

    async def authenticate(self, claims: Authenticate) -> Identity:
        """Return the identity of these claims; raises AuthenticationError. May block on a key
        set.
        """
        ...


class OpenAuth:
    """Open mode: trusts every claim, and needs no token."""

    async def authenticate(self, claims: Authenticate) -> Identity:
        """Return the identity that the client claims."""
        await trio.lowlevel.checkpoint()
        login = read_login_token(claims.token)
        username = claims.username or (login.name if login else None)
        said = f"{claims.token or ''}\0{claims.username or ''}"
        return Identity(
            # Nothing proves an identity in open mode, so equal claims count as the same user. It is
            # hashed because replicas share it, and it may contain a token of another service.
            subject=sha256(said.encode(errors="replace")).hexdigest(),
            user_id=claims.user_id,
            username=clean_name(username) or claims.guest_name,
            avatar_url=clean_picture(claims.avatar_url),
            grants=OPEN_GRANTS,
        )


class TokenAuth:
    """Token mode: trusts the identity in a token that one of our keys signed."""

    def __init__(
        self,
        keys: Sequence[Key],
        key_set: KeySet | None = None,
        *,
        issuer: str | None = None,
        audience: str | None = None,
    ) -> None:
        """Take the keys. The caller runs the key set."""
        self._keys = tuple(keys)
        self._key_set = key_set
        self._issuer = issuer
        self._audience = audience

    async def authenticate(self, claims: Authenticate) -> Identity:
        """Return the token's identity, which must match the id that the client claims."""
        await trio.lowlevel.checkpoint()
        token = claims.token
        if token is None or len(token) > MAX_TOKEN:
            raise AuthenticationError(_INVALID)
        said = await self._verify(token)
        if claims.claimed is not None and claims.claimed != said.sub:
            raise IdentityMismatchError("Identity mismatch")
        now = time.time()
        username = clean_name(said.name) or clean_name(claims.username)
        if username is None and claims.guest_name is not None:
            username = clean_name(said.sub) or claims.guest_name
        return Identity(
            subject=subject_of(said.iss, said.sub),
            user_id=said.sub,
            username=username,
            avatar_url=_web_url(clean_picture(said.picture)) or clean_picture(claims.avatar_url),
            grants=Grants(
                said.rooms, said.publish, said.moderator, said.creator, said.team_of, said.admin
            ),
            expires=said.exp if said.exp > now else said.exp + LEEWAY,
            verified=True,
        )

    async def _verify(self, token: str) -> Claims:
        claims = self._read(token, self._keys)
        if claims is None and self._key_set is not None:
            claims = self._read(token, await self._key_set.find(_key_id(token)))
        if claims is None:
            raise AuthenticationError(_INVALID)
        return claims

    def _read(self, token: str, keys: Iterable[Key]) -> Claims | None:
        """The claims of the token; None if none of these keys signed it, or it is not valid now."""
        for key in keys:
            with suppress(BadTokenError):
                return read_token(token, key, issuer=self._issuer, audience=self._audience)
        return None


def subject_of(issuer: str | None, sub: str) -> str:
    """The subject of a token's user. Two issuers may use the same `sub` for two people."""
    return f"{issuer or ''}\0{sub}"


def _key_id(token: str) -> str | None:
    """The name of the key in the token's head; raises AuthenticationError."""
    try:
        return jwt.get_unverified_header(token).get("kid")
    except _UNREADABLE:
        raise AuthenticationError(_INVALID) from None


def _web_url(url: str | None) -> str | None:
    """A picture's address if it is a web address, since pages load it."""
    return url if url and url.startswith(("https://", "http://")) else None


@asynccontextmanager
async def open_auth(settings: Settings) -> AsyncIterator[Auth]:
    """Open the authentication that the settings ask for; keeps the key set fresh in the block.

    Does not wait for the key set. While its URL does not answer, tokens of its keys are refused.
    """
    if not settings.wants_tokens:
        yield OpenAuth()
        return
    keys = []
    if settings.jwt_secret is not None:
        keys.append(secret_key(settings.jwt_secret.get_secret_value()))
    if settings.jwt_public_key is not None:
        keys.append(read_public_key(settings.jwt_public_key))
    key_set = KeySet(settings.jwks_url) if settings.jwks_url is not None else None
    async with trio.open_nursery() as nursery:
        if key_set is not None:
            nursery.start_soon(supervise, "reading the key set", key_set.run)
        yield TokenAuth(keys, key_set, issuer=settings.jwt_issuer, audience=settings.jwt_audience)
        nursery.cancel_scope.cancel()


def mint_token(
    settings: Settings,
    sub: str,
    *,
    name: str | None = None,
    grants: Grants = _DEFAULT_GRANTS,
    ttl: float,
) -> str:
    """Make a token that servers with these settings accept for `ttl` seconds.

    Raises ConfigError if there is no secret to sign it with.
    """
    if settings.jwt_secret is None:
        raise ConfigError("TRIO_SIGNAL_JWT_SECRET is not set, and signs the tokens")
    now = int(time.time())
    said: dict[str, object] = {"sub": sub, "iat": now, "exp": now + int(ttl)}
    optional = {"name": name, "iss": settings.jwt_issuer, "aud": settings.jwt_audience}
    said |= {claim: value for claim, value in optional.items() if value is not None}
    said |= {
        claim: value
        for claim, value in asdict(grants).items()
        if value != getattr(_DEFAULT_GRANTS, claim)
    }
    return jwt.encode(said, settings.jwt_secret.get_secret_value(), algorithm="HS256")


def make_login_token(username: str) -> str:
    """Make a token in open mode, so that clients that log in first need no change."""
    body = msgspec.json.encode(_LoginToken(username, username))
    return _PREFIX + base64.urlsafe_b64encode(body).decode().rstrip("=")


def read_login_token(token: str | None) -> _LoginToken | None:
    """The user in a token of `make_login_token`; None for any other text."""
    if token is None or not token.startswith(_PREFIX):
        return None
    body = token[len(_PREFIX) :]
    try:
        padded = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
        return msgspec.json.decode(padded, type=_LoginToken)
    except (msgspec.DecodeError, binascii.Error, ValueError, RecursionError):
        return None
