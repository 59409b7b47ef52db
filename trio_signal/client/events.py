"""The client's events: immutable values, one type for each kind."""

from typing import Any, Literal

from msgspec import Struct

from trio_signal.messages.identity import Live

State = Literal["joined", "waiting"]


class Peer(Struct, frozen=True):
    """Another peer in the room. `live` is its broadcast, if it has one.

    `away`: it lost its connection and may resume; messages to it wait.
    """

    id: str
    username: str
    live: Live | None = None
    away: bool = False


class StateChanged(Struct, frozen=True, tag="state_changed"):
    """The client is in the room (`joined`), or lost its connection and reconnects (`waiting`).

    `reason` is a text, and `code` the close code, if there was one.
    """

    state: State
    reason: str = ""
    code: int | None = None


class PeerJoined(Struct, frozen=True, tag="peer_joined"):
    """A peer is in the room. Peers that were there before the client are reported too."""

    peer: Peer


class PeerLeft(Struct, frozen=True, tag="peer_left"):
    """A peer left. If it was live, `Stopped` came before."""

    peer: Peer


class PeerAway(Struct, frozen=True, tag="peer_away"):
    """A peer lost its connection and may resume: `PeerBack` or `PeerLeft` follows."""

    peer: Peer


class PeerBack(Struct, frozen=True, tag="peer_back"):
    """A peer that was away is back. Messages sent to it meanwhile are delivered now."""

    peer: Peer


class WentLive(Struct, frozen=True, tag="went_live"):
    """A peer went live, or changed its media type; see `peer.live`."""

    peer: Peer


class Stopped(Struct, frozen=True, tag="stopped"):
    """A peer stopped being live."""

    peer: Peer


class Offer(Struct, frozen=True, tag="offer"):
    """An offer, unchanged."""

    sender: str
    username: str
    offer: Any


class Answer(Struct, frozen=True, tag="answer"):
    """An answer, unchanged."""

    sender: str
    username: str
    answer: Any


class Candidate(Struct, frozen=True, tag="candidate"):
    """An ICE candidate, unchanged."""

    sender: str
    username: str
    candidate: Any


class Message(Struct, frozen=True, tag="message"):
    """Application data."""

    sender: str
    username: str
    data: Any


class Error(Struct, frozen=True, tag="error"):
    """The server refused a request. Rely on `code`; `message` is for people.

    `to` is the peer that a signal could not reach.
    """

    message: str
    code: str
    to: str | None = None


class TokenExpiring(Struct, frozen=True, tag="token_expiring"):
    """The token expires in `expires_in` seconds. If it comes from a function, the client fetches a
    new one now.
    """

    expires_in: int


class TokenRenewed(Struct, frozen=True, tag="token_renewed"):
    """The new token is accepted, and expires in `expires_in` seconds."""

    expires_in: int


class Pong(Struct, frozen=True, tag="pong"):
    """The answer to `Client.ping`, with its id."""

    id: Any


Event = (
    StateChanged
    | PeerJoined
    | PeerLeft
    | PeerAway
    | PeerBack
    | WentLive
    | Stopped
    | Offer
    | Answer
    | Candidate
    | Message
    | Error
    | TokenExpiring
    | TokenRenewed
    | Pong
)
