"""A replica dies or is silent beyond its lease: what clients of other replicas see."""

import signal
from pathlib import Path

import trio

from tests.replicas.guests import Guest, Party, open_party
from tests.replicas.processes import LEASE, LONG_LEASE, Cluster, open_cluster


async def fill(party: Party, cluster: Cluster) -> None:
    """Three peers at each replica, one of them live, and a user of dialect `room`."""
    for i, replica in enumerate(cluster.replicas):
        for j in range(3):
            guest = await party.join(f"guest-{i}-{j}", replica)
            if j == 0:
                await guest.go_live()
        await party.watch(f"user-{i}", replica)
    await party.agree()
    for guest in party.guests.values():
        guest.told.clear()


def check_told_gone(witness: Guest, gone: list[Guest]) -> None:
    """Check that each guest stopped, if it was live, and then left, once; and nobody else did."""
    for guest in gone:
        expected = ["broadcast_stopped", "user_left"] if guest.media else ["user_left"]
        assert witness.told_of(guest.name) == expected
    assert {told.name for told in witness.told} == {guest.name for guest in gone}


async def test_peers_of_a_killed_replica_leave(tmp_path: Path) -> None:
    async with open_cluster(tmp_path) as cluster, open_party() as party:
        await fill(party, cluster)
        gone = party.forget_all(cluster.replicas[0])
        await cluster.kill(cluster.replicas[0])
        killed = trio.current_time()
        await party.agree()
        # By then, any wrong leave would have been reported.
        await trio.sleep_until(killed + LEASE + 2)
        for witness in party.guests.values():
            check_told_gone(witness, gone)
        times = [told.at - killed for witness in party.guests.values() for told in witness.told]
        print(f"told after {min(times):.2f} to {max(times):.2f} s")


async def test_the_last_replica_notices_that_all_others_were_killed(tmp_path: Path) -> None:
    """It finds out without any other replica."""
    async with open_cluster(tmp_path) as cluster, open_party() as party:
        await fill(party, cluster)
        gone = [guest for replica in cluster.replicas[1:] for guest in party.forget_all(replica)]
        for replica in cluster.replicas[1:]:
            await cluster.kill(replica)
        await party.agree()
        for witness in party.guests.values():
            check_told_gone(witness, gone)


async def test_peers_leave_if_a_replica_is_killed_during_an_outage_of_redis(tmp_path: Path) -> None:
    """Redis forgets its lease with everything else; it is enough that it does not return."""
    async with open_cluster(tmp_path) as cluster, open_party() as party:
        await fill(party, cluster)
        await cluster.redis.kill()
        gone = party.forget_all(cluster.replicas[0])
        await cluster.kill(cluster.replicas[0])
        await cluster.redis.start()
        print(f"told {await party.agree():.2f} s after Redis is back")
        for witness in party.guests.values():
            check_told_gone(witness, gone)


async def test_a_suspended_replica_returns_with_its_peers(tmp_path: Path) -> None:
    """Its clients' sockets stayed open: they are told what happened, like all others."""
    async with open_cluster(tmp_path) as cluster, open_party() as party:
        await fill(party, cluster)
        frozen, other, _ = cluster.replicas
        absent = party.at(frozen)
        witness, leaver, *_ = party.at(other)
        frozen.send(signal.SIGSTOP)
        await witness.wait_told("user_left", *[guest.name for guest in absent])
        check_told_gone(witness, absent)
        await party.join("newcomer", other)
        await leaver.leave()
        frozen.send(signal.SIGCONT)
        print(f"all views are right after {await party.agree():.2f} s")
        for guest in absent:
            came_back = ["user_joined", "broadcast_started"] if guest.media else ["user_joined"]
            assert witness.told_of(guest.name)[-len(came_back) :] == came_back
            assert guest.told_of("newcomer") == ["user_joined"]
            assert guest.told_of(leaver.name) == ["user_left"]


async def test_a_short_suspension_is_not_noticed(tmp_path: Path) -> None:
    """Much shorter than the lease, so nobody is told anything."""
    async with (
        open_cluster(tmp_path, TRIO_SIGNAL_LEASE=LONG_LEASE) as cluster,
        open_party() as party,
    ):
        await fill(party, cluster)
        for _ in range(3):
            cluster.replicas[0].send(signal.SIGSTOP)
            await trio.sleep(LEASE / 3)
            cluster.replicas[0].send(signal.SIGCONT)
            await party.at(cluster.replicas[0])[0].settle()
        assert [guest.told for guest in party.guests.values()] == [[]] * len(party.guests)
