"""What replicas write for each other, as JSON; one that cannot be read is counted by its kind."""

from typing import Annotated

from msgspec import Meta, Struct
from msgspec.json import Decoder, Encoder

from trio_signal.bus import Broadcast, Direct, RoomsKept
from trio_signal.messages.identity import Member, Name
from trio_signal.presence import Change

#: What is counted when it cannot be read, by what it should have been.
KINDS = (
    *("member", "change", "direct", "lost", "private", "announcement"),
    *("chat", "profile", "user", "room", "name"),
)


class Echo(Struct, frozen=True, tag=True):
    """What a replica publishes to itself, to see how long that takes; by Trio's clock."""

    sent: Annotated[float, Meta(ge=0, le=2**53)]


class ForAll(Struct, frozen=True):
    """What a replica tells all others."""

    origin: Name
    event: Broadcast


encode = Encoder().encode
decode_member = Decoder(Member).decode
decode_change = Decoder(Change).decode
decode_direct = Decoder(Direct | Echo).decode
decode_kept = Decoder(RoomsKept).decode
decode_for_all = Decoder(ForAll).decode
