"""TLS without a proxy: a certificate made at startup, and its connections.

A client's bytes are decrypted and copied into a pair of sockets, and the server uses the other end
as a connection without TLS. That copies each byte twice, so it is for trying things out. In
production a proxy terminates TLS.
"""

import datetime
import ipaddress
import re
import socket
import ssl
import tempfile
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from pathlib import Path

import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

#: Days for which a certificate is valid; browsers accept at most 398.
VALID = 30
#: Seconds for the TLS handshake.
HANDSHAKE_TIMEOUT = 10.0
#: Seconds in which a client must read the last bytes.
LINGER = 2.0
#: The first byte of a TLS connection: a record of the type `handshake` (RFC 8446, section 5.1).
_HANDSHAKE = 22
_TARGET = re.compile(rb"[A-Z]+ (/[!-~]*) HTTP/1")
_MAX_HEAD = 4096

Serve = Callable[[socket.socket], Awaitable[None]]


def make_certificate(names: Iterable[str], now: datetime.datetime) -> tuple[bytes, bytes]:
    """Make a self-signed certificate for these names and addresses, and its key; both as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "trio-signal")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))  # a phone's clock may be slow
        .not_valid_after(now + datetime.timedelta(days=VALID))
        .add_extension(x509.SubjectAlternativeName(map(_general_name, names)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM), key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name.encode("idna").decode())


def make_context(certificate: bytes, key: bytes) -> ssl.SSLContext:
    """Make a server's TLS context. The key is written to a file, which is deleted at once."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:  # only we may read it
        path = Path(folder) / "certificate.pem"
        path.write_bytes(certificate + key)
        context.load_cert_chain(path)
    return context


async def serve_tls(sock: socket.socket, context: ssl.SSLContext, serve: Serve) -> None:
    """Do the TLS handshake; then `serve` serves the client on a socket without TLS.

    A client that speaks plain HTTP is redirected to the same path with https. `sock` stays open,
    but cannot be used any more. What `serve` raises is raised in a group; client errors raise
    nothing.
    """
    with trio.move_on_after(HANDSHAKE_TIMEOUT) as in_time:
        if not await _begins_with_tls(sock):
            return
        stream = trio.SSLStream(
            trio.SocketStream(trio.socket.from_stdlib_socket(sock)),
            context,
            server_side=True,
            https_compatible=True,
        )
        try:
            await stream.do_handshake()
        except trio.BrokenResourceError:
            return
    if in_time.cancelled_caught:
        return
    inner, outer = socket.socketpair()
    with inner, outer:
        plain = trio.SocketStream(trio.socket.from_stdlib_socket(outer))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_copy_in, stream, plain)
            nursery.start_soon(_copy_out, plain, stream)
            inner.setblocking(False)
            await serve(inner)
            inner.close()
            nursery.cancel_scope.deadline = trio.current_time() + LINGER


async def _begins_with_tls(sock: socket.socket) -> bool:
    """Whether the client speaks TLS; a client that speaks HTTP is redirected here."""
    await trio.lowlevel.wait_readable(sock)
    with suppress(OSError):
        first = sock.recv(_MAX_HEAD, socket.MSG_PEEK)
        if first[:1] == bytes([_HANDSHAKE]):
            return True
        # Read everything: with unread bytes, a reset would overtake the answer.
        answer = _redirect(sock.recv(_MAX_HEAD))
        if answer is not None:
            sock.send(answer)
            sock.shutdown(socket.SHUT_WR)
            await trio.lowlevel.wait_readable(sock)
    return False


def _redirect(head: bytes) -> bytes | None:
    """The redirect for a request without TLS; None if the request cannot be parsed."""
    target = _TARGET.match(head)
    host = re.search(rb"\r\nhost: *([\w.:\[\]-]+)\r\n", head, re.IGNORECASE)
    if target is None or host is None:
        return None
    return (
        b"HTTP/1.1 307 Temporary Redirect\r\n"
        b"Location: https://%s%s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    ) % (host[1], target[1])


async def _copy_in(client: trio.SSLStream[trio.SocketStream], plain: trio.SocketStream) -> None:
    """Copy the client's bytes until it ends."""
    try:
        async for data in client:
            await plain.send_all(data)
        await plain.send_eof()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        # The client or the task that serves it has ended.
        with suppress(OSError):
            plain.socket.shutdown(socket.SHUT_RDWR)


async def _copy_out(plain: trio.SocketStream, client: trio.SSLStream[trio.SocketStream]) -> None:
    """Copy the bytes for the client until the server closes its end; then close the client's."""
    try:
        async for data in plain:
            await client.send_all(data)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        with suppress(OSError):
            plain.socket.shutdown(socket.SHUT_RDWR)
    await client.aclose()
