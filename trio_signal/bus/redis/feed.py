"""Feed: what one replica has of one room while it has members there."""

from weakref import WeakValueDictionary

import trio

from trio_signal.bus import Caps
from trio_signal.errors import JoinRefusedError
from trio_signal.messages.events import Refusal
from trio_signal.messages.identity import Member
from trio_signal.presence import View, by_peer


class Feed:
    """A room in which this replica has members, or is about to."""

    def __init__(self, room_id: str, replica: str) -> None:
        self.view = View(room_id, replica)
        self.mine: dict[str, Member] = {}
        #: How many joins are on their way.
        self.joining = 0
        #: By peer id: whose turn it is to join. The last that Redis lets in is the last
        #: that is let in here.
        self.turns: WeakValueDictionary[str, trio.Lock] = WeakValueDictionary()
        #: Members of ours on their way: the directory may have them, or not yet.
        self.entering: dict[str, Member] = {}
        #: The last change that came; the view may know of later ones by a snapshot.
        self.heard = 0
        #: Not all that the view has taken in was taken in by the hub.
        self.untold = False
        #: The last number that was seen by asking, and when (Trio's clock).
        self.seen = (0, 0.0)
        self._moved = trio.lowlevel.ParkingLot()

    def note_progress(self) -> None:
        """Wake those who wait for the view to get somewhere."""
        self._moved.unpark_all()

    async def wait_reached(self, seq: int) -> None:
        """Wait until the view has this change, and all that was told before it has come."""
        while not (self.view.in_step and self.view.seq >= seq and self.heard >= seq):
            await self._moved.park()


def check_caps(feed: Feed, member: Member, caps: Caps) -> None:
    """The caps as far as this replica can tell, while Redis cannot."""
    members = by_peer([*feed.view.members.values(), *feed.mine.values()])
    old = members.get(member.peer_id)
    if old is not None:
        if old.subject != member.subject:
            raise JoinRefusedError(Refusal.PEER_ID_IN_USE)
        return
    if len(members) >= caps.peers:
        raise JoinRefusedError(Refusal.ROOM_FULL)
    viewers = sum(member.live is None for member in members.values())
    if caps.viewers is not None and viewers >= caps.viewers:
        raise JoinRefusedError(Refusal.STREAM_FULL)
