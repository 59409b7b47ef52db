"""What a client is told: immutable values, one type for each kind of event."""

from typing import Any, Literal

from msgspec import Struct

from trio_signal.messages.identity import Live

State = Literal["joined", "waiting"]


class Peer(Struct, frozen=True):
    """Another connection in the room. `live` is its broadcast, if it has one.

    `away`: it has lost its connection, and may come back as the same; what is said to it waits.
    """

    id: str
    username: str
    live: Live | None = None
    away: bool = False


class StateChanged(Struct, frozen=True, tag="state_changed"):
    """We are in the room (`joined`), or out of it and trying to come back (`waiting`).

    `reason` says in words why we wait, and `code` is that of the close frame, if there was one.
    """

    state: State
    reason: str = ""
    code: int | None = None


class PeerJoined(Struct, frozen=True, tag="peer_joined"):
    """A peer is in the room; those that were there before us are told so as well."""

    peer: Peer


class PeerLeft(Struct, frozen=True, tag="peer_left"):
    """A peer is gone; if it was live, `Stopped` came before."""

    peer: Peer


class PeerAway(Struct, frozen=True, tag="peer_away"):
    """A peer has lost its connection, and may come back: `PeerBack` or `PeerLeft` follows."""

    peer: Peer


class PeerBack(Struct, frozen=True, tag="peer_back"):
    """A peer that was away is back. What was said to it meanwhile, it is told now."""

    peer: Peer


class WentLive(Struct, frozen=True, tag="went_live"):
    """A peer is live, or is live with other media than before; `peer.live` says which."""

    peer: Peer


class Stopped(Struct, frozen=True, tag="stopped"):
    """A peer is live no longer."""

    peer: Peer


class Offer(Struct, frozen=True, tag="offer"):
    """An offer, as the sender made it."""

    sender: str
    username: str
    offer: Any


class Answer(Struct, frozen=True, tag="answer"):
    """An answer, as the sender made it."""

    sender: str
    username: str
    answer: Any


class Candidate(Struct, frozen=True, tag="candidate"):
    """An ICE candidate, as the sender made it."""

    sender: str
    username: str
    candidate: Any


class Message(Struct, frozen=True, tag="message"):
    """The application's own data."""

    sender: str
    username: str
    data: Any


class Error(Struct, frozen=True, tag="error"):
    """The server did not do what we asked for. Go by `code`; `message` is for people.

    `to` is the peer that was meant, where it is not there.
    """

    message: str
    code: str
    to: str | None = None


class TokenExpiring(Struct, frozen=True, tag="token_expiring"):
    """Our token is good for so many seconds only. One that is fetched, is fetched anew now."""

    expires_in: int


class TokenRenewed(Struct, frozen=True, tag="token_renewed"):
    """Our new token is good for so many seconds."""

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
