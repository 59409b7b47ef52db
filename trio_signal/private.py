"""Private messages from one user to another, on any replica. Nothing is stored.

A user's inbox is an internal room, whose replicas the directory knows. A user without an inbox gets
messages through its peers in rooms; then the message is sent to all replicas.
"""

from collections.abc import Mapping
from typing import assert_never
from uuid import uuid4

from msgspec.structs import replace

from trio_signal.bus import Bus
from trio_signal.clock import utc_now
from trio_signal.local_room import LocalRoom
from trio_signal.messages.commands import PrivateCommand, SendPrivate, SendReceipt, SetPrivateTyping
from trio_signal.messages.events import PrivateEvent, PrivateMessage, PrivateTyping, ReadReceipt
from trio_signal.messages.identity import Identity, inbox_of, is_internal
from trio_signal.names import ANONYMOUS, clean_name, clean_picture
from trio_signal.notes import Notes
from trio_signal.pacing import cost_of_delivery
from trio_signal.participant import Participant


class PrivateMessages:
    """The users of this replica that can receive private messages."""

    def __init__(self, bus: Bus, notes: Notes, rooms: Mapping[str, LocalRoom]) -> None:
        """Take the rooms of this replica, which belong to the hub."""
        self._bus = bus
        self._notes = notes
        self._rooms = rooms
        #: By user: the peers in rooms that are used if the user has no inbox.
        self._peers: dict[str, set[Participant]] = {}

    def add(self, peer: Participant, user_id: str) -> None:
        """Add a peer that can receive the user's messages. Does not block."""
        self._peers.setdefault(user_id, set()).add(peer)

    def remove(self, peer: Participant) -> None:
        """Remove a peer that has ended. Does not block."""
        user_id = peer.identity.user_id if peer.identity is not None else ""
        peers = self._peers.get(user_id)
        if peers is not None:
            peers.discard(peer)
            if not peers:
                del self._peers[user_id]

    def reachable(self, user_id: str) -> list[Participant]:
        """The peers of a user, in rooms here, that can receive its messages."""
        return list(self._peers.get(user_id, ()))

    async def send(self, peer: Participant, identity: Identity, command: PrivateCommand) -> None:
        """Send a message to one user, on any replica: to its inboxes, else to its peers in rooms.

        If the user is not connected, nothing happens. `peer` pays. Blocks on the directory.
        """
        event = self._event(peer, identity, command)
        if isinstance(event, PrivateMessage) and event.sender_username == ANONYMOUS:
            user = await self._notes.user(identity.user_id)
            if user is not None:
                event = replace(event, sender_username=user.username)
        members = await self._bus.members(inbox_of(event.receiver_id))
        replicas = {member.replica for member in members}
        size = len(event.content) if isinstance(event, PrivateMessage) else 0
        peer.owes += max(1, len(members)) * cost_of_delivery(size)
        if not replicas:
            # Only here is it known how many peers there are; all but one are still to be paid.
            told = self.tell_here(event)
            peer.owes += max(0, told - 1) * cost_of_delivery(size)
            self._bus.broadcast(event)
        for replica in replicas:
            if replica == self._bus.replica:
                self.tell_here(event)
            else:
                self._bus.send(replica, event)

    def _event(
        self, peer: Participant, identity: Identity, command: PrivateCommand
    ) -> PrivateEvent:
        match command:
            case SendPrivate():
                username, avatar_url = self._sender(peer, identity, command)
                return PrivateMessage(
                    command.receiver_id,
                    str(uuid4()),
                    identity.user_id,
                    username,
                    avatar_url,
                    command.content,
                    utc_now(),
                )
            case SetPrivateTyping():
                return PrivateTyping(command.receiver_id, identity.user_id, command.typing)
            case SendReceipt():
                return ReadReceipt(command.receiver_id, identity.user_id, utc_now())
            case _:
                assert_never(command)

    def _sender(
        self, peer: Participant, identity: Identity, command: SendPrivate
    ) -> tuple[str, str | None]:
        """The sender's name: in open mode the one it gives, else that in its room or token."""
        username, avatar_url = identity.username, identity.avatar_url
        for room_id, peer_id in peer.memberships.items():
            if not is_internal(room_id):
                member = self._rooms[room_id].members[peer_id]
                username, avatar_url = member.username, member.avatar_url
        if not identity.verified:
            username = clean_name(command.username) or username
            avatar_url = clean_picture(command.avatar_url) or avatar_url
        return username or ANONYMOUS, avatar_url

    def tell_here(self, event: PrivateEvent) -> int:
        """Send a message to the user's peers on this replica; return how many there are."""
        inbox = self._rooms.get(inbox_of(event.receiver_id))
        if inbox is not None and inbox.peers:
            inbox.tell(event, event.receiver_id)
            return len(inbox.peers)
        peers = self.reachable(event.receiver_id)
        for peer in peers:
            peer.hear(event)
        return len(peers)
