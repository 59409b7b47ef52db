"""The commands: what they print, and their exit codes."""

import json
import os
from pathlib import Path

import argon2
import jwt
import pytest
from typer.testing import CliRunner, Result

from tests.tokens import SECRET
from trio_signal.cli import app
from trio_signal.cli.serve import _warn_of_admission
from trio_signal.doctor.facts import PLATFORMS
from trio_signal.environment import load_settings
from trio_signal.users import read_users


def run(*arguments: str, given: str = "", **variables: str) -> Result:
    """Run a command with these variables and no others of ours."""
    ours = {name: None for name in os.environ if name.startswith("TRIO_SIGNAL_")}
    return CliRunner().invoke(app, arguments, input=given, env={**ours, **variables})


def read(token: str, **options: str) -> dict[str, object]:
    said: dict[str, object] = jwt.decode(token, SECRET, ["HS256"], **options)  # type: ignore[arg-type]
    return said


def test_token_prints_a_token() -> None:
    done = run("token", "--sub", "ann", TRIO_SIGNAL_JWT_SECRET=SECRET)
    assert (done.exit_code, done.stderr) == (0, "")
    said = read(done.stdout.strip())
    assert said == {"sub": "ann", "iat": said["iat"], "exp": said["exp"]}
    assert int(str(said["exp"])) - int(str(said["iat"])) == 3600


def test_token_contains_grants() -> None:
    command = "token --sub ann --name Ann --room a --room b-* --no-publish --moderator --creator"
    done = run(
        *command.split(),
        *("--team-of", "cyd", "--ttl", "2d", "--admin"),
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
        "admin": True,
    }


@pytest.mark.parametrize("ttl", ["", "1", "h", "0s", "-1h", "1.5h", "1w", "²h"])
def test_token_refuses_invalid_ttl(ttl: str) -> None:
    done = run("token", "--sub", "ann", "--ttl", ttl, TRIO_SIGNAL_JWT_SECRET=SECRET)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "--ttl" in done.stderr


@pytest.mark.parametrize("arguments", [[], ["--sub", ""], ["--sub", "x" * 257]])
def test_token_needs_a_user_id(arguments: list[str]) -> None:
    done = run("token", *arguments, TRIO_SIGNAL_JWT_SECRET=SECRET)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "--sub" in done.stderr


def test_token_needs_a_secret_and_does_not_print_a_bad_one() -> None:
    done = run("token", "--sub", "ann")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "TRIO_SIGNAL_JWT_SECRET" in done.stderr
    done = run("token", "--sub", "ann", TRIO_SIGNAL_JWT_SECRET="hunter2")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "TRIO_SIGNAL_JWT_SECRET" in done.stderr
    assert "hunter2" not in done.stderr


@pytest.mark.parametrize(
    ("given", "warned"),
    [
        ({"host": "0.0.0.0"}, True),
        ({"host": "signal.example.com"}, True),
        ({"host": "0.0.0.0", "jwt_secret": SECRET}, False),
        ({"host": "0.0.0.0", "jwt_secret": SECRET, "auth": "open"}, True),
        ({"host": "127.0.0.1"}, False),
        ({"host": "::1"}, False),
        ({"host": "localhost"}, False),
    ],
)
def test_open_mode_beyond_loopback_logs_a_warning(
    given: dict[str, str], warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    _warn_of_admission(load_settings(**given))
    assert ("open mode" in caplog.text) is warned


def test_short_api_key_secret_logs_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    _warn_of_admission(load_settings(api_keys=f"site:{'long' * 8},old:hunter2"))
    assert "API key 'old' is shorter" in caplog.text
    assert "site" not in caplog.text
    assert "hunter2" not in caplog.text


def users(path: Path, *arguments: str, given: str = "") -> Result:
    variables = {"TRIO_SIGNAL_JWT_SECRET": SECRET, "TRIO_SIGNAL_USERS_FILE": str(path)}
    return run("user", *arguments, given=given, **variables)


def test_users_are_added_listed_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "users.json"
    assert users(path, "list").stdout == ""
    added = users(path, "add", "bob", given="battery staple\n")
    assert (added.exit_code, added.stdout, added.stderr) == (0, "", "")
    command = "add ann --name Ann --room a --room b-* --no-publish --moderator --creator"
    added = users(path, *command.split(), "--team-of", "cyd", given="correct horse")
    assert added.exit_code == 0
    assert "correct horse" not in path.read_text()
    assert users(path, "list").stdout.splitlines() == [
        "ann  (Ann)  rooms=a,b-*  publish=false  moderator=true  creator=true  team_of=cyd",
        "bob",
    ]
    listed = json.loads(users(path, "list", "--json").stdout)
    assert listed[0] == {
        "user_id": "ann",
        "name": "Ann",
        "rooms": ["a", "b-*"],
        "publish": False,
        "moderator": True,
        "creator": True,
        "team_of": "cyd",
        "admin": False,
    }
    assert users(path, "remove", "ann").exit_code == 0
    assert users(path, "list").stdout == "bob\n"
    removed = users(path, "remove", "ann")
    assert (removed.exit_code, removed.stderr.count("\n")) == (1, 1)
    assert "ann" in removed.stderr


def test_password_keeps_its_spaces(tmp_path: Path) -> None:
    path = tmp_path / "users.json"
    users(path, "add", "ann", given=" zwölf Boxkämpfer \r\n")
    hashed = read_users(path)["ann"].password_hash
    assert argon2.PasswordHasher().verify(hashed, " zwölf Boxkämpfer ")


@pytest.mark.parametrize(
    ("arguments", "given", "code"),
    [
        (["add", "ann"], "", 1),
        (["add", "ann"], "\n", 1),
        (["add", ""], "x\n", 2),
        (["add", "a\nb"], "x\n", 2),
        (["add"], "x\n", 2),
        (["remove"], "", 2),
    ],
)
def test_user_needs_a_name_and_a_password(
    arguments: list[str], given: str, code: int, tmp_path: Path
) -> None:
    path = tmp_path / "users.json"
    assert users(path, *arguments, given=given).exit_code == code
    assert not path.exists()


def test_user_command_needs_a_users_file() -> None:
    done = run("user", "list", TRIO_SIGNAL_JWT_SECRET=SECRET)
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert "TRIO_SIGNAL_USERS_FILE" in done.stderr


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
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr


def test_doctor_prints_findings_and_fixes(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in PLATFORMS:  # the tests may run on one
        monkeypatch.delenv(variable, raising=False)
    done = run("doctor", PORT="0", TRIO_SIGNAL_HEARTBEAT="60", TRIO_SIGNAL_HEARTBAET="10")
    assert (done.exit_code, done.stderr) == (0, "")
    assert "TRIO_SIGNAL_HEARTBEAT=20" in done.stdout
    assert "did you mean TRIO_SIGNAL_HEARTBEAT?" in done.stdout
    done = run("doctor", "--json", PORT="0", TRIO_SIGNAL_HOST="0.0.0.0")
    assert (done.exit_code, done.stderr) == (1, "")
    answer = json.loads(done.stdout)
    failed = [finding for finding in answer["findings"] if finding["level"] == "failed"]
    assert answer["failed"] == len(failed)
    (mode,) = [finding for finding in failed if finding["name"] == "mode"]
    assert "TRIO_SIGNAL_JWT_SECRET" in mode["mend"]


def test_doctor_reports_invalid_settings() -> None:
    done = run("doctor", "--json", TRIO_SIGNAL_JWT_SECRET="hunter2")
    (finding,) = json.loads(done.stdout)["findings"]
    assert (done.exit_code, finding["name"], finding["level"]) == (1, "settings", "failed")
    assert "openssl rand" in finding["mend"]
    assert "hunter2" not in done.output
