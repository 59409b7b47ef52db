"""A WHIP publisher, viewers of three dialects, and a real Janus between them."""

from __future__ import annotations

from pathlib import Path

import httpx
import trio

from tests.clients import PATIENCE
from tests.conftest import serve_once
from tests.janus import SECRET, run_janus
from tests.relay.cast import STREAM, wait_ready
from tests.relay.peers import run_peers
from tests.relay.test_whip import Encoder


async def test_viewers_of_three_dialects_see_a_publisher(tmp_path: Path) -> None:
    with run_janus(tmp_path) as janus, run_peers() as peers:
        given = {"relay_urls": janus.url, "relay_token": SECRET}
        async with (
            serve_once(**given) as service,
            httpx.AsyncClient(timeout=PATIENCE) as http,
            service.connect("/ws") as viewer,
            service.connect("/api/v1/ws/connect?user_id=bob") as bob,
            service.connect(f"/ws/{STREAM}") as eve,
        ):
            await viewer.send("join-stream", streamId=STREAM)
            await bob.send("join_room", room_id=STREAM)
            await bob.wait_for("joined_room")
            await eve.send("auth_token", clientId="eve", relay=True)
            await eve.wait_for("users_in_room")
            publisher, *watching = [peers.new() for _ in range(4)]
            encoder = Encoder(service, http)
            await wait_ready(service)
            answered = await encoder.publish(offer=await publisher.offer())
            await publisher.take(answered.text)

            offer = (await viewer.wait_for("webrtc-offer"))["offer"]
            answer = {"type": "answer", "sdp": await watching[0].answer(offer["sdp"])}
            await viewer.send("webrtc-answer", streamId=STREAM, answer=answer)

            await bob.wait_for("live_peer_joined", user_id="publisher")
            await bob.send("live_status", room_id=STREAM)
            offer = (await bob.wait_for("live_offer"))["payload"]
            answer = {"type": "answer", "sdp": await watching[1].answer(offer["sdp"])}
            reply = {"room_id": STREAM, "target_user_id": "publisher"}
            await bob.send("live_answer", payload=answer, **reply)

            message = await eve.wait_for("offer")
            answer = {"type": "answer", "sdp": await watching[2].answer(message["offer"]["sdp"])}
            await eve.send("answer", to=message["from"], relay=True, answer=answer)

            with trio.fail_after(PATIENCE):
                for peer in watching:
                    await peer.see()
            # It disconnects without notice.
            await publisher.close()
            await viewer.wait_for("broadcaster-disconnected")
            await encoder.ask("DELETE", encoder.session, 404)
