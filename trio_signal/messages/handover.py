"""What replicas say to each other when a session moves; the contract is in `bus/handover.py`."""

from typing import Annotated

from msgspec import Meta, Struct

from trio_signal.messages.events import NotResumedReason
from trio_signal.messages.identity import Identity, Member, Name, Number

Moment = Annotated[float, Meta(ge=0, le=1e11)]
#: Whose a session is; see `owner_of`.
Owner = Annotated[bytes, Meta(max_length=64)]


class Sought(Struct, frozen=True):
    """A replica wants a session of a room for a client of this owner, that has got so much.

    Without an owner it was offered.
    """

    session: Name
    #: An earlier attempt of the same replica has another number.
    attempt: Number
    replica: Name
    #: When the client asked for it, in seconds of Redis's clock; 0 if that is not known.
    at: Moment = 0.0
    owner: Owner | None = None
    received: Number | None = None


class Parcel(Struct, frozen=True, tag=True):
    """A session as it was given up."""

    session: Name
    #: The id of its first connection, for the log.
    connection: Name
    identity: Identity
    owner: Owner
    #: How many messages came from its client, and how many of those do not count.
    received: Number
    uncounted: Number
    sent: Number
    #: How many messages its client has confirmed, and those that it has not.
    confirmed: Number
    frames: tuple[bytes, ...]
    #: The room has been told that it is away.
    away: bool
    #: When its client asked last for it to go on.
    at: Moment = 0.0


class Offered(Struct, frozen=True, tag=True):
    """A replica that is about to stop wants another one to have a session."""

    session: Name
    room_id: Name
    #: Its member, if that cannot be found by the session.
    member: Member | None = None


class NotGiven(Struct, frozen=True, tag=True):
    """A session is not given up, and this is why."""

    session: Name
    attempt: Number
    #: None if a newer connection has it.
    reason: NotResumedReason | None
