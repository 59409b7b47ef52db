"""Whether a room is as the directory has it. No I/O.

What nobody told, or what was told and is not true, is found by this alone: keys that were
deleted or written by somebody else tell nobody.
"""

from collections.abc import Mapping

from trio_signal.bus.redis.directory import Record
from trio_signal.bus.redis.feed import Feed
from trio_signal.messages.identity import Member


class Ours:
    """What this replica says of its own members of a room, at one moment."""

    def __init__(self, feed: Feed, asked: float) -> None:
        """Note it, before the directory is asked at this time."""
        self.asked = asked
        self.seq = feed.view.seq
        self.members = dict(feed.mine)
        self.entering = feed.entering.keys() | set()


def differs(feed: Feed, before: Ours, directory: Record, replica: str, echoed: float) -> bool:
    """Whether the directory, which was asked after `before`, is not as this replica has the room.

    `echoed` is when was sent (Trio's clock) what came back last: all published before has come.
    """
    view, (seen, when) = feed.view, feed.seen
    if not view.in_step:
        return False
    feed.seen = (directory.seq, before.asked)
    if directory.seq < before.seq:  # it was set back
        return True
    if view.seq < seen and when < echoed:  # one should have come
        return True
    if directory.seq != view.seq:
        return False  # changes are on their way, here or there
    others = {m.peer_id: m for m in directory.members if m.replica != replica}
    own = {m.peer_id: m for m in directory.members if m.replica == replica}
    known = {p: m for p, m in view.members.items() if p not in view.own}
    return (
        _essence(others) != _essence(known)
        or not own.keys() <= before.members.keys() | before.entering
        or any(own.get(p) != m for p, m in before.members.items() if feed.mine.get(p) is m)
    )


def _essence(members: Mapping[str, Member]) -> dict[str, tuple[object, ...]]:
    """What of members is told."""
    return {
        peer_id: (m.replica, m.joined_at, m.live, m.user_id, m.username, m.avatar_url)
        for peer_id, m in members.items()
    }
