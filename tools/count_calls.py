"""Count the calls of our functions for an offer from one peer of dialect `mesh` to another.

On a busy machine this number is the only stable figure. Resuming a coroutine counts as a call.
`tools/count_calls.py [-v] [REDIS_URL]`: with Redis, also for two replicas.
"""

import json
import sys
import tempfile
import threading
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import trio
from trio_websocket import WebSocketConnection, open_websocket_url

import trio_signal
from trio_signal.environment import load_settings
from trio_signal.server import open_server

PACKAGE = f"{Path(trio_signal.__file__).parent}/"
OFFERS = 300
WARM_UP = 50
#: Seconds until servers and clients have started and are idle.
SETTLING = 6.0


class Calls:
    """The calls seen while it is the profile function of the servers' thread."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._token = trio.lowlevel.current_trio_token()

    def _note(self, frame: FrameType, event: str, arg: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(PACKAGE):
            self.counts[f"{code.co_filename.removeprefix(PACKAGE)} {code.co_qualname}"] += 1

    def begin(self) -> None:
        self._switch(partial(sys.setprofile, self._note))

    def end(self) -> None:
        self._switch(partial(sys.setprofile, None))

    def _switch(self, set_profile: Callable[[], None]) -> None:
        done = threading.Event()
        self._token.run_sync_soon(set_profile)
        self._token.run_sync_soon(done.set)
        done.wait()


async def enter(socket: WebSocketConnection, name: str) -> None:
    await socket.send_message(json.dumps({"type": "auth_token", "clientId": name}))
    await wait_for(socket, "users_in_room")


async def wait_for(socket: WebSocketConnection, type_: str) -> None:
    while json.loads(await socket.get_message())["type"] != type_:
        pass


async def make_offers(here: str, there: str, calls: Calls) -> None:
    """Send offers one by one from a thread of their own, so that clients' calls do not count."""
    description = {"type": "offer", "sdp": "v" * 2000}
    offer = json.dumps({"type": "offer", "offer": description, "to": "bob"})
    async with open_websocket_url(here) as ann, open_websocket_url(there) as bob:
        await enter(ann, "ann")
        await enter(bob, "bob")
        await trio.sleep(SETTLING)
        for number in range(WARM_UP + OFFERS):
            if number == WARM_UP:
                calls.begin()
            await ann.send_message(offer)
            await wait_for(bob, "offer")
        calls.end()


async def count(replicas: int, **given: Any) -> Counter[str]:
    async with AsyncExitStack() as stack:
        settings = load_settings(port=0, log_level="error", messages_per_second=1e6, **given)
        servers = [await stack.enter_async_context(open_server(settings)) for _ in range(replicas)]
        urls = [f"ws://127.0.0.1:{servers[i].port}/ws/room" for i in (0, -1)]
        calls = Calls()
        await trio.to_thread.run_sync(lambda: trio.run(make_offers, urls[0], urls[1], calls))
        return calls.counts


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("redis_url", nargs="?")
    parser.add_argument("-v", "--verbose", action="store_true", help="each function")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        database = f"sqlite:///{folder}/calls.db"
        for replicas in (1, 2) if args.redis_url else (1,):
            redis = {"redis_url": args.redis_url} if replicas > 1 else {}
            counts = trio.run(partial(count, replicas, database_url=database, **redis))
            print(f"{replicas} replicas: {counts.total() / OFFERS:.1f} calls an offer")
            for name, calls in counts.most_common() if args.verbose else ():
                if calls >= OFFERS / 20:
                    print(f"  {calls / OFFERS:6.2f} {name}")


if __name__ == "__main__":
    main()
