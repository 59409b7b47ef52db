"""`make bench-relay`: the server's cost of a relayed viewer, compared to a direct one.

    python -m tests.relay.cost [ROUNDS]

The server is `trio-signal serve` in a process, with a real Janus. Broadcasters use aiortc, with
audio only, and the dialect `stream`. Before the measurement, each stream has one direct viewer, and
a second one that is relayed in one run and direct in the other. All others follow one by one; each
answers, and sends some candidates, as a browser does. The result is the server's CPU time for each
of them, from its connection until it has its offer and its answer was received.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import trio
from aiortc import RTCPeerConnection
from aiortc.mediastreams import AudioStreamTrack

from tests.clients import Client, connect
from tests.janus import SECRET, run_janus
from tests.redis.server import free_port
from tests.relay.peers import Peer, Peers, run_peers
from tests.relay.test_janus import without_candidates
from tests.replicas.processes import server_environment

STREAMS, VIEWERS, CANDIDATES = 6, 10, 5
#: Seconds between two viewers, and for all work to finish.
PAUSE, SETTLING = 0.03, 1.0
#: A candidate that cannot connect.
CANDIDATE = {"candidate": "candidate:1 1 udp 2122 127.0.0.1 9 typ host", "sdpMid": "0"}
WIDE = {
    "TRIO_SIGNAL_MAX_CONNECTIONS_PER_IP": 1000,
    "TRIO_SIGNAL_CONNECTS_PER_IP_PER_MINUTE": 100_000,
    "TRIO_SIGNAL_MESSAGES_PER_IP_PER_SECOND": 100_000,
    "TRIO_SIGNAL_MESSAGE_BURST_PER_IP": 100_000,
    "LOG_LEVEL": "info",
    "LOG_FORMAT": "json",
}


class Speaker(Peer):
    """A broadcaster with audio only: video would cost this machine too much."""

    async def offer(self) -> str:
        async def offer() -> str:
            self.pc = self.pc or RTCPeerConnection()
            if not self.pc.getTransceivers():
                self.pc.addTransceiver(AudioStreamTrack(), "sendonly")
            await self.pc.setLocalDescription(await self.pc.createOffer())
            sdp: str = self.pc.localDescription.sdp
            return sdp

        return await self._peers.call(offer())


class Stream:
    """A broadcaster that makes offers to all viewers and to the media server."""

    def __init__(self, name: str, client: Client, speaker: Speaker, peers: Peers) -> None:
        self.name = name
        self._client = client
        self._speaker = speaker
        self._peers = peers
        self._relays: set[str] = set()
        #: The viewers' answer. Offers of one kind differ only in their keys.
        self.answer = ""

    async def run(self, relayed: int) -> None:
        """Offer to all who join; the viewer with the number `relayed` is the media server."""
        sdp, asked = await self._speaker.offer(), 0
        while True:
            message = await self._client.receive()
            match message["type"]:
                case "viewer-joined":
                    viewer = message["viewerId"]
                    asked += 1
                    if asked == relayed:
                        self._relays.add(viewer)
                    offer = {"type": "offer", "sdp": sdp}
                    about = {"streamId": self.name, "viewerId": viewer}
                    await self._client.send("webrtc-offer", offer=offer, **about)
                    for _ in range(CANDIDATES * (viewer not in self._relays)):
                        await self._client.send("ice-candidate", candidate=CANDIDATE, **about)
                case "webrtc-answer" if message["viewerId"] in self._relays:
                    await self._speaker.take(message["answer"]["sdp"])

    async def watch(self, client: Client) -> None:
        """Join, receive the offer, and answer."""
        await client.send("join-stream", streamId=self.name)
        offer = await client.wait_for("webrtc-offer")
        if not self.answer:
            answer = await self._peers.new().answer(offer["offer"]["sdp"])
            self.answer, _ = without_candidates(answer)
        said = {"type": "answer", "sdp": self.answer}
        await client.send("webrtc-answer", streamId=self.name, answer=said)
        for _ in range(CANDIDATES):
            await client.send("ice-candidate", streamId=self.name, candidate=CANDIDATE)


def cpu_of(pid: int) -> float:
    """The CPU time of a process in seconds, of all its threads."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


async def measure(janus_url: str, peers: Peers, *, relay: bool) -> float:
    """Microseconds of the server's CPU time for each viewer."""
    port = free_port()
    environment = server_environment(
        {
            **WIDE,
            "TRIO_SIGNAL_RELAY_URLS": janus_url,
            "TRIO_SIGNAL_RELAY_TOKEN": SECRET,
            "TRIO_SIGNAL_RELAY_FROM": 1 if relay else 500,
        }
    )
    base = f"127.0.0.1:{port}"
    command = [sys.executable, "-m", "trio_signal", "serve", "--port", str(port)]
    run = partial(
        trio.run_process,
        command,
        env=environment,
        capture_stdout=True,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    with tempfile.TemporaryDirectory() as folder:
        async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
            process = await nursery.start(partial(run, cwd=folder))
            await _wait_ready(base)
            streams = []
            for number in range(STREAMS):
                client = await stack.enter_async_context(connect(base, "/ws"))
                stream = Stream(f"show-{number}", client, Speaker(peers), peers)
                await client.send("broadcaster-ready", streamId=stream.name)
                nursery.start_soon(stream.run, 2 if relay else 0)
                streams.append(stream)

            async def come(stream: Stream) -> None:
                client = await stack.enter_async_context(connect(base, "/ws"))
                with trio.fail_after(20):
                    await stream.watch(client)

            for stream in streams:
                stream.answer = ""
                await come(stream)
                stream.answer = ""
                await come(stream)
            await trio.sleep(SETTLING)
            idle = cpu_of(process.pid)
            await trio.sleep(SETTLING)
            before = cpu_of(process.pid)
            began = trio.current_time()
            for _ in range(VIEWERS):
                for stream in streams:
                    await come(stream)
                    await trio.sleep(PAUSE)
            await trio.sleep(SETTLING)
            took = trio.current_time() - began
            spent = cpu_of(process.pid) - before - (before - idle) * took / SETTLING
            nursery.cancel_scope.cancel()
    return spent * 1e6 / (VIEWERS * STREAMS)


async def _wait_ready(base: str) -> None:
    """Wait until the server is running and can use its media server."""
    host, _, port = base.rpartition(":")
    with trio.fail_after(30):
        while True:
            try:
                stream = await trio.open_tcp_stream(host, int(port))
                await stream.send_all(
                    b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
                )
                told = b"".join([part async for part in stream])
                if b"degraded" not in told:
                    return
            except OSError:
                pass
            await trio.sleep(0.05)


async def main(rounds: int) -> None:
    """Measure both alternately, and print the medians."""
    found: dict[bool, list[float]] = {False: [], True: []}
    with tempfile.TemporaryDirectory() as folder, run_janus(Path(folder)) as janus:
        for _ in range(rounds):
            for relay, costs in found.items():
                with run_peers() as peers:
                    costs.append(await measure(janus.url, peers, relay=relay))
                kind = "relayed" if relay else "direct"
                print(f"{kind}: {costs[-1]:.0f} us of CPU for each viewer", flush=True)
    direct, relayed = map(statistics.median, found.values())
    print(f"a relayed viewer {relayed:.0f}, a direct one {direct:.0f}: {relayed / direct:.2f}")


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 3)
