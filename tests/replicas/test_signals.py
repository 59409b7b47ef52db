"""Signals between guests of different replicas."""

from pathlib import Path

import trio

from tests.raw import PING, PONG, client_frame, client_text, open_raw
from tests.replicas.guests import Guest, open_party
from tests.replicas.processes import LONG_LEASE, open_cluster

MANY = 300


async def test_signals_arrive_in_order_at_their_target_only(tmp_path: Path) -> None:
    async with open_cluster(tmp_path, 2) as cluster, open_party() as party:
        here, there = cluster.replicas
        sender = await party.join("sender", here)
        target = await party.join("target", there)
        bystanders = [await party.join(f"bystander-{i}", cluster.replicas[i]) for i in range(2)]
        await party.agree()
        await sender.say("offer", offer="o", to="target")
        for i in range(1000):
            await sender.say("ice_candidate", candidate=i, to="target")
        await sender.say("message", data="last")
        for guest in (target, *bystanders):
            await guest.wait_received("message")
            expected = list(range(1000)) if guest is target else []
            assert guest.signals("ice_candidate") == expected
            assert guest.signals("offer") == (["o"] if guest is target else [])
        assert target.types() == ["offer"] + ["ice_candidate"] * 1000


async def test_signals_to_one_peer_and_to_all_stay_in_order(tmp_path: Path) -> None:
    async with open_cluster(tmp_path, 2) as cluster, open_party() as party:
        here, there = cluster.replicas
        sender = await party.join("sender", here)
        target = await party.join("target", there)
        await party.agree()
        for i in range(200):
            await sender.say("message", data=i, **({"to": "target"} if i % 2 else {}))
        await target.until(lambda: len(target.received) == 200)
        assert target.signals("message") == list(range(200))


async def test_each_signal_is_delivered_or_reported(tmp_path: Path) -> None:
    """While its target leaves."""
    async with open_cluster(tmp_path, 2) as cluster, open_party() as party:
        here, there = cluster.replicas
        sender = await party.join("sender", here)
        for few in range(0, 100, 10):
            target = await party.join(f"target-{few}", there)
            await party.agree()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send_many, sender, target)
                nursery.start_soon(leave_after, target, few)
            arrived = len(target.received)
            assert target.signals("message") == list(range(arrived))
            for _ in range(MANY - arrived):
                error = await sender.wait_received("error")
                assert (error["code"], error["to"]) == ("target_not_found", target.name)
            print(f"{arrived} of {MANY} arrived")


async def send_many(sender: Guest, target: Guest) -> None:
    for i in range(MANY):
        await sender.say("message", data=i, to=target.name)


async def leave_after(target: Guest, few: int) -> None:
    await target.until(lambda: len(target.received) >= few)
    await target.leave()


async def test_a_target_on_a_killed_replica_is_not_found(tmp_path: Path) -> None:
    async with (
        open_cluster(tmp_path, 2, TRIO_SIGNAL_LEASE=LONG_LEASE) as cluster,
        open_party() as party,
    ):
        here, there = cluster.replicas
        sender = await party.join("sender", here)
        await party.join("target", there)
        await party.agree()
        party.forget_all(there)
        await cluster.kill(there)
        killed = trio.current_time()
        await sender.say("offer", offer="o", to="target")
        error = await sender.wait_received("error")
        assert (error["code"], error["to"]) == ("target_not_found", "target")
        assert sender.told_of("target") == ["user_joined"], "the lease expired first"
        print(f"not found after {trio.current_time() - killed:.3f} s")
        await party.agree()
        await sender.say("offer", offer="o", to="target")
        await sender.wait_received("error")


async def test_a_deeply_nested_payload_harms_no_replica(tmp_path: Path) -> None:
    """On the bus it is nested a little deeper than the sender's replica is able to read."""
    async with (
        open_cluster(tmp_path, 2) as cluster,
        open_raw(cluster.replicas[0].base) as ann,
        open_raw(cluster.replicas[1].base) as bob,
    ):
        for client, name in ((ann, "ann"), (bob, "bob")):
            await client.upgrade("/ws/r")
            await client.say({"type": "auth_token", "clientId": name})
            await client.wait_for("users_in_room")
        await ann.wait_for("user_joined")
        for depth in range(960, 1000):
            nested = "[" * depth + "]" * depth
            await ann.send(client_text(f'{{"type": "offer", "to": "bob", "offer": {nested}}}'))
        await ann.say({"type": "offer", "to": "bob", "offer": "last"})
        frame = await bob.receive()
        assert b'"offer":[[[' in frame.payload
        await bob.receive_until(lambda frame: b'"last"' in frame.payload)
        await ann.send(client_frame(PING))
        await ann.receive_until(lambda frame: frame.opcode == PONG)
