"""Room: who is in it and who is live. Synchronous, no I/O.

Every change returns the events that tell of it, in their order.
"""

from collections.abc import Iterable

from msgspec.structs import replace

from trio_signal.messages.commands import ChangeProfile, LeaveCause, Signal, To
from trio_signal.messages.events import (
    Joined,
    Left,
    News,
    ProfileChanged,
    Refusal,
    RoomEvent,
    StopCause,
    StoppedLive,
    WentLive,
)
from trio_signal.messages.identity import Live, Member


def renamed(member: Member, username: str, avatar_url: str | None) -> Member:
    """A member that is called something else; so it is in its broadcast."""
    live = member.live
    if live is not None and live.username is not None and username != member.username:
        live = replace(live, username=None)
    return replace(member, username=username, avatar_url=avatar_url, live=live)


class Room:
    """The participants of one room, on whichever replica their peers are.

    A participant is a user with at least one peer here.
    """

    def __init__(self, room_id: str) -> None:
        """Make an empty room."""
        self.id = room_id
        #: By peer id, in the order of joining.
        self.members: dict[str, Member] = {}
        #: The same by user id; no user is without members.
        self._users: dict[str, dict[str, Member]] = {}
        #: By peer id, in the order of going live.
        self._live: dict[str, Member] = {}

    def __len__(self) -> int:
        """How many peers are here."""
        return len(self.members)

    # Questions

    @property
    def live(self) -> tuple[Member, ...]:
        """The members that are live, the newest last."""
        return tuple(self._live.values())

    def broadcaster_for(self, dialect: str) -> Member | None:
        """The member that went live last, of those that speak this dialect if there are any."""
        newest = None
        for member in reversed(self._live.values()):
            if member.dialect == dialect:
                return member
            newest = newest or member
        return newest

    @property
    def viewers(self) -> int:
        """How many peers are here and not live."""
        return len(self.members) - len(self._live)

    @property
    def users(self) -> int:
        """How many users are here."""
        return len(self._users)

    @property
    def since(self) -> str:
        """When the first of those who are here joined; empty if nobody is."""
        return next((member.joined_at for member in self.members.values()), "")

    @property
    def live_users(self) -> int:
        """How many users are live."""
        return len({member.user_id for member in self._live.values()})

    def peer_of(self, user_id: str, *, but: str) -> Member | None:
        """The one peer of a user that signals to the user go to.

        The live one, else the one that joined last; never `but`, the sender.
        Two tabs that both answer one offer would break the call.
        """
        found = None
        for member in self._users.get(user_id, {}).values():
            if member.peer_id != but and (found is None or member.live or not found.live):
                found = member
        return found

    def first_of(self, user_id: str, dialect: str) -> Member | None:
        """The peer of a user that joined first, of those that speak this dialect."""
        peers = self._users.get(user_id, {}).values()
        mine = (member for member in peers if member.dialect == dialect)
        return min(mine, key=lambda member: (member.joined_at, member.peer_id), default=None)

    def target_of(self, sender: Member, command: Signal) -> Member | Refusal | None:
        """The member that a signal is for; None for all others."""
        addressed = command.addressed
        if addressed is To.COUNTERPART:
            addressed = To.VIEWER if sender.live else To.BROADCASTER
        match addressed:
            case To.OTHERS:
                return None
            case To.USER:
                target = self.peer_of(command.target, but=sender.peer_id)
            case To.BROADCASTER:
                if sender.live:
                    return Refusal.NOT_ALLOWED
                target = self.broadcaster_for(sender.dialect)
            case To.VIEWER if not sender.live:
                return Refusal.NOT_ALLOWED
            case _:
                target = self.members.get(command.target)
        if target is None or target.peer_id == sender.peer_id:
            return Refusal.TARGET_NOT_FOUND
        return target

    # Changes

    def restore(self, members: Iterable[Member]) -> None:
        """Fill an empty room from a picture, in the order of joining; tells nothing."""
        for member in members:
            self._put(member)
        began = {member.peer_id: member.live.started_at for member in self.live if member.live}
        in_order = sorted(began, key=began.__getitem__)
        self._live = {peer_id: self.members[peer_id] for peer_id in in_order}

    def join(self, member: Member, at: str) -> list[RoomEvent]:
        """Add a peer; one that is here under this id already is replaced in silence."""
        old = self.members.get(member.peer_id)
        if old is not None:
            return self._replace(old, member, at)
        first = member.user_id not in self._users
        self._put(member)
        return [Joined(self.id, member, first, len(self), at)]

    def _replace(self, old: Member, member: Member, at: str) -> list[RoomEvent]:
        """A newer connection of the same identity: neither left nor joined.

        A broadcast belongs to its connection, so it ends.
        """
        events = self.stop_live(old.peer_id, at, StopCause.REPLACED)
        if old.user_id != member.user_id:
            self._drop(old)
        self._put(member)
        return events

    def leave(self, peer_id: str, at: str, cause: LeaveCause = LeaveCause.LOST) -> list[RoomEvent]:
        """Remove a peer, if it is here."""
        events = self.stop_live(peer_id, at, StopCause.LEFT)
        member = self.members.get(peer_id)
        if member is None:
            return []
        self._drop(member)
        last = member.user_id not in self._users
        return [*events, Left(self.id, member, last, len(self), at, cause)]

    def go_live(
        self, peer_id: str, live: Live, at: str, *, exclusive: bool = False
    ) -> list[RoomEvent]:
        """Mark a peer live; one that is live already keeps its `started_at`."""
        member = self.members.get(peer_id)
        if member is None:
            return []
        news = self._news(member, live)
        if member.live is not None:
            live = replace(live, started_at=member.live.started_at)
        member = replace(member, live=live)
        self._put(member)
        return [WentLive(self.id, member, news, exclusive, at)]

    def _news(self, member: Member, live: Live) -> News:
        if member.live is not None:
            same = member.live.media_type == live.media_type
            return News.AGAIN if same else News.CHANGED
        return News.ANOTHER if self._is_live(member.user_id) else News.FIRST

    def _is_live(self, user_id: str) -> bool:
        return any(member.live for member in self._users[user_id].values())

    def stop_live(
        self, peer_id: str, at: str, cause: StopCause = StopCause.STOPPED
    ) -> list[RoomEvent]:
        """Mark a peer as not live, if it is."""
        member = self._live.get(peer_id)
        if member is None:
            return []
        username = member.live.username if member.live is not None else None
        member = replace(member, live=None)
        self._put(member)
        last = not self._is_live(member.user_id)
        return [StoppedLive(self.id, member, last, cause, at, username)]

    def change_profile(self, peer_id: str, change: ChangeProfile, at: str) -> list[ProfileChanged]:
        """Give a peer's user another name and picture."""
        member = self.members.get(peer_id)
        if member is None:
            return []
        username = change.username or member.username
        avatar_url = member.avatar_url if change.avatar_url is None else change.avatar_url
        event = ProfileChanged(
            self.id,
            renamed(member, username, avatar_url),
            change.wire_type,
            change.previous_username,
            change.email,
            change.bio,
            at,
        )
        self.apply_profile(event)
        return [event]

    def apply_profile(self, event: ProfileChanged) -> None:
        """The same, for a change that was made elsewhere: in all the user's peers."""
        named = event.member
        for member in list(self._users.get(named.user_id, {}).values()):
            self._put(renamed(member, named.username, named.avatar_url))

    def _put(self, member: Member) -> None:
        self.members[member.peer_id] = member
        self._users.setdefault(member.user_id, {})[member.peer_id] = member
        if member.live is not None:
            self._live[member.peer_id] = member
        else:
            self._live.pop(member.peer_id, None)

    def _drop(self, member: Member) -> None:
        del self.members[member.peer_id]
        peers = self._users[member.user_id]
        del peers[member.peer_id]
        if not peers:
            del self._users[member.user_id]
