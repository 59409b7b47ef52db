"""Many users, on several replicas."""

from contextlib import AsyncExitStack

import trio

from tests.announcements.office import Office
from tests.clients import PATIENCE, Client, settle

CLIENTS = 120


async def test_every_client_of_a_crowd_receives_an_announcement_once(office: Office) -> None:
    """Each receives it once and acknowledges it; the creator hears the total, at a limited rate."""
    async with AsyncExitStack() as stack:
        names = [f"user{number}" for number in range(CLIENTS)]
        users = [await stack.enter_async_context(office.attend(name)) for name in names]
        boss = await stack.enter_async_context(office.attend("boss"))
        await settle(*users, boss)
        with trio.fail_after(PATIENCE):  # one replica may lag behind another
            while (await office.stats())["connected_users_total"] <= CLIENTS:  # noqa: ASYNC110
                await trio.sleep(0.02)
        _, answer = await office.call("POST", "", "boss", json={"message": "Hello, everybody"})
        assert answer["sent_to_users"] == CLIENTS + 1
        for user in (*users, boss):
            message = await user.expect("new_broadcast")
            assert message["broadcast"]["id"] == answer["id"]
        async with trio.open_nursery() as nursery:
            for user in users:
                nursery.start_soon(acknowledge, user, answer["id"])
        await boss.wait_for("broadcast_acknowledged", acknowledged=CLIENTS)
        for user in users:
            await user.expect_nothing()


async def acknowledge(user: Client, id_: str) -> None:
    await user.send("acknowledge_broadcast", broadcast_id=id_)


async def test_each_replica_counts_its_own(office: Office) -> None:
    """Two users on the first replica, three on the second, one on the third; or all on one."""
    bases = len(office.service.bases)
    where = [0, 0, 1, 1, 1, 2] if bases == 3 else [0] * 6
    async with AsyncExitStack() as stack:
        for number, at in enumerate(where):
            user = await stack.enter_async_context(office.attend(f"user{number}", at=at))
            await settle(user)
        for at in range(bases):
            stats = await office.stats(at=at)
            assert stats["connected_users"] == where.count(at)
            assert stats["connected_users_total"] == 6


async def test_an_announcement_by_any_replica_reaches_all(office: Office) -> None:
    bases = range(len(office.service.bases))
    async with AsyncExitStack() as stack:
        users = [await stack.enter_async_context(office.attend(f"u{at}", at=at)) for at in bases]
        for at in bases:
            id_ = await office.announce(f"by {at}", at=at)
            for user in users:
                message = await user.expect("new_broadcast")
                assert message["broadcast"]["id"] == id_
            assert {await office.active("eve", at=each) for each in bases} == {id_}
