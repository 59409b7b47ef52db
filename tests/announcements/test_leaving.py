"""Users are no longer counted once they left, however they leave."""

import pytest
import trio

from tests.announcements.office import WEBSOCKET, open_office
from tests.clients import PATIENCE
from tests.conftest import Serve
from tests.leaving import WAYS, Way
from tests.raw import open_raw


@pytest.mark.parametrize("way", [w for n, w in WAYS.items() if n != "send_nonsense"])
async def test_users_who_leave_are_no_longer_counted(serve: Serve, way: Way) -> None:
    async with (
        serve(**way.settings) as service,
        open_office(service) as office,
        open_raw(service.base) as ann,
    ):
        await ann.upgrade(f"{WEBSOCKET}?user_id=ann")
        await ann.wait_for("connected")
        assert (await office.stats())["connected_users"] == 1
        await way.leave(ann)
        with trio.fail_after(PATIENCE):
            while (await office.stats())["connected_users"]:  # noqa: ASYNC110
                await trio.sleep(0.02)
        _, answer = await office.call("POST", "", json={"message": "Hello"})
        assert answer["sent_to_users"] == 0
