"""A server that starts with Redis: mistakes are reported at once, in one line."""

import socket
from pathlib import Path

import trio
import trustme

from tests.redis.server import HOST, open_redis_server
from tests.replicas.guests import open_party
from tests.replicas.processes import Ended, open_replica, serve_to_end
from trio_signal.bus.redis import JOIN_TIMEOUT

PASSWORD = "hunter2-%2F"


class Certificates:
    """A CA, and a server certificate for a name."""

    def __init__(self, directory: Path, name: str) -> None:
        ca = trustme.CA()
        self.ca, self.server = directory / "ca.pem", directory / "server.pem"
        ca.cert_pem.write_to_path(str(self.ca))
        ca.issue_cert(name).private_key_and_cert_chain_pem.write_to_path(str(self.server))

    def options(self) -> dict[str, str]:
        """The options of a redis-server."""
        return {
            "tls_cert_file": str(self.server),
            "tls_key_file": str(self.server),
            "tls_ca_cert_file": str(self.ca),
            "tls_auth_clients": "no",
        }


def check_refused(ended: Ended, reason: str, code: int = 1) -> None:
    assert (ended.code, ended.output) == (code, "")
    (line,) = ended.errors.splitlines()
    assert line.startswith("trio-signal: ")
    assert reason in line
    assert "hunter2" not in line


async def test_a_server_starts_with_tls_and_a_ca_file(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path, HOST)
    options = certificates.options() | {"requirepass": "hunter2-/"}
    async with open_redis_server(tmp_path, **options) as redis:
        environment = {
            "REDIS_URL": f"rediss://:{PASSWORD}@{HOST}:{redis.port}",
            "TRIO_SIGNAL_REDIS_CA_FILE": certificates.ca,
        }
        async with (
            open_replica(**environment) as here,
            open_replica(**environment) as there,
            open_party() as party,
        ):
            await here.wait_status("ready")
            await party.join("ann", here)
            await party.join("bob", there)
            await party.agree()
            assert not any("hunter2" in line for line in (*here.log, *there.log))


async def test_a_wrong_host_name_in_the_certificate_is_reported(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path, "redis.example.com")
    async with open_redis_server(tmp_path, **certificates.options()) as redis:
        url = f"rediss://:{PASSWORD}@{HOST}:{redis.port}"
        ended = await serve_to_end(REDIS_URL=url, TRIO_SIGNAL_REDIS_CA_FILE=certificates.ca)
    check_refused(ended, "certificate refused: IP address mismatch")


async def test_an_unknown_ca_is_reported(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path, HOST)
    async with open_redis_server(tmp_path, **certificates.options()) as redis:
        ended = await serve_to_end(REDIS_URL=f"rediss://:{PASSWORD}@{HOST}:{redis.port}")
    check_refused(ended, "certificate refused: ")


async def test_a_missing_ca_file_is_reported(tmp_path: Path) -> None:
    ended = await serve_to_end(
        REDIS_URL=f"rediss://:{PASSWORD}@{HOST}:1",
        TRIO_SIGNAL_REDIS_CA_FILE=tmp_path / "missing.pem",
    )
    check_refused(ended, "missing.pem", code=2)


async def test_a_wrong_password_is_reported(tmp_path: Path) -> None:
    async with open_redis_server(tmp_path, requirepass="another") as redis:
        url = f"redis://:{PASSWORD}@{HOST}:{redis.port}"
        check_refused(await serve_to_end(REDIS_URL=url), "invalid username-password pair")


async def test_workers_report_a_wrong_password(tmp_path: Path) -> None:
    """Each worker reports it."""
    async with open_redis_server(tmp_path, requirepass="another") as redis:
        url = f"redis://:{PASSWORD}@{HOST}:{redis.port}"
        ended = await serve_to_end("--workers", "2", REDIS_URL=url)
    *reasons, last = ended.errors.splitlines()
    assert (ended.code, ended.output) == (1, "")
    assert all("invalid username-password pair" in reason for reason in reasons)
    assert reasons
    assert "exited with 1" in last
    assert "hunter2" not in ended.errors


async def test_an_invalid_url_is_reported() -> None:
    ended = await serve_to_end(REDIS_URL=f"redis://:{PASSWORD}@{HOST}:port")
    check_refused(ended, "Redis URL", code=2)


async def test_a_server_starts_with_a_silent_redis() -> None:
    """It starts without Redis, and serves its own peers."""
    with socket.create_server((HOST, 0)) as silent:
        url = f"redis://{HOST}:{silent.getsockname()[1]}"
        async with open_replica(REDIS_URL=url) as replica, open_party() as party:
            assert (await replica.get("/readyz"))["status"] == "degraded"
            with trio.fail_after(JOIN_TIMEOUT):  # the limit of a replica that waits for Redis
                await party.join("ann", replica)
                await party.join("bob", replica)
                await party.agree()


async def test_a_server_starts_before_redis(tmp_path: Path) -> None:
    """It starts without Redis, and connects later."""
    async with open_redis_server(tmp_path) as redis:
        await redis.kill()
        async with (
            open_replica(REDIS_URL=redis.url) as here,
            open_replica(REDIS_URL=redis.url) as there,
            open_party() as party,
        ):
            await party.join("ann", here)
            await party.join("bob", there)
            await redis.start()
            await party.agree()
            await here.wait_status("ready")
