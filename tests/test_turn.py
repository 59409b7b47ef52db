"""Our TURN credentials against a real coturn."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import settings
from tests.coturn import SECRET, run_coturn, use_turn
from trio_signal.ice import TurnCredentials, turn_credentials


@pytest.fixture(scope="module")
def turn_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with run_coturn(Path(tmp_path_factory.mktemp("coturn"))) as port:
        yield port


def credentials(user_id: str = "ann", *, ago: float = 0, secret: str = SECRET) -> TurnCredentials:
    """Credentials that are valid for a minute and were made some time ago."""
    given = settings(turn_urls="turn:127.0.0.1", turn_secret=secret, turn_ttl=60)
    made = time.time() - ago
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time", lambda: made)
        return turn_credentials(given, user_id)


def is_accepted(port: int, given: TurnCredentials) -> bool:
    done = use_turn(port, *given)
    if done.returncode == 0:
        assert "tot_recv_msgs=6" in done.stdout + done.stderr
        return True
    assert "Cannot complete Allocation" in done.stdout + done.stderr
    return False


@pytest.mark.parametrize("user_id", ["ann", "ann@example.com", "Zoë: a user?"])
def test_coturn_accepts_our_credentials(turn_port: int, user_id: str) -> None:
    assert is_accepted(turn_port, credentials(user_id))


def test_coturn_refuses_expired_credentials(turn_port: int) -> None:
    assert not is_accepted(turn_port, credentials(ago=62))


def test_coturn_refuses_forged_credentials(turn_port: int) -> None:
    expired, good = credentials(ago=62), credentials()
    user = good.username.partition(":")[2]
    for forged in (
        expired._replace(username=good.username),
        good._replace(username=f"{int(time.time()) + 9999}:{user}"),
        good._replace(username=good.username + "x"),
        good._replace(credential=credentials("bob").credential),
        credentials(secret="another secret"),
    ):
        assert not is_accepted(turn_port, forged)
