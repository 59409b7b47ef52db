"""Exceptions that a client's user may want to catch."""

from http import HTTPStatus

from trio_signal.errors import CLOSE_CODES, CloseCode, TrioSignalError


class ClosedError(TrioSignalError):
    """The server closed the connection, with this `code` and `reason`."""

    def __init__(self, code: int, reason: str) -> None:
        """Take code and reason of the close frame; 1006 if there was none."""
        super().__init__(f"{reason or 'closed'} ({code})")
        self.code = code
        self.reason = reason


class NotConnectedError(TrioSignalError):
    """No connection could be made. `reason` is a text, `status` the HTTP status, if there was
    one.
    """

    def __init__(self, reason: str, status: int | None = None) -> None:
        """Take the reason as a text."""
        super().__init__(reason)
        self.reason = reason
        self.status = status


class SlowReaderError(TrioSignalError):
    """The event queue was full for too long."""


class MediaError(TrioSignalError):
    """No audio or video arrives from a peer, and none will."""


#: Refusals that may be temporary.
_PASSING = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}


def is_final(error: TrioSignalError, *, new_token: bool = False) -> bool:
    """Whether another attempt would fail in the same way; `new_token`: it would use a new token."""
    match error:
        case ClosedError(code=code) if code in CLOSE_CODES:
            again = CLOSE_CODES[CloseCode(code)].reconnect
            return again == "no" or (again == "with a new token" and not new_token)
        case NotConnectedError(status=int(status)):
            return 400 <= status < 500 and status not in _PASSING
        case ClosedError() | NotConnectedError():
            return False
        case _:
            return True


def is_at_once(error: TrioSignalError) -> bool:
    """Whether the first reconnect needs no pause."""
    return (
        isinstance(error, ClosedError)
        and error.code in CLOSE_CODES
        and CLOSE_CODES[CloseCode(error.code)].reconnect == "at once"
    )
