"""Room: who is in it, who is live, and which of its changes are known. Synchronous, no I/O.

A replica has one object for each room in which it has peers. Every change returns its events, in
order.
"""

from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from trio_signal.messages.commands import ChangeProfile, LeaveCause, Signal, To
from trio_signal.messages.events import (
    CameBack,
    Joined,
    Left,
    News,
    ProfileChanged,
    Refusal,
    Rejoined,
    RoomEvent,
    Routed,
    StopCause,
    StoppedLive,
    WentAway,
    WentLive,
)
from trio_signal.messages.identity import Live, Member, Route
from trio_signal.presence import Change, Numbering, Snapshot, arrival, completed, reconcile


def renamed(member: Member, username: str, avatar_url: str | None) -> Member:
    """A member with another name, also in its broadcast."""
    live = member.live
    if live is not None and live.username is not None and username != member.username:
        live = replace(live, username=None)
    return replace(member, username=username, avatar_url=avatar_url, live=live)


def _any_live(members: Mapping[str, Member]) -> bool:
    return any(member.live for member in members.values())


def _in_order(live: Mapping[str, Member]) -> dict[str, Member]:
    """Live members in the order of going live."""
    began = {peer_id: member.live.started_at for peer_id, member in live.items() if member.live}
    return {peer_id: live[peer_id] for peer_id in sorted(began, key=began.__getitem__)}


def _news(member: Member, live: Live, peers: Mapping[str, Member]) -> News:
    """What is new when one of a user's peers goes live."""
    if member.live is not None:
        same = member.live.media_type == live.media_type
        return News.AGAIN if same else News.CHANGED
    return News.ANOTHER if _any_live(peers) else News.FIRST


class Room:
    """The participants of one room, on all replicas.

    A participant is a user with at least one peer here. A replica changes only its own peers; it
    learns about the others from numbered changes and snapshots.
    """

    def __init__(self, room_id: str, replica: str = "") -> None:
        """Make an empty room, as seen by `replica`."""
        self.id = room_id
        self.replica = replica
        #: By peer id, in the order of joining.
        self.members: dict[str, Member] = {}
        #: This replica's own peers among them.
        self.own: dict[str, Member] = {}
        #: How many of its own peers are about to join.
        self.joining = 0
        self.numbering = Numbering()
        #: Peer ids that belong to this replica in the directory.
        self.entered: set[str] = set()
        #: Members by user id; no user is without members.
        self._users: dict[str, dict[str, Member]] = {}
        #: By peer id, in the order of going live.
        self._live: dict[str, Member] = {}

    def __len__(self) -> int:
        """The number of peers."""
        return len(self.members)

    # Questions

    @property
    def live(self) -> tuple[Member, ...]:
        """The members that are live, the newest last."""
        return tuple(self._live.values())

    def broadcaster_for(self, dialect: str) -> Member | None:
        """The member that went live last; one of this dialect is preferred."""
        newest = None
        for member in reversed(self._live.values()):
            if member.dialect == dialect:
                return member
            newest = newest or member
        return newest

    @property
    def viewers(self) -> int:
        """The number of peers that are not live."""
        return len(self.members) - len(self._live)

    @property
    def users(self) -> int:
        """The number of users."""
        return len(self._users)

    def peer_of(self, user_id: str, *, but: str) -> Member | None:
        """The peer that receives the signals for a user: the live one, else the last to join.

        It is never `but`, the sender. If two tabs both answered one offer, the call would break.
        """
        found = None
        for member in self._users.get(user_id, {}).values():
            if member.peer_id != but and (found is None or member.live or not found.live):
                found = member
        return found

    def first_of(self, user_id: str, dialect: str) -> Member | None:
        """The user's peer of this dialect that joined first."""
        peers = self._users.get(user_id, {}).values()
        mine = (member for member in peers if member.dialect == dialect)
        return min(mine, key=lambda member: (member.joined_at, member.peer_id), default=None)

    def target_of(self, sender: Member, command: Signal) -> Member | Refusal | None:
        """The member that a signal is for; None for all others."""
        addressed = command.addressed
        if addressed is To.COUNTERPART:
            addressed = To.VIEWER if sender.live else To.BROADCASTER
        match addressed:
            case To.PEER:  # first, since most signals are for one peer
                target = self.members.get(command.target)
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
        """Replace all members, given in the order of joining; returns no events."""
        for member in list(self.members.values()):
            self._drop(member)
        for member in members:
            self._put(member)
        self._live = _in_order(self._live)

    def join(self, member: Member, at: str) -> list[RoomEvent]:
        """Add a peer. If the id is already here, the member is replaced without an event.

        Then a newer connection of the same identity has taken over the peer, which neither left nor
        joined. A broadcast belongs to its connection, so it ends. If the peer was away, it is back.
        """
        old = self.members.get(member.peer_id)
        if old is None:
            first = member.user_id not in self._users
            self._put(member)
            return [Joined(self.id, member, first, len(self), at)]
        events = self.stop_live(old.peer_id, at, StopCause.REPLACED)
        if old.away and not member.away:
            events.append(CameBack(self.id, member, at))
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
        """Mark a peer as live; if it already is, it keeps its `started_at`."""
        member = self.members.get(peer_id)
        if member is None:
            return []
        news = _news(member, live, self._users[member.user_id])
        if member.live is not None:
            route = live.route or member.live.route
            live = replace(live, started_at=member.live.started_at, route=route)
        member = replace(member, live=live)
        self._put(member)
        return [WentLive(self.id, member, news, exclusive, at)]

    def route(self, peer_id: str, route: Route | None, at: str) -> list[RoomEvent]:
        """Change the route of a broadcast to its viewers; no event if it has that route already."""
        member = self._live.get(peer_id)
        if member is None or member.live is None or member.live.route == route:
            return []
        member = replace(member, live=replace(member.live, route=route))
        self._put(member)
        return [Routed(self.id, member, at)]

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
        last = not _any_live(self._users[member.user_id])
        return [StoppedLive(self.id, member, last, cause, at, username)]

    def set_away(self, member: Member, at: str, *, away: bool) -> list[RoomEvent]:
        """Note whether a peer is away; no event if that is known, or if it was replaced."""
        known = self.members.get(member.peer_id)
        if known is None or known.joined_at != member.joined_at or bool(known.away) == away:
            return []
        member = replace(known, away=away)
        self._put(member)
        return [(WentAway if away else CameBack)(self.id, member, at)]

    def change_profile(self, peer_id: str, change: ChangeProfile, at: str) -> list[ProfileChanged]:
        """Change the name and picture of a peer's user."""
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
        """Apply a change of another replica to all of the user's peers."""
        named = event.member
        for member in list(self._users.get(named.user_id, {}).values()):
            self._put(renamed(member, named.username, named.avatar_url))

    # Changes elsewhere

    def follow(self, change: Change) -> list[RoomEvent]:
        """Apply a change of the directory; returns its events.

        Afterwards the room may be stale. The change may also have to wait for a snapshot.
        """
        event = change.event
        if not self.numbering.accept(change):
            return []
        if change.moved is not None and change.moved.replica != self.replica:
            self.move(change.moved)
        if event is None:
            return []
        if change.origin != self.replica:
            return self.apply(event)
        # This replica has already sent the events of its own changes. But a peer id that it takes
        # over belongs to another replica here until the new connection is in, which may have ended
        # by now.
        if isinstance(event, Joined):
            self.entered.add(event.member.peer_id)
        elif isinstance(event, Left):
            peer_id = event.member.peer_id
            self.entered.discard(peer_id)
            if peer_id not in self.own:
                return self.leave(peer_id, event.at, event.cause)
        return []

    def apply(self, event: RoomEvent) -> list[RoomEvent]:
        """Apply a change that another replica made; returns its events as seen from here.

        What other replicas say about this replica's own peers is ignored, except this: a peer that
        joined elsewhere in place of ours, with the directory's permission.
        """
        match event:
            case Joined(member=member):
                self.entered.discard(member.peer_id)
                # Peers do not learn from this event that it is live or away.
                return self.join(replace(member, live=None, away=False), event.at)
            case ProfileChanged():
                self.apply_profile(event)
            case Rejoined():  # the number of peers as this replica knows it
                return [replace(event, peers=len(self))]
            case Left() | WentLive() | StoppedLive() | Routed() | WentAway() | CameBack() if (
                event.member.peer_id in self.own
            ):
                return []
            case WentAway(member=member) | CameBack(member=member):
                return self.set_away(member, event.at, away=isinstance(event, WentAway))
            case Left(member=member):
                return self.leave(member.peer_id, event.at, event.cause)
            case WentLive(member=Member(live=Live() as live) as member):
                return self.go_live(member.peer_id, live, event.at, exclusive=event.exclusive)
            case Routed(member=Member(live=Live(route=route)) as member):
                return self.route(member.peer_id, route, event.at)
            case StoppedLive(member=member):
                return self.stop_live(member.peer_id, event.at, event.cause)
            case WentLive() | Routed():  # without a broadcast: it is not true
                return []
        return [event]

    def move(self, member: Member) -> None:
        """Move a member to another replica, without an event: nothing changes that peers know."""
        known = self.members.get(member.peer_id)
        if known is not None and known.joined_at == member.joined_at:
            member = replace(known, replica=member.replica, session=member.session)
        elif member.replica != self.replica:
            return
        if member.replica == self.replica:
            self.entered.add(member.peer_id)
        else:
            self.entered.discard(member.peer_id)
        self._put(member)

    def catch_up(
        self, snapshot: Snapshot, losses: int, at: str, *, patient: bool = False
    ) -> list[RoomEvent]:
        """Apply a snapshot, and the changes that came since; returns their events.

        `losses` is its value when the snapshot was requested. The room is in step afterwards,
        unless something is missing again. If `patient`, members of a replica that is missing from
        the snapshot stay: it may be about to write them. If the room was deleted, so do members of
        replicas that have not written it again.
        """
        if self.numbering.in_step or losses != self.numbering.losses:
            return []  # another snapshot was faster
        self.entered = {m.peer_id for m in snapshot.members if m.replica == self.replica}
        old = {p: m for p, m in self.members.items() if p not in self.own}
        new = {
            m.peer_id: completed(m, self.members.get(m.peer_id))
            for m in snapshot.members
            if m.replica != self.replica
        }
        back = {member.replica for member in snapshot.members}
        if snapshot.written is not None:
            back &= snapshot.written
        waits = patient or snapshot.written is not None
        for peer_id, member in old.items():
            is_awaited = waits and member.replica not in back and peer_id not in new
            # A peer that we take over stays until its new connection is in.
            if peer_id in self.entered or is_awaited:
                new[peer_id] = member
        events: list[RoomEvent] = []
        if self.own:
            for event in reconcile(self.id, old, new, at):
                events += self.apply(event)
            for peer_id, member in new.items():
                if member is not old.get(peer_id):
                    # Events give all peers of a user one name, and leave out where a member is.
                    self._put(replace(member, live=self.members[peer_id].live))
            self._live = _in_order(self._live)
        else:
            self.restore(new.values())
        for change in self.numbering.resume(snapshot.seq):
            # A gap without a newer change requests a newer snapshot.
            events += self.follow(change)
        return events

    def claim(
        self, peer_id: str, at: str, *, unasked: bool = False, before: Member | None = None
    ) -> list[RoomEvent]:
        """Prepare to add an own peer; returns the events of others that took its id meanwhile.

        Add the peer, then apply these events. `before` had the id when the directory was asked: if
        it still has it here, it has not taken it meanwhile. If the peer joined `unasked`, because
        the directory could not be reached, the next snapshot that is requested decides which peer
        has the id.
        """
        if unasked:
            self.numbering.start_over()
            # The entry may be that of an earlier peer whose departure has not come back. If it
            # stayed, the missing record would look as if somebody had deleted the room.
            self.entered.discard(peer_id)
        known = self.members.get(peer_id)
        if known is None or peer_id in self.own:
            return []
        is_old = before is not None and before.joined_at == known.joined_at
        if not unasked and peer_id not in self.entered and not is_old:
            return arrival(self.id, known, at)
        if not self.own:
            self._drop(known)  # nobody here has seen the member
        return []

    def _put(self, member: Member) -> None:
        known = self.members.get(member.peer_id)
        if known is not None and known.user_id != member.user_id:
            self._drop(known)
        self.members[member.peer_id] = member
        if member.replica == self.replica:
            self.own[member.peer_id] = member
        else:
            self.own.pop(member.peer_id, None)
        self._users.setdefault(member.user_id, {})[member.peer_id] = member
        if member.live is not None:
            self._live[member.peer_id] = member
        else:
            self._live.pop(member.peer_id, None)

    def _drop(self, member: Member) -> None:
        del self.members[member.peer_id]
        self.own.pop(member.peer_id, None)
        self._live.pop(member.peer_id, None)
        peers = self._users[member.user_id]
        del peers[member.peer_id]
        if not peers:
            del self._users[member.user_id]
