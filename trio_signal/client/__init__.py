"""A client for programs: it joins one room and receives typed events.

    async with open_client("http://127.0.0.1:8000", room="lobby", username="Bot") as client:
        async for event in client:
            match event:
                case PeerJoined(peer=peer):
                    await client.send({"hello": peer.username}, to=peer.id)

It speaks the dialect `mesh`, reconnects when its connection is lost, and reports what it missed.
`trio_signal.client.media` adds audio and video. docs/clients/python.md is the guide.
"""

from trio_signal.client.client import Client, open_client
from trio_signal.client.errors import ClosedError, MediaError, NotConnectedError, SlowReaderError
from trio_signal.client.events import (
    Answer,
    Candidate,
    Error,
    Event,
    Message,
    Offer,
    Peer,
    PeerAway,
    PeerBack,
    PeerJoined,
    PeerLeft,
    Pong,
    State,
    StateChanged,
    Stopped,
    TokenExpiring,
    TokenRenewed,
    WentLive,
)
from trio_signal.client.session import Timing, TokenSource
from trio_signal.messages.identity import Live, MediaType

__all__ = [
    "Answer",
    "Candidate",
    "Client",
    "ClosedError",
    "Error",
    "Event",
    "Live",
    "MediaError",
    "MediaType",
    "Message",
    "NotConnectedError",
    "Offer",
    "Peer",
    "PeerAway",
    "PeerBack",
    "PeerJoined",
    "PeerLeft",
    "Pong",
    "SlowReaderError",
    "State",
    "StateChanged",
    "Stopped",
    "Timing",
    "TokenExpiring",
    "TokenRenewed",
    "TokenSource",
    "WentLive",
    "open_client",
]
