"""Real processes under faults that meet, for a few seconds: what `make torture` does for as long as one likes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.redis_process import redis_server_binary
from tests.torture.run import Settings, run

SECONDS = 10.0
SEED = 20261125


@pytest.mark.slow
@pytest.mark.timeout(400)  # the waits for what does not come right are over before that, and say what it was
@pytest.mark.skipif(
    redis_server_binary() is None and not os.environ.get("CI"),
    reason="redis-server is not installed (Debian: apt-get install redis-server)",
)
async def test_every_acknowledged_publish_is_read_once_in_order_and_all_copies_are_equal(
    tmp_path: Path,
) -> None:
    told: list[str] = []
    settings = Settings(seed=SEED, seconds=SECONDS, ttl=1.0, topics=2, publishers=2, subscribers=1)
    outcome = await run(tmp_path, settings, told.append)
    print("\n".join(told))
    assert not outcome.verdict.violations, f"{outcome.verdict}\n{tmp_path}"
    assert outcome.faults
    assert outcome.verdict.acknowledged > 100
