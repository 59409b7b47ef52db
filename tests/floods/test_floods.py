"""Two who mean well hear each other whatever others do. How fast is measured by `make floods`."""

import json

import pytest
import trio

from tests.floods.attacks import ATTACKS
from tests.floods.resident import resident
from tests.raw import PING, PONG, TEXT, RawClient, client_frame, get, open_raw
from tests.replicas.processes import Replica, open_replica

#: How many are as good as many, and quick.
SCALES = {"unauthenticated": 300, "heads": 250, "announced": 5, "crowd": 100, "answers": 20}
#: Those that need other replicas.
WITH_REDIS = {"questions"}
#: What of them is refused in that time; the others are held back.
REFUSED = {
    "unauthenticated": "unauthenticated",
    "announced": "message_too_big",
    **dict.fromkeys(("joins", "documents", "files"), "http_rate"),
}
#: What the server may need for that, in bytes: far less than what is sent to it.
MEMORY = 64 << 20
SIGNALS = 40


async def join(client: RawClient, name: str) -> None:
    await client.upgrade("/ws/peace")
    await client.say({"type": "auth_token", "clientId": name})
    await client.wait_for("users_in_room")


async def converse(ann: RawClient, bob: RawClient) -> None:
    """Each signal arrives, in order and once; nothing else does but pings."""
    for number in range(SIGNALS):
        for sender, receiver, to in ((ann, bob, "bob"), (bob, ann, "ann")):
            await sender.say({"type": "offer", "offer": number, "to": to})
            frame = await receiver.receive()
            while frame.opcode == PING:
                await receiver.send(client_frame(PONG, frame.payload))
                frame = await receiver.receive()
            assert frame.opcode == TEXT
            assert json.loads(frame.payload)["offer"] == number
        # As often as they may.
        await trio.sleep(1 / 40)


async def read_counter(replica: Replica, name: str) -> float:
    async with open_raw(replica.base) as client:
        await client.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        lines = (await client.receive_answer()).body.decode().splitlines()
    return next(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


async def come_and_go(replica: Replica) -> None:
    """Strangers are served all the while: a new connection, and a request."""
    while True:
        with trio.fail_after(2):  # far less where nobody else uses the machine
            assert await get(replica.base, "/healthz")
            async with open_raw(replica.base) as client:
                await client.upgrade("/ws/door")
        await trio.sleep(0.2)


@pytest.mark.parametrize("name", ATTACKS)
async def test_a_flood_does_not_part_others(
    name: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    attack, scale = ATTACKS[name]
    environment: dict[str, object] = {
        "TRIO_SIGNAL_MESSAGES_PER_SECOND": 50,
        "TRIO_SIGNAL_MESSAGE_BURST": 200,
        "TRIO_SIGNAL_MAX_CONNECTIONS_PER_IP": 200,
        "TRIO_SIGNAL_CONNECTS_PER_IP_PER_MINUTE": 600,
        "TRIO_SIGNAL_MAX_UNAUTHENTICATED": 200,
        "TRIO_SIGNAL_HTTP_REQUESTS_PER_SECOND": 50,
        "TRIO_SIGNAL_HTTP_BURST": 200,
    }
    if name in WITH_REDIS:
        environment["REDIS_URL"] = redis_url
        monkeypatch.setenv("REDIS_URL", redis_url)
    async with open_replica(**environment) as replica:
        async with open_raw(replica.base) as ann, open_raw(replica.base) as bob:
            await join(ann, "ann")
            await join(bob, "bob")
            await ann.wait_for("user_joined")
            before = resident(replica.process.pid)
            host, _, port = replica.base.rpartition(":")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(attack, host, int(port), SCALES.get(name, scale))
                if name not in REFUSED:
                    nursery.start_soon(come_and_go, replica)
                await converse(ann, bob)
                assert resident(replica.process.pid) - before < MEMORY
                nursery.cancel_scope.cancel()
            if name in REFUSED:
                label = f'trio_signal_refused_total{{reason="{REFUSED[name]}"}}'
                assert await read_counter(replica, label) > 0
            await ann.send(client_frame(8, b"\x03\xe8"))
            await bob.wait_for("user_left")
        await replica.stop()
        assert [line for line in replica.log if '"error"' in line] == []
