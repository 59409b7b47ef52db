"""Webhooks tell a site's backend what happens: in order, every departure once, despite failures."""

import errno
import os
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import trio

from tests.clients import PATIENCE, Service
from tests.conftest import serve_once, serve_replicas
from tests.members import AT, member
from tests.receivers import Receiver, receive
from tests.redis.server import open_redis_server
from tests.test_backend import KEYS, backend, mesh
from tests.test_openapi import KEY
from trio_signal.hooks import HookEvent, SignatureError, check_signature, sign
from trio_signal.messages.commands import LeaveCause
from trio_signal.messages.events import Joined, Left
from trio_signal.webhooks import webhooks
from trio_signal.webhooks.journal import Journal
from trio_signal.webhooks.spool import Spool

VISIT = [
    *("room.started", "peer.joined ann", "broadcast.started ann", "peer.joined bob"),
    *("broadcast.stopped ann", "peer.left ann closed", "peer.left bob kicked", "room.ended"),
]


@pytest.fixture(params=["one replica", "three replicas"])
def replicas(request: pytest.FixtureRequest) -> tuple[int, str]:
    """The number of replicas, and their Redis."""
    if request.param == "one replica":
        return 1, ""
    return 3, request.getfixturevalue("redis_url")


@asynccontextmanager
async def run(
    replicas: tuple[int, str], *receivers: Receiver, **more: object
) -> AsyncIterator[Service]:
    given = {**KEYS, "webhook_urls": ",".join(each.url for each in receivers), **more}
    count, redis_url = replicas
    if count == 1:
        async with serve_once(**given) as service:
            yield service
    else:
        async with serve_replicas(count, redis_url, **given) as service:
            yield service


async def test_events_are_delivered_in_order(
    replicas: tuple[int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "PAUSES", (0.01,) * 50)
    async with receive(KEY) as good, receive(KEY) as bad:
        numbers = iter(range(1000))
        bad.answer = lambda event: 500 if next(numbers) % 2 else 200
        async with run(replicas, good, bad) as service, backend(service) as api:
            async with mesh(service, "ann") as ann:
                await ann.wait_for("users_in_room")
                await ann.send("broadcast_start")
                async with mesh(service, "bob") as bob:
                    await bob.wait_for("active_broadcasts")
                    await good.until(lambda: len(good.events) == 4)
                    assert (await api.ask("GET", "/rooms/r"))["seq"] == 4
                    await ann.close()
                    await bob.wait_for("user_left")
                    await api.ask("DELETE", "/rooms/r/peers/bob")
                    await bob.expect_close(1008)
            for receiver in (good, bad):
                await receiver.until_told(8)
                assert receiver.words() == VISIT
                assert receiver.check_visits() == 2
            joined = good.events[1]
            assert joined["peer"]["username"] == joined["peer"]["user_id"] == "ann"
            assert joined["peer"]["dialect"] == "mesh"
            assert len(joined["replica"]) == 32
            # A new life of the room.
            async with mesh(service, "cat") as cat:
                await cat.wait_for("users_in_room")
            await good.until(lambda: len(good.events) == 12)
        assert [len(life) for life in good.lives()["r"]] == [8, 4]
        assert good.duplicates == 0


async def test_no_event_is_lost_while_receiver_and_server_are_down(
    replicas: tuple[int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next server delivers what was not delivered before a stop."""
    monkeypatch.setattr(webhooks, "PAUSES", (0.01,) * 1000)
    async with receive(KEY) as receiver:
        receiver.answer = lambda event: 503
        prefix = f"{uuid4()}:"
        async with (
            run(replicas, receiver, redis_prefix=prefix) as service,
            mesh(service, "ann") as ann,
        ):
            await ann.wait_for("users_in_room")
            await receiver.until(lambda: receiver.attempts > 1)
        assert receiver.events == []
        receiver.answer = lambda event: 200
        async with run(replicas, receiver, redis_prefix=prefix):
            await receiver.until(lambda: len(receiver.events) == 4)
        assert receiver.check_visits() == 1


async def test_events_that_wait_for_one_url_are_not_sent_to_another_again(
    replicas: tuple[int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One URL fails, or was removed from the settings; then another replica takes over."""
    monkeypatch.setattr(webhooks, "PAUSES", (0.01,) * 1000)
    prefix = f"{uuid4()}:"
    async with receive(KEY) as good, receive(KEY) as bad:
        bad.answer = lambda event: 503
        async with run(replicas, good, bad, redis_prefix=prefix) as service:
            async with mesh(service, "ann") as ann:
                await ann.wait_for("users_in_room")
            await good.until_told(4)
            await bad.until(lambda: bad.attempts > 1)
        for receivers in ([good, bad], [good]):
            async with (
                run(replicas, *receivers, redis_prefix=prefix) as service,
                mesh(service, f"bob-{len(receivers)}") as bob,
            ):
                await bob.wait_for("users_in_room")
                await good.until(lambda: "joined bob" in good.words()[-1])
        assert good.duplicates == 0


async def test_rooms_do_not_wait_for_each_other(replicas: tuple[int, str]) -> None:
    async with receive(KEY) as receiver:
        receiver.ignores = lambda event: event["room"] == "slow"
        async with run(replicas, receiver) as service, mesh(service, "ann", "slow") as ann:
            await ann.wait_for("users_in_room")
            await receiver.until(lambda: receiver.attempts > 0)
            with trio.fail_after(webhooks.ANSWER_TIMEOUT / 2):
                async with mesh(service, "bob", "fast") as bob:
                    await bob.wait_for("users_in_room")
                await receiver.until_told(4)
            receiver.ignores = lambda event: False


async def test_failing_event_is_dropped_and_the_next_are_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(webhooks, "PAUSES", (0.01,))
    async with receive(KEY) as receiver:
        receiver.answer = lambda event: 500 if event["event"] == "room.started" else 200
        async with run((1, ""), receiver) as service, mesh(service, "ann") as ann:
            await ann.wait_for("users_in_room")
            await receiver.until(lambda: receiver.words() == ["peer.joined ann"])
            assert receiver.attempts == 3


async def test_server_stops_while_the_database_fails(tmp_path: Path) -> None:
    file = tmp_path / "signal.db"
    async with (
        receive(KEY) as receiver,
        run((1, ""), receiver, database_url=f"sqlite:///{file}") as service,
        mesh(service, "ann") as ann,
    ):
        await ann.wait_for("users_in_room")
        await receiver.until_told(2)
        with closing(sqlite3.connect(file)) as database:
            database.execute("DROP TABLE webhook_outbox")


async def test_server_starts_without_its_database(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/missing/file.db"
    async with receive(KEY) as receiver:
        async with run((1, ""), receiver, database_url=url) as service:
            async with mesh(service, "zoe") as zoe, mesh(service, "ann") as ann:
                await ann.wait_for("users_in_room")
                await zoe.close()
                await ann.wait_for("user_left")
                (tmp_path / "missing").mkdir()
                await receiver.until_told(2)
            await receiver.until_told(4)
        assert receiver.words() == [
            *("room.started", "peer.joined ann", "peer.left ann closed", "room.ended")
        ]
        async with run((1, ""), receiver, database_url=f"sqlite:///{tmp_path}/nowhere/file.db"):
            pass  # it also stops


def make_journal(*visits: Any, unstored: Iterable[HookEvent] = ()) -> Journal:
    numbers = iter(range(10**6))
    return Journal("a", lambda: f"{next(numbers)}", lambda: AT, visits, unstored)


def joined(peer_id: str, room: str = "r") -> Joined:
    return Joined(room, member(peer_id), first=True, peers=1, at=AT)


def left(peer_id: str, room: str = "r") -> Left:
    return Left(room, member(peer_id), last=True, peers=0, at=AT, cause=LeaveCause.CLOSED)


def test_next_run_ends_the_visits_of_a_killed_one() -> None:
    journal = make_journal()
    stored: dict[tuple[str, str], Any] = {}
    for event in (joined("ann"), joined("bob"), joined("cat"), left("bob")):
        journal.note(event)
        _, visits = journal.take()
        stored |= visits
    following = make_journal(*(visit for visit in stored.values() if visit is not None))
    events, visits = following.take()
    told = [(event.seq, event.event, event.cause) for event in events]
    assert [(seq, event) for seq, event, _ in told] == [
        (6, "peer.left"),
        (7, "peer.left"),
        (8, "room.ended"),
    ]
    assert told[0][2] == "replica_lost"
    assert set(visits.values()) == {None}


@pytest.mark.parametrize("was_stored", [False, True])
def test_unstored_events_survive_a_kill(tmp_path: Path, was_stored: bool) -> None:
    """Killed before the commit, or after it but before that was noted."""
    path = tmp_path / "spool"
    journal, spool = make_journal(), Spool(path)
    assert spool.open() == []

    def note(event: Joined | Left) -> None:
        before = len(journal.waiting)
        journal.note(event)
        spool.add([*journal.waiting][before:])

    note(joined("ann"))
    stored, visits = journal.take()
    note(left("ann"))  # while the others are stored
    spool.note_stored(len(stored), journal.waiting)
    for event in (joined("bob"), joined("cat"), left("bob")):
        note(event)
    if was_stored:
        visits |= journal.take()[1]
    path.write_bytes(path.read_bytes() + b'{"id":"half')
    remaining = [visit for visit in visits.values() if visit is not None]
    following = make_journal(*remaining, unstored=Spool(path).open())
    told = [(event.seq, event.event) for event in following.take()[0]]
    assert told == [
        *((3, "peer.left"), (4, "room.ended"), (1, "room.started"), (2, "peer.joined")),
        *((3, "peer.joined"), (4, "peer.left"), (5, "peer.left"), (6, "room.ended")),
    ]


def keep_one_event(path: Path) -> tuple[Journal, Spool]:
    """A journal with one event, which is in a new spool file too."""
    journal, spool = make_journal(), Spool(path)
    spool.open()
    journal.note(joined("ann"))
    spool.add(journal.waiting)
    return journal, spool


def test_spool_file_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trio_signal.webhooks.spool.MOST_BYTES", 2000)
    path = tmp_path / "spool"
    journal, spool = make_journal(), Spool(path)
    spool.open()
    for number in range(100):
        journal.note(joined(f"peer-{number}"))
    events, _ = journal.take()
    for number, event in enumerate(events[:-1]):
        spool.add([event])
        assert path.stat().st_size < 3000
        if number:  # one event always waits
            spool.note_stored(1, [event])
    assert Spool(path).open() == [events[-2]]
    spool.note_stored(1, [])
    assert path.read_bytes() == b""
    spool.close()


def test_spool_on_a_full_disk_repeats_nothing_that_was_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "spool"
    journal, spool = keep_one_event(path)

    def write(file: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr("trio_signal.webhooks.spool.os.write", write)
        journal.note(left("ann"))
        spool.add([*journal.waiting][2:])
    assert len(Spool(path).open()) == 2  # what was written is there until it is stored
    stored, visits = journal.take()
    spool.note_stored(len(stored), journal.waiting)
    for event in (joined("bob"), left("bob")):  # there is space again
        journal.note(event)
        stored, more = journal.take()
        spool.add(stored)
        visits |= more
        spool.note_stored(len(stored), journal.waiting)
    spool.close()
    assert set(visits.values()) == {None}
    following = make_journal(unstored=Spool(path).open())
    assert [(event.seq, event.event) for event in following.take()[0]] == []


def test_spool_is_not_replaced_by_half_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "spool"
    journal, spool = keep_one_event(path)
    real_write = os.write
    with monkeypatch.context() as full:
        full.setattr(
            "trio_signal.webhooks.spool.os.write", lambda file, data: real_write(file, data[:10])
        )
        spool.keep_only(journal.waiting)
    assert Spool(path).open() == [*journal.waiting]


def test_overflow_is_repaired_by_comparing_rooms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trio_signal.webhooks.journal.MOST_WAITING", 4)
    journal = make_journal()
    for event in (joined("ann"), joined("bob"), joined("cat"), joined("dan"), left("ann")):
        journal.note(event)
    assert journal.behind
    first, _ = journal.take()
    journal.catch_up({"r": [member("bob"), member("cat"), member("dan")]})
    second, _ = journal.take()
    told = [(each.seq, each.event) for each in (*first, *second)]
    assert [seq for seq, _ in told] == [*range(1, 1 + len(told))]
    assert [event for _, event in told].count("peer.joined") == 4
    assert [event for _, event in told].count("peer.left") == 1


def test_signature_follows_standard_webhooks() -> None:
    id_, body = "msg_p5jXN8AQM9LWM0D4loKWxJek", b'{"test": 2432232314}'
    headers = {
        "webhook-id": id_,
        "Webhook-Timestamp": "1614265330",
        "webhook-signature": "v1,wrong " + sign("s", id_, 1614265330, body),
    }
    check_signature(headers, body, "s", 1614265330 + 299)
    for changed, given, secret, now in (
        ({}, b"{}", "s", 1614265330),
        ({}, body, "t", 1614265330),
        ({}, body, "s", 1614265330 + 301),
        ({"webhook-id": "other"}, body, "s", 1614265330),
        ({"webhook-signature": ""}, body, "s", 1614265330),
        ({"Webhook-Timestamp": "x"}, body, "s", 1614265330),
    ):
        with pytest.raises(SignatureError):
            check_signature(headers | changed, given, secret, now)


async def test_announcements_are_delivered(replicas: tuple[int, str]) -> None:
    async with receive(KEY) as receiver, run(replicas, receiver) as service:
        async with httpx.AsyncClient() as http:
            with trio.fail_after(30):
                answer = await http.post(
                    f"http://{service.base}/api/creator/broadcast?user_id=ann",
                    json={"message": "hello", "type": "info"},
                )
                assert answer.is_success, answer.text
        await receiver.until(lambda: receiver.words() == ["announcement.created"])
        event = receiver.events[0]
        assert (event["room"], event["announcement"]["message"]) == (None, "hello")


@pytest.mark.parametrize("most", [webhooks._MOST_UNRECORDED, 1])
async def test_announcements_made_without_redis_are_delivered_when_it_is_back(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    most: int,
) -> None:
    """Except those that are too many: then the newest are."""
    monkeypatch.setattr(webhooks, "_MOST_UNRECORDED", most)
    made = []
    async with open_redis_server(tmp_path) as redis, receive(KEY) as receiver:
        async with run((2, redis.url), receiver) as service, httpx.AsyncClient() as http:
            base = f"http://{service.bases[1]}"
            await redis.stop()
            with trio.fail_after(PATIENCE):
                while b"degraded" not in (await http.get(f"{base}/readyz")).content:  # noqa: ASYNC110
                    await trio.sleep(0.05)
            for text in ("Hello", "again"):
                answer = await http.post(f"{base}/api/creator/broadcast", json={"message": text})
                assert answer.status_code == 200
                made.append(answer.json()["id"])
            await redis.start()
            await receiver.until_told(min(most, 2))
        assert [event["announcement"]["id"] for event in receiver.events] == made[-most:]
    assert ("dropped a webhook" in caplog.text) is (most == 1)


async def test_webhooks_listen_prints_events() -> None:
    async with trio.open_nursery() as nursery:
        process = await nursery.start(
            partial(
                trio.run_process,
                [sys.executable, "-m", "trio_signal", "webhooks", "listen", "--port", "0"],
                env={**os.environ, "TRIO_SIGNAL_API_KEYS": f"site:{KEY}"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                check=False,
            )
        )
        with trio.fail_after(60):
            line = await process.stderr.receive_some()
            given = {**KEYS, "webhook_urls": line.decode().split()[-1]}
            async with serve_once(**given) as service, mesh(service, "ann", "lobby") as ann:
                await ann.wait_for("users_in_room")
                printed = b""
                while printed.count(b"\n") < 2:
                    printed += await process.stdout.receive_some()
        words = [line.split("  ")[1:] for line in printed.decode().splitlines()]
        assert words == [["lobby", "1", "room.started"], ["lobby", "2", "peer.joined", "ann"]]
        process.terminate()
