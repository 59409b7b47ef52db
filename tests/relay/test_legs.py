"""Legs at a Janus whose messages arrive in an unusual order; the test plays Janus."""

import json
from typing import Any

import pytest
import trio
import trio.testing

from trio_signal.relay import Lost
from trio_signal.relay.janus import legs, words
from trio_signal.relay.janus.connection import Session
from trio_signal.relay.janus.legs import JanusIngest
from trio_signal.relay.janus.words import Address

OFFER = "v=0\r\no=- 1 1 IN IP4 0\r\na=fingerprint:sha-256 AB\r\nm=video 9 X 96\r\n"
ANSWER = {"type": "answer", "sdp": "v=0\r\n"}
HANDLE, FEED = 7, 9


class Script:
    """Sends what Janus would send, to a session without a connection."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def say(self, **message: Any) -> None:
        read = words.read(json.dumps(message))
        assert read is not None
        self._session._hear(read)

    async def answer(self, janus: str, **message: Any) -> str:
        """Answer the next request; the request to the plugin that it contains, if any."""
        await trio.testing.wait_all_tasks_blocked()
        asked = json.loads(self._session._unsent.popleft())
        self.say(janus=janus, transaction=asked["transaction"], **message)
        request: str = asked.get("body", {}).get("request", "")
        return request


async def test_a_broadcaster_that_closes_during_a_change_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(legs, "COMES_BACK", 0.1)
    session = Session(Address.of("janus+ws://media"))
    janus, ingest = Script(session), JanusIngest(session, bitrate=1, rooms=set())
    async with trio.open_nursery() as nursery:
        session._nursery = nursery
        nursery.start_soon(ingest.offer, OFFER)
        await janus.answer("success", data={"id": HANDLE})
        assert await janus.answer("success") == "create"
        joined = {"plugindata": {"data": {"id": FEED}}, "jsep": ANSWER}
        assert await janus.answer("event", **joined) == "joinandconfigure"
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(ingest.offer, OFFER)
        await trio.testing.wait_all_tasks_blocked()
        janus.say(janus="hangup", sender=HANDLE, reason=words.CLOSED_BY_BROWSER)
        assert await janus.answer("event", jsep=ANSWER) == "configure"
        with trio.fail_after(1):
            assert isinstance(await ingest.events.receive(), Lost)
