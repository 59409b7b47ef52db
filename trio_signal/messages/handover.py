"""Messages between replicas when a session moves; `bus/handover.py` has the contract."""

from typing import Annotated

from msgspec import Meta, Struct

from trio_signal.messages.events import NotResumedReason
from trio_signal.messages.identity import Identity, Member, Name, Number

Moment = Annotated[float, Meta(ge=0, le=1e11)]
#: The owner of a session; see `owner_of`.
Owner = Annotated[bytes, Meta(max_length=64)]


class Sought(Struct, frozen=True):
    """A replica requests a session for a client that is `owner`, and has `received` messages.

    Without an owner, the replica accepts an offered session.
    """

    session: Name
    #: The number of the attempt, among those of the same replica.
    attempt: Number
    replica: Name
    #: When the client asked to resume, in seconds of Redis's clock; 0 if unknown.
    at: Moment = 0.0
    owner: Owner | None = None
    received: Number | None = None
    #: Whether the replica records who is away; version 0.2.0 does not.
    records_away: bool = False


class Parcel(Struct, frozen=True, tag=True):
    """The data of a session that moves."""

    session: Name
    #: The id of its first connection, for the log.
    connection: Name
    identity: Identity
    owner: Owner
    #: The number of messages from its client, and how many of them do not count.
    received: Number
    uncounted: Number
    sent: Number
    #: How many messages its client has confirmed, and the frames that it has not.
    confirmed: Number
    frames: tuple[bytes, ...]
    #: Whether the room knows that the peer is away.
    away: bool
    #: When its client last asked to resume it.
    at: Moment = 0.0


class Offered(Struct, frozen=True, tag=True):
    """A stopping replica offers a session to another one."""

    session: Name
    room_id: Name
    #: Its member, if the session's tag is not enough to find it.
    member: Member | None = None


class NotGiven(Struct, frozen=True, tag=True):
    """The refusal of a request for a session."""

    session: Name
    attempt: Number
    #: None if a newer connection has it.
    reason: NotResumedReason | None
