"""The JSON that replicas write for each other; unreadable values are counted by kind."""

from typing import Annotated

from msgspec import Meta, Raw, Struct, field
from msgspec.json import Decoder, Encoder
from msgspec.structs import replace

from trio_signal.bus import Broadcast, Direct, Held, RoomsKept
from trio_signal.messages.events import Published
from trio_signal.messages.handover import Parcel
from trio_signal.messages.identity import Member, Name, Number, SignalKind
from trio_signal.presence import Change

#: The kinds of values whose unreadable ones are counted.
KINDS = (
    *("member", "change", "direct", "lost", "private", "announcement", "topic"),
    *("chat", "profile", "user", "room", "name"),
)


#: How many signals to one replica may be unconfirmed.
MOST_UNCONFIRMED = 20_000


class Echo(Struct, frozen=True, tag=True):
    """A message of a replica to itself, to measure delays; `sent` is Trio's clock."""

    sent: Annotated[float, Meta(ge=0, le=2**53)]


class Numbered(Struct, frozen=True, tag="S", omit_defaults=True):
    """A signal to a peer of another replica, which knows sender and target by their ids."""

    #: The sending replica, the signal's number there, and the number before which all are decided.
    origin: Name = field(name="o")
    number: Number = field(name="n")
    base: Number = field(name="b")
    #: When it was sent, in seconds of Redis's clock; 0 if unknown.
    at: Annotated[float, Meta(ge=0, le=1e11)] = field(name="t")
    room_id: Name = field(name="r")
    kind: SignalKind = field(name="k")
    payload: Raw = field(name="p")
    sender: Name = field(name="f")
    target: Name = field(name="q")
    wire_type: Name = field(name="w", default="")
    #: The tag of the sender's session, which may have moved to another replica.
    session: Name = field(name="s", default="")


class Confirmed(Struct, frozen=True, tag="C", omit_defaults=True):
    """A replica has decided on the signals up to a number, and could not deliver some."""

    origin: Name = field(name="o")
    upto: Number = field(name="n")
    refused: tuple[Number, ...] = field(name="x", default=())


class Asked(Struct, frozen=True, tag="Q"):
    """A replica asks what became of its signals from a number on."""

    origin: Name = field(name="o")
    base: Number = field(name="b")


class ForAll(Struct, frozen=True):
    """A message to all other replicas."""

    origin: Name
    event: Broadcast | Held


class OnTopic(Struct, frozen=True):
    """A message to the subscribers of a topic, with their number as counted by Redis."""

    origin: Name
    subscribers: Number
    event: Published

    @property
    def published(self) -> Published:
        """What the subscribers receive."""
        return replace(self.event, subscribers=self.subscribers)


class Owned(Struct, frozen=True):
    """A member of which only the replica is read: the rest may be unreadable."""

    replica: str


encode = Encoder().encode
decode_member = Decoder(Member).decode
decode_owned = Decoder(Owned).decode
decode_change = Decoder(Change).decode
decode_direct = Decoder(Direct | Echo | Numbered | Confirmed | Asked).decode
decode_parcel = Decoder(Parcel).decode
decode_kept = Decoder(RoomsKept).decode
decode_for_all = Decoder(ForAll).decode
decode_on_topic = Decoder(OnTopic).decode
