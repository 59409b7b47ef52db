"""Sessions without a socket, which record what their clients receive."""

from tests.clients import Message
from tests.conftest import settings
from tests.raw import split_frames
from trio_signal.alarm import Alarm
from trio_signal.dialects import Dialect
from trio_signal.limits import Limits
from trio_signal.metrics import Metrics
from trio_signal.resumption import Frames
from trio_signal.session import Session


class Recorder:
    """Frames on their way to a client that takes all of them at once."""

    behind = overflowed = False

    def __init__(self) -> None:
        self._frames: list[bytes] = []

    @property
    def size(self) -> int:
        return sum(map(len, self._frames))

    def put(self, frame: bytes) -> bool:
        self._frames.append(frame)
        return True

    def release(self) -> None:
        """Take no more."""

    def take(self) -> list[Message]:
        """What arrived since the last call."""
        frames, rest = split_frames(b"".join(self._frames))
        assert rest == b""
        self._frames.clear()
        return [frame.message for frame in frames]


_SETTINGS, _METRICS = settings(), Metrics()


def make_session(peer_id: str, dialect: Dialect, outbox: Frames | None = None) -> Session:
    """A session that is in no room yet and has no connection."""
    return Session(
        peer_id,
        dialect,
        Recorder() if outbox is None else outbox,
        Alarm(),
        lease=Limits(_SETTINGS).admit("192.0.2.1", 0),
        metrics=_METRICS,
    )
