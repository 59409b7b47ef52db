"""Common mistakes in commands and settings, and the one sentence that each prints."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from typer.testing import Result

from tests.client.lines import listen
from tests.test_cli import run
from tests.test_watch import run_command
from trio_signal.cli.usage import server_url
from trio_signal.environment import unknown_variables

_PORT = "must be a whole number from 0 to 65535, not"
_TTL = "--ttl must be a time such as 90s, 15m, 1h or 7d, not"
_URL = "must be the address of a server such as http://127.0.0.1:8000, not"
_COMPARE = "compare needs OLD NEW --record FILE, or NEW --replay FILE"
_DATABASE = "must be sqlite:///FILE or postgresql://HOST/DATABASE"
_REDIS = (
    "must begin with redis://, valkey://, redis+sentinel://, the same with TLS (rediss://, ...), "
    "or unix://"
)
_ALONE = "need REDIS_URL or --redis-url, or peers on different workers would not see each other"

#: The command line, with variables before it, and its output.
MISTAKES = (
    # Commands
    ("servee", "there is no command 'servee'; did you mean serve?"),
    ("start", "there is no command 'start'; see trio-signal --help"),
    ("user ad ann", "there is no command 'user ad'; did you mean user add?"),
    ("user show", "there is no command 'user show'; see trio-signal user --help"),
    ("db migrate", "there is no command 'db migrate'; see trio-signal db --help"),
    # Unknown options
    ("--verison", "there is no option --verison; did you mean --version?"),
    ("-v", "there is no option -v; see trio-signal --help"),
    ("serve --prot 9000", "serve has no option --prot; did you mean --port?"),
    ("serve -p 9000", "serve has no option -p; see trio-signal serve --help"),
    ("token --sub ann --rooms a", "token has no option --rooms; did you mean --room?"),
    ("tail lobby --user ann", "tail has no option --user; did you mean --username?"),
    # Missing and excess values
    ("serve --port", "--port needs a value: port to listen on; 0 picks a free one"),
    ("serve --host", "--host needs a value: address to listen on"),
    ("rooms --url", "--url needs a value: address of the server"),
    ("serve --check=yes", "--check takes no value"),
    ("rooms --json=1", "--json takes no value"),
    ("serve 8000", "serve takes no argument, but there is '8000'"),
    ("rooms lobby", "rooms takes no argument, but there is 'lobby'"),
    ("tail lobby two", "tail takes no further argument, but there is 'two'"),
    ("announce Hello world", "announce takes no further argument, but there is 'world'"),
    ("user list ann", "user list takes no argument, but there is 'ann'"),
    ("token", "token needs --sub: user id"),
    ("token ann", "token needs --sub: user id"),
    ("tail", "tail needs ROOM: id of the room"),
    ("user add", "user add needs USER_ID: user id, which is also the login name"),
    ("compare", "compare needs [OLD] NEW: the two servers; with --replay only the new one"),
    # Invalid values
    ("serve --port 99999", f"--port {_PORT} '99999'"),
    ("serve --port http", f"--port {_PORT} 'http'"),
    ("serve --port -1", f"--port {_PORT} '-1'"),
    ("serve --port ''", f"--port {_PORT} ''"),
    ("serve --workers 0", "--workers must be a whole number from 1 to 256, not '0'"),
    ("serve --workers 4", f"4 workers (--workers, WEB_CONCURRENCY) {_ALONE}"),
    ("REDIS_URL=redis://x serve --share --workers 2", "--share works with one worker, not 2"),
    ("serve --redis-url localhost:6379", f"--redis-url {_REDIS}"),
    ("serve --database-url signal.db", f"--database-url {_DATABASE}"),
    ("token --sub ''", "--sub must have 1 to 256 characters, not 0"),
    ("token --sub ann --ttl 3600", f"{_TTL} '3600'"),
    ("token --sub ann --ttl 1w", f"{_TTL} '1w'"),
    ("user add ''", "USER_ID must have 1 to 256 visible characters, not ''"),
    ("announce", "announce needs either TEXT or --clear, but neither is given"),
    ("announce Hi --clear", "announce needs either TEXT or --clear, but both are given"),
    ("announce Hi --type panic", "--type must be info, warning or alert, not 'panic'"),
    ("rooms --url ftp://example.com", f"--url {_URL} 'ftp://example.com'"),
    ("rooms --url http://", f"--url {_URL} 'http://'"),
    ("rooms --url http:/x", f"--url {_URL} 'http:/x'"),
    ("rooms --url localhost:80a", f"--url {_URL} 'localhost:80a'"),
    ("tail ''", "ROOM must have one character or more"),
    ("bench --pairs 1.5", "--pairs must be a whole number from 1 to 10000, not '1.5'"),
    ("bench --rate fast", "--rate must be a number from 0.1 to 1000, not 'fast'"),
    ("bench --seconds 10s", "--seconds must be a number from 1 to 3600, not '10s'"),
    ("bench --size 2k", "--size must be a whole number from 0 to 60000, not '2k'"),
    ("compare http://a http://b", _COMPARE),
    ("compare http://a --record talk", _COMPARE),
    ("compare a: --replay talk", f"[OLD] NEW {_URL} 'a:'"),
    # Variables
    ("TRIO_SIGNAL_URL=ftp://x rooms", f"TRIO_SIGNAL_URL {_URL} 'ftp://x'"),
    ("PORT=http serve", f"PORT {_PORT} 'http'"),
    ("WEB_CONCURRENCY=2 serve", f"2 workers (--workers, WEB_CONCURRENCY) {_ALONE}"),
    ("LOG_LEVEL=loud serve", "LOG_LEVEL must be debug, info, warning or error, not 'loud'"),
    ("REDIS_URL=localhost serve", f"REDIS_URL {_REDIS}"),
    (
        "REDIS_URL=redis://localhost:port serve",
        "REDIS_URL: the Redis URL must look like redis[s]://.*",
    ),
    ("DATABASE_URL=mysql://x/y db upgrade", f"DATABASE_URL {_DATABASE}"),
    (
        "TRIO_SIGNAL_JWT_SECRET=hunter2 token --sub ann",
        "TRIO_SIGNAL_JWT_SECRET must have 32 bytes or more; try: openssl rand -base64 48",
    ),
    (
        "TRIO_SIGNAL_JWT_PUBLIC_KEY=/nowhere.pem serve",
        "TRIO_SIGNAL_JWT_PUBLIC_KEY must be a PEM, or the path of a file that can be read: "
        "No such file or directory",
    ),
    (
        "TRIO_SIGNAL_JWT_PUBLIC_KEY=-----BEGIN serve",
        "TRIO_SIGNAL_JWT_PUBLIC_KEY must be a public key: RSA (2048 bits or more), EC P-256 "
        "or Ed25519",
    ),
    (
        "TRIO_SIGNAL_JWKS_URL=http://example.com/keys serve",
        "TRIO_SIGNAL_JWKS_URL must be an https URL; http is allowed for loopback only",
    ),
    ("TRIO_SIGNAL_AUTH=yes serve", "TRIO_SIGNAL_AUTH must be open or token, not 'yes'"),
    (
        "TRIO_SIGNAL_AUTH=token serve",
        "TRIO_SIGNAL_AUTH=token needs a key: TRIO_SIGNAL_JWT_SECRET, TRIO_SIGNAL_JWT_PUBLIC_KEY "
        "or TRIO_SIGNAL_JWKS_URL",
    ),
    (
        "TRIO_SIGNAL_USERS_FILE=users.json serve",
        "TRIO_SIGNAL_USERS_FILE needs TRIO_SIGNAL_JWT_SECRET as well, to sign its users' "
        "tokens; try: openssl rand -base64 48",
    ),
    ("tail lobby --url signal..example.com", f"--url {_URL} 'signal..example.com'"),
    (
        "TRIO_SIGNAL_STUN_URLS=stun.example.com:3478 serve",
        "TRIO_SIGNAL_STUN_URLS must list STUN servers, as stun:HOST or stun:HOST:PORT",
    ),
    (
        "TRIO_SIGNAL_TURN_URLS=turn://example.com serve",
        "TRIO_SIGNAL_TURN_URLS must list TURN servers, as turn:HOST:PORT, turns:HOST or "
        "turn:HOST?transport=tcp, or be cloudflare:KEY_ID alone",
    ),
    (
        "TRIO_SIGNAL_TURN_URLS=turn:example.com serve",
        "TRIO_SIGNAL_TURN_URLS needs TRIO_SIGNAL_TURN_SECRET as well",
    ),
    (
        "TRIO_SIGNAL_ALLOWED_ORIGINS=example.com serve",
        "TRIO_SIGNAL_ALLOWED_ORIGINS must list origins, as https://app.example.com or "
        "https://*.example.com, or be *; 'example.com' is not an origin",
    ),
    (
        "TRIO_SIGNAL_DIALECTS=mesh,sip serve",
        "TRIO_SIGNAL_DIALECTS must list some of .*, mesh, .*; 'sip' is not one of them",
    ),
    (
        "TRIO_SIGNAL_DIALECTS=, serve",
        "TRIO_SIGNAL_DIALECTS must list some of .*; '' is not one of them",
    ),
    ("TRIO_SIGNAL_LEASE=inf serve", "TRIO_SIGNAL_LEASE must be a number, 1 or more, not 'inf'"),
    ("TRIO_SIGNAL_DRAIN=-1 serve", "TRIO_SIGNAL_DRAIN must be a number, 0 or more, not '-1'"),
    (
        "TRIO_SIGNAL_HEARTBEAT=20s serve",
        "TRIO_SIGNAL_HEARTBEAT must be a number above 0, not '20s'",
    ),
    (
        "TRIO_SIGNAL_OUTBOX_BYTES=1MB serve",
        "TRIO_SIGNAL_OUTBOX_BYTES must be a whole number, 4096 or more, not '1MB'",
    ),
    (
        "TRIO_SIGNAL_LIST_ROOMS=maybe serve",
        "TRIO_SIGNAL_LIST_ROOMS must be true or false, not 'maybe'",
    ),
    (
        "TRIO_SIGNAL_REDIS_CA_FILE=/nowhere serve",
        "TRIO_SIGNAL_REDIS_CA_FILE must be the path of an existing file, not '/nowhere'",
    ),
    (
        "PORT=x TRIO_SIGNAL_LEASE=0 serve",
        f"PORT {_PORT} 'x'; TRIO_SIGNAL_LEASE must be a number, 1 or more, not '0'",
    ),
)


def type_(line: str) -> Result:
    """Run a command line as a shell would, with only the variables before it set."""
    words = shlex.split(line)
    variables = {}
    while re.match("[A-Z_]+=", words[0]):
        name, _, variables[name] = words.pop(0).partition("=")
    return run(*words, **variables)


@pytest.mark.parametrize(("line", "sentence"), MISTAKES, ids=[line for line, _ in MISTAKES])
def test_mistake_prints_one_sentence(
    line: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = type_(line)
    assert (done.exit_code, done.stdout) == (2, "")
    pattern = re.escape(f"trio-signal: {sentence}").replace(r"\.\*", ".*")
    assert re.fullmatch(pattern + "\n", done.stderr), done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("group", ["", "user", "db"])
def test_group_without_command_prints_its_help(group: str) -> None:
    done = run(*group.split())
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("Usage: ")
    assert run(*group.split(), "-h").stdout == run(*group.split(), "--help").stdout == done.stderr


@pytest.mark.parametrize(
    ("typed", "url"),
    [
        ("http://a", "http://a"),
        ("https://a/", "https://a"),
        ("ws://a:8000/", "http://a:8000"),
        ("wss://a/signal/", "https://a/signal"),
        ("WSS://A", "https://A"),
        ("localhost:8000", "http://localhost:8000"),
        ("127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("[::1]:8000", "http://[::1]:8000"),
        # The request carries a token: only this machine is trusted without TLS.
        ("127.0.0.1.example.com", "https://127.0.0.1.example.com"),
        ("signal.example.com/path", "https://signal.example.com/path"),
        ("10.0.0.1:8000", "https://10.0.0.1:8000"),
        (" localhost ", "http://localhost"),
    ],
)
def test_server_url_is_completed(typed: str, url: str) -> None:
    assert server_url(typed) == url


async def _speak_http(stream: trio.SocketStream) -> None:
    await stream.receive_some()
    await stream.send_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


async def _speak_tls(stream: trio.SocketStream) -> None:
    """As a TLS server answers plain text: it sends an alert."""
    await stream.receive_some()
    await stream.send_all(b"\x15\x03\x03\x00\x02\x022")


@pytest.mark.parametrize("command", ["rooms", "tail lobby"])
async def test_https_to_an_http_server_is_reported(command: str) -> None:
    async with listen(_speak_http) as base:
        done = await run_command(*command.split(), "--url", f"wss://{base}")
    assert (done.returncode, done.stdout) == (1, b"")
    assert re.fullmatch(
        rf"trio-signal: https://{base}\S*: TLS: the server speaks http, not https\n",
        done.stderr.decode(),
    )


async def test_http_to_an_https_server_is_reported() -> None:
    async with listen(_speak_tls) as base:
        done = await run_command("rooms", "--url", f"http://{base}")
    assert done.returncode == 1
    says = "it does not speak http; try https"
    assert done.stderr.decode() == f"trio-signal: http://{base}/rooms: {says}\n"


@pytest.mark.parametrize(
    ("variable", "nearest"),
    [
        ("TRIO_SIGNAL_JWTSECRET", "TRIO_SIGNAL_JWT_SECRET"),
        ("TRIO_SIGNAL_ALLOWED_ORIGIN", "TRIO_SIGNAL_ALLOWED_ORIGINS"),
        ("trio_signal_heartbaet", "TRIO_SIGNAL_HEARTBEAT"),
        ("TRIO_SIGNAL_PORT", "PORT"),
        ("TRIO_SIGNAL_REDIS_URL", "REDIS_URL"),
        ("TRIO_SIGNAL_WORKERS", "WEB_CONCURRENCY"),
        ("TRIO_SIGNAL_LOGLEVEL", "LOG_LEVEL"),
        ("TRIO_SIGNAL_XYZZY", None),
    ],
)
def test_nearest_variable_is_suggested(variable: str, nearest: str | None) -> None:
    known = ["TRIO_SIGNAL_HOST", "trio_signal_host", "TRIO_SIGNAL_URL", "TRIO_SIGNAL_TOKEN", "PORT"]
    assert unknown_variables([variable, *known]) == {variable: nearest}


def typed(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "trio_signal", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | variables,
        check=False,
    )


def test_serve_check_reports_whether_it_would_start(tmp_path: Path) -> None:
    database = tmp_path / "signal.db"
    variables = {"DATABASE_URL": f"sqlite:///{database}", "TRIO_SIGNAL_JWTSECRET": "x"}
    good = typed("serve", "--check", "--port", "0", **variables)
    assert (good.returncode, good.stdout) == (
        0,
        "The server would start on http://127.0.0.1:0\n",
    )
    assert "TRIO_SIGNAL_JWTSECRET is not a setting" in good.stderr
    assert "did you mean TRIO_SIGNAL_JWT_SECRET?" in good.stderr
    assert not database.exists()
    taken = typed("serve", "--check", "--host", "192.0.2.1", **variables)
    assert (taken.returncode, taken.stdout) == (1, "")
    assert taken.stderr.endswith(
        "cannot serve on 192.0.2.1:8000: Cannot assign requested address\n"
    )


def test_help_and_version_import_little() -> None:
    """They take a tenth of a second of CPU; on a slow machine, more imports would be noticeable."""
    code = (
        "import sys; from trio_signal.cli import app\n"
        "try: app(sys.argv[1:])\n"
        "except SystemExit: print(*sys.modules, file=sys.stderr)"
    )
    for arguments in (["--version"], ["--help"], ["serve", "--help"], ["token"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        modules = done.stderr.splitlines()[-1].split()
        heavy = {"trio", "pydantic_settings", "msgspec", "rich", "httpx", "sqlalchemy", "quart"}
        assert heavy.isdisjoint(modules), arguments


@pytest.mark.parametrize("command", ["serve", "serve --check", "webhooks listen --secret s"])
def test_host_that_cannot_be_looked_up_is_reported(command: str) -> None:
    done = run(*command.split(), "--host", "127.0..1")
    assert done.exit_code == 1
    (line,) = done.stderr.splitlines()
    assert re.match(r"trio-signal: cannot (serve|listen) on 127\.0\.\.1:\d+: .*label empty", line)


@pytest.mark.parametrize("command", ["--help", "doctor --json", "token --sub ann"])
def test_output_that_cannot_be_written_is_reported(command: str) -> None:
    secret = {"TRIO_SIGNAL_JWT_SECRET": "s" * 32}
    with Path("/dev/full").open("wb") as full:
        process = subprocess.run(
            [sys.executable, "-m", "trio_signal", *shlex.split(command)],
            stdout=full,
            stderr=subprocess.PIPE,
            env=os.environ | secret,
            check=False,
        )
    problem = "cannot write the output: No space left on device"
    assert process.stderr.decode() == f"trio-signal: {problem}\n"
    assert process.returncode == 1


#: Interrupts the command while a finalizer runs, where Python ignores KeyboardInterrupt.
_INTERRUPTED = """
import signal, sys
from redis.connection import ConnectionPool
from trio_signal.cli import app

def interrupt(pool):
    if not sys.is_finalizing():
        signal.raise_signal(signal.SIGINT)

ConnectionPool.__del__ = interrupt
app(["serve", "--check", "--port", "0"])
"""


def test_interrupt_is_not_lost_in_a_finalizer_of_the_imports() -> None:
    process = subprocess.run(
        [sys.executable, "-c", _INTERRUPTED], capture_output=True, text=True, check=False
    )
    assert process.stderr == ""
    assert process.stdout == "The server would start on http://127.0.0.1:0\n"
