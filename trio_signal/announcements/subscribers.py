"""Subscribers: the peers of this replica that hear announcements."""

from collections.abc import Collection

from trio_signal.bus import Board
from trio_signal.dialects import Dialect
from trio_signal.dialects.wire import type_of
from trio_signal.messages.events import Acknowledged, AnnouncementEvent
from trio_signal.metrics import Metrics
from trio_signal.session import Session, close_untold
from trio_signal.websocket import text_frame


class Subscribers:
    """Who hears announcements here, and how many users these are."""

    def __init__(self, board: Board | None, metrics: Metrics) -> None:
        """Begin with nobody. The board is told of users that come and go."""
        self.peers: set[Session] = set()
        self._users: dict[str, int] = {}
        self._board = board
        self._metrics = metrics

    @property
    def users(self) -> int:
        """How many users there are."""
        return len(self._users)

    def add(self, peer: Session) -> None:
        """Let a peer hear announcements. Does not block."""
        if peer.identity is None or peer in self.peers:
            return
        user_id = peer.identity.user_id
        self.peers.add(peer)
        self._users[user_id] = self._users.get(user_id, 0) + 1
        if self._board is not None and self._users[user_id] == 1:
            self._board.add_user(user_id)

    def remove(self, peer: Session) -> None:
        """Let it hear no more, if it did. Does not block."""
        if peer.identity is None or peer not in self.peers:
            return
        user_id = peer.identity.user_id
        self.peers.remove(peer)
        self._users[user_id] -= 1
        if not self._users[user_id]:
            del self._users[user_id]
            if self._board is not None:
                self._board.remove_user(user_id)

    def tell(self, event: AnnouncementEvent) -> None:
        """Tell an event, which is encoded once a dialect. Does not block.

        How many have acknowledged is for the announcement's creator and the creator's team.
        """
        speakers: dict[type[Dialect], list[Session]] = {}
        for peer in self.peers:
            if not isinstance(event, Acknowledged) or _is_of_team(peer, event):
                speakers.setdefault(type(peer.dialect), []).append(peer)
        for dialect, peers in speakers.items():
            try:
                frames = [(notice.text, text_frame(notice.text)) for notice in dialect.tell(event)]
            except Exception:
                close_untold(peers, event)
                continue
            for text, frame in frames:
                self._send(dialect, peers, text, frame)

    def _send(
        self, dialect: type[Dialect], peers: Collection[Session], text: bytes, frame: bytes
    ) -> None:
        for peer in peers:
            peer.send_frame(frame)
        self._metrics.messages_out[dialect.name][type_of(text)] += len(peers)
        self._metrics.fan_out.observe(len(peers))


def _is_of_team(peer: Session, event: Acknowledged) -> bool:
    """Whether a peer is the creator's own, or of the creator's team."""
    creator, identity = event.announcement.created_by, peer.identity
    return identity is not None and creator in (identity.user_id, identity.grants.team_of)
