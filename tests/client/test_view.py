"""A room as one client sees it, without a network."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw, Struct
from msgspec.structs import replace

from trio_signal.client import (
    Event,
    Message,
    Peer,
    PeerJoined,
    PeerLeft,
    Pong,
    Stopped,
    WentLive,
)
from trio_signal.client.view import View, reconcile
from trio_signal.dialects import mesh
from trio_signal.messages.identity import Live

VIDEO, AUDIO, LATER = Live("video", "t1"), Live("audio", "t1"), Live("video", "t2")
ANN = Peer("ann", "Ann")
ANN_VIDEO, ANN_AUDIO, ANN_LATER = (replace(ANN, live=live) for live in (VIDEO, AUDIO, LATER))
OTHER_ANN = Peer("ann", "Annie")

CHANGES: list[tuple[Peer | None, Peer | None, list[Event]]] = [
    (None, None, []),
    (None, ANN, [PeerJoined(ANN)]),
    (None, ANN_VIDEO, [PeerJoined(ANN), WentLive(ANN_VIDEO)]),
    (ANN, None, [PeerLeft(ANN)]),
    (ANN_VIDEO, None, [Stopped(ANN), PeerLeft(ANN)]),
    (ANN, ANN, []),
    (ANN, ANN_VIDEO, [WentLive(ANN_VIDEO)]),
    (ANN_VIDEO, ANN_VIDEO, []),
    (ANN_VIDEO, ANN, [Stopped(ANN)]),
    (ANN_VIDEO, ANN_AUDIO, [WentLive(ANN_AUDIO)]),
    (ANN_VIDEO, ANN_LATER, [Stopped(ANN), WentLive(ANN_LATER)]),
    (ANN, OTHER_ANN, [PeerLeft(ANN), PeerJoined(OTHER_ANN)]),
    (ANN_VIDEO, OTHER_ANN, [Stopped(ANN), PeerLeft(ANN), PeerJoined(OTHER_ANN)]),
]


@pytest.mark.parametrize(("old", "new", "events"), CHANGES)
def test_changes_of_one_peer_are_events(
    old: Peer | None, new: Peer | None, events: list[Event]
) -> None:
    assert reconcile(_room(old), _room(new)) == events


def _room(*peers: Peer | None) -> dict[str, Peer]:
    return {peer.id: peer for peer in peers if peer is not None}


lives = st.sampled_from([None, VIDEO, AUDIO, LATER])
peers = st.builds(Peer, st.sampled_from("abcd"), st.sampled_from(["Ann", "Bob"]), lives)
rooms = st.lists(peers).map(lambda found: _room(*found))


def follow(room: Mapping[str, Peer], events: list[Event]) -> dict[str, Peer]:
    """The room as a careful reader of the events knows it; each event must fit what came before."""
    believed = dict(room)
    for event in events:
        match event:
            case PeerJoined(peer=peer):
                assert peer.id not in believed
                assert peer.live is None
                believed[peer.id] = peer
            case PeerLeft(peer=peer):
                assert believed.pop(peer.id).live is None
            case WentLive(peer=peer):
                assert peer.live not in (None, believed[peer.id].live)
                believed[peer.id] = peer
            case Stopped(peer=peer):
                assert believed[peer.id].live is not None
                believed[peer.id] = replace(believed[peer.id], live=None)
            case _:
                raise AssertionError(event)
    return believed


@given(rooms, rooms)
def test_reconciling_leads_from_one_snapshot_to_the_other(
    old: dict[str, Peer], new: dict[str, Peer]
) -> None:
    assert follow(old, reconcile(old, new)) == new


ids, names = st.sampled_from("abcd"), st.sampled_from(["Ann", "Bob"])
news = st.one_of(
    st.builds(mesh.UserJoined, st.just("r"), ids, ids, names, st.just(1)),
    st.builds(mesh.UserLeft, st.just("r"), ids, ids, names, st.just(1)),
    st.builds(
        mesh.BroadcastStarted,
        ids,
        ids,
        names,
        st.sampled_from(["audio", "video"]),
        st.sampled_from(["t1", "t2"]),
    ),
    st.builds(mesh.BroadcastStopped, ids, ids, names),
)


@given(rooms, st.lists(news))
def test_events_are_consistent_whatever_the_server_sends(
    room: dict[str, Peer], messages: list[Struct]
) -> None:
    """Nobody joins twice or leaves without a join, even if a server says so."""
    view = View()
    view.peers = dict(room)
    believed = dict(room)
    for message in messages:
        believed = follow(believed, view.follow(message))
        assert view.peers == believed


def test_a_snapshot_becomes_events() -> None:
    view = View()
    users = [mesh.User("ann", "Ann"), mesh.User("bob", "Bob")]
    live = [mesh.Broadcaster("ann", "Ann", "video", "t1"), mesh.Broadcaster("x", "X", "video", "")]
    bob = Peer("bob", "Bob")
    assert view.enter(users, live) == [PeerJoined(ANN), WentLive(ANN_VIDEO), PeerJoined(bob)]
    assert view.peers == {"ann": ANN_VIDEO, "bob": bob}
    assert view.enter(users[1:], []) == [Stopped(ANN), PeerLeft(ANN)]
    assert view.peers == {"bob": bob}


def test_messages_become_events() -> None:
    view = View()
    assert view.follow(mesh.Pong(Raw(b"[1]"))) == [Pong([1])]
    assert view.follow(mesh.Pong()) == []  # the answer to a ping of our own
    assert view.follow(mesh.MessageFrom(Raw(b"{}"), "ann", "Ann")) == [Message("ann", "Ann", {})]
    assert view.follow(mesh.MessageFrom(Raw(b"1e999"), "ann", "Ann")) == []
    assert view.follow(mesh.AuthRequired()) == []
