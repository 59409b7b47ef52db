"""A rolling upgrade: the previous version and this one run side by side.

They share one Redis and one database, and read what the other writes. The old version is
taken from the Git history, and runs with the packages of this environment.
"""

import io
import subprocess
import sys
import tarfile
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest
import trio

from tests.clients import PATIENCE
from tests.raw import RawClient, open_raw
from tests.replicas.guests import Guest, Party, open_party
from tests.replicas.processes import Cluster, Replica, open_cluster, server_environment

#: The previous version: 0.1. Both versions are in use while a service is upgraded.
OLD = "1ef009cf256ccbfe2a8b3defa34558335c9cca81"
ROOT = Path(__file__).parents[2]
BROADCAST = "/api/creator/broadcast"


def git(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=False)


def is_known() -> bool:
    return git("cat-file", "-e", f"{OLD}^{{commit}}").returncode == 0


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """The settings that make a replica run the old version."""
    if not is_known() and git("rev-parse", "--is-shallow-repository").stdout.strip() == b"true":
        git("fetch", "--quiet", "--unshallow")
    if not is_known():
        pytest.fail(f"commit {OLD} is not in this clone: fetch the whole history")
    directory = tmp_path_factory.mktemp("old")
    archive = git("archive", "--format=tar", OLD, "trio_signal").stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(directory, filter="data")
    # Without a safe path, the working directory with the new version would come first.
    return {"PYTHONPATH": directory, "PYTHONSAFEPATH": 1}


def test_the_old_version_is_not_this_one(old: dict[str, object]) -> None:
    command = [sys.executable, "-c", "import trio_signal; print(trio_signal.__file__)"]
    found = subprocess.run(
        command, env=server_environment(old), capture_output=True, text=True, check=True
    )
    assert Path(found.stdout).is_relative_to(str(old["PYTHONPATH"]))


async def test_both_versions_understand_each_other(tmp_path: Path, old: dict[str, object]) -> None:
    database = f"sqlite:///{tmp_path / 'announcements.db'}"
    async with open_cluster(tmp_path, 0, DATABASE_URL=database) as cluster:
        before = await cluster.add(**old)
        await before.wait_status("ready")
        now = await cluster.add()
        await now.wait_status("ready")
        for here, there in ((before, now), (now, before)):
            await check_presence_and_signals(here, there)
            await check_room(here, there)
            await check_announcements(here, there)
        await check_users_counted(before, now)
        await check_kill(cluster, before, survivor=now)
        again = await cluster.add(**old)
        await again.wait_status("ready")
        await check_kill(cluster, now, survivor=again)
        # Announcements stay; nothing else may.
        names = ("broadcast:", "trio_signal:acknowledged:", "trio_signal:edition")
        kept = [key for key in await cluster.keys() if key.startswith(names)]
        await cluster.redis.ask("DEL", *kept)


async def check_presence_and_signals(here: Replica, there: Replica) -> None:
    """Guests on the other replica see what a guest here does, including a late joiner."""
    async with open_party() as party:
        witness = await party.join("witness", there)
        await party.watch("user", there)
        actor = await party.join("actor", here)
        await party.agree()
        await actor.go_live()
        await party.agree()
        await party.join("late", there)
        await party.agree()
        await actor.say("offer", offer={"sdp": "o"}, to="witness")
        assert (await witness.wait_received("offer"))["offer"] == {"sdp": "o"}
        await witness.say("answer", answer="a", to="actor")
        assert (await actor.wait_received("answer"))["answer"] == "a"
        await actor.say("message", data="to all")
        assert (await witness.wait_received("message"))["data"] == "to all"
        await actor.stop()
        await party.agree()
        await check_taken_over(party, there)
        await party.guests["actor"].leave()
        await party.agree()


async def check_taken_over(party: Party, there: Replica) -> None:
    """The newer connection of a guest replaces the older one on the other version."""
    older = party.guests["actor"]
    party.forget(older)
    await party.join("actor", there)
    assert (await older.wait_gone()).code == 4409
    await party.agree()


async def check_room(here: Replica, there: Replica) -> None:
    """Chat, names, and rooms to return to."""
    room = f"room-{here.base.rpartition(':')[2]}"
    async with AsyncExitStack() as stack:
        bob = await open_client(stack, there, f"/ws/{room}/bob?username=Bob")
        await bob.wait_for("room_state")
        ann = await open_client(stack, here, f"/ws/{room}/ann?username=Ann")
        assert (await bob.wait_for("user_joined"))["username"] == "Ann"
        await ann.say({"type": "message", "content": "Hello"})
        assert (await bob.wait_for("message"))["content"] == "Hello"
        await ann.say({"type": "typing_start"})
        await bob.wait_for("typing_start")
        await ann.say({"type": "profile_updated", "username": "Anna", "prevUsername": "Ann"})
        assert (await bob.wait_for("profile_updated"))["username"] == "Anna"
        signal = {"type": "offer", "sdp": "o"}
        await ann.say({"type": "webrtc-signal", "target_user_id": "bob", "signal": signal})
        assert (await bob.wait_for("webrtc-signal"))["signal"] == signal
        for replica in (here, there):
            (kept,) = await replica.get(f"/rooms/{room}/messages")
            assert (kept["content"], kept["username"]) == ("Hello", "Ann")
            users = (await replica.get(f"/rooms/{room}"))["users"]
            assert [user["user_id"] for user in users] == ["bob", "ann"]
        ann.reset()
        assert (await bob.wait_for("user_left"))["username"] == "Anna"
        await open_client(stack, there, f"/ws/{room}/ann")
        assert (await bob.wait_for("user_joined"))["username"] == "Anna", "the name was not kept"


async def open_client(stack: AsyncExitStack, replica: Replica, path: str) -> RawClient:
    client = await stack.enter_async_context(open_raw(replica.base))
    await client.upgrade(path)
    return client


async def check_announcements(here: Replica, there: Replica) -> None:
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(httpx.AsyncClient(timeout=30))
        boss = await open_client(stack, here, f"{BROADCAST}/ws?user_id=boss")
        await boss.wait_for("connected")
        ann = await open_client(stack, there, f"{BROADCAST}/ws?user_id=ann")
        await ann.wait_for("connected")
        url = f"http://{here.base}{BROADCAST}"
        made = await http.post(url, params={"user_id": "boss"}, json={"message": "Hello"})
        id_ = made.json()["id"]
        assert (await ann.wait_for("new_broadcast"))["broadcast"]["id"] == id_
        bob = await open_client(stack, there, f"{BROADCAST}/ws?user_id=bob")
        assert (await bob.wait_for("active_broadcast"))["broadcast"]["id"] == id_
        await ann.say({"type": "acknowledge_broadcast", "broadcast_id": id_})
        assert (await boss.wait_for("broadcast_acknowledged"))["acknowledged"] == 1
        url = f"http://{there.base}{BROADCAST}/clear"
        (await http.post(url, params={"user_id": "boss"})).raise_for_status()
        await boss.wait_for("broadcast_cleared")


async def check_users_counted(old: Replica, new: Replica) -> None:
    """This version counts the users of both versions, each once."""
    async with AsyncExitStack() as stack:
        for user, replicas in {"ann": [old], "bob": [new], "eve": [old, new]}.items():
            for replica in replicas:
                client = await open_client(stack, replica, f"{BROADCAST}/ws?user_id={user}")
                await client.wait_for("connected")
        with trio.fail_after(PATIENCE):
            while True:
                stats = (await new.get(f"{BROADCAST}/stats?user_id=boss"))["stats"]
                if (stats["connected_users"], stats["connected_users_total"]) == (2, 3):
                    break
                await trio.sleep(0.02)


async def check_kill(cluster: Cluster, victim: Replica, survivor: Replica) -> None:
    """The peers of a killed replica leave, as the replica of the other version reports."""
    async with open_party() as party:
        witness = await party.join("witness", survivor)
        lost = [await party.join(f"lost-{number}", victim) for number in range(3)]
        await lost[0].go_live()
        await party.agree()
        party.forget_all(victim)
        await cluster.kill(victim)
        await party.agree()
        assert departures(witness, lost[0]) == ["broadcast_stopped", "user_left"]


def departures(witness: Guest, guest: Guest) -> list[str]:
    return witness.told_of(guest.name)[-2:]
