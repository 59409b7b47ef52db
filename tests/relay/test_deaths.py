"""The broadcaster's replica is killed, or its media server hangs: a real Janus, and aiortc."""

from __future__ import annotations

from pathlib import Path

import trio

from tests.clients import PATIENCE, Client, Service
from tests.conftest import serve_once
from tests.janus import SECRET, Janus, run_janus
from tests.relay.cast import STREAM, cast, wait_ready
from tests.relay.peers import Peer, Peers, run_peers
from tests.replicas.processes import open_cluster

#: The handles of the remaining replica: its own, the broadcaster's, the viewer's, and the one of
#: the participant that listens for the broadcaster.
HANDLES = 4


async def publish(caster: Client, peers: Peers) -> None:
    """Offer to the media server as the broadcaster's page does."""
    peer = peers.new()
    asked = await caster.wait_for("viewer-joined")
    assert asked["viewerId"].startswith("relay_")
    offer = {"type": "offer", "sdp": await peer.offer()}
    to = {"streamId": STREAM, "viewerId": asked["viewerId"]}
    await caster.send("webrtc-offer", offer=offer, **to)
    answer = await caster.wait_for("webrtc-answer", viewerId=asked["viewerId"])
    await peer.take(answer["answer"]["sdp"])


async def see(viewer: Client, peer: Peer) -> None:
    """Answer an offer, and wait for video."""
    offer = await viewer.wait_for("webrtc-offer")
    answer = {"type": "answer", "sdp": await peer.answer(offer["offer"]["sdp"])}
    await viewer.send("webrtc-answer", streamId=STREAM, answer=answer)
    with trio.fail_after(PATIENCE):
        await peer.see()


async def wait_for_handles(janus: Janus) -> None:
    with trio.fail_after(PATIENCE):
        while len(janus.handles()) != HANDLES:  # noqa: ASYNC110
            await trio.sleep(0.05)


async def test_another_media_server_replaces_a_silent_one(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
    with run_janus(folders[0]) as first, run_janus(folders[1]) as second, run_peers() as peers:
        given = {
            "relay_urls": f"{first.url},{second.url}",
            "relay_token": SECRET,
            "relay_from": "0",
        }
        async with (
            serve_once(**given) as service,
            service.connect("/ws") as viewer,
            cast(service) as show,
        ):
            await wait_ready(service)
            await viewer.send("join-stream", streamId=STREAM)
            await publish(show.caster, peers)
            await see(viewer, peers.new())
            frozen, other = (first, second) if first.rooms() else (second, first)
            frozen.freeze()
            began = trio.current_time()
            await publish(show.caster, peers)
            await see(viewer, peers.new())
            print(f"seconds until there were pictures again: {trio.current_time() - began:.1f}")
            assert len(other.rooms()) == 1
            told = {message["type"] for message in viewer.log}
            assert told.isdisjoint({"broadcaster-disconnected", "stream-ended", "error"})


async def test_a_viewer_on_another_replica_sees_the_broadcaster_reconnect(tmp_path: Path) -> None:
    with run_janus(tmp_path) as janus, run_peers() as peers:
        given = {
            "TRIO_SIGNAL_RELAY_URLS": janus.url,
            "TRIO_SIGNAL_RELAY_TOKEN": SECRET,
            "TRIO_SIGNAL_RELAY_FROM": 0,
        }
        async with open_cluster(tmp_path, 2, **given) as cluster:
            dies, stays = (Service(replica.base) for replica in cluster.replicas)
            async with stays.connect("/ws") as viewer, cast(dies) as show:
                await viewer.send("join-stream", streamId=STREAM)
                await publish(show.caster, peers)
                await see(viewer, peers.new())
                await cluster.kill(cluster.replicas[0])
                # Its page reconnects before anybody knows that the replica is dead.
                async with stays.connect("/ws") as caster:
                    await caster.send("broadcaster-ready", streamId=STREAM)
                    await publish(caster, peers)
                    await see(viewer, peers.new())
                    await wait_for_handles(janus)
                    await viewer.wait_for("viewer-count", count=2)  # the lease has expired
