"""Exceptions, and the one table of close codes."""

from collections.abc import Mapping
from enum import Enum, IntEnum, auto
from http import HTTPStatus
from typing import Literal, NamedTuple

from trio_signal.messages.events import NotResumedReason, Refusal


class TrioSignalError(Exception):
    """Base of all exceptions that this package raises deliberately."""


class ConfigError(TrioSignalError):
    """A setting is wrong; the text names it and what is allowed."""


class SettingError(ConfigError):
    """A setting has an invalid value, or settings contradict each other."""


class AuthenticationError(TrioSignalError):
    """The credentials are missing or not valid; the text is for the client."""


class IdentityMismatchError(AuthenticationError):
    """The client claims another identity than its token."""


class LoginError(TrioSignalError):
    """Name or password are wrong, or the next attempt is allowed after `wait` seconds."""

    def __init__(self, wait: float) -> None:
        super().__init__("Incorrect username or password")
        self.wait = wait


class LoginBusyError(LoginError):
    """Too many logins wait to be checked, so this one was not checked."""


class JoinRefusedError(TrioSignalError):
    """The directory did not let a peer into a room."""

    def __init__(self, reason: Refusal) -> None:
        super().__init__(reason.name)
        self.reason = reason


class NotResumedError(TrioSignalError):
    """A client cannot resume the session that it had before."""

    def __init__(self, reason: NotResumedReason) -> None:
        super().__init__(reason.name)
        self.reason = reason


class IdTooLongError(TrioSignalError):
    """An id in a request target is longer than ids may be."""


class UnconfirmedError(TrioSignalError):
    """Not all replicas confirmed a call in time. It may still be carried out."""


class SdpError(TrioSignalError):
    """A session description cannot be used; the text is for its sender."""


class NotPublishedError(TrioSignalError):
    """The room or the media server refuses a broadcast by WHIP; the text is for its client."""

    def __init__(self, text: str, refusal: Refusal | None = None) -> None:
        """`refusal` is the room's reason, if the room refused."""
        super().__init__(text)
        self.refusal = refusal


class StoreError(TrioSignalError):
    """The database cannot be reached, or takes too long."""


class BoardError(TrioSignalError):
    """The storage that the replicas share cannot be reached, or takes too long."""


class AnnouncementError(TrioSignalError):
    """An announcement is refused. The text says why, and is for its creator."""


class UnknownAnnouncementError(TrioSignalError):
    """No announcement with this id is active."""


class WebSocketError(TrioSignalError):
    """The client broke the WebSocket protocol or a limit of ours."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}")
        self.code = code
        self.reason = reason


class WorkerError(TrioSignalError):
    """A worker process failed to start."""


class Reason(Enum):
    """Why a client was refused something; docs/metrics.md explains each."""

    # Before the WebSocket is open
    HEAD_TIMEOUT = auto()
    HEAD_TOO_BIG = auto()
    BAD_REQUEST = auto()
    UNKNOWN_PATH = auto()
    ID_TOO_LONG = auto()
    ORIGIN = auto()
    CONNECTIONS = auto()
    CONNECTIONS_PER_IP = auto()
    CONNECTS_PER_IP = auto()
    UNAUTHENTICATED = auto()
    AUTH_FAILURES_PER_IP = auto()
    HOST = auto()
    # HTTP requests
    HTTP_RATE = auto()
    HTTP_BYTES = auto()
    # After the WebSocket is open
    AUTHENTICATION = auto()
    AUTHENTICATION_TIMEOUT = auto()
    MALFORMED = auto()
    MESSAGE_TOO_BIG = auto()
    MESSAGE_RATE = auto()
    MESSAGE_RATE_PER_IP = auto()
    RESUMES_PER_IP = auto()


class RequestRefusedError(TrioSignalError):
    """A request is refused with an HTTP status; the text is for the client."""

    def __init__(
        self, status: HTTPStatus, reason: Reason, text: str, retry_after: float | None = None
    ) -> None:
        """`retry_after` is in seconds."""
        super().__init__(text)
        self.status = status
        self.reason = reason
        self.retry_after = retry_after


class HttpError(TrioSignalError):
    """A request is answered by an error; the text is for the client."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers or {}


class CloseCode(IntEnum):
    """Why a connection was closed. RFC 6455 section 7.4; ours are 4000 and up."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    INVALID_TEXT = 1007
    POLICY = 1008
    TOO_BIG = 1009
    INTERNAL_ERROR = 1011
    TRY_AGAIN_LATER = 1013
    AUTHENTICATION_FAILED = 4001
    NOT_ALLOWED_HERE = 4004
    REPLACED = 4409


Reconnect = Literal["no", "at once", "with backoff", "with a new token"]


class CloseMeaning(NamedTuple):
    """What a client should know about a close code."""

    meaning: str
    reconnect: Reconnect


CLOSE_CODES: dict[CloseCode, CloseMeaning] = {
    CloseCode.NORMAL: CloseMeaning("Closed as asked.", "no"),
    CloseCode.GOING_AWAY: CloseMeaning("The server is going away.", "at once"),
    CloseCode.PROTOCOL_ERROR: CloseMeaning("Not valid WebSocket traffic.", "no"),
    CloseCode.UNSUPPORTED_DATA: CloseMeaning("Binary data; only text messages are accepted.", "no"),
    CloseCode.INVALID_TEXT: CloseMeaning("Text that is not UTF-8.", "no"),
    CloseCode.POLICY: CloseMeaning(
        "Refused: authentication, rate limit, identity in use, too many malformed "
        "messages; the reason says which.",
        "no",
    ),
    CloseCode.TOO_BIG: CloseMeaning("A message over the size limit.", "no"),
    CloseCode.INTERNAL_ERROR: CloseMeaning(
        "An error of the server, or no sign of life from the client.", "with backoff"
    ),
    CloseCode.TRY_AGAIN_LATER: CloseMeaning(
        "Overload, a full room, or the client reads too slowly.", "with backoff"
    ),
    CloseCode.AUTHENTICATION_FAILED: CloseMeaning(
        "Authentication failed (dialect `live`).", "with a new token"
    ),
    CloseCode.NOT_ALLOWED_HERE: CloseMeaning(
        "No such room, or not allowed in it (dialect `room`).", "no"
    ),
    CloseCode.REPLACED: CloseMeaning("Replaced by a newer connection of the same identity.", "no"),
}
