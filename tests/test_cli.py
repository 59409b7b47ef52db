"""The commands, as processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

import jwt
import pytest

from tests.tokens import SECRET


def run(*arguments: str, given: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("TRIO_SIGNAL_")
    }
    return subprocess.run(
        [sys.executable, "-m", "trio_signal", *arguments],
        input=given,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env=environment | variables,
    )


def read(token: str, **options: str) -> dict[str, object]:
    said: dict[str, object] = jwt.decode(token, SECRET, ["HS256"], **options)  # type: ignore[arg-type]
    return said


def test_token_prints_a_token() -> None:
    done = run("token", "--sub", "ann", TRIO_SIGNAL_JWT_SECRET=SECRET)
    assert (done.returncode, done.stderr) == (0, "")
    said = read(done.stdout.strip())
    assert said == {"sub": "ann", "iat": said["iat"], "exp": said["exp"]}
    assert int(str(said["exp"])) - int(str(said["iat"])) == 3600


def test_token_says_what_is_granted() -> None:
    command = "token --sub ann --name Ann --room a --room b-* --no-publish --moderator --creator"
    done = run(
        *command.split(),
        *("--team-of", "cyd", "--ttl", "2d"),
        TRIO_SIGNAL_JWT_SECRET=SECRET,
        TRIO_SIGNAL_JWT_ISSUER="us",
        TRIO_SIGNAL_JWT_AUDIENCE="signal",
    )
    said = read(done.stdout.strip(), audience="signal")
    assert int(str(said.pop("exp"))) - int(str(said.pop("iat"))) == 2 * 86400
    assert said == {
        "sub": "ann",
        "name": "Ann",
        "iss": "us",
        "aud": "signal",
        "rooms": ["a", "b-*"],
        "publish": False,
        "moderator": True,
        "creator": True,
        "team_of": "cyd",
    }


@pytest.mark.parametrize("ttl", ["", "1", "h", "0s", "-1h", "1.5h", "1w", "²h"])
def test_token_takes_no_other_time(ttl: str) -> None:
    done = run("token", "--sub", "ann", "--ttl", ttl, TRIO_SIGNAL_JWT_SECRET=SECRET)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--ttl" in done.stderr


@pytest.mark.parametrize("arguments", [[], ["--sub", ""], ["--sub", "x" * 257]])
def test_token_wants_a_user_id(arguments: list[str]) -> None:
    done = run("token", *arguments, TRIO_SIGNAL_JWT_SECRET=SECRET)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--sub" in done.stderr


def test_token_wants_a_secret_and_does_not_repeat_a_bad_one() -> None:
    done = run("token", "--sub", "ann")
    assert (done.returncode, done.stdout) == (1, "")
    assert "TRIO_SIGNAL_JWT_SECRET" in done.stderr
    done = run("token", "--sub", "ann", TRIO_SIGNAL_JWT_SECRET="hunter2")
    assert (done.returncode, done.stdout) == (1, "")
    assert "TRIO_SIGNAL_JWT_SECRET" in done.stderr
    assert "hunter2" not in done.stderr


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("TRIO_SIGNAL_AUTH", "token", "TRIO_SIGNAL_JWT_SECRET"),
        ("TRIO_SIGNAL_USERS_FILE", "users.json", "TRIO_SIGNAL_JWT_SECRET"),
        ("TRIO_SIGNAL_JWT_PUBLIC_KEY", "/nowhere.pem", "No such file"),
    ],
)
def test_serve_does_not_start_without_a_key(
    variable: str, value: str, said: str, tmp_path: Path
) -> None:
    done = run("serve", **{variable: value, "PORT": "0"})
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr
