"""Tokens and keys for the tests, and a server for a key set."""

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache, partial
from typing import Any

import jwt
import trio
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

SECRET = "a secret of the tests, with 32 bytes or more"


@cache
def private_key(algorithm: str, number: int = 0) -> PrivateKey:
    """A key for each algorithm; other numbers give other keys."""
    match algorithm:
        case "RS256":
            return rsa.generate_private_key(65537, 2048)
        case "ES256":
            return ec.generate_private_key(ec.SECP256R1())
        case "EdDSA":
            return ed25519.Ed25519PrivateKey.generate()
    raise ValueError(algorithm)


def public_pem(key: PrivateKey) -> str:
    return (
        key.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )


def private_pem(key: PrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


def jwk(key: PrivateKey, kid: str | None = None, **more: Any) -> dict[str, Any]:
    """A key's public half, in the format of a key set."""
    match key:
        case rsa.RSAPrivateKey():
            found = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
        case ec.EllipticCurvePrivateKey():
            found = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
        case _:
            found = OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return {**found, **({"kid": kid} if kid is not None else {}), **more}


def make_token(
    sub: Any = "ann",
    *,
    key: Any = SECRET,
    algorithm: str | None = "HS256",
    kid: str | None = None,
    **claims: Any,
) -> str:
    """A token that is valid for an hour; a claim with the value `...` is left out."""
    said = {"sub": sub, "exp": int(time.time()) + 3600, **claims}
    said = {claim: value for claim, value in said.items() if value is not ...}
    head = {} if kid is None else {"kid": kid}
    return jwt.encode(said, key, algorithm, headers=head)


class KeyServer:
    """The server at the URL of a key set; it can change, and fail."""

    def __init__(self, *keys: dict[str, Any]) -> None:
        self.url = ""
        self.keys = list(keys)
        #: Sent instead of the keys.
        self.body: bytes | None = None
        self.status = "200 OK"
        self.asked = 0
        #: Responses wait for this.
        self.open = trio.Event()
        self.open.set()

    async def answer(self, stream: trio.SocketStream) -> None:
        async with stream:
            head = b""
            while b"\r\n\r\n" not in head:
                got = await stream.receive_some()
                if not got:
                    return
                head += got
            self.asked += 1
            await self.open.wait()
            body = self.body
            if body is None:
                body = json.dumps({"keys": self.keys}).encode()
            lines = f"HTTP/1.1 {self.status}\r\nConnection: close\r\nContent-Length: {len(body)}"
            try:
                await stream.send_all(f"{lines}\r\n\r\n".encode() + body)
            except trio.BrokenResourceError:
                return


@asynccontextmanager
async def run_key_server(*keys: dict[str, Any]) -> AsyncIterator[KeyServer]:
    server = KeyServer(*keys)
    async with trio.open_nursery() as nursery:
        (listener, *_) = await nursery.start(
            partial(trio.serve_tcp, server.answer, 0, host="127.0.0.1")
        )
        server.url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}/keys.json"
        yield server
        nursery.cancel_scope.cancel()
