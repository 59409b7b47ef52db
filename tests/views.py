"""What one client knows about a room: only what it received, in its own dialect.

A view refuses messages that contradict earlier ones: somebody who joins twice, who leaves
without having joined, or who leaves while live. `differs` compares the view with the truth.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from tests.clients import Message


class Truth(NamedTuple):
    """The true state of one peer in a room."""

    #: The peer's name; no two peers in a room have the same one.
    name: str
    peer_id: str
    user_id: str
    media: str | None
    #: It was live at some time since it joined.
    was_live: bool


class View(Protocol):
    """One room, as one client sees it."""

    def hear(self, message: Message) -> None:
        """Process a message; raises AssertionError if it cannot be true."""
        ...

    def differs(self, me: Truth, others: Sequence[Truth]) -> str:
        """How the view differs from the truth; empty if it does not."""
        ...


class Presence:
    """Who is here and who is live, and which events are possible."""

    def __init__(self, here: Iterable[str]) -> None:
        listed = list(here)
        self.here = set(listed)
        assert len(listed) == len(self.here), f"listed twice: {listed}"
        #: Peer to media.
        self.live: dict[str, str] = {}

    def join(self, who: str) -> None:
        assert who not in self.here, f"{who} joined twice"
        self.here.add(who)

    def leave(self, who: str) -> None:
        assert who in self.here, f"{who} left without having joined"
        assert who not in self.live, f"{who} left while live"
        self.here.remove(who)

    def start(self, who: str, media: str = "") -> None:
        assert who in self.here, f"{who} went live without having joined"
        self.live[who] = media

    def stop(self, who: str) -> None:
        assert who in self.live, f"{who} stopped without being live"
        del self.live[who]


def compare(what: str, told: object, true: object) -> str:
    return "" if told == true else f"{what}: told {told}, true {true}. "


def users(peers: Iterable[Truth]) -> set[str]:
    return {peer.user_id for peer in peers}


def live_users(peers: Iterable[Truth]) -> set[str]:
    return {peer.user_id for peer in peers if peer.media}


class RoomView:
    """Dialect `room`: users. About the own user, only broadcasts are reported."""

    def __init__(self, room_id: str, user_id: str) -> None:
        self.room_id = room_id
        self.user_id = user_id
        self.told: Presence | None = None
        #: `active-broadcasts` follows `room_state` at once, or not at all.
        self._fresh = False
        #: Whether another tab of this user is live; None if unknown.
        self.tab_is_live: bool | None = False
        self._stops_asked = 0

    def asked_to_stop(self) -> None:
        """The answer is `broadcast-stopped`, even if another tab stays live."""
        self._stops_asked += 1

    def hear(self, message: Message) -> None:
        assert message.get("room_id", self.room_id) == self.room_id, "another room"
        fresh, self._fresh = self._fresh, False
        if self.told is None:
            assert message["type"] == "room_state", "nothing comes before room_state"
            self.told = Presence(user["user_id"] for user in message["users"])
            assert self.user_id in self.told.here, "not in its own room_state"
            self._fresh = True
            return
        match message["type"]:
            case "active-broadcasts":
                assert fresh, "active-broadcasts comes right after room_state"
                self._take_broadcasters(self.told, message)
            case "user_joined":
                assert message["user_id"] != self.user_id, "received its own event"
                self.told.join(message["user_id"])
            case "user_left":
                assert message["user_id"] != self.user_id, "received its own event"
                self.told.leave(message["user_id"])
            case "broadcast-started" if message["user_id"] == self.user_id:
                self.tab_is_live = True
            case "broadcast-started":
                self.told.start(message["user_id"])
            case "broadcast-stopped" if message["user_id"] == self.user_id:
                self._stop_own()
            case "broadcast-stopped":
                self.told.stop(message["user_id"])
            case other:
                raise AssertionError(f"unexpected: {other}")

    def _take_broadcasters(self, told: Presence, message: Message) -> None:
        assert message["broadcasters"], "an empty list of broadcasters"
        listed = [broadcaster["user_id"] for broadcaster in message["broadcasters"]]
        assert len(listed) == len(set(listed)), "listed twice"
        self.tab_is_live = self.user_id in listed
        for user_id in {*listed} - {self.user_id}:
            told.start(user_id)

    def _stop_own(self) -> None:
        if self._stops_asked:
            self._stops_asked -= 1
            self.tab_is_live = None
        else:
            self.tab_is_live = False

    def differs(self, me: Truth, others: Sequence[Truth]) -> str:
        if self.told is None:
            return "no room_state. "
        found = compare("users", self.told.here, users([me, *others]))
        found += compare("live", set(self.told.live), live_users(others) - {self.user_id})
        found += compare("stops not answered", self._stops_asked, 0)
        if self.tab_is_live is not None and not me.media:
            true = self.user_id in live_users(others)
            found += compare("another tab is live", self.tab_is_live, true)
        return found


class LiveView:
    """Dialect `live`: users, and nothing at all about the own one."""

    def __init__(self, room_id: str, user_id: str) -> None:
        self.room_id = room_id
        self.user_id = user_id
        self.told: Presence | None = None
        #: It has asked who is live, and received the answer.
        self._knows_live = False
        self._twice: set[str] = set()

    def surprises(self) -> set[str]:
        """Users that went live twice since the last call.

        That may be right when one of two tabs changes its media.
        """
        twice, self._twice = self._twice, set()
        return twice

    def hear(self, message: Message) -> None:
        assert message["room_id"] == self.room_id
        if message["type"] == "joined_room":
            self._enter(message["members"])
            return
        assert self.told is not None, "nothing comes before joined_room"
        if message["type"] == "live_peers":
            self._take_live(self.told, message["peers"])
            return
        user_id = message["user_id"]
        assert user_id != self.user_id, "received its own event"
        match message["type"]:
            case "user_joined":
                self.told.join(user_id)
            case "user_left":
                self.told.leave(user_id)
            case "live_peer_joined" if message.get("listener"):
                pass  # it waits for an offer, and is not live
            case "live_peer_joined":
                if self.told.live.get(user_id) == message["media_type"]:
                    self._twice.add(user_id)
                self.told.start(user_id, message["media_type"])
            case "live_peer_left":
                if self._knows_live or user_id in self.told.live:
                    self.told.stop(user_id)
            case other:
                raise AssertionError(f"unexpected: {other}")

    def _enter(self, members: list[str]) -> None:
        assert self.user_id in members, "not among its own members"
        entered = Presence(members)
        if self.told is None:
            self.told = entered
        else:
            assert entered.here == self.told.here, "joined_room contradicts earlier events"

    def _take_live(self, told: Presence, peers: list[Message]) -> None:
        live = {peer["user_id"]: peer["media_type"] for peer in peers}
        assert len(live) == len(peers), "listed twice"
        assert self.user_id not in live, "lists itself"
        assert live.keys() <= told.here, "live without having joined"
        if self._knows_live:
            assert live.keys() == told.live.keys(), "live_peers contradicts earlier events"
        told.live = live
        self._knows_live = True

    def differs(self, me: Truth, others: Sequence[Truth]) -> str:
        if self.told is None or not self._knows_live:
            return "no joined_room or live_peers. "
        found = compare("users", self.told.here, users([me, *others]))
        return found + compare("live", set(self.told.live), live_users(others) - {self.user_id})


class MeshView:
    """Dialect `mesh`: peers; other tabs of the own user are peers like any other."""

    def __init__(self, room_id: str, client_id: str) -> None:
        self.room_id = room_id
        self.client_id = client_id
        self.told: Presence | None = None
        self._fresh = False
        #: The names of all peers that are or were here, and the ids of those names.
        self._names: dict[str, str] = {}
        self.ids: dict[str, str] = {}

    def hear(self, message: Message) -> None:
        assert message.get("room_id", self.room_id) == self.room_id, "another room"
        fresh, self._fresh = self._fresh, False
        if self.told is None:
            self._enter(message)
            return
        match message["type"]:
            case "active_broadcasts":
                assert fresh, "active_broadcasts comes right after users_in_room"
                self._take_broadcasters(self.told, message)
            case "user_joined":
                self.told.join(self._meet(message))
                self._check_count(self.told, message)
            case "user_left":
                self.told.leave(self._other(message))
                self._check_count(self.told, message)
            case "broadcast_started":
                who, media = self._other(message), message["media_type"]
                assert self.told.live.get(who) != media, f"{who} went live twice"
                self.told.start(who, media)
            case "broadcast_stopped":
                self.told.stop(self._other(message))
            case other:
                raise AssertionError(f"unexpected: {other}")

    def _enter(self, message: Message) -> None:
        if message["type"] == "auth_success":
            assert message["client_id"] == self.client_id
            return
        assert message["type"] == "users_in_room", "nothing comes before users_in_room"
        self.told = Presence(self._meet(user) for user in message["users"])
        self._fresh = True

    def _take_broadcasters(self, told: Presence, message: Message) -> None:
        assert message["broadcasters"], "an empty list of broadcasters"
        for broadcaster in message["broadcasters"]:
            told.start(self._other(broadcaster), broadcaster["media_type"])

    def _meet(self, message: Message) -> str:
        assert message["client_id"] != self.client_id, "received its own event"
        self._names[message["client_id"]] = message["username"]
        self.ids[message["username"]] = message["client_id"]
        return self._other(message)

    def _other(self, message: Message) -> str:
        client_id = message["client_id"]
        assert isinstance(client_id, str)
        assert message["username"] == self._names.get(client_id), "known by another name"
        return client_id

    def _check_count(self, told: Presence, message: Message) -> None:
        assert message["connected_users"] == len(told.here) + 1

    def differs(self, me: Truth, others: Sequence[Truth]) -> str:
        if self.told is None:
            return "no users_in_room. "
        told = {self._names[peer]: (peer, self.told.live.get(peer)) for peer in self.told.here}
        true = {peer.name: (peer.peer_id, peer.media) for peer in others}
        return compare("peers", told, true)


class StreamView:
    """Dialect `stream`: a count; viewers for the broadcaster, and little else for a viewer."""

    def __init__(self, stream_id: str) -> None:
        self.stream_id = stream_id
        self.count = 0
        self._is_broadcaster = False
        #: The peers to which the broadcaster should make offers.
        self._viewers: set[str] = set()
        #: A newer broadcaster has replaced this one.
        self.taken = False
        #: The surprises since the last call.
        self._twice: set[str] = set()
        self._never: set[str] = set()
        #: Whether another peer is broadcasting; None if unknown.
        self._ready: bool | None = None
        self._ends_asked = 0

    def asked_to_broadcast(self) -> None:
        """All viewers are announced again. The end of an older broadcast is not announced here."""
        self._is_broadcaster = True
        self._viewers = set()
        self._ready = None

    def asked_to_end(self) -> None:
        """The answer is `stream-end-confirmed`, or an error."""
        self._ends_asked += 1

    def surprises(self) -> tuple[set[str], set[str]]:
        """Viewers that joined twice, and those that left without having joined, since the last
        call.

        Either may be right: a viewer may ask again, and be live itself for a while.
        """
        twice, self._twice = self._twice, set()
        never, self._never = self._never, set()
        return twice, never

    def hear(self, message: Message) -> None:
        assert message["streamId"] == self.stream_id
        match message["type"]:
            case "viewer-count":
                self.count = message["count"]
            case "viewer-joined":
                self._admit(message["viewerId"])
            case "viewer-left":
                self._dismiss(message["viewerId"])
            case "broadcaster-ready-signal":
                self._ready = True
            case "stream-ended" | "broadcaster-disconnected":
                self._ready = False
            case "stream-end-confirmed":
                self._end()
                self._is_broadcaster = False
                self._ready = None
            case "error" if message["code"] == "stream_taken":
                assert self._is_broadcaster, "a viewer has no stream to lose"
                self.taken = True
            case "error":
                assert message["code"] == "not_allowed", message
                self._end()
            case other:
                raise AssertionError(f"unexpected: {other}")

    def _admit(self, viewer_id: str) -> None:
        assert self._is_broadcaster, "a viewer was told about viewers"
        if viewer_id in self._viewers:
            self._twice.add(viewer_id)
        self._viewers.add(viewer_id)

    def _dismiss(self, viewer_id: str) -> None:
        assert self._is_broadcaster, "a viewer was told about viewers"
        if viewer_id not in self._viewers:
            self._never.add(viewer_id)
        self._viewers.discard(viewer_id)

    def _end(self) -> None:
        assert self._ends_asked, "an answer without a request"
        self._ends_asked -= 1

    def differs(self, me: Truth, others: Sequence[Truth]) -> str:
        found = compare("count", self.count, len(others) + 1)
        found += compare("ends not answered", self._ends_asked, 0)
        if me.media:
            return found + self._viewers_differ(others)
        if self._ready and not live_users(others):
            found += "told that a broadcast goes on, and none does. "
        return found

    def _viewers_differ(self, others: Sequence[Truth]) -> str:
        """Peers that were live beside the broadcaster need not be viewers."""
        may = {peer.peer_id for peer in others}
        must = {peer.peer_id for peer in others if not peer.was_live}
        if must <= self._viewers <= may:
            return ""
        return f"viewers: told {self._viewers}, true {must} of {may}. "
