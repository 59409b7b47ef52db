"""A client that loses its connection resumes as the same peer, with either front."""

from collections.abc import AsyncIterator
from functools import partial

import pytest
import trio

from tests.client.bots import bot, bots, heard, receive, until, wait_for, wait_state
from tests.client.lines import Line, open_fake, open_line
from tests.clients import PATIENCE, Service
from tests.conftest import Serve
from trio_signal.client import (
    Client,
    Message,
    Peer,
    PeerAway,
    PeerBack,
    PeerJoined,
    PeerLeft,
    StateChanged,
    WentLive,
)
from trio_signal.errors import CloseCode

pytestmark = pytest.mark.usefixtures("front")

ANN, BOB = Peer("ann", "Ann"), Peer("bob", "Bob")
AWAY = Peer("ann", "Ann", away=True)


@pytest.fixture
async def server(serve: Serve) -> AsyncIterator[Service]:
    async with serve() as service:
        yield service


async def test_no_message_is_lost_duplicated_or_reordered(server: Service) -> None:
    """The line is cut again and again while both clients send."""
    end = 300
    async with (
        bots(server, "bob") as (bob,),
        open_line(server.base) as line,
        bot(line.base, "ann", max_events=100_000) as ann,
    ):
        await ann.broadcast()
        await wait_for(bob, WentLive)
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_count_to, ann, end)
                nursery.start_soon(_count_to, bob, end)
                nursery.start_soon(_cut, line, 5)
                told = [await anext(bob)]
                while told[-1] != Message("ann", "Ann", end - 1):
                    told.append(await anext(bob))
        said = [event.data for event in told if isinstance(event, Message)]
        assert said == list(range(end))
        others = [event for event in told if not isinstance(event, Message)]
        live = bob.peers["ann"].live
        away, back = Peer("ann", "Ann", live, away=True), Peer("ann", "Ann", live)
        assert live is not None
        pairs = [PeerAway(away), PeerBack(back)]
        assert [event for event in others if event not in pairs] == []
        assert len(others) >= 2
        events = await heard(ann)
        numbers = [event.data for event in events if isinstance(event, Message)]
        assert numbers == list(range(end))
        assert not any(isinstance(event, PeerLeft) for event in events)
        assert ann.id == "ann"


async def _count_to(client: Client, end: int) -> None:
    for number in range(end):
        await client.send(number)


async def _cut(line: Line, times: int) -> None:
    """Cut the line several times while it is in use."""
    for number in range(1, times + 1):
        await until(partial(_has_carried, line, number * 4000))
        line.cut()


def _has_carried(line: Line, size: int) -> bool:
    return line.carried > size


async def test_a_client_resumes_from_another_address(server: Service) -> None:
    async with (
        bots(server, "bob") as (bob,),
        open_line(server.base) as line,
        bot(line.base, "ann") as ann,
    ):
        assert await receive(bob) == PeerJoined(ANN)
        line.break_down()
        await wait_state(ann, "waiting")
        assert await receive(bob) == PeerAway(AWAY)
        assert dict(bob.peers) == {"ann": AWAY}
        await bob.send("kept for you", to="ann")
        await heard(bob)
        line.source = "127.0.0.2"
        line.mend()
        assert await receive(bob) == PeerBack(ANN)
        assert (await wait_for(ann, Message)).data == "kept for you"
        assert ann.state == "joined"
        await ann.send("here I am")
        assert await receive(bob) == Message("ann", "Ann", "here I am")


async def test_a_client_that_does_not_resume_leaves(serve: Serve) -> None:
    async with (
        serve(resume_grace=0.2) as service,
        bots(service, "bob") as (bob,),
        open_line(service.base) as line,
        bot(line.base, "ann") as ann,
    ):
        assert await receive(bob) == PeerJoined(ANN)
        line.break_down()
        assert [await receive(bob), await receive(bob)] == [PeerAway(AWAY), PeerLeft(ANN)]
        line.mend()
        await wait_state(ann, "waiting")
        await wait_state(ann, "joined")
        assert await receive(bob) == PeerJoined(ANN)
        assert dict(ann.peers) == {"bob": BOB}


async def test_a_slow_reader_gets_everything_once_after_resuming(server: Service) -> None:
    async with (
        bots(server, "bob") as (bob,),
        open_line(server.base) as line,
        bot(line.base, "ann", max_events=3) as ann,
    ):
        await wait_for(bob, PeerJoined)
        for number in range(150):
            await bob.send(number, to="ann")
        await heard(bob)
        await until(lambda: ann.session.stalled)
        line.cut()
        await wait_for(bob, PeerAway)
        numbers = [(await wait_for(ann, Message)).data for _ in range(150)]
        assert numbers == list(range(150))
        assert [event for event in await heard(ann) if isinstance(event, Message)] == []


@pytest.mark.parametrize("code", [CloseCode.GOING_AWAY, 1006, CloseCode.INTERNAL_ERROR, 1012])
async def test_a_client_joins_anew_if_its_session_is_unknown(code: int) -> None:
    async with open_fake() as fake:
        fake.session = "one"
        async with bot(fake.base, "ann") as ann:
            first = await fake.accept()
            assert (first.hello["resume"], first.hello["session"]) == (True, None)
            await ann.send("lost")
            assert (await first.hear())["data"] == "lost"
            await first.say("user_joined", room_id="r", client_id="bob", username="Bob", **JOINED)
            assert await receive(ann) == StateChanged("joined")
            assert await receive(ann) == PeerJoined(BOB)
            fake.session = "two"
            await (first.cut() if code == 1006 else first.close(code))
            await wait_state(ann, "waiting")
            second = await fake.accept()
            assert (second.hello["session"], second.hello["received"]) == ("one", 2)
            assert second.hello["clientId"] == "ann"
            assert await receive(ann) == StateChanged("joined")
            assert await receive(ann) == PeerLeft(BOB)
            await ann.send("next")
            assert (await second.hear())["data"] == "next"
            await second.close(CloseCode.TRY_AGAIN_LATER)
            third = await fake.accept()
            assert third.hello["session"] is None  # that session was over
            third.done()


JOINED = {"from": "bob", "connected_users": 2}


async def test_a_client_that_is_cut_off_while_it_resumes_waits_again() -> None:
    async with open_fake() as fake:
        fake.session = "one"
        async with bot(fake.base, "ann") as ann:
            first = await fake.accept()
            assert await receive(ann) == StateChanged("joined")
            fake.resumes = True
            await first.cut()
            second = await fake.accept()
            assert (second.hello["session"], second.hello["received"]) == ("one", 1)
            await second.say("message", data=1, username="Bob", **{"from": "bob"})
            await second.cut()
            await wait_state(ann, "waiting")
            assert await receive(ann) == StateChanged("joined")
            assert await receive(ann) == Message("bob", "Bob", 1)
            third = await fake.accept()
            assert third.hello["received"] == 2
            change = await receive(ann)
            assert isinstance(change, StateChanged)
            assert change.state == "waiting"
            await third.say("pong", id="entered")
            assert await receive(ann) == StateChanged("joined")
            third.done()
