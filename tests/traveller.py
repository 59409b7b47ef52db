"""A client that resumes as the same peer, without I/O; it keeps unconfirmed messages."""

from collections import deque
from typing import Any

UNCOUNTED = {"auth_required", "auth_success", "resumed", "not_resumed", "pong", "token_expiring"}


class Traveller:
    """One client; it sends numbers, and records the numbers it receives.

    It is given the server's messages, and asked for its own. It does not know what is lost.
    """

    def __init__(self, name: str, to: str | None = None, **claims: Any) -> None:
        self.name = name
        #: The receiver of its numbers; everybody if None.
        self.to = to
        self.claims = {"token": name, "clientId": name, "username": name, **claims}
        self.session: str | None = None
        #: Counted messages sent and received in this session.
        self.said = self.got = 0
        #: Unconfirmed messages, oldest first.
        self.kept: deque[dict[str, Any]] = deque()
        self.number = 0
        self.heard: list[int] = []
        #: Types of all other messages received on the last connection.
        self.types: list[str] = []
        #: The reasons of failed resumes.
        self.refusals: list[str] = []
        self.resumes = 0
        #: Whether the handshake is done; until then its messages are only kept.
        self.is_in = False

    def hello(self) -> dict[str, Any]:
        """The first message on a connection."""
        self.types.clear()
        self.is_in = False
        if self.session is None:
            return {"type": "auth_token", **self.claims, "resume": True}
        return {"type": "auth_token", **self.claims, "session": self.session, "received": self.got}

    def say(self, **fields: Any) -> dict[str, Any]:
        """The next number, or any other message, which is counted as well."""
        if not fields:
            self.number += 1
            fields = {"type": "message", "data": self.number} | ({"to": self.to} if self.to else {})
        self.said += 1
        self.kept.append(fields)
        return fields

    def ping(self) -> dict[str, Any]:
        return {"type": "ping", "received": self.got}

    def hear(self, message: dict[str, Any]) -> list[dict[str, Any]]:
        """Process a message; return the messages to send in response."""
        type_ = message["type"]
        self.got += type_ not in UNCOUNTED
        match type_:
            case "message":
                self.heard.append(message["data"])
                return []
            case "auth_success":
                self.session = message["session"]["id"]
                self.said = self.got = 0
                self.kept.clear()
                self.is_in = True
            case "resumed":
                assert self.types == ["auth_required"], self.types
                self.resumes += 1
                self.is_in = True
                self._confirm(message["received"])
                self.types.append(type_)
                return list(self.kept)
            case "not_resumed":
                self.refusals.append(message["reason"])
            case "pong":
                self._confirm(message["received"])
        self.types.append(type_)
        return []

    def _confirm(self, received: int) -> None:
        assert self.said - len(self.kept) <= received <= self.said, (received, self.said, self.kept)
        while self.said - len(self.kept) < received:
            self.kept.popleft()
