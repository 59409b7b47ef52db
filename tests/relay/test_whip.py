"""Publishers by WHIP, with a media server in memory: the answers they get, and who sees them."""

import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import trio

from tests.clients import PATIENCE, Client, Service
from tests.conftest import Serve
from tests.relay.cast import STREAM, Served, answer, described, offered, serve_relayed, until
from tests.test_openapi import KEY
from tests.test_sdp import CANDIDATE, OFFER, PASSWORD, UFRAG
from tests.tokens import SECRET, make_token
from trio_signal import publishing
from trio_signal.relay import RelayError, viewer
from trio_signal.relay.memory import MemoryIngest, MemoryServer, MemoryViewing

FRAGMENT = (
    f"a=ice-ufrag:{UFRAG}\r\na=ice-pwd:{PASSWORD}\r\nm=audio 9 RTP/AVP 0\r\na=mid:1\r\n"
    f"a={CANDIDATE}\r\na=end-of-candidates\r\n"
)
RESTART = f"a=ice-ufrag:ysXw\r\na=ice-pwd:{PASSWORD[::-1]}\r\n"
TOKENS: dict[str, Any] = {"auth": "token", "jwt_secret": SECRET}


class Encoder:
    """A publisher's client; each request goes to another replica."""

    def __init__(self, service: Service, http: httpx.AsyncClient, token: str = "") -> None:
        self._service = service
        self._http = http
        self.token = token
        self.session = ""
        self.etag = ""

    async def ask(
        self, method: str, path: str, expected: int, content: str = "", **headers: str
    ) -> httpx.Response:
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        answered = await self._http.request(
            method, f"http://{self._service.base}{path}", content=content, headers=sent
        )
        assert answered.status_code == expected, answered.text
        return answered

    async def publish(
        self, room: str = STREAM, expected: int = 201, offer: str = OFFER
    ) -> httpx.Response:
        answered = await self.ask(
            "POST", f"/whip/{room}", expected, offer, Content_Type="application/sdp"
        )
        if expected == 201:
            self.session, self.etag = answered.headers["Location"], answered.headers["ETag"]
        return answered

    async def patch(self, fragment: str, expected: int, if_match: str) -> httpx.Response:
        type_ = "application/trickle-ice-sdpfrag"
        return await self.ask(
            "PATCH", self.session, expected, fragment, Content_Type=type_, If_Match=if_match
        )


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=PATIENCE) as http:
        yield http


async def test_early_and_late_viewers_see_a_publisher(
    served: Served, http: httpx.AsyncClient
) -> None:
    service, server = served
    encoder = Encoder(service, http)
    async with service.connect("/ws") as early, service.connect("/ws") as late:
        await early.send("join-stream", streamId=STREAM)
        await early.wait_for("viewer-count")
        answered = await encoder.publish()
        assert answered.headers["Content-Type"] == "application/sdp"
        assert answered.text.startswith("v=0\r\n")
        assert answered.headers["Link"] == '<stun:stun.example.org:3478>; rel="ice-server"'
        assert encoder.session.startswith(f"/whip/{STREAM}/")
        await early.wait_for("broadcaster-ready-signal")
        await late.send("join-stream", streamId=STREAM)
        (feed,) = server.ingests
        for viewer in (early, late):
            assert f"offer of {feed}" in await offered(viewer)
            await answer(viewer)
        await until(lambda: [len(v.descriptions) for v in server.viewings] == [1, 1])

        # Its candidates reach the media server through any replica.
        for _ in service.bases:
            await encoder.patch(FRAGMENT, 204, encoder.etag)
        (ingest,) = server.ingests.values()
        given = {"candidate": CANDIDATE, "sdpMid": "1", "sdpMLineIndex": 1}
        said = [given | {"usernameFragment": UFRAG}, None]
        await until(lambda: ingest.candidates == said * len(service.bases))
        await encoder.patch(FRAGMENT, 412, '"another"')

        # It ends, and leaves nothing behind.
        await encoder.ask("DELETE", encoder.session, 200)
        for viewer in (early, late):
            await viewer.wait_for("broadcaster-disconnected")
        await until(lambda: not server.ingests and not server.viewings)
        await encoder.ask("DELETE", encoder.session, 404)
        await encoder.publish()  # the room is free at once


async def enter(mesh: Client, live: Client, room: Client) -> None:
    """Let three clients, one of each dialect, into the room."""
    await mesh.send("auth_token", clientId="ann", relay=True)
    await mesh.wait_for("users_in_room")
    await room.wait_for("room_state")
    await live.send("join_room", room_id=STREAM)
    await live.wait_for("joined_room")


async def test_a_publisher_is_seen_in_other_dialects(http: httpx.AsyncClient) -> None:
    async with (
        serve_relayed() as (service, (server,)),
        service.connect("/ws/show/eve") as eve,
        service.connect("/api/v1/ws/connect?user_id=bob") as bob,
        service.connect(f"/ws/{STREAM}") as ann,
    ):
        await enter(ann, bob, eve)
        await Encoder(service, http).publish()
        # The `live` client asks, and the `room` client makes an offer, as for any broadcaster.
        await bob.wait_for("live_peer_joined", user_id="publisher")
        await bob.send("live_status", room_id=STREAM)
        offer = (await bob.wait_for("live_offer", from_user_id="publisher"))["payload"]
        reply = {"room_id": STREAM, "target_user_id": "publisher"}
        await bob.send("live_answer", payload=described("answer", "9"), **reply)
        await eve.wait_for("broadcast-started", user_id="publisher")
        own = described("offer", "5")
        await eve.send("webrtc-signal", target_user_id="publisher", signal=own)
        counter = (await eve.wait_for("webrtc-signal", from_user_id="publisher"))["signal"]
        assert (offer["type"], counter["type"]) == ("offer", "offer")
        # A client of `mesh` with relay support does neither.
        started = await ann.wait_for("broadcast_started")
        offered = await ann.wait_for("offer", from_=started["client_id"])
        assert offered["relay"] is True
        answer = described("answer", "8")
        await ann.send("answer", to=offered["from"], relay=True, answer=answer)
        await until(lambda: len(server.viewings) == 3)


async def test_viewers_of_all_dialects_are_told_if_delivery_fails(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def offer(viewing: MemoryViewing) -> str:
        raise RelayError("full")

    monkeypatch.setattr(MemoryViewing, "offer", offer)
    monkeypatch.setattr(viewer, "_PAUSE", 0.01)
    async with (
        serve_relayed() as (service, _),
        service.connect("/ws/show/eve") as eve,
        service.connect("/api/v1/ws/connect?user_id=bob") as bob,
        service.connect(f"/ws/{STREAM}") as ann,
        service.connect("/ws") as kim,
    ):
        await enter(ann, bob, eve)
        await kim.send("join-stream", streamId=STREAM)
        await kim.wait_for("viewer-count")
        await Encoder(service, http).publish()
        await bob.wait_for("live_peer_joined", user_id="publisher")
        await bob.send("live_status", room_id=STREAM)
        await eve.wait_for("broadcast-started", user_id="publisher")
        own = described("offer", "5")
        await eve.send("webrtc-signal", target_user_id="publisher", signal=own)
        for client in (eve, bob, ann, kim):
            assert "cannot be delivered now" in str(await client.wait_for("error"))


async def test_ice_can_be_restarted_on_the_publishers_replica(
    served: Served, http: httpx.AsyncClient
) -> None:
    service, server = served
    encoder = Encoder(service, http)
    await encoder.publish()
    old, answered = encoder.etag, None
    for _ in service.bases:
        answered = await http.request(
            "PATCH",
            f"http://{service.base}{encoder.session}",
            content=RESTART,
            headers={"If-Match": "*", "Content-Type": "application/trickle-ice-sdpfrag"},
        )
        if answered.status_code == 200:
            break
        assert (answered.status_code, answered.headers["Retry-After"]) == (503, "5")
    assert answered is not None
    assert answered.text.startswith("a=ice-ufrag:relay\r\na=ice-pwd:")
    assert answered.headers["ETag"] != old
    (ingest,) = server.ingests.values()
    assert [UFRAG in text for text in ingest.descriptions] == [True, False]
    # Earlier candidates are useless now.
    await until(lambda: not ingest.candidates)
    if len(service.bases) == 1:
        await encoder.patch(FRAGMENT, 412, old)
        # The RFC's text has it without quotes, but its example with quotes.
        await encoder.patch(RESTART.replace("ysXw", "efgh"), 200, '"*"')
        server.is_down = True
        await encoder.patch(RESTART.replace("ysXw", "abcd"), 503, "*")
    await encoder.ask("DELETE", encoder.session, 200)


async def test_ice_cannot_be_restarted_while_publishing_ends(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, deleted = trio.Event(), trio.Event()

    async def refuse(*_: object) -> str:
        asked.set()
        await deleted.wait()
        raise RelayError("no such handle")

    async with serve_relayed() as (service, _), trio.open_nursery() as nursery:
        encoder = Encoder(service, http)
        await encoder.publish()
        monkeypatch.setattr(MemoryIngest, "offer", refuse)
        nursery.start_soon(encoder.patch, RESTART, 404, "*")
        await asked.wait()
        await encoder.ask("DELETE", encoder.session, 200)
        deleted.set()


async def test_tokens_decide_who_may_publish(http: httpx.AsyncClient) -> None:
    async with serve_relayed(**TOKENS) as (service, (server,)):
        nobody = Encoder(service, http)
        assert (await nobody.publish(expected=401)).headers["WWW-Authenticate"] == "Bearer"
        await Encoder(service, http, "nonsense").publish(expected=401)
        for refused in ({"publish": False}, {"rooms": ["other"]}):
            await Encoder(service, http, make_token("ann", **refused)).publish(expected=403)
        ann = Encoder(service, http, make_token("ann"))
        await ann.publish()
        bob = Encoder(service, http, make_token("bob"))
        assert "Somebody else broadcasts" in (await bob.publish(expected=409)).text
        await bob.publish("other")
        # Nobody can change another user's session.
        nobody.session = bob.session = ann.session
        await nobody.ask("DELETE", ann.session, 401)
        await bob.ask("DELETE", ann.session, 403)
        # Its encoder was restarted: the newer broadcast counts.
        again = Encoder(service, http, make_token("ann"))
        await again.publish()
        await until(lambda: len(server.ingests) == 2)  # ann's and bob's
        await ann.ask("DELETE", ann.session, 404)
        await again.ask("DELETE", again.session, 200)


async def test_without_tokens_the_first_publisher_has_the_room(http: httpx.AsyncClient) -> None:
    async with serve_relayed() as (service, _), service.connect("/ws") as caster:
        first = Encoder(service, http)
        await first.publish()
        await Encoder(service, http).publish(expected=409)
        await first.ask("DELETE", first.session, 200)
        await caster.send("broadcaster-ready", streamId=STREAM)
        await caster.wait_for("viewer-count")
        await caster.settle()
        await first.publish(expected=409)


async def test_one_of_two_simultaneous_publishers_is_removed(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither is in the room yet when the server checks whether it is free."""
    both = trio.Event()
    asking: list[MemoryServer] = []

    async def answer(server: MemoryServer) -> None:
        asking.append(server)
        if len(asking) == 2:
            both.set()
        await both.wait()

    monkeypatch.setattr(MemoryServer, "answer", answer)
    async with serve_relayed(**TOKENS) as (service, (server,)):
        async with trio.open_nursery() as nursery:
            for name in ("ann", "bob"):
                nursery.start_soon(Encoder(service, http, make_token(name)).publish)
        await until(lambda: len(server.ingests) == 1)


async def test_invalid_offers_are_refused(http: httpx.AsyncClient) -> None:
    async with serve_relayed() as (service, servers):
        for content, type_, status in (
            (OFFER, "", 415),
            (OFFER, "application/json", 415),
            ("hello", "application/sdp", 400),
            (OFFER.replace("sendonly", "recvonly"), "application/sdp", 400),
            (OFFER + "a=x\r\n" * 20_000, "application/sdp", 413),
        ):
            path = f"/whip/{STREAM}"
            await Encoder(service, http).ask("POST", path, status, content, Content_Type=type_)
        assert not servers[0].ingests


async def test_moderation_applies_to_publishers(http: httpx.AsyncClient) -> None:
    api, key = "/api/v1/server/rooms/show", {"Authorization": f"Bearer {KEY}"}
    async with serve_relayed(api_keys=f"site:{KEY}") as (service, (server,)):
        encoder = Encoder(service, http)
        await encoder.publish()
        url = f"http://{service.base}{api}"
        (peer,) = (await http.get(url, headers=key)).json()["peers"]
        seen = peer["dialect"], peer["user_id"], peer["address_class"]
        assert seen == ("whip", "publisher", "loopback")
        assert peer["peer_id"] not in encoder.session  # the session's id is secret
        await http.delete(f"{url}/peers/{peer['peer_id']}", headers=key)
        await until(lambda: not server.ingests)
        await encoder.ask("DELETE", encoder.session, 404)
        await http.patch(url, headers=key, json={"locked": True})
        await encoder.publish(expected=403)
        assert not server.ingests


async def test_invalid_requests_to_a_session_are_refused(http: httpx.AsyncClient) -> None:
    async with serve_relayed() as (service, _):
        encoder = Encoder(service, http)
        await encoder.publish("a%2Fb")
        assert encoder.session.startswith("/whip/a%2Fb/")
        type_ = {"Content_Type": "application/trickle-ice-sdpfrag"}
        await encoder.ask("PATCH", encoder.session, 428, FRAGMENT, **type_)
        await encoder.ask("PATCH", encoder.session, 415, FRAGMENT, If_Match=encoder.etag)
        await encoder.ask("PATCH", encoder.session, 400, "m=audio", If_Match="*", **type_)
        for path in ("/whip/other/", "/whip/a%2Fb/x"):
            secret = encoder.session.rpartition("/")[2]
            await encoder.ask("DELETE", path + secret, 404)
        for path in (encoder.session, "/whip/a"):
            await encoder.ask("PUT", path, 405)
            for method in ("GET", "HEAD"):
                assert (await encoder.ask(method, path, 200)).content == b""
        said = (await encoder.ask("OPTIONS", "/whip/a", 200)).headers
        assert said["Allow"] == "GET, HEAD, OPTIONS, POST"
        assert said["Accept-Post"] == "application/sdp"
        said = (await encoder.ask("OPTIONS", encoder.session, 200)).headers
        assert said["Allow"] == "DELETE, GET, HEAD, OPTIONS, PATCH"


async def test_publishing_needs_a_media_server(http: httpx.AsyncClient, serve: Serve) -> None:
    async with serve() as service:
        answered = await Encoder(service, http).publish(expected=503)
        assert answered.headers["Retry-After"] == "5"
    async with serve_relayed() as (service, (server,)):
        server.is_down = True
        await Encoder(service, http).publish(expected=503)
        server.is_down, server.refuses = False, "no room"
        assert "no room" in (await Encoder(service, http).publish(expected=503)).text
        server.refuses = None
        await Encoder(service, http).publish()


async def test_publishing_ends_with_its_media(http: httpx.AsyncClient) -> None:
    async with serve_relayed() as (service, (server,)), service.connect("/ws") as viewer:
        await viewer.send("join-stream", streamId=STREAM)
        encoder = Encoder(service, http)
        await encoder.publish()
        await offered(viewer)
        server.crash()
        await viewer.wait_for("broadcaster-disconnected")
        await encoder.ask("DELETE", encoder.session, 404)
        server.restart()
        await encoder.publish()
        await offered(viewer)
    assert not server.ingests  # the server has stopped


async def test_publishing_ends_with_its_token(http: httpx.AsyncClient) -> None:
    async with serve_relayed(**TOKENS) as (service, (server,)):
        await Encoder(service, http, make_token("ann", exp=int(time.time()) + 2)).publish()
        assert server.ingests
        await until(lambda: not server.ingests)


async def test_publishing_ends_if_no_media_arrive(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "ARRIVAL", 0.1)
    async with serve_relayed() as (service, (server,)), service.connect("/ws") as viewer:
        await viewer.send("join-stream", streamId=STREAM)
        await viewer.wait_for("viewer-count", count=1)
        server.connects = False
        await Encoder(service, http).publish()
        await viewer.wait_for("viewer-count", count=2)
        await viewer.wait_for("viewer-count", count=1)
        assert not server.ingests


def page_origin(**given: Any) -> dict[str, Any]:
    return {"allowed_origins": "https://studio.example.org", **given}


async def test_a_page_of_an_allowed_origin_may_publish(http: httpx.AsyncClient) -> None:
    async with serve_relayed(**page_origin()) as (service, _):
        encoder = Encoder(service, http)
        origin = {"Origin": "https://studio.example.org"}
        said = (await encoder.ask("OPTIONS", "/whip/a", 200, **origin)).headers
        assert said["Access-Control-Allow-Methods"] == "GET, HEAD, OPTIONS, POST"
        assert "Location" in said["Access-Control-Expose-Headers"]
        elsewhere = {"Origin": "https://example.com", "Content_Type": "application/sdp"}
        await encoder.ask("POST", "/whip/a", 403, OFFER, **elsewhere)
