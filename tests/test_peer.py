"""The peer, and its outbox over a real pair of sockets."""

import socket

import trio

from tests.clients import PATIENCE
from tests.raw import split_frames
from tests.test_outbox import LIMIT, read_what_is_there, socket_pair
from trio_signal.dialects.room import RoomDialect
from trio_signal.errors import CloseCode
from trio_signal.messages.commands import Authenticate, Close, LeaveCause, StopLive
from trio_signal.messages.events import Refusal, Refused
from trio_signal.outbox import Flusher, Outbox
from trio_signal.peer import Peer


def make_peer(sock: socket.socket, limit: int = LIMIT) -> Peer:
    dialect = RoomDialect("r", Authenticate("ann"))
    return Peer("p1", dialect, Outbox(sock, limit, Flusher()))


async def test_a_peer_that_reads_too_slowly_is_closed() -> None:
    with socket_pair() as (server, _client):
        peer = make_peer(server)
        with trio.fail_after(PATIENCE), trio.CancelScope() as scope:
            peer.live_in(scope)
            while peer.closed_with is None:
                peer.send(b"x" * 1000)
            # It is still the connection's to say so, when it comes to that.
            peer.send(b"more")
            await trio.sleep_forever()
        assert scope.cancelled_caught
        assert peer.is_leaving
        assert peer.closed_with == Close(
            CloseCode.TRY_AGAIN_LATER, "Reads too slowly", LeaveCause.TOO_SLOW
        )


async def test_a_peer_that_is_gone_is_not_closed_as_too_slow() -> None:
    with socket_pair() as (server, client):
        client.close()
        peer = make_peer(server)
        peer.send(b"anybody?")
        await peer.outbox.flush()
        peer.send(b"anybody?")
        assert peer.closed_with is None


async def test_the_first_reason_to_close_counts() -> None:
    with socket_pair() as (server, _client):
        peer = make_peer(server)
        peer.close(Close(CloseCode.REPLACED, "Replaced"))
        peer.close(Close(CloseCode.GOING_AWAY))
        assert peer.closed_with == Close(CloseCode.REPLACED, "Replaced")


async def test_closing_before_the_connection_runs_ends_it_as_well() -> None:
    with socket_pair() as (server, _client):
        peer = make_peer(server)
        peer.close(Close(CloseCode.GOING_AWAY))
        assert peer.is_leaving
        with trio.fail_after(PATIENCE), trio.CancelScope() as scope:
            peer.live_in(scope)
            await trio.sleep_forever()
        assert scope.cancelled_caught


async def test_an_answer_goes_to_the_peer_in_its_dialect() -> None:
    with socket_pair() as (server, client):
        peer = make_peer(server)
        peer.tell(Refused(StopLive("r"), Refusal.NOT_LIVE, "2026-11-20T10:15:30.123Z"))
        await peer.outbox.flush()
        ((frame,), rest) = split_frames(read_what_is_there(client))
        assert frame.message["type"] == "broadcast-stopped"
        assert (rest, peer.closed_with) == (b"", None)


async def test_an_answer_may_close_the_peer() -> None:
    with socket_pair() as (server, client):
        peer = make_peer(server)
        peer.tell(Refused(StopLive("r"), Refusal.ROOM_FULL, "2026-11-20T10:15:30.123Z"))
        assert peer.closed_with == Close(CloseCode.TRY_AGAIN_LATER, "Room is full")
        await peer.outbox.flush()
        assert read_what_is_there(client) == b""
