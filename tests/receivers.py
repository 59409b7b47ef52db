"""A site's backend that receives webhooks and checks what they report."""

import json
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import h11
import trio

from tests.clients import PATIENCE
from trio_signal.hooks import check_signature


class Receiver:
    """Keeps each event once, by its id; `answer` decides how each is answered."""

    def __init__(self, secret: str) -> None:
        self.secret = secret
        self.url = ""
        self.port = 0
        #: In the order of arrival.
        self.events: list[dict[str, Any]] = []
        self.ids: set[str] = set()
        self.attempts = 0
        self.duplicates = 0
        self.answer: Callable[[dict[str, Any]], int] = lambda event: 204
        self.pause = 0.0
        #: Whether an event is never answered.
        self.ignores: Callable[[dict[str, Any]], bool] = lambda event: False
        self.came = trio.Event()

    def refuse_some(self) -> None:
        """Answer 500 to every fourth attempt, but never twice to one event: its pauses grow."""
        refused: set[str] = set()

        def answer(event: dict[str, Any]) -> int:
            if self.attempts % 4 or event["id"] in refused:
                return 200
            refused.add(event["id"])
            return 500

        self.answer = answer

    async def serve(self, stream: trio.SocketStream) -> None:
        connection = h11.Connection(h11.SERVER)
        async with stream:
            try:
                while await self._serve_one(connection, stream):
                    connection.start_next_cycle()
            except (trio.BrokenResourceError, h11.RemoteProtocolError):
                return

    async def _serve_one(self, connection: h11.Connection, stream: trio.SocketStream) -> bool:
        body, headers = b"", {}
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await stream.receive_some())
            elif isinstance(event, h11.Request):
                headers = {name.decode(): value.decode() for name, value in event.headers}
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                break
            else:
                return False
        self.attempts += 1
        check_signature(headers, body, self.secret, time.time())
        told = json.loads(body)
        assert told["id"] == headers["webhook-id"]
        if self.pause:
            await trio.sleep(self.pause)
        if self.ignores(told):
            self._note_arrival()
            await trio.sleep_forever()
        status = self.answer(told)
        if status < 300:
            if told["id"] in self.ids:
                self.duplicates += 1
            else:
                self.ids.add(told["id"])
                self.events.append(told)
        self._note_arrival()
        head = h11.Response(status_code=status, headers=[("Content-Length", "0")])
        for part in (head, h11.EndOfMessage()):
            await stream.send_all(connection.send(part) or b"")
        return connection.our_state is h11.DONE

    def _note_arrival(self) -> None:
        self.came.set()
        self.came = trio.Event()

    async def until(self, is_enough: Callable[[], bool], patience: float = PATIENCE) -> None:
        with trio.move_on_after(patience):
            while not is_enough():
                await self.came.wait()
        assert is_enough(), self.words()[-50:]

    async def until_told(self, count: int) -> None:
        """Wait until exactly this many events have arrived."""
        await self.until(lambda: len(self.events) >= count)
        assert len(self.events) == count, self.words()

    def words(self) -> list[str]:
        """A short form of what arrived."""
        return [word_of(event) for event in self.events]

    def lives(self) -> dict[str, list[list[dict[str, Any]]]]:
        """By room: its lives, each with its events, which are in order and without gaps."""
        lives: dict[str, list[list[dict[str, Any]]]] = defaultdict(list)
        for event in self.events:
            if event["room"] is None:
                continue
            if event["seq"] == 1:
                lives[event["room"]].append([])
            life = lives[event["room"]][-1]
            life.append(event)
            assert event["seq"] == len(life), [(e["seq"], word_of(e)) for e in life]
        return lives

    def check_visits(self) -> int:
        """Every join has exactly one leave; returns the number of joins."""
        visits = 0
        for of_room in self.lives().values():
            for life in of_room:
                assert life[0]["event"] == "room.started"
                assert life[-1]["event"] == "room.ended", [word_of(e) for e in life]
                there: set[str] = set()
                for event in life:
                    peer = event.get("peer", {}).get("peer_id")
                    if event["event"] == "peer.joined":
                        assert peer not in there
                        there.add(peer)
                        visits += 1
                    elif event["event"] == "peer.left":
                        there.remove(peer)
                assert not there
        return visits


def word_of(event: dict[str, Any]) -> str:
    peer = event.get("peer", {}).get("peer_id", "")
    return " ".join(filter(None, (event["event"], peer, event.get("cause"))))


@asynccontextmanager
async def receive(secret: str, port: int = 0) -> AsyncIterator[Receiver]:
    receiver = Receiver(secret)
    async with trio.open_nursery() as nursery:
        (listener, *_) = await nursery.start(
            partial(trio.serve_tcp, receiver.serve, port, host="127.0.0.1")
        )
        receiver.port = listener.socket.getsockname()[1]
        receiver.url = f"http://127.0.0.1:{receiver.port}/hooks"
        yield receiver
        nursery.cancel_scope.cancel()
