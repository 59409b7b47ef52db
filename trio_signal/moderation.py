"""Moderation: removing and banning peers, locking rooms, and messages from the server.

Moderators do this in their room; the site's backend on any replica, for any room. A call of the
backend has succeeded only when the directory confirms it.

The replica of a removed peer is asked once, and again each second while the peer is there: its
session may be moving to another replica, or Redis may be away.
"""

from collections.abc import Awaitable, Callable
from typing import NamedTuple
from uuid import uuid4

import trio
from msgspec import Raw
from msgspec.structs import replace

from trio_signal.bus import Bus, Emptied, Kicked
from trio_signal.bus.holds import digest_of
from trio_signal.clock import utc_now
from trio_signal.errors import CloseCode, UnconfirmedError
from trio_signal.local_room import LocalRoom
from trio_signal.membership import Membership
from trio_signal.messages.commands import Close, Kick, LeaveCause, Lock
from trio_signal.messages.events import Refusal, Refused, Removed, RoomLocked, ServerSaid
from trio_signal.messages.identity import Member, is_internal
from trio_signal.participant import Participant
from trio_signal.returning import Returning
from trio_signal.rooms import Rooms

#: Seconds for which a kicked user cannot rejoin the room.
KICK_SECONDS = 60.0
#: Maximum seconds of a ban: a year.
MAX_BAN = 365 * 86400.0
#: Maximum characters of the reason that is sent.
_MAX_REASON = 120
#: Seconds in which the replicas must carry out a backend's call, and after which it is repeated.
CONFIRM = 3.0
AGAIN = 1.0
#: Maximum seconds for which a removal is repeated.
_GIVE_UP = 60.0
#: The sender of the server's messages.
SERVER = "server"


class _Removal(NamedTuple):
    """A removal that the peer's replica may not have carried out."""

    kicked: Kicked
    #: Whether newer peers with the same identity are meant too, since it is banned for so long.
    banned: bool
    #: When to give up, by Trio's clock.
    until: float

    def means(self, member: Member) -> bool:
        """Whether this member of the room must be removed."""
        target = self.kicked.target
        if member.joined_at == target.joined_at:
            return True
        return self.banned and digest_of(member) == digest_of(target)


class Moderation:
    """Removes peers from rooms, locks rooms, and sends messages to them."""

    def __init__(
        self, rooms: Rooms, membership: Membership, returning: Returning, bus: Bus
    ) -> None:
        """Take the rooms of this replica, and the bus to the others."""
        self._rooms = rooms
        self._membership = membership
        self._returning = returning
        self._bus = bus
        #: By room and peer id.
        self._removals: dict[tuple[str, str], _Removal] = {}
        self._asked = trio.Event()
        self._server = Member(
            peer_id=SERVER,
            user_id=SERVER,
            username=SERVER,
            dialect="",
            replica=bus.replica,
            subject="",
        )

    async def run(self) -> None:
        """Repeat removals until they have taken effect, until cancelled."""
        while True:
            if not self._removals:
                self._asked = trio.Event()
                await self._asked.wait()
            await trio.sleep(AGAIN)
            for key, removal in list(self._removals.items()):
                members = await self._members(removal.kicked.room_id)
                if self._removals.get(key) is not removal:
                    continue  # it was asked for again meanwhile
                target = _find(members, removal.kicked.target.peer_id)
                if trio.current_time() > removal.until:
                    del self._removals[key]
                elif target is not None and removal.means(target):
                    self._carry_out(replace(removal.kicked, target=target))
                elif self._bus.degraded is None:
                    del self._removals[key]

    # By moderators in the room; does not block

    def kick(self, peer: Participant, room: LocalRoom, command: Kick) -> None:
        """Remove another peer from the room, and ban its user for a while."""
        if not _is_moderator(peer):
            peer.tell(Refused(command, Refusal.NOT_ALLOWED, utc_now()))
            return
        target = room.members.get(command.peer_id)
        if target is None:
            peer.tell(Refused(command, Refusal.TARGET_NOT_FOUND, utc_now()))
            return
        self._take_out(room.id, target, command.reason, command.ban_seconds, KICK_SECONDS)

    def lock(self, peer: Participant, room: LocalRoom, member: Member, command: Lock) -> None:
        """Lock or unlock the room, and notify its peers."""
        if not _is_moderator(peer):
            peer.tell(Refused(command, Refusal.NOT_ALLOWED, utc_now()))
            return
        self._bus.holds.lock(room.id, locked=command.locked)
        self._rooms.tell(peer, room, [RoomLocked(room.id, member, command.locked, utc_now())])

    # By the site's backend; blocks, and raises UnconfirmedError

    async def remove(
        self,
        room_id: str,
        peer_id: str,
        reason: str,
        ban_seconds: float | None,
        cause: LeaveCause = LeaveCause.KICKED,
    ) -> Member | None:
        """Remove a peer from a room, and return its member; None if it is not there.

        With `ban_seconds`, its user is banned for so long. Otherwise the room gets `cause` as the
        reason.
        """
        target = _find(await self._members(room_id), peer_id)
        if target is None:
            return None
        member = target

        async def is_gone() -> bool:
            now = _find(await self._members(room_id), peer_id)
            return now is None or now.joined_at != member.joined_at

        self._take_out(room_id, member, reason, ban_seconds, None, cause)
        await self._confirm(is_gone)
        return member

    async def empty(self, room_id: str, reason: str) -> int:
        """Remove everybody from a room; return the number of removed peers."""
        there = {(m.peer_id, m.joined_at) for m in await self._members(room_id)}

        async def tell() -> None:
            for replica in {member.replica for member in await self._members(room_id)}:
                emptied = Emptied(room_id, reason[:_MAX_REASON])
                if replica == self._bus.replica:
                    self.empty_here(emptied)
                else:
                    self._bus.send(replica, emptied)

        async def is_empty() -> bool:
            now = {(m.peer_id, m.joined_at) for m in await self._members(room_id)}
            return now.isdisjoint(there)

        if there:
            await tell()
            await self._confirm(is_empty, tell)
        return len(there)

    async def set_lock(self, room_id: str, *, locked: bool) -> None:
        """Lock or unlock a room, and notify its peers."""

        async def lock() -> None:
            self._bus.holds.lock(room_id, locked=locked)

        async def is_done() -> bool:
            return await self._bus.holds.is_locked(room_id) is locked

        if await is_done():
            return
        await lock()
        await self._confirm(is_done, lock)
        self._tell(RoomLocked(room_id, self._server, locked, utc_now()))

    async def say(self, room_id: str, data: Raw, to: str | None) -> int | None:
        """Send a message to a room or a peer; return the number of receivers, None if none."""
        members = await self._members(room_id)
        target = _find(members, to) if to is not None else None
        if not members or (to is not None and target is None):
            return None
        said = ServerSaid(room_id, self._server, data, target, str(uuid4()), utc_now())
        if target is None:
            self._tell(said)
            return len(members)
        if target.replica == self._bus.replica:
            self.hear(said)
        else:
            self._bus.send(target.replica, said)
        return 1

    async def _members(self, room_id: str) -> tuple[Member, ...]:
        return () if is_internal(room_id) else await self._bus.members(room_id)

    async def _confirm(
        self,
        is_done: Callable[[], Awaitable[bool]],
        again: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Wait until the directory confirms a call; if it does not, repeat it by `again`."""
        began = trio.current_time()
        repeat_at, pause = began + AGAIN, 0.005
        while not await is_done():
            now = trio.current_time()
            if now > began + CONFIRM:
                raise UnconfirmedError("Not all replicas have confirmed it in time")
            if again is not None and now > repeat_at:
                repeat_at = now + AGAIN
                await again()
            await trio.sleep(pause)
            pause = min(2 * pause, 0.1)

    def _tell(self, event: RoomLocked | ServerSaid) -> None:
        self._bus.publish(event)
        room = self._rooms.get(event.room_id)
        if room is not None:
            self._rooms.tell_here(room, [event])

    def _take_out(
        self,
        room_id: str,
        target: Member,
        reason: str,
        ban_seconds: float | None,
        unless_banned: float | None,
        cause: LeaveCause = LeaveCause.KICKED,
    ) -> None:
        if ban_seconds is not None:
            cause = LeaveCause.BANNED
        seconds = unless_banned if ban_seconds is None else ban_seconds
        if seconds:
            # This comes first, because a removed peer may rejoin at once, on any replica.
            self._bus.holds.ban(room_id, target, min(seconds, MAX_BAN))
        kicked = Kicked(room_id, target, reason[:_MAX_REASON], cause)
        until = trio.current_time() + min(seconds or _GIVE_UP, _GIVE_UP)
        self._removals[room_id, target.peer_id] = _Removal(kicked, bool(seconds), until)
        self._asked.set()
        self._carry_out(kicked)

    def _carry_out(self, kicked: Kicked) -> None:
        if kicked.target.replica == self._bus.replica:
            self.throw_out(kicked)
        else:
            self._bus.send(kicked.target.replica, kicked)

    # On the replica of the peers; does not block

    def throw_out(self, kicked: Kicked) -> None:
        """Remove a peer of this replica from a room."""
        room = self._rooms.get(kicked.room_id)
        if room is not None:
            self._throw_out(room, kicked.target.peer_id, kicked.reason, kicked.cause)

    def empty_here(self, emptied: Emptied) -> None:
        """Remove all peers of this replica from a room."""
        room = self._rooms.get(emptied.room_id)
        if room is not None:
            for peer_id in tuple(room.peers):
                self._throw_out(room, peer_id, emptied.reason, LeaveCause.KICKED)

    def _throw_out(self, room: LocalRoom, peer_id: str, reason: str, cause: LeaveCause) -> None:
        peer = room.peers.get(peer_id)
        if peer is None:
            return
        self._returning.keep_out(peer, room.id)
        self._membership.leave(peer, room.id, cause)
        peer.tell(Removed(room.id, reason, utc_now()))
        if not peer.memberships:
            peer.close(Close(CloseCode.POLICY, reason, cause))

    def hear(self, said: ServerSaid) -> None:
        """Send a message to one peer of this replica."""
        room, target = self._rooms.get(said.room_id), said.target
        peer = room.peers.get(target.peer_id) if room is not None and target is not None else None
        if peer is not None:
            peer.hear(said)


def _is_moderator(peer: Participant) -> bool:
    return peer.identity is not None and peer.identity.grants.moderator


def _find(members: tuple[Member, ...], peer_id: str) -> Member | None:
    return next((member for member in members if member.peer_id == peer_id), None)
