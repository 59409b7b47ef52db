"""Talk: chat and names of users in rooms of this replica."""

from uuid import uuid4

from msgspec.structs import replace

from trio_signal.bus import Bus
from trio_signal.clock import utc_now
from trio_signal.local_room import LocalRoom
from trio_signal.membership import Membership
from trio_signal.messages.commands import ChangeProfile, Chat
from trio_signal.messages.events import ChatSent, Chatted, UserChanged
from trio_signal.messages.identity import Member, Profile
from trio_signal.names import clean_name, clean_picture
from trio_signal.notes import Notes
from trio_signal.participant import Participant
from trio_signal.private import PrivateMessages
from trio_signal.rooms import Rooms


class Talk:
    """Chat and profiles, by WebSocket and HTTP. Nothing blocks."""

    def __init__(
        self,
        rooms: Rooms,
        membership: Membership,
        private: PrivateMessages,
        bus: Bus,
        notes: Notes,
    ) -> None:
        """Take the rooms of this replica, and the bus to the others."""
        self._rooms = rooms
        self._membership = membership
        self._private = private
        self._bus = bus
        self._notes = notes

    def chat(self, peer: Participant, room: LocalRoom, member: Member, command: Chat) -> None:
        """Send a chat message of a peer to its room."""
        avatar = clean_picture(command.avatar)
        avatar = member.avatar_url if avatar is None else avatar
        chat = Chatted(room.id, member, str(uuid4()), command.content, avatar, utc_now())
        self._notes.keep_chat(chat)
        self._rooms.tell(peer, room, [chat])
        peer.tell(ChatSent(room.id, chat.id, chat.at))

    def say(self, room_id: str, user_id: str, profile: Profile, content: str) -> Chatted:
        """Send a chat message of a user, who need not be in the room."""
        speaker = Member(
            peer_id="",
            user_id=user_id,
            username=profile.username,
            dialect="room",
            replica=self._bus.replica,
            subject="",
            avatar_url=profile.avatar_url,
        )
        chat = Chatted(room_id, speaker, str(uuid4()), content, profile.avatar_url, utc_now())
        self._notes.keep_chat(chat)
        self._bus.publish(chat)
        room = self._rooms.get(room_id)
        if room is not None:
            self._rooms.tell_here(room, [chat])
        return chat

    def change_profile(
        self, peer: Participant, room: LocalRoom, member: Member, command: ChangeProfile
    ) -> None:
        """Change the name of a peer's user in one room."""
        command = replace(
            command,
            username=clean_name(command.username),
            avatar_url=clean_picture(command.avatar_url),
            previous_username=clean_name(command.previous_username),
        )
        events = room.change_profile(member.peer_id, command, utc_now())
        for event in events:
            named = event.member
            profile = Profile(named.username, named.avatar_url)
            self._notes.keep_profile(room.id, named.user_id, profile)
        self._membership.note(peer, room, member.peer_id)
        self._rooms.tell(peer, room, events)

    def call_as_it_says(self, peer: Participant, room_id: str) -> None:
        """Give a peer's user the name and picture of its current identity, if they differ."""
        found, identity = self._rooms.find(peer, room_id), peer.identity
        if found is None or identity is None:
            return
        room, member = found
        username, avatar_url = identity.username, identity.avatar_url
        if username not in (None, member.username) or avatar_url not in (None, member.avatar_url):
            command = ChangeProfile(
                room_id,
                wire_type="profile_updated",
                username=username,
                avatar_url=avatar_url,
                previous_username=member.username,
            )
            self.change_profile(peer, room, member, command)

    def change_user(self, change: UserChanged) -> None:
        """Change a user's name in all rooms that it is in."""
        self.change_user_here(change)
        self._bus.broadcast(change)

    def change_user_here(self, change: UserChanged) -> None:
        """Change a user's name in rooms here, if this replica has the user's first peer in them.

        So the event is sent once for each room.
        """
        for peer in self._private.reachable(change.user_id):
            for room_id, peer_id in list(peer.memberships.items()):
                room = self._rooms[room_id]
                member = room.first_of(change.user_id, peer.dialect_name)
                if member is None or member.peer_id != peer_id:
                    continue
                command = ChangeProfile(
                    room_id,
                    wire_type="profile_updated",
                    username=change.username,
                    avatar_url=change.avatar_url,
                    previous_username=change.previous_username,
                    bio=change.bio,
                )
                self.change_profile(peer, room, member, command)
