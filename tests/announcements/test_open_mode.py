"""Old clients in open mode: their HTTP calls name no user, and their pages trust every text."""

import json
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.announcements.office import PATH, WEBSOCKET, Office, open_office, token_of
from tests.announcements.test_faults import open_shared
from tests.clients import Service
from tests.conftest import serve_once
from tests.raw import open_raw
from tests.tokens import SECRET
from trio_signal.auth import make_login_token

COOKIE = "trio_signal_user"
HTML = "<img src=x onerror='alert(1)'> & more"
HARMLESS = "＜img src=x onerror='alert(1)'＞ ＆ more"


@pytest.fixture
async def office() -> AsyncIterator[Office]:
    async with serve_once() as service, open_office(service) as office:
        yield office


async def cookies_of(service: Service, path: str, **headers: str) -> list[str]:
    """The cookies that the answer to a handshake sets, if any."""
    async with open_raw(service.base) as client:
        answer = await client.upgrade(path, **{"Host": service.base, **headers})
    return [answer.headers["set-cookie"]] if "set-cookie" in answer.headers else []


def jar_of(set_cookie: str) -> dict[str, str]:
    """The headers that a browser sends back."""
    return {"Cookie": set_cookie.partition(";")[0]}


async def test_acknowledging_without_a_user_id_uses_the_cookie(office: Office) -> None:
    """The flow of the old pages: the WebSocket names the user, and no HTTP call does."""
    id_ = await office.announce("Hello")
    (cookie,) = await cookies_of(office.service, f"{WEBSOCKET}?user_id=ann%3B%20%22x%22")
    jar = jar_of(cookie)
    status, answer = await office.call("GET", "/active", headers=jar)
    assert (status, answer["broadcast"]["id"]) == (200, id_)
    body = {"broadcast_id": id_}
    assert await office.call("POST", "/acknowledge", headers=jar, json=body) == (
        200,
        {"status": "success"},
    )
    assert await office.call("GET", "/active", headers=jar) == (200, {"broadcast": None})
    async with office.connect("ann%3B%20%22x%22") as ann:
        await ann.expect("connected")
        await ann.expect_nothing()
    async with office.connect("bob") as bob:
        await bob.expect("connected")
        await bob.expect("active_broadcast")


@pytest.mark.parametrize("user_id", ["ann", 7])
async def test_the_user_id_may_be_in_the_body(office: Office, user_id: object) -> None:
    id_ = await office.announce("Hello")
    jar = {"Cookie": f"{COOKIE}=bob"}  # the body takes precedence over the cookie
    body = {"broadcast_id": id_, "user_id": user_id}
    status, _ = await office.call("POST", "/acknowledge", headers=jar, json=body)
    assert status == 200
    assert await office.active(str(user_id)) is None
    assert await office.active("bob") == id_
    status, _ = await office.call("POST", "/acknowledge", "eve", headers=jar, json=body)
    assert status == 200  # the query takes precedence over the body
    assert await office.active("eve") is None


@pytest.mark.parametrize("user_id", [None, [], "x" * 257, -1.5])
async def test_a_body_without_a_valid_user_id_is_refused(office: Office, user_id: object) -> None:
    id_ = await office.announce("Hello")
    body = {"broadcast_id": id_, "user_id": user_id}
    status, _ = await office.call("POST", "/acknowledge", json=body)
    assert status in (400, 401, 422)


@pytest.mark.parametrize("caller", ["x" * 257, "x" * 60_000])
async def test_overlong_user_ids_are_refused(office: Office, caller: str) -> None:
    id_ = await office.announce("Hello")
    jar = {"Cookie": f"{COOKIE}={caller[:8000]}"}
    status, _ = await office.call("POST", "/acknowledge", headers=jar, json={"broadcast_id": id_})
    assert status == 401
    base = f"http://{office.service.base}{PATH}"
    query = f"?user_id={caller[:8000]}"
    answer = await office.http.post(f"{base}/acknowledge{query}", json={"broadcast_id": id_})
    assert answer.status_code == 400


async def test_the_cookie_is_set_for_named_users_only(office: Office) -> None:
    service = office.service
    path = f"{WEBSOCKET}?user_id=ann"
    assert await cookies_of(service, path) == [
        f"{COOKIE}=ann; Path=/api/creator/broadcast; HttpOnly; SameSite=Lax"
    ]
    longest = await cookies_of(service, f"{WEBSOCKET}?user_id={'%F0%9F%91%8B' * 256}")
    assert len(longest) == 1
    assert len(longest[0]) < 4096
    # A handshake that the fast path leaves to the library gets the cookie as well.
    (cookie,) = await cookies_of(service, path, Sec_WebSocket_Protocol="bearer, x")
    assert cookie.startswith(f"{COOKIE}=ann;")
    for other in (WEBSOCKET, "/ws/r/ann", "/ws/r", "/ws", "/api/v1/ws/connect?user_id=ann"):
        assert await cookies_of(service, other) == []


async def test_the_cookie_is_secure_behind_https() -> None:
    path = f"{WEBSOCKET}?user_id=ann"
    async with serve_once(trusted_proxies=1) as service:
        (cookie,) = await cookies_of(service, path, X_Forwarded_Proto="https")
        assert cookie.endswith("; Secure")
        (cookie,) = await cookies_of(service, path, X_Forwarded_Proto="http")
        assert "Secure" not in cookie
    async with serve_once() as service:
        (cookie,) = await cookies_of(service, path, X_Forwarded_Proto="https")
        assert "Secure" not in cookie  # the header does not come from a trusted proxy


async def test_only_allowed_origins_may_set_and_use_the_cookie() -> None:
    path, app, evil = f"{WEBSOCKET}?user_id=ann", "https://app.example.com", "https://evil.example"
    async with serve_once(allowed_origins=f"*, {app}") as service, open_office(service) as office:
        assert await cookies_of(service, path, Origin=evil) == []
        assert len(await cookies_of(service, path, Origin=app)) == 1
        assert len(await cookies_of(service, path, Origin=f"http://{service.base}")) == 1
        body = {"broadcast_id": await office.announce("Hello")}
        for origin, status in ((evil, 401), (app, 200)):
            jar = {"Cookie": f"{COOKIE}=ann", "Origin": origin}
            answer = await office.call("POST", "/acknowledge", headers=jar, json=body)
            assert answer[0] == status


async def test_the_cookie_is_unused_when_tokens_are_required() -> None:
    async with serve_once(jwt_secret=SECRET) as service, open_office(service) as office:
        path = f"{WEBSOCKET}?user_id=ann&token={token_of('ann')}"
        assert await cookies_of(service, path) == []
        jar = {"Cookie": f"{COOKIE}=ann"}
        assert (await office.call("GET", "/active", headers=jar))[0] == 401
        assert (await office.call("POST", "/acknowledge", headers=jar, json={}))[0] == 401
        headers = {"Authorization": f"Bearer {token_of('boss')}"}
        status, made = await office.call("POST", "", headers=headers, json={"message": HTML})
        assert status == 200
        # The user id in the body is ignored, too.
        bearer = {"Authorization": f"Bearer {token_of('ann')}"}
        body = {"broadcast_id": made["id"], "user_id": "bob"}
        assert (await office.call("POST", "/acknowledge", headers=bearer, json=body))[0] == 200
        _, answer = await office.call("GET", "/active", headers=bearer)
        assert answer == {"broadcast": None}
        # And texts are passed on unchanged.
        bearer = {"Authorization": f"Bearer {token_of('bob')}"}
        _, answer = await office.call("GET", "/active", headers=bearer)
        assert answer["broadcast"]["message"] == HTML


async def test_the_cookie_has_no_effect_elsewhere(office: Office) -> None:
    jar = {"Cookie": f"{COOKIE}=ann"}
    base = f"http://{office.service.base}"
    assert (await office.http.get(f"{base}/auth/me", headers=jar)).status_code == 401
    async with office.service.connect(WEBSOCKET, headers=[("Cookie", f"{COOKIE}=ann")]) as nobody:
        await nobody.expect_close(1008, "User not found")


# Texts


async def test_texts_cannot_become_html(office: Office) -> None:
    async with office.attend("ann") as ann:
        id_ = await office.announce(HTML, caller="<i>&eve")
        message = await ann.expect("new_broadcast")
        assert message["broadcast"]["message"] == HARMLESS
        assert message["broadcast"]["created_by"] == "＜i＞＆eve"
        await ann.send("get_active_broadcast")
        message = await ann.expect("active_broadcast", broadcast={**message["broadcast"]})
    _, answer = await office.call("GET", "/active", "bob")
    assert answer["broadcast"] == {
        "id": id_,
        "message": HARMLESS,
        "type": "info",
        "message_type": "info",
    }
    assert (await office.stats("<i>&eve"))["broadcasts_today"] == 1


async def test_stored_texts_are_made_harmless_when_sent(database_url: str) -> None:
    """Also those stored by an older server, or in a database that others fill."""
    async with serve_once(database_url=database_url) as service, open_office(service) as office:
        await office.announce("Hello")
    with sqlite3.connect(database_url.removeprefix("sqlite:///")) as database:
        database.execute("UPDATE announcements SET message = ?", (HTML,))
    database.close()
    async with serve_once(database_url=database_url) as service, open_office(service) as office:
        _, answer = await office.call("GET", "/active", "ann")
        assert answer["broadcast"]["message"] == HARMLESS
        async with office.attend("ann") as ann:
            message = await ann.expect("active_broadcast")
            assert message["broadcast"]["message"] == HARMLESS


async def test_texts_from_open_mode_stay_harmless_when_tokens_are_required(
    database_url: str,
) -> None:
    async with serve_once(database_url=database_url) as service, open_office(service) as office:
        await office.announce(HTML)
    given: dict[str, Any] = {"database_url": database_url, "jwt_secret": SECRET}
    async with serve_once(**given) as service, open_office(service) as office:
        bearer = {"Authorization": f"Bearer {token_of('ann')}"}
        _, answer = await office.call("GET", "/active", headers=bearer)
        assert answer["broadcast"]["message"] == HARMLESS


async def test_a_nameless_creator_is_anonymous_everywhere(tmp_path: Path) -> None:
    async with (
        open_shared(tmp_path, 1) as (office, redis),
        office.attend("ann") as ann,
    ):
        await office.call("POST", "", json={"message": "Hello"})
        new = await ann.expect("new_broadcast")
        await ann.send("get_active_broadcast")
        active = await ann.expect("active_broadcast")
        assert new["broadcast"] == active["broadcast"]
        assert new["broadcast"]["created_by"] == "anonymous"
        current = json.loads(await redis.ask("GET", "current_broadcast"))
        assert current["created_by"] == "anonymous"


async def test_an_overlong_id_in_a_token_cannot_announce(tmp_path: Path) -> None:
    """Other replicas could not read such an announcement."""
    token = make_login_token("x" * 5000)
    async with open_shared(tmp_path) as (office, _):
        for at in (0, 1):
            status, answer = await office.call(
                *("POST", "", None, at),
                json={"message": "Hello"},
                headers={"Authorization": f"Bearer {token}"},
            )
            assert (status, answer["message"]) == (400, "An id has 256 characters at most.")
            assert await office.active("ann", at=1 - at) is None
