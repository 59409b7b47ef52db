"""Dialect `peerjs` from outside, on one replica and on three: what the npm package relies on."""

from pathlib import Path
from uuid import uuid4

import httpx
import trio

from tests.clients import PATIENCE, Client, Service, settle
from tests.conftest import Serve, serve_replicas
from tests.redis.server import open_redis_server
from tests.tokens import SECRET, make_token

TAKEN = {"type": "ID-TAKEN", "payload": {"msg": "ID is taken"}}


def path_of(id_: str, token: str = "t", key: str = "peerjs", path: str = "/") -> str:
    return f"{path}peerjs?key={key}&id={id_}&token={token}&version=1.5.5"


async def open_peer(client: Client) -> None:
    assert await client.receive() == {"type": "OPEN"}


async def refused(service: Service, path: str) -> str:
    """The error message of a refused client."""
    async with service.connect(path) as client:
        (message,) = await client.expect_close(1008)
        assert message["type"] == "ERROR"
        said: str = message["payload"]["msg"]
        return said


async def test_peers_exchange_signals(service: Service) -> None:
    async with (
        service.connect(path_of("ann")) as ann,
        service.connect(path_of("bob", path="/any/where/")) as bob,
        service.connect(path_of("bob", key="other")) as stranger,
    ):
        await open_peer(ann)
        await open_peer(bob)
        await stranger.expect("ERROR", payload={"msg": "Invalid key provided"})
        await ann.send("HEARTBEAT")
        payload = '{"sdp": {"n": 1.50, "e": "\\u00e9"},  "type":"data"}'
        await ann.send_text(
            f'{{"payload":{payload},"src":"forged","dst":"bob","type":"OFFER","more":1}}'
        )
        text = f'{{"type":"OFFER","src":"ann","dst":"bob","payload":{payload}}}'
        assert await bob.receive_text() == text
        await bob.send("ANSWER", dst="ann", payload=1)
        assert await ann.receive() == {"type": "ANSWER", "src": "bob", "dst": "ann", "payload": 1}
        for number in range(100):
            await ann.send("CANDIDATE", dst="bob", payload=number)
        for number in range(100):
            await bob.expect("CANDIDATE", src="ann", payload=number)
        await bob.send("OFFER", dst="ann")
        assert await ann.receive() == {"type": "OFFER", "src": "bob", "dst": "ann"}
        # LEAVE reaches only peers that have exchanged signals; a lost socket is not announced.
        async with service.connect(path_of("eve")) as eve:
            await open_peer(eve)
            await eve.send("LEAVE", dst="bob")
            await eve.send("OFFER", dst="ann")
            await ann.expect("OFFER", src="eve")
        await ann.send("LEAVE", dst="bob")
        assert await bob.receive() == {"type": "LEAVE", "src": "ann", "dst": "bob"}
        for nonsense in ("{", "[]", '{"type":"EXPIRE","dst":"bob","src":"x"}', '{"type":"OFFER"}'):
            await ann.send_text(nonsense)
        await ann.vanish()
        await settle(bob)
        await bob.expect_nothing()


async def test_id_is_reserved_for_its_owner(service: Service) -> None:
    async with (
        service.connect(path_of("ann", "mine")) as old,
        service.connect(path_of("bob")) as bob,
    ):
        await open_peer(old)
        await open_peer(bob)
        await bob.send("OFFER", dst="ann", payload=0)
        await old.expect("OFFER", src="bob")
        await expect_taken(service)
        async with service.connect(path_of("ann", "mine")) as new:
            await open_peer(new)
            await old.expect_close(4409)
            # Signals from earlier contacts follow it to its new connection, in order.
            for number in range(20):
                await bob.send("CANDIDATE", dst="ann", payload=number)
            for number in range(20):
                await new.expect("CANDIDATE", src="bob", payload=number)
            await bob.expect_nothing()
            await new.vanish()
        await expect_taken(service)
        # Signals sent meanwhile wait; an owner that gives up its id on purpose may lose it.
        for number in range(3):
            await bob.send("CANDIDATE", dst="ann", payload=number)
        async with service.connect(path_of("ann", "mine")) as back:
            await open_peer(back)
            for number in range(3):
                await back.expect("CANDIDATE", src="bob", payload=number)
            await back.send("LEAVE")
            await settle(back)
            async with service.connect(path_of("ann", "other")) as heir:
                await open_peer(heir)
                await back.send("OFFER", dst="bob")
                await settle(back)
                await bob.expect_nothing()


async def expect_taken(service: Service) -> None:
    """Nobody else gets the id of ann, on any replica."""
    for _ in range(3):
        async with service.connect(path_of("ann", "other")) as thief:
            assert await thief.expect_close(1008) == [TAKEN]


async def test_signals_wait_for_their_target_and_expire_once(service: Service) -> None:
    async with service.connect(path_of("ann")) as ann, service.connect(path_of("bob")) as bob:
        await open_peer(ann)
        await open_peer(bob)
        began = trio.current_time()
        for target in ("late", "never", "__proto__"):
            for number in range(5):
                await ann.send("OFFER" if not number else "CANDIDATE", dst=target, payload=number)
        await bob.send("OFFER", dst="late", payload="bob")
        await settle(ann, bob)
        async with service.connect(path_of("late")) as late:
            await open_peer(late)
            heard = [await late.receive() for _ in range(6)]
            assert [m["payload"] for m in heard if m["src"] == "ann"] == [0, 1, 2, 3, 4]
            await late.send("ANSWER", dst="ann", payload="late")
            await ann.expect("ANSWER", src="late")
            await ann.send("CANDIDATE", dst="never", payload="more")
            expired = [await ann.receive() for _ in range(2)]
            assert sorted(message["src"] for message in expired) == ["__proto__", "never"]
            assert {message["dst"] for message in expired} == {"ann"}
            assert trio.current_time() - began > 4.9
            await ann.send("CANDIDATE", dst="never", payload="too late")
            await late.expect_nothing()
            await ann.expect_nothing()
            await bob.expect_nothing()


async def test_refused_client_gets_a_reason(serve: Serve) -> None:
    incomplete = "No id, token, or key supplied to websocket server"
    async with serve(peerjs_keys="peerjs,other") as service:
        for path in ("/peerjs", "/peerjs?key=peerjs&id=a", path_of(""), path_of("a", token="")):
            assert await refused(service, path) == incomplete
        assert await refused(service, path_of("a", key="wrong")) == "Invalid key provided"
        for id_ in ("a--b", "-a", "a%20", "__proto__", "%C3%A9", "a%0A"):
            assert await refused(service, path_of(id_)) == "Invalid id provided"
        async with service.connect(path_of("a%20b-C_9", key="other")) as ann:
            await open_peer(ann)
        async with httpx.AsyncClient(base_url=f"http://{service.base}") as http:
            page = {"Origin": "https://app.example.com", "Sec-Fetch-Site": "cross-site"}
            ids = set()
            for path in ("/peerjs/id?ts=1&version=1.5.5", "/a/b/other/id"):
                answer = await http.get(path, headers=page)
                assert answer.status_code == 200
                assert answer.headers["content-type"].startswith("text/plain")
                assert answer.headers["access-control-allow-origin"] == "*"
                ids.add(answer.text)
            assert {len(id_) for id_ in ids} == {36}
            assert len(ids) == 2
            answer = await http.get("/peerjs/peers")
            assert (answer.status_code, list(answer.json())) == (401, ["error"])
            root = await http.get("/", headers={"Accept": "application/json"})
            assert root.json()["name"] == "PeerJS Server"
            assert "html" in (await http.get("/")).headers["content-type"]


async def test_token_proves_ownership_of_an_id(serve: Serve) -> None:
    async with serve(jwt_secret=SECRET) as service:
        assert await refused(service, path_of("a")) == "Invalid token provided"
        ann, again, bob = make_token("ann"), make_token("ann", name="Ann"), make_token("bob")
        async with service.connect(path_of("x", ann)) as old:
            await open_peer(old)
            async with service.connect(path_of("x", bob)) as thief:
                assert await thief.expect_close(1008) == [TAKEN]
            async with service.connect(path_of("x", again)) as new:
                await open_peer(new)
                await old.expect_close(4409)
                async with httpx.AsyncClient(base_url=f"http://{service.base}") as http:
                    for token, status in ((ann, 401), (make_token("m", moderator=True), 200)):
                        bearer = {"Authorization": f"Bearer {token}"}
                        answer = await http.get("/peerjs/peers", headers=bearer)
                        assert answer.status_code == status
                    assert answer.json() == ["x"]


async def test_flood_to_absent_ids_uses_bounded_memory(serve: Serve) -> None:
    async with (
        serve() as service,
        httpx.AsyncClient(base_url=f"http://{service.base}") as http,
        service.connect(path_of("ann")) as ann,
    ):
        await open_peer(ann)
        filler = "x" * 100_000
        for number in range(300):
            await ann.send("OFFER", dst=f"absent{number}", payload=filler)
        for _ in range(100):
            await ann.send("CANDIDATE", dst="absent", payload=0)
        messages = await ann.settle()
        metrics = (await http.get("/metrics")).text
        (size,) = (
            line for line in metrics.splitlines() if line.startswith("trio_signal_letters_b")
        )
        assert 15 * 2**20 < float(size.split()[1]) <= 16 * 2**20
        # Signals that did not fit expire at once.
        assert {message["type"] for message in messages} == {"EXPIRE"}
        early = len(messages)
        assert early > 100
        sources = {message["src"] for message in messages}
        with trio.fail_after(PATIENCE):
            while len(sources) < 301:
                sources.add((await ann.expect("EXPIRE", dst="ann"))["src"])
        await ann.expect_nothing()
        assert "trio_signal_letters 0.0" in (await http.get("/metrics")).text


async def test_ids_work_during_and_after_a_redis_outage(tmp_path: Path) -> None:
    async with (
        open_redis_server(tmp_path) as redis,
        serve_replicas(2, redis.url, redis_prefix=f"{uuid4()}:") as service,
        service.connect(path_of("ann")) as ann,
        service.connect(path_of("bob")) as bob,
        service.connect(path_of("cyd")) as cyd,  # on the same replica as ann
    ):
        for client in (ann, bob, cyd):
            await open_peer(client)
        await ann.send("OFFER", dst="bob", payload=1)
        await bob.expect("OFFER", src="ann")
        await redis.kill()
        await ann.send("OFFER", dst="cyd", payload=2)
        await cyd.expect("OFFER", src="ann", payload=2)
        await ann.send("OFFER", dst="bob", payload=3)
        await redis.start()
        with trio.fail_after(PATIENCE):
            heard = None
            while heard != "back":
                await ann.send("OFFER", dst="bob", payload="back")
                with trio.move_on_after(0.5):
                    heard = (await bob.receive())["payload"]
        async with service.connect(path_of("bob", "other")) as thief:
            assert await thief.expect_close(1008) == [TAKEN]
