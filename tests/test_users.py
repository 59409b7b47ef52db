"""The users of the built-in login: their file, their passwords, and those who guess."""

import os
from pathlib import Path
from typing import Any

import argon2
import httpx
import pytest
import trio
import trio.testing

from tests.clients import PATIENCE
from tests.conftest import Serve
from tests.test_auth import identify
from tests.tokens import SECRET, make_token
from trio_signal import users as users_module
from trio_signal.errors import ConfigError, LoginError
from trio_signal.messages.identity import Grants
from trio_signal.users import (
    FREE_FAILURES,
    LONGEST_WAIT,
    MAX_NAMES,
    Failures,
    Login,
    Turns,
    User,
    hash_password,
    is_user_id,
    read_users,
    write_users,
)

ANN = User(hash_password("correct horse"), "Ann", Grants(("a-*",), creator=True))
BOB = User(hash_password("battery staple"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with two users."""
    path = tmp_path / "users.json"
    write_users(path, {"ann": ANN, "bob": BOB})
    return path


# The file


def test_what_is_written_is_read(path: Path) -> None:
    assert read_users(path) == {"ann": ANN, "bob": BOB}
    write_users(path, {"bob": BOB})
    assert read_users(path) == {"bob": BOB}
    assert [file.name for file in path.parent.iterdir()] == ["users.json"]


def test_the_file_is_for_its_owner_alone(path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    write_users(path, {})
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_that_is_not_there_has_no_users(tmp_path: Path) -> None:
    assert read_users(tmp_path / "users.json") == {}


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"users":[]}', '{"users":{"ann":{}}}', "[" * 9999]
)
def test_a_file_of_something_else_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "users.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"users\.json"):
        read_users(path)


def test_a_failed_write_leaves_what_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ConfigError, match="No space left"):
        write_users(path, {})
    assert read_users(path) == {"ann": ANN, "bob": BOB}
    assert [file.name for file in path.parent.iterdir()] == ["users.json"]


def test_a_file_where_none_can_be_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        write_users(tmp_path / "nowhere" / "users.json", {})
    with pytest.raises(ConfigError, match="Is a directory"):
        read_users(tmp_path)


@pytest.mark.parametrize(
    ("text", "good"),
    [
        *(("ann", True), ("ann@example.com", True), ("Ann Lee", True), ("x" * 256, True)),
        *(("", False), (" ann", False), ("a\nb", False), ("a\u202eb", False)),
        ("x" * 257, False),
    ],
)
def test_a_user_id_can_be_read(text: str, good: bool) -> None:
    assert is_user_id(text) is good


# Passwords


async def logs_in(login: Login, user_id: str, password: str) -> User | None:
    try:
        with trio.fail_after(3 * PATIENCE):
            return await login.check(user_id, password)
    except LoginError as error:
        refusal = error
    assert refusal.wait == 0
    return None


async def test_only_the_right_password_logs_in(path: Path) -> None:
    login = Login(path)
    assert await logs_in(login, "ann", "correct horse") == ANN
    assert await logs_in(login, "bob", "battery staple") == BOB
    for user_id, password in (
        ("ann", "battery staple"),
        ("ann", ""),
        ("ann", ANN.password_hash),
        ("bob", "correct horse"),
        ("nobody", "correct horse"),
        ("", ""),
        ("bob", "\ud800"),
    ):
        assert await logs_in(login, user_id, password) is None


def test_a_hash_is_argon2id_with_a_salt() -> None:
    one, two = hash_password("x"), hash_password("x")
    assert one != two
    assert one.startswith("$argon2id$")


def test_who_is_unknown_costs_what_a_user_costs(path: Path) -> None:
    """No timing is compared: the same work is done, with the same parameters."""
    parameters = argon2.extract_parameters(ANN.password_hash)
    assert argon2.extract_parameters(users_module._NOBODY) == parameters
    worked: list[str] = []

    class Hasher(argon2.PasswordHasher):
        def verify(self, hash: str | bytes, password: str | bytes) -> Any:  # noqa: A002
            worked.append(str(hash))
            return super().verify(hash, password)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(users_module, "_hasher", Hasher.from_parameters(parameters))
        assert Login(path)._verify("nobody", "x") is None
        assert Login(path)._verify("ann", "x") is None
    assert worked == [users_module._NOBODY, ANN.password_hash]


async def test_a_broken_hash_lets_nobody_in(path: Path) -> None:
    write_users(path, {"ann": User("correct horse"), "bob": User("")})
    login = Login(path)
    assert await logs_in(login, "ann", "correct horse") is None
    assert await logs_in(login, "bob", "") is None


async def test_the_file_is_read_again_when_it_has_changed(path: Path) -> None:
    login = Login(path)
    assert await logs_in(login, "bob", "battery staple") == BOB
    write_users(path, {"ann": ANN})
    assert await logs_in(login, "bob", "battery staple") is None
    assert await logs_in(login, "ann", "correct horse") == ANN
    await trio.Path(path).unlink()
    assert await logs_in(login, "ann", "correct horse") is None


# Guessing


def test_who_fails_often_waits_longer_and_not_for_ever() -> None:
    failures, now = Failures(), 100.0
    waits = []
    for _ in range(FREE_FAILURES + 20):
        assert failures.wait("ann", now) == 0
        failures.count("ann", now)
        waits.append(failures.wait("ann", now))
        now += waits[-1]
    first = FREE_FAILURES - 1
    assert waits[: first + 6] == [0.0] * first + [1.0, 2.0, 4.0, 8.0, 16.0, LONGEST_WAIT]
    assert set(waits[first + 6 :]) == {LONGEST_WAIT}
    assert failures.wait("bob", now) == 0


def test_a_success_is_forgiveness() -> None:
    failures = Failures()
    for _ in range(FREE_FAILURES):
        failures.count("ann", 0)
    assert failures.wait("ann", 0) == 1
    failures.forgive("ann")
    assert failures.wait("ann", 0) == 0
    failures.forgive("nobody")


def test_only_so_many_names_are_kept_in_mind() -> None:
    failures = Failures()
    for _ in range(FREE_FAILURES):
        failures.count("ann", 0)
    for number in range(MAX_NAMES - 1):
        failures.count(f"x{number}", 0)
    assert failures.wait("ann", 0) == 1
    failures.count("one too many", 0)
    assert failures.wait("ann", 0) == 0


def test_of_a_name_a_digest_is_kept() -> None:
    failures = Failures()
    failures.count("x" * 60_000, 0)
    failures.count("\ud800", 0)
    assert {len(key) for key in failures._names} == {32}


async def test_many_guesses_at_once_are_many_guesses(path: Path) -> None:
    """They are counted as they come, and not only when they have failed."""
    login, waits = Login(path), []

    async def guess() -> None:
        try:
            await login.check("ann", "x")
        except LoginError as error:
            waits.append(error.wait)

    with trio.fail_after(3 * PATIENCE):
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(guess)
    assert sum(wait == 0 for wait in waits) == FREE_FAILURES
    assert len(waits) == 20


async def test_not_all_may_wait_for_a_check(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(users_module, "MAX_WAITING", 1)
    login, waits = Login(path), []

    async def guess(name: str) -> None:
        try:
            await login.check(name, "x")
        except LoginError as error:
            waits.append(error.wait)

    with trio.fail_after(3 * PATIENCE):
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(guess, f"x{number}")
    assert sum(wait == 0 for wait in waits) == 3  # two at a time, and one that waits


# By HTTP


def browse(base: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"http://{base}", timeout=3 * PATIENCE)


async def test_a_login_gets_a_token_that_counts(serve: Serve, path: Path) -> None:
    given = {"jwt_secret": SECRET, "users_file": path, "jwt_issuer": "us", "jwt_audience": "here"}
    async with serve(**given) as service, browse(service.base) as http:
        body = {"username": "ann", "password": "correct horse"}
        for sent in ({"json": body}, {"data": body}):
            answer = await http.post("/auth/login", **sent)  # type: ignore[arg-type]
            assert answer.status_code == 200
            assert answer.headers["cache-control"] == "no-store"
            logged_in = answer.json()
            token = logged_in["access_token"]
            assert logged_in == {
                "access_token": token,
                "token_type": "bearer",
                "token": token,
                "user": {"user_id": "ann", "username": "Ann"},
            }
        me = await http.get("/auth/me", headers={"Authorization": f"Bearer {token}"})
        assert me.json() == {"user_id": "ann", "username": "Ann"}
        assert (await http.get("/auth/mode")).json() == {"token": True, "login": True}
        async with service.connect(f"/ws/a-1/ann?token={token}") as ann:
            await ann.expect("room_state")
        async with service.connect(f"/ws/b/ann?token={token}") as ann:
            await ann.expect_close(4004, "Not allowed in this room")
    identity = await identify(token, jwt_secret=SECRET, jwt_issuer="us", jwt_audience="here")
    assert identity.grants == ANN.grants


async def test_a_user_without_another_name_is_called_as_it_logs_in(
    serve: Serve, path: Path
) -> None:
    async with serve(jwt_secret=SECRET, users_file=path) as service, browse(service.base) as http:
        body = {"username": "bob", "password": "battery staple"}
        logged_in = (await http.post("/auth/token", data=body)).json()
        assert logged_in["user"] == {"user_id": "bob", "username": "bob"}
        token = logged_in["access_token"]
        async with service.connect("/ws/r") as bob:
            await bob.expect("auth_required")
            await bob.send("auth_token", token=token)
            await bob.expect("auth_success", user="bob", user_id="bob")
        async with service.connect(f"/api/v1/ws/connect?token={token}") as bob:
            await bob.expect("connected", username="bob", user_id="bob")


async def test_a_wrong_login_is_401_and_too_many_are_429(
    serve: Serve, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FIRST_WAIT", "LONGEST_WAIT"):  # longer than any machine takes to check
        monkeypatch.setattr(users_module, name, 60.0)
    async with (
        serve(jwt_secret=SECRET, users_file=path) as service,
        browse(service.base) as http,
    ):
        for name in ("ann", "nobody"):
            wrong = {"username": name, "password": "x"}
            for _ in range(FREE_FAILURES):
                answer = await http.post("/auth/login", json=wrong)
                assert (answer.status_code, answer.json()) == (
                    401,
                    {"detail": "Incorrect username or password"},
                )
            answer = await http.post("/auth/login", json={**wrong, "password": "correct horse"})
            assert (answer.status_code, answer.json()) == (
                429,
                {"detail": "Too many failed logins"},
            )
            assert 0 < int(answer.headers["retry-after"]) <= 60
        answer = await http.post(
            "/auth/login", json={"username": "bob", "password": "battery staple"}
        )
        assert answer.json()["user"] == {"user_id": "bob", "username": "bob"}


async def log_in(
    http: httpx.AsyncClient, name: str, password: str, address: str = "192.0.2.1"
) -> httpx.Response:
    """Try, from this address, as the proxy says."""
    body = {"username": name, "password": password}
    headers = {"X-Forwarded-For": address}
    return await http.post("/auth/login", json=body, headers=headers)


async def test_who_polls_keeps_nobody_out_and_gains_nothing(
    serve: Serve, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FIRST_WAIT", "LONGEST_WAIT"):
        monkeypatch.setattr(users_module, name, 60.0)
    given = {"jwt_secret": SECRET, "users_file": path, "trusted_proxies": 1}
    async with serve(auth_failures_per_ip=8, **given) as service, browse(service.base) as http:
        answers = [await log_in(http, "ann", "x") for _ in range(10)]
        said = [(answer.status_code, answer.json()["detail"]) for answer in answers]
        assert said == [
            *[(401, "Incorrect username or password")] * FREE_FAILURES,
            *[(429, "Too many failed logins")] * 3,
            *[(429, "Your address failed to authenticate too often.")] * 2,
        ]
        assert (await log_in(http, "ann", "correct horse", "192.0.2.2")).status_code == 200


async def test_many_logins_of_one_user_keep_no_other_out(serve: Serve, path: Path) -> None:
    given = {"jwt_secret": SECRET, "users_file": path, "trusted_proxies": 1}
    answers: list[int] = []
    async with serve(**given) as service, browse(service.base) as http:

        async def ann() -> None:
            answers.append((await log_in(http, "ann", "correct horse")).status_code)

        with trio.fail_after(3 * PATIENCE):
            async with trio.open_nursery() as nursery:
                for _ in range(60):
                    nursery.start_soon(ann)
                await trio.testing.wait_all_tasks_blocked()
                async with browse(service.base) as another:
                    for address in ("192.0.2.1", "192.0.2.2"):
                        answer = await log_in(another, "bob", "battery staple", address)
                        assert answer.status_code == 200
    assert answers == [200] * 60


async def test_who_floods_the_queue_is_told_to_come_later(
    serve: Serve, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(users_module, "MAX_WAITING", 3)
    given = {"jwt_secret": SECRET, "users_file": path, "trusted_proxies": 1}
    async with serve(**given) as service, browse(service.base) as http:
        answers: list[httpx.Response] = []

        async def ann() -> None:
            answers.append(await log_in(http, "ann", "correct horse"))

        with trio.fail_after(3 * PATIENCE):
            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(ann)
                async with browse(service.base) as another:
                    answer = await log_in(another, "bob", "battery staple", "192.0.2.2")
                    assert answer.status_code == 200
    busy = [answer for answer in answers if answer.status_code != 200]
    assert 0 < len(busy) < 20
    for answer in busy:
        assert (answer.status_code, answer.json()) == (503, {"detail": "Too many logins at once"})
        assert int(answer.headers["retry-after"]) == 1


async def test_addresses_take_turns() -> None:
    turns, begun, gate = Turns(), list[str](), trio.Event()

    async def wait(address: str, name: str) -> None:
        async with turns.take(address, name):
            begun.append(address)
            await gate.wait()

    rounds = []
    async with trio.open_nursery() as nursery:
        for address, times in (("1", 5), ("2", 3), ("3", 3)):
            for number in range(times):
                nursery.start_soon(wait, address, f"{address}-{number}")
            await trio.testing.wait_all_tasks_blocked()
        while begun:
            rounds.append("".join(sorted(begun)))
            begun.clear()
            old, gate = gate, trio.Event()
            old.set()
            await trio.testing.wait_all_tasks_blocked()
    assert rounds == ["112", "123", "123", "13"]


async def test_of_a_name_at_many_addresses_two_are_checked_at_a_time() -> None:
    turns, begun, gate = Turns(), list[str](), trio.Event()

    async def wait(address: str, name: str) -> None:
        async with turns.take(address, name):
            begun.append(name)
            await gate.wait()

    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(wait, str(number), "ann")
        await trio.testing.wait_all_tasks_blocked()
        assert begun == ["ann", "ann"]
        nursery.start_soon(wait, "another", "bob")
        await trio.testing.wait_all_tasks_blocked()
        assert begun == ["ann", "ann", "bob"]
        nursery.cancel_scope.cancel()
    assert not turns._queues
    assert not turns._running


async def test_an_address_that_guesses_is_refused(serve: Serve, path: Path) -> None:
    """By name after name, or by token after token; also where it knows the password by then."""
    given = {"jwt_secret": SECRET, "users_file": path, "auth_failures_per_ip": 4}
    right = {"username": "ann", "password": "correct horse"}
    async with serve(**given) as service, browse(service.base) as http:
        for number in range(2):
            wrong = {"username": f"x{number}", "password": "x"}
            assert (await http.post("/auth/login", json=wrong)).status_code == 401
            bad = {"Authorization": "Bearer x"}
            assert (await http.get("/auth/me", headers=bad)).status_code == 401
        for answer in (
            await http.post("/auth/login", json=right),
            await http.get("/auth/me", headers=bad),
        ):
            assert (answer.status_code, answer.json()) == (
                429,
                {"detail": "Your address failed to authenticate too often."},
            )
            assert 0 < int(answer.headers["retry-after"]) <= 300
        assert (await http.get("/auth/me")).status_code == 401  # it tried nothing
        assert (await http.get("/healthz")).status_code == 200


async def test_a_token_can_be_refreshed_while_its_user_is_there(serve: Serve, path: Path) -> None:
    form = {"username": "ann", "password": "correct horse"}
    async with (
        serve(jwt_secret=SECRET, users_file=path) as service,
        httpx.AsyncClient(base_url=f"http://{service.base}") as http,
    ):

        async def refresh(token: str | None) -> httpx.Response:
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            return await http.post("/auth/refresh", headers=headers)

        first = (await http.post("/auth/token", data=form)).json()
        answer = await refresh(first["token"])
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "no-store"
        second = answer.json()
        assert (second["user"], second.keys()) == (first["user"], first.keys())
        identity = await identify(second["token"], jwt_secret=SECRET)
        assert (identity.user_id, identity.username, identity.grants) == ("ann", "Ann", ANN.grants)
        for token in (None, "x", make_token("nobody"), make_token("bob", iss="elsewhere")):
            assert (await refresh(token)).status_code == 401
        # A token for less does not become one for more, nor one for more than is granted now.
        for token in (make_token("ann", rooms=["a-1"]), make_token("ann", rooms=["*"])):
            answer = await refresh(token)
            assert (answer.status_code, answer.json()) == (401, {"detail": "Log in again"})
        write_users(path, {"ann": User(ANN.password_hash, "Ann", Grants(("a-1",))), "bob": BOB})
        assert (await refresh(second["token"])).status_code == 401
        write_users(path, {"bob": BOB})
        assert (await refresh(second["token"])).status_code == 401
        assert (await refresh(make_token("bob"))).status_code == 200
        answer = await http.post("/auth/logout")
        assert (answer.status_code, answer.json()) == (200, {"message": "Logged out"})


async def test_in_open_mode_any_password_gets_and_refreshes_a_token(serve: Serve) -> None:
    async with (
        serve() as service,
        httpx.AsyncClient(base_url=f"http://{service.base}") as http,
    ):
        first = await http.post("/auth/token", data={"username": "ann", "password": "x"})
        headers = {"Authorization": f"Bearer {first.json()['token']}"}
        second = await http.post("/auth/refresh", headers=headers)
        assert second.json() == first.json()
        assert (await http.get("/auth/me", headers=headers)).json()["user_id"] == "ann"
        assert (await http.post("/auth/refresh")).status_code == 401
        assert (await http.post("/auth/logout")).json() == {"message": "Logged out"}


async def test_without_users_there_is_no_login(serve: Serve) -> None:
    async with serve(jwt_secret=SECRET) as service, browse(service.base) as http:
        token = make_token("ann")
        headers = {"Authorization": f"Bearer {token}"}
        for call in ("token", "refresh", "logout"):
            form = {"username": "ann", "password": "x"}
            answer = await http.post(f"/auth/{call}", data=form, headers=headers)
            assert answer.status_code == 404
        answer = await http.post("/auth/login", json={"username": "ann", "password": "x"})
        assert answer.status_code == 404
        assert (await http.get("/auth/mode")).json() == {"token": True, "login": False}


async def test_a_broken_file_is_an_error_of_the_server(
    serve: Serve, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        serve(jwt_secret=SECRET, users_file=path) as service,
        browse(service.base) as http,
    ):
        await trio.Path(path).write_text('{"users": 5}')
        body = {"username": "ann", "password": "correct horse"}
        assert (await http.post("/auth/login", json=body)).status_code == 500
        assert "correct horse" not in caplog.text
        write_users(path, {"ann": ANN})
        assert (await http.post("/auth/login", json=body)).status_code == 200
