"""A few seconds of what `make fuzz-redis` does for ten minutes."""

from pathlib import Path

from fuzz.redis import fuzz
from tests.replicas.guests import PATIENCE


async def test_replicas_survive_junk_in_redis(tmp_path: Path) -> None:
    await fuzz(tmp_path, seconds=5, seed=1, within=PATIENCE)
