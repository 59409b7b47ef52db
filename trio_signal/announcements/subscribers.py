"""Subscribers: the sessions of this replica that receive announcements."""

from collections.abc import Collection
from itertools import islice

import trio

from trio_signal.bus import Board
from trio_signal.dialects import Dialect
from trio_signal.dialects.wire import type_of
from trio_signal.messages.events import Acknowledged, AnnouncementEvent
from trio_signal.messages.identity import Announcement
from trio_signal.metrics import Metrics
from trio_signal.session import Session, close_untold
from trio_signal.websocket import text_frame


class Subscribers:
    """The sessions that receive announcements here, and the number of their users."""

    def __init__(self, board: Board | None, metrics: Metrics) -> None:
        """Begin with none. The board is notified of users that come and go."""
        self.sessions: set[Session] = set()
        #: Sessions waiting for the active announcement, and the event to set when they have it.
        self._asking: dict[Session, trio.Event] = {}
        self._asked = trio.Event()
        self._users: dict[str, int] = {}
        self._board = board
        self._metrics = metrics

    @property
    def users(self) -> int:
        """How many users there are."""
        return len(self._users)

    def add(self, session: Session) -> None:
        """Send announcements to a session. Does not block."""
        if session.identity is None or session in self.sessions:
            return
        user_id = session.identity.user_id
        self.sessions.add(session)
        self._users[user_id] = self._users.get(user_id, 0) + 1
        if self._board is not None and self._users[user_id] == 1:
            self._board.add_user(user_id)

    def remove(self, session: Session) -> None:
        """Stop sending announcements to a session. Does not block."""
        if session.identity is None or session not in self.sessions:
            return
        user_id = session.identity.user_id
        self.settle(session)
        self.sessions.remove(session)
        self._users[user_id] -= 1
        if not self._users[user_id]:
            del self._users[user_id]
            if self._board is not None:
                self._board.remove_user(user_id)

    def ask(self, session: Session) -> trio.Event:
        """Record that a session waits for the active announcement; the event ends the wait."""
        self._asked.set()
        return self._asking.setdefault(session, trio.Event())

    async def wait_asked(self, most: int) -> list[Session]:
        """Wait for waiting sessions; return the first ones, which keep waiting until `settle`."""
        while not self._asking:
            self._asked = trio.Event()
            await self._asked.wait()
        return list(islice(self._asking, most))

    def settle(self, session: Session) -> bool:
        """The session needs no answer any more; return whether it was waiting. Does not block."""
        told = self._asking.pop(session, None)
        if told is not None:
            told.set()
        return told is not None

    def tell_new(self, event: AnnouncementEvent) -> None:
        """Send to all that the active announcement has changed; this settles waiting sessions."""
        for session in list(self._asking):
            self.settle(session)
        self.tell(event)

    def tell_count(self, announcement: Announcement, acknowledged: int) -> None:
        """Send how many users have acknowledged an announcement. Does not block."""
        self.tell(Acknowledged(announcement, acknowledged))

    def tell(self, event: AnnouncementEvent) -> None:
        """Send an event, which is encoded once per dialect. Does not block.

        Counts of acknowledgements go only to the announcement's creator and the creator's team.
        """
        speakers: dict[type[Dialect], list[Session]] = {}
        for session in self.sessions:
            if not isinstance(event, Acknowledged) or _is_of_team(session, event):
                speakers.setdefault(type(session.dialect), []).append(session)
        for dialect, sessions in speakers.items():
            try:
                frames = [(notice.text, text_frame(notice.text)) for notice in dialect.tell(event)]
            except Exception:
                close_untold(sessions, event)
                continue
            for text, frame in frames:
                self._send(dialect, sessions, text, frame)

    def _send(
        self, dialect: type[Dialect], sessions: Collection[Session], text: bytes, frame: bytes
    ) -> None:
        for session in sessions:
            session.send_frame(frame)
        self._metrics.messages_out[dialect.name][type_of(text)] += len(sessions)
        self._metrics.fan_out.observe(len(sessions))


def _is_of_team(session: Session, event: Acknowledged) -> bool:
    """Whether a session belongs to the creator, or to the creator's team."""
    creator, identity = event.announcement.created_by, session.identity
    return identity is not None and creator in (identity.user_id, identity.grants.team_of)
