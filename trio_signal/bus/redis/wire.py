"""What replicas write for each other, as JSON; one that cannot be read is counted by its kind."""

from typing import Annotated

from msgspec import Meta, Raw, Struct, field
from msgspec.json import Decoder, Encoder
from msgspec.structs import replace

from trio_signal.bus import Broadcast, Direct, Held, RoomsKept
from trio_signal.messages.events import Published
from trio_signal.messages.handover import Parcel
from trio_signal.messages.identity import Member, Name, Number, SignalKind
from trio_signal.presence import Change

#: What is counted when it cannot be read, by what it should have been.
KINDS = (
    *("member", "change", "direct", "lost", "private", "announcement", "topic"),
    *("chat", "profile", "user", "room", "name"),
)


#: Signals to one replica that may be without a confirmation.
MOST_UNCONFIRMED = 20_000


class Echo(Struct, frozen=True, tag=True):
    """What a replica publishes to itself, to see how long that takes; by Trio's clock."""

    sent: Annotated[float, Meta(ge=0, le=2**53)]


class Numbered(Struct, frozen=True, tag="S", omit_defaults=True):
    """A signal to a peer of another replica, by the ids of both: that one knows the members."""

    #: The replica that sends it, its number there, and what is over of those before it.
    origin: Name = field(name="o")
    number: Number = field(name="n")
    base: Number = field(name="b")
    #: When, in seconds of Redis's clock; 0 if that is not known.
    at: Annotated[float, Meta(ge=0, le=1e11)] = field(name="t")
    room_id: Name = field(name="r")
    kind: SignalKind = field(name="k")
    payload: Raw = field(name="p")
    sender: Name = field(name="f")
    target: Name = field(name="q")
    wire_type: Name = field(name="w", default="")
    #: The sender's session, which may be at another replica by now.
    session: Name = field(name="s", default="")


class Confirmed(Struct, frozen=True, tag="C", omit_defaults=True):
    """A replica has decided on the signals up to a number; some it could not deliver."""

    origin: Name = field(name="o")
    upto: Number = field(name="n")
    refused: tuple[Number, ...] = field(name="x", default=())


class Asked(Struct, frozen=True, tag="Q"):
    """A replica wants to know what became of its signals from a number on."""

    origin: Name = field(name="o")
    base: Number = field(name="b")


class ForAll(Struct, frozen=True):
    """What a replica tells all others."""

    origin: Name
    event: Broadcast | Held


class OnTopic(Struct, frozen=True):
    """What a replica tells all who subscribe to a topic; so many do, as Redis counts them."""

    origin: Name
    subscribers: Number
    event: Published

    @property
    def published(self) -> Published:
        """What the subscribers are told."""
        return replace(self.event, subscribers=self.subscribers)


encode = Encoder().encode
decode_member = Decoder(Member).decode
decode_change = Decoder(Change).decode
decode_direct = Decoder(Direct | Echo | Numbered | Confirmed | Asked).decode
decode_parcel = Decoder(Parcel).decode
decode_kept = Decoder(RoomsKept).decode
decode_for_all = Decoder(ForAll).decode
decode_on_topic = Decoder(OnTopic).decode
