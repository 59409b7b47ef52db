import select
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
from redis.exceptions import DataError

from tests.clients import PATIENCE
from tests.redis.fake import FakeRedis, open_fake
from tests.redis.server import Certificates, RedisServer, free_port, open_redis_server
from tests.redis.waiting import open_sockets, until
from trio_signal.redis.address import parse_address
from trio_signal.redis.connection import (
    ConfigurationError,
    Connection,
    NotConnectedError,
    OutcomeUnknownError,
    Request,
    Timing,
    pack,
)
from trio_signal.redis.handshake import connect

SECRET = "hunter2"
TIMING = Timing(connect=PATIENCE, reply=PATIENCE, probe=PATIENCE)


class Asked(Request):
    """A request that keeps the replies it gets."""

    def __init__(self, *args: str | bytes | int) -> None:
        super().__init__(*args)
        self.answers: list[object] = []
        self.answered = trio.Event()

    def answer(self, reply: object) -> None:
        self.answers.append(reply)
        self.answered.set()

    async def wait(self) -> object:
        with trio.fail_after(PATIENCE):
            await self.answered.wait()
        [answer] = self.answers
        return answer


async def try_to_connect(url: str, timing: Timing = TIMING, ca_file: str | None = None) -> str:
    """Connect; the reply to PING."""
    address = parse_address(url, ca_file=ca_file)
    connection = await connect(address, "test", timing, pushed=print, patient=False)
    (reply,) = await connection.greet(("PING",))
    connection.close("done")
    assert isinstance(reply, bytes)
    return reply.decode()


class End:
    """The reason why a connection ended, once it has."""

    def __init__(self) -> None:
        self.reason = ""
        self._event = trio.Event()

    def set(self, reason: str) -> None:
        self.reason = reason
        self._event.set()

    async def wait(self) -> str:
        with trio.fail_after(PATIENCE):
            await self._event.wait()
        return self.reason


@asynccontextmanager
async def running(
    url: str,
    timing: Timing = TIMING,
    pushed: Callable[[list[bytes]], None] = print,
    *,
    patient: bool = False,
) -> AsyncIterator[tuple[Connection, End]]:
    """A running connection, and its end."""
    end = End()
    connection = await connect(parse_address(url), "test", timing, pushed=pushed, patient=patient)

    async def run() -> None:
        reason = await connection.run()
        connection.close(reason)
        end.set(reason)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        yield connection, end
        nursery.cancel_scope.cancel()
    connection.close("done")


# Encoding


def test_pack_splits_the_names_of_the_command_api() -> None:
    assert pack(("CLIENT LIST", "a b")) == b"*3\r\n$6\r\nCLIENT\r\n$4\r\nLIST\r\n$3\r\na b\r\n"


def test_pack_refuses_invalid_arguments_without_quoting_them() -> None:
    with pytest.raises(DataError, match="'SET' cannot combine: str, NoneType") as caught:
        pack(("SET", SECRET, None))  # type: ignore[arg-type]
    assert SECRET not in str(caught.value)


# Opening


async def test_password(tmp_path: Path) -> None:
    async with open_redis_server(tmp_path, requirepass=SECRET) as server:
        assert await try_to_connect(f"redis://:{SECRET}@127.0.0.1:{server.port}") == "PONG"
        for credentials in ("", ":wrong-one@", "nobody:wrong-one@"):
            with pytest.raises(ConfigurationError) as caught:
                await try_to_connect(f"redis://{credentials}127.0.0.1:{server.port}")
            assert f"redis://127.0.0.1:{server.port}/0: " in str(caught.value)
            reason = "invalid username-password" if credentials else "authenticated"
            assert reason in str(caught.value)
            assert "wrong-one" not in str(caught.value)


async def test_database(server: RedisServer) -> None:
    assert await try_to_connect(f"{server.url}/3") == "PONG"
    with pytest.raises(ConfigurationError, match="DB index is out of range"):
        await try_to_connect(f"{server.url}/99")


async def test_unix_socket(tmp_path: Path) -> None:
    async with open_redis_server(tmp_path, unixsocket=str(tmp_path / "s")):
        assert await try_to_connect(f"unix://{tmp_path}/s") == "PONG"
    with pytest.raises(NotConnectedError, match=r"nothing: .*No such file"):
        await try_to_connect(f"unix://{tmp_path}/nothing")


async def test_connecting_to_a_closed_port_raises() -> None:
    port = free_port()
    with pytest.raises(NotConnectedError, match=f"^redis://127.0.0.1:{port}/0: .*refused"):
        await try_to_connect(f"redis://127.0.0.1:{port}")


async def test_an_unknown_host_name_raises() -> None:
    with (
        trio.fail_after(PATIENCE),
        pytest.raises(NotConnectedError, match=r"redis://nowhere.invalid"),
    ):
        await try_to_connect("redis://nowhere.invalid")


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
async def test_one_deadline_covers_tcp_tls_and_hello(scheme: str) -> None:
    timing = Timing(connect=0.2, reply=60, probe=60)
    async with open_fake(hello=None) as fake:
        with (
            trio.fail_after(PATIENCE),
            pytest.raises(NotConnectedError, match=r"no answer .* 0.2 s"),
        ):
            await try_to_connect(f"{scheme}://127.0.0.1:{fake.port}", timing)


@pytest.mark.parametrize(
    ("said", "error", "reason"),
    [
        # Redis 5 quotes the arguments, and truncates long ones.
        (b"-ERR unknown command `HELLO`, with args beginning with: `hunter2`\r\n",
         ConfigurationError, "older than Redis 6"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", ConfigurationError, "not Redis"),
        (b"-ERR max number of clients reached\r\n", NotConnectedError, "max number of clients"),
        (b"-LOADING Redis is loading\r\n", NotConnectedError, "loading"),
        (b"-BUSY Redis is busy running a script\r\n", NotConnectedError, "BUSY"),
        (b"-MISCONF Errors writing to the AOF file\r\n", NotConnectedError, "MISCONF"),
    ],
)  # fmt: skip
async def test_other_answers_to_hello(said: bytes, error: type[Exception], reason: str) -> None:
    async with open_fake(said) as fake:
        with pytest.raises(error, match=reason) as caught:
            await try_to_connect(f"redis://:{SECRET}@127.0.0.1:{fake.port}")
        assert type(caught.value) is error
        assert SECRET not in str(caught.value)
        assert caught.value.__suppress_context__ or SECRET not in str(caught.value.__context__)


async def test_a_failure_leaves_no_sockets_open(tmp_path: Path, server: RedisServer) -> None:
    async with open_fake(hello=None) as fake:
        before = open_sockets()
        for url in (
            f"{server.url}/99",
            f"rediss://127.0.0.1:{server.port}",
            f"redis://127.0.0.1:{free_port()}",
            fake.url,
        ):
            with pytest.raises((ConfigurationError, NotConnectedError)):
                await try_to_connect(url, Timing(connect=1, reply=60, probe=60))
        # The additional one is the fake server's side of an accepted connection.
        assert open_sockets() == before + 1


# TLS


async def test_tls_checks_the_chain(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    async with open_redis_server(tmp_path, **certificates.options()) as server:
        url = f"rediss://127.0.0.1:{server.port}"
        assert await try_to_connect(url, ca_file=certificates.ca) == "PONG"
        assert await try_to_connect(f"{url}?ssl_ca_certs={certificates.ca}") == "PONG"
        assert await try_to_connect(f"{url}?ssl_cert_reqs=none") == "PONG"
        with pytest.raises(ConfigurationError, match="certificate refused: self-signed"):
            await try_to_connect(url)


async def test_tls_checks_the_host_name(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    async with open_redis_server(tmp_path, **certificates.options()) as server:
        url = f"rediss://localhost:{server.port}"
        with (
            trio.fail_after(PATIENCE),
            pytest.raises(ConfigurationError, match="Hostname mismatch"),
        ):
            await try_to_connect(url, ca_file=certificates.ca)
        unchecked = f"{url}?ssl_check_hostname=no"
        assert await try_to_connect(unchecked, ca_file=certificates.ca) == "PONG"


async def test_connecting_works_without_the_permission_to_set_a_name(tmp_path: Path) -> None:
    async with open_redis_server(tmp_path) as server:
        await server.ask("ACL", "SETUSER", "bob", "on", ">pw", "+@all", "-client")
        assert await try_to_connect(f"redis://bob:pw@127.0.0.1:{server.port}") == "PONG"
        assert await server.clients() == []


async def test_tls_with_a_client_certificate(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    options = certificates.options() | {"tls_auth_clients": "yes"}
    async with open_redis_server(tmp_path, **options) as server:
        url = f"rediss://127.0.0.1:{server.port}?ssl_ca_certs={certificates.ca}"
        own = f"{url}&ssl_certfile={certificates.client}"
        assert await try_to_connect(own) == "PONG"
        # We may receive the alert, or only the reset after it.
        with pytest.raises((ConfigurationError, NotConnectedError), match=r"(?i)certif|reset"):
            await try_to_connect(url)


async def test_tls_to_a_plain_server_fails() -> None:
    async def say_something(stream: trio.SocketStream) -> None:
        await stream.send_all(b"-DENIED\r\n")
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, say_something, 0, host="127.0.0.1")
        [listener] = await nursery.start(serve)
        port = listener.socket.getsockname()[1]
        with (
            trio.fail_after(PATIENCE),
            pytest.raises(ConfigurationError, match="TLS failed") as caught,
        ):
            await try_to_connect(f"rediss://127.0.0.1:{port}")
        assert isinstance(caught.value.__cause__, trio.BrokenResourceError)
        assert isinstance(caught.value.__cause__.__cause__, ssl.SSLError)
        nursery.cancel_scope.cancel()


# Requests and replies


async def test_replies_arrive_in_the_order_of_requests(server: RedisServer) -> None:
    async with running(server.url) as (connection, _):
        requests = [Asked("ECHO", number) for number in range(1000)]
        for request in requests:
            connection.send(request)
        assert await requests[-1].wait() == b"999"
        assert [request.answers for request in requests] == [[b"%d" % n] for n in range(1000)]


async def test_the_end_of_the_server_ends_waiting_requests(server: RedisServer) -> None:
    async with running(server.url) as (connection, end):
        server.freeze()
        request = Asked("PING")
        connection.send(request)
        await until(lambda: connection.sent)
        await server.kill()
        assert isinstance(await request.wait(), OutcomeUnknownError)
        assert "closed" in end.reason or "reset" in end.reason
        late = Asked("PING")
        connection.send(late)
        assert isinstance(await late.wait(), NotConnectedError)


@pytest.mark.parametrize(
    ("said", "reason"),
    [(b"+surprise\r\n", "unexpected reply"), (b"what?\r\n", "Protocol error")],
)
async def test_nonsense_ends_the_connection(said: bytes, reason: str) -> None:
    async with open_fake() as fake, running(fake.url) as (connection, end):
        server = await fake.accept()
        await server.say(said)
        assert reason in await end.wait()
        assert connection.in_flight == 0


async def test_an_overdue_reply_ends_the_connection() -> None:
    timing = Timing(connect=PATIENCE, reply=0.3, probe=60)
    async with open_fake() as fake, running(fake.url, timing) as (connection, end):
        start = trio.current_time()
        request = Asked("PING")
        connection.send(request)
        assert isinstance(await request.wait(), OutcomeUnknownError)
        assert trio.current_time() - start >= 0.3
        assert await end.wait() == "no reply within 0.3 s"


async def test_a_silent_server_is_probed() -> None:
    timing = Timing(connect=PATIENCE, reply=1, probe=0.1)
    async with open_fake() as fake, running(fake.url, timing) as (_, end):
        server = await fake.accept()
        for _ in range(3):
            with trio.fail_after(PATIENCE):
                assert await server.command() == [b"PING"]
            await server.say(b"+PONG\r\n")
        with trio.fail_after(PATIENCE):
            assert await server.command() == [b"PING"]
        assert await end.wait() == "no reply within 1 s"


async def talk(fake: FakeRedis, end: End, seconds: float) -> None:
    """Publish constantly, and answer nothing."""
    server = await fake.accept()
    until = trio.current_time() + seconds
    while trio.current_time() < until and not end.reason:
        await server.publish(b"c", b"x")
        await trio.sleep(0.01)


@pytest.mark.parametrize("patient", [True, False])
async def test_pushed_messages_extend_the_deadline_if_patient(patient: bool) -> None:
    timing = Timing(connect=PATIENCE, reply=1, probe=60)
    heard: list[list[bytes]] = []
    async with (
        open_fake() as fake,
        running(fake.url, timing, heard.append, patient=patient) as (connection, end),
    ):
        connection.send(Request("PING"))
        await talk(fake, end, 2.5)
        assert bool(end.reason) is not patient
        assert heard
        # It has stopped publishing.
        assert await end.wait() == "no reply within 1 s"


async def test_our_own_stall_does_not_end_the_connection(server: RedisServer) -> None:
    timing = Timing(connect=PATIENCE, reply=0.5, probe=60)
    async with running(server.url, timing) as (connection, end):
        for sent in range(5):
            request = Asked("PING")
            connection.send(request)
            while connection.sent == sent and not end.reason:
                await trio.lowlevel.checkpoint()
            # The event loop is blocked for too long, while the reply waits to be read.
            time.sleep(0.6)  # noqa: ASYNC251
            select.select([connection._socket], [], [], 1)
            assert await request.wait() == b"PONG"
        assert end.reason == ""


async def test_cancelling_run_ends_at_once_and_leaves_closing_to_close(
    server: RedisServer,
) -> None:
    before = open_sockets()
    connection = await connect(
        parse_address(server.url), "test", TIMING, pushed=print, patient=False
    )
    with trio.move_on_after(0.05) as scope:
        await connection.run()
    assert scope.cancelled_caught
    waiting = Asked("PING")
    connection.send(waiting)
    connection.close("done")
    connection.close("twice does no harm")
    assert isinstance(await waiting.wait(), NotConnectedError)
    assert open_sockets() == before
