"""Servers that start fast, to be killed: everything is imported once, and each server is a fork.

For each line on standard input it starts a server, which prints its process id and its address;
it reads the next line once that server is gone.
"""

import os
import sys

import trio

from trio_signal.environment import load_settings
from trio_signal.server import open_server


async def serve() -> None:
    async with open_server(load_settings(port=0, drain=0)) as server:
        sys.stdout.write(f"{os.getpid()} {server.host}:{server.port}\n")
        sys.stdout.flush()
        await trio.sleep_forever()


if __name__ == "__main__":
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            trio.run(serve)
        os.waitpid(child, 0)
