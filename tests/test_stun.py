"""STUN requests, checked with another library, and finding out which addresses answer."""

import pytest
import trio
from aioice import stun

from trio_signal.relay import RelayError
from trio_signal.relay.janus import reach as janus_reach
from trio_signal.relay.janus.reach import End, end_of
from trio_signal.relay.memory import MemoryIngest, MemoryServer
from trio_signal.sdp import check_offer
from trio_signal.stun import binding_request, connectivity_check, reach

PASSWORD = "their password"
ANSWER = (
    "v=0\r\na=ice-ufrag:AbCd\r\na=ice-pwd:secret\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\n"
    "a=candidate:1 1 udp 2015363327 192.0.2.7 20000 typ host\r\n"
    "a=candidate:1 2 udp 2015363326 192.0.2.7 20001 typ host\r\n"
    "a=candidate:2 1 TCP 1015022079 192.0.2.7 9 typ host tcptype active\r\n"
    "a=candidate:3 1 UDP 2015363327 2001:db8::1 20002 typ host\r\n"
)


def test_requests_follow_the_standards() -> None:
    request = stun.parse_message(binding_request(b"0" * 12))
    assert (request.transaction_id, request.attributes) == (b"0" * 12, {})
    checked = connectivity_check(b"1" * 12, "them:us", PASSWORD)
    request = stun.parse_message(checked)
    assert request.message_method is stun.Method.BINDING
    assert request.message_class is stun.Class.REQUEST
    assert request.attributes["USERNAME"] == "them:us"
    assert request.attributes["PRIORITY"] == 110 << 24 | 0xFFFFFF
    assert "ICE-CONTROLLING" in request.attributes
    for name in ("MESSAGE-INTEGRITY", "FINGERPRINT"):
        del request.attributes[name]
    request.add_message_integrity(PASSWORD.encode())
    assert bytes(request) == checked


async def test_junk_instead_of_an_answer_is_ignored() -> None:
    with trio.socket.socket(type=trio.socket.SOCK_DGRAM) as server:
        await server.bind(("127.0.0.1", 0))

        async def answer() -> None:
            request, client = await server.recvfrom(1500)
            await server.sendto(b"junk", client)
            again, _ = await server.recvfrom(1500)
            assert again == request
            await server.sendto(b"\x01\x11" + request[2:], client)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            with trio.fail_after(10):
                await reach(*server.getsockname())


async def test_silent_addresses_are_reported_as_unreachable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(janus_reach, "PATIENCE", 0.1)

    async def offer(ingest: MemoryIngest, sdp: str) -> str:
        assert check_offer(sdp).ufrag
        return ANSWER.replace("192.0.2.7 20000", f"127.0.0.1 {port}")

    monkeypatch.setattr(MemoryIngest, "offer", offer)
    with trio.socket.socket(type=trio.socket.SOCK_DGRAM) as silent:
        await silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        found = await janus_reach.try_addresses(MemoryIngest(MemoryServer("silent")))
    assert found == {"127.0.0.1": False, "2001:db8::1": False}


def test_media_server_addresses_are_read_from_the_answer() -> None:
    addresses = ("192.0.2.7", 20000), ("2001:db8::1", 20002)
    assert end_of(ANSWER) == End("AbCd", "secret", addresses)
    with pytest.raises(RelayError, match="ice-pwd"):
        end_of("v=0\r\na=ice-ufrag:AbCd\r\n")
