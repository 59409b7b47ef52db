"""A publisher by WHIP and a viewer of `stream`, with a real Janus between them."""

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


async def test_pictures_of_a_publisher_are_seen(tmp_path: Path) -> None:
    with run_janus(tmp_path) as janus, run_peers() as peers:
        given = {"relay_urls": janus.url, "relay_token": SECRET}
        async with (
            serve_once(**given) as service,
            httpx.AsyncClient(timeout=PATIENCE) as http,
            service.connect("/ws") as viewer,
        ):
            await viewer.send("join-stream", streamId=STREAM)
            publisher, watching = peers.new(), peers.new()
            encoder = Encoder(service, http)
            await wait_ready(service)
            answered = await encoder.publish(offer=await publisher.offer())
            await publisher.take(answered.text)
            offer = await viewer.wait_for("webrtc-offer")
            answer = await watching.answer(offer["offer"]["sdp"])
            said = {"type": "answer", "sdp": answer}
            await viewer.send("webrtc-answer", streamId=STREAM, answer=said)
            with trio.fail_after(PATIENCE):
                await watching.see()
            # It goes without a word.
            await publisher.close()
            await viewer.wait_for("broadcaster-disconnected")
            await encoder.ask("DELETE", encoder.session, 404)
