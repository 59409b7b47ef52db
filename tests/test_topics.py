"""Dialect `topics` from outside: what y-webrtc and trystero rely on, and what is refused."""

from pathlib import Path
from uuid import uuid4

import httpx
import trio

from tests.clients import PATIENCE, Client, Service
from tests.conftest import Serve, serve_replicas
from tests.redis.server import open_redis_server
from tests.tokens import SECRET, make_token


async def subscribe(client: Client, *topics: str) -> None:
    """Subscribe as y-webrtc does, and wait until all replicas know."""
    await client.send("subscribe", topics=topics)
    await client.send("ping")
    await client.expect("pong")


async def test_publish_reaches_all_subscribers(service: Service) -> None:
    async with (
        service.connect("/topics") as ann,
        service.connect("/topics/behind/it") as bob,
        service.connect("/topics") as eve,
        service.connect("/topics") as guest,
    ):
        await subscribe(ann, "doc", "other")
        await subscribe(bob, "doc")
        await eve.send("subscribe", topic="doc")
        await subscribe(eve)
        data = '{"type": "announce",  "from": "\\u00e9", "n": 1.50}'
        await ann.send_text(f'{{"type":"publish","topic":"doc","data":{data},"clients":99}}')
        for client in (ann, bob, eve):
            text = await client.receive_text()
            assert text == f'{{"type":"publish","topic":"doc","data":{data},"clients":3}}'
        await guest.expect_nothing()
        # In the other format; the publisher need not subscribe.
        await guest.send_text('{"payload":[1.0, null],"topic":"doc","type":"publish"}')
        for client in (ann, bob, eve):
            assert await client.receive_text() == '{"topic":"doc","payload":[1.0, null]}'
        await guest.expect_nothing()
        # Clients that are gone, in whatever way, no longer count.
        await bob.vanish()
        await eve.send("unsubscribe", topics=["doc", "never"])
        await subscribe(eve)
        with trio.fail_after(PATIENCE):
            clients = 0
            while clients != 1:
                await ann.send("publish", topic="doc", data=None)
                clients = (await ann.expect("publish", data=None))["clients"]
        await eve.expect_nothing()
        # In order, for every receiver.
        for number in range(50):
            await guest.send("publish", topic="other", data=number)
        for number in range(50):
            await ann.expect("publish", topic="other", data=number, clients=1)


async def test_malformed_messages_are_ignored_and_counted(serve: Serve) -> None:
    nonsense = (
        *("{", "[]", "nonsense", '{"type":"shout"}', '{"type":"subscribe"}', '{"topic":"t"}'),
        *('{"type":"publish","topic":"t"}', '{"type":"publish","data":1}'),
        *('{"type":"subscribe","topics":"t"}', '{"type":"subscribe","topics":[7]}'),
        '{"type":"subscribe","topics":["' + 257 * "t" + '"]}',
    )
    async with serve() as service, service.connect("/topics") as ann:
        for text in nonsense:
            await ann.send_text(text)
        await subscribe(ann, "__proto__", "t" * 256)
        await ann.send("publish", topic="__proto__", data={})
        await ann.expect("publish", topic="__proto__", clients=1)
        await ann.expect_nothing()
        async with httpx.AsyncClient() as http:
            metrics = (await http.get(f"http://{service.base}/metrics")).text
    assert f'refused_total{{reason="malformed"}} {len(nonsense)}.0' in metrics
    assert "trio_signal_topics 2.0" in metrics
    assert 'messages_out_total{dialect="topics",type="publish"} 1.0' in metrics
    assert 'messages_in_total{dialect="topics",type="other"} 9.0' in metrics


async def test_topics_per_connection_are_limited(serve: Serve) -> None:
    async with (
        serve(max_rooms_per_connection=1000) as service,
        httpx.AsyncClient(base_url=f"http://{service.base}") as http,
        service.connect("/topics") as ann,
    ):
        for first in range(0, 10_000, 1000):
            await ann.send("subscribe", topics=[f"t{n}" for n in range(first, first + 1000)])
        await ann.send("ping")
        await ann.expect("pong")
        assert "trio_signal_topics 256.0" in (await http.get("/metrics")).text
        await ann.send("publish", topic="t255", data=0)
        await ann.expect("publish")
        await ann.send("publish", topic="t256", data=0)
        await ann.expect_nothing()
        await ann.close()
        with trio.fail_after(PATIENCE):
            while "trio_signal_topics 0.0" not in (await http.get("/metrics")).text:
                pass


async def test_topics_need_a_matching_room_grant(serve: Serve) -> None:
    async with serve(jwt_secret=SECRET) as service:
        async with service.connect("/topics?token=wrong") as mallory:
            await mallory.expect_close(1008)
        path = f"/topics?token={make_token(rooms=['team-*'])}"
        header = [("Authorization", f"Bearer {make_token('bob')}")]
        async with service.connect(path) as ann, service.connect("/topics", headers=header) as bob:
            await subscribe(bob, "team-a", "secret")
            await subscribe(ann, "team-a", "secret")
            await bob.send("publish", topic="secret", data=1)
            await bob.expect("publish", topic="secret", clients=1)
            await ann.send("publish", topic="secret", data=2)
            await ann.send("publish", topic="team-a", data=3)
            await ann.expect("publish", topic="team-a", clients=2)
            await bob.expect("publish", topic="team-a", data=3)


async def test_topics_work_during_and_after_a_redis_outage(tmp_path: Path) -> None:
    async with (
        open_redis_server(tmp_path) as redis,
        serve_replicas(2, redis.url, redis_prefix=f"{uuid4()}:") as service,
        service.connect("/topics") as ann,
        service.connect("/topics") as bob,
        service.connect("/topics") as eve,
    ):
        await subscribe(ann, "doc")
        await subscribe(bob, "doc")
        await subscribe(eve, "doc")  # on the same replica as ann
        await redis.kill()
        await ann.send("publish", topic="doc", data="alone")
        for client in (ann, eve):
            await client.expect("publish", data="alone", clients=2)
        await redis.start()
        with trio.fail_after(PATIENCE):
            clients = 0
            while clients != 3:
                await ann.send("publish", topic="doc", data="back")
                clients = (await ann.expect("publish", data="back"))["clients"]
        await bob.wait_for("publish", data="back", clients=3)
