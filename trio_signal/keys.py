"""The keys that verify tokens: a secret, a public key, a key set at a URL.

Each key has one algorithm. The token never chooses it, so a public key cannot be abused as an HS256
secret, whatever the token's header says.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import httpx
import jwt
import msgspec
import trio
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

logger = logging.getLogger(__name__)

#: Minimum bytes of an HS256 secret (RFC 7518 section 3.2), and bits of an RSA key (3.3).
MIN_SECRET = 32
MIN_RSA = 2048
#: Seconds after which a key set is read again, and minimum seconds between two attempts.
REFRESH = 600.0
PAUSE = 60.0
#: Maximum seconds to read a key set, and its maximum size in bytes.
FETCH_TIMEOUT = 5.0
MAX_KEY_SET = 1 << 20

_ALGORITHMS = {
    name: jwt.get_algorithm_by_name(name) for name in ("HS256", "RS256", "ES256", "EdDSA")
}

PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey


class Key(NamedTuple):
    """A key, and the only algorithm that it is used with."""

    algorithm: str
    material: bytes | PublicKey
    id: str | None = None

    def verify(self, signed: bytes, signature: bytes) -> bool:
        """Whether this key made the signature."""
        return bool(_ALGORITHMS[self.algorithm].verify(signed, self.material, signature))

    def __repr__(self) -> str:
        """Without the key, which may be a secret."""
        return f"Key({self.algorithm!r})"


def secret_key(secret: str) -> Key:
    """The key for HS256; raises ValueError if it is short enough to be guessed."""
    material = secret.encode()
    if len(material) < MIN_SECRET:
        raise ValueError(f"must have {MIN_SECRET} bytes or more; try: openssl rand -base64 48")
    try:
        _ALGORITHMS["HS256"].prepare_key(material)
    except jwt.InvalidKeyError:
        raise ValueError("must be a secret; this is a public key") from None
    return Key("HS256", material)


def read_public_key(text: str) -> Key:
    """Read a public key from PEM, or from a PEM file.

    Raises ValueError, whose text does not repeat the value: it may be a private key by mistake.
    """
    try:
        pem = text.encode() if "-----BEGIN" in text else Path(text).read_bytes()
        key = load_pem_public_key(pem)
    except OSError as error:
        raise ValueError(
            f"must be a PEM, or the path of a file that can be read: {error.strerror}"
        ) from None
    except (UnsupportedAlgorithm, ValueError):
        raise ValueError(_WANTED) from None
    return _public_key(key)


_WANTED = f"must be a public key: RSA ({MIN_RSA} bits or more), EC P-256 or Ed25519"


def _public_key(key: object, id_: str | None = None) -> Key:
    match key:
        case RSAPublicKey() if key.key_size >= MIN_RSA:
            return Key("RS256", key, id_)
        case EllipticCurvePublicKey() if isinstance(key.curve, SECP256R1):
            return Key("ES256", key, id_)
        case Ed25519PublicKey():
            return Key("EdDSA", key, id_)
    raise ValueError(_WANTED)


async def check_key_set(url: str) -> str | None:
    """Why the key set at `url` cannot be used; None if it can. Blocks for a few seconds at most."""
    async with httpx.AsyncClient(timeout=None) as client:  # noqa: S113  _read has a deadline
        found = await _read(client, url)
    return found if isinstance(found, str) else None


class KeySet:
    """The keys at a URL. Nothing is read unless the caller runs `run`."""

    def __init__(self, url: str) -> None:
        """Start without keys."""
        self._url = url
        self._keys: tuple[Key, ...] = ()
        #: Set when a token names an unknown key.
        self._wanted = trio.Event()
        #: Set at the end of the current attempt to read the set, or of the next one.
        self._next = trio.Event()
        self._not_before = -float("inf")

    async def find(self, id_: str | None) -> Sequence[Key]:
        """The keys that may have signed a token with this `kid`.

        For an unknown `kid` the set is read again, unless that was done within the last minute.
        This blocks meanwhile, for a few seconds at most.
        """
        found = self._known(id_)
        if found or trio.current_time() < self._not_before:
            await trio.lowlevel.checkpoint()
            return found
        self._wanted.set()
        await self._next.wait()
        return self._known(id_)

    def _known(self, id_: str | None) -> Sequence[Key]:
        if id_ is None and len(self._keys) == 1:
            return self._keys
        return [key for key in self._keys if key.id == id_]

    async def run(self) -> None:
        """Refresh the keys until cancelled. If the URL does not answer, the old ones stay."""
        reachable = True
        # The client is made only once, because it loads all trusted certificates.
        async with httpx.AsyncClient(timeout=None) as client:  # noqa: S113  _read has a deadline
            while True:
                problem = await self._refresh(client)
                if problem is not None and reachable:
                    logger.error("cannot read the key set, keeping the known keys: %s", problem)
                elif problem is None and not reachable:
                    logger.warning("the key set can be read again")
                reachable = problem is None
                self._not_before = trio.current_time() + PAUSE
                self._wanted = trio.Event()
                ended, self._next = self._next, trio.Event()
                ended.set()
                with trio.move_on_after(REFRESH if reachable else PAUSE):
                    await self._wanted.wait()

    async def _refresh(self, client: httpx.AsyncClient) -> str | None:
        """Read the set. Returns what went wrong, or None."""
        found = await _read(client, self._url)
        if isinstance(found, str):
            return found
        self._keys = found
        return None


async def _read(client: httpx.AsyncClient, url: str) -> tuple[Key, ...] | str:
    """The keys of a set, or what went wrong, without the URL: it may contain a password."""
    try:
        with trio.fail_after(FETCH_TIMEOUT):
            return _read_key_set(await _fetch(client, url))
    except httpx.HTTPStatusError as error:
        return f"status {error.response.status_code}"
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return type(error).__name__
    except trio.TooSlowError:
        return f"no answer within {FETCH_TIMEOUT} s"
    except ValueError as error:
        return str(error)


async def _fetch(client: httpx.AsyncClient, url: str) -> bytes:
    async with client.stream("GET", url) as response:
        response.raise_for_status()
        body = b""
        # Read to the end, or httpx leaves generators behind. The deadline limits that.
        async for chunk in response.aiter_bytes():
            if len(body) <= MAX_KEY_SET:
                body += chunk
    if len(body) > MAX_KEY_SET:
        raise ValueError(f"it is over {MAX_KEY_SET} bytes")
    return body


class _JWKS(msgspec.Struct):
    keys: list[dict[str, object]]


def _read_key_set(body: bytes) -> tuple[Key, ...]:
    """The usable keys of a set; raises ValueError if there is none.

    A set may have keys of other kinds, and for other uses (RFC 7517 section 5).
    """
    try:
        jwks = msgspec.json.decode(body, type=_JWKS).keys
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ValueError("it is not a JSON key set") from None
    keys = tuple(key for jwk in jwks if (key := _read_jwk(jwk)) is not None)
    if not keys:
        raise ValueError("it has no key for RS256, ES256 or EdDSA")
    return keys


class _JWKHead(msgspec.Struct):
    kty: Annotated[str, msgspec.Meta(pattern="^(RSA|EC|OKP)$")]
    kid: str | None = None
    use: str = "sig"
    alg: str | None = None


def _read_jwk(jwk: dict[str, object]) -> Key | None:
    try:
        head = msgspec.convert(jwk, _JWKHead)
        key = _public_key(jwt.PyJWK(jwk).key, head.kid)
    except (msgspec.ValidationError, jwt.PyJWTError, UnsupportedAlgorithm, ValueError, TypeError):
        return None
    return key if head.use == "sig" and head.alg in (None, key.algorithm) else None


def read_api_keys(text: str) -> dict[str, str]:
    """Secrets by the ids of their keys. Raises ValueError, without the secrets in its text."""
    keys: dict[str, str] = {}
    for item in filter(None, map(str.strip, text.split(","))):
        key_id, colon, secret = item.partition(":")
        if not (colon and key_id and secret) or key_id in keys:
            raise ValueError("must list keys as id:secret, each id once")
        keys[key_id] = secret
    if not keys:
        raise ValueError("must list keys as id:secret, each id once")
    return keys
