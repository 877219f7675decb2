"""kill -9 at any moment: what was acknowledged is there, once, at the offset that was said."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import tests
from tests.integration.storage.stores import beside, read_all

ROOT = Path(tests.__file__).parent.parent
LIVES = 12


def live_and_be_killed(directory: Path, life: int, lines_to_see: int) -> list[tuple[int, bytes]]:
    """Start the process, kill it once it has acknowledged so many messages; all that it acknowledged."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.storage.crashing", str(directory), str(life)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    seen = [process.stdout.readline() for _ in range(lines_to_see)]
    process.kill()
    # Not by `communicate`: it would pass over what `readline` has read ahead.
    lines = b"".join(seen) + process.stdout.read()
    process.stdout.close()
    assert process.wait() == -9
    complete = lines[: lines.rfind(b"\n") + 1].splitlines()
    return [(int(offset), payload) for offset, payload in (line.split() for line in complete)]


async def test_every_acknowledged_message_survives_being_killed_at_a_random_moment(
    open_store: Any, tmp_path: Path
) -> None:
    draw = random.Random()
    acknowledged: dict[int, bytes] = {}
    for life in range(LIVES):
        for offset, payload in live_and_be_killed(tmp_path / "data", life, draw.randint(1, 3_000)):
            assert offset not in acknowledged, "an offset was given twice"
            acknowledged[offset] = payload
        with beside(tmp_path / "data" / "peer.db") as visitor:
            rows = visitor.execute("SELECT offset, payload FROM messages ORDER BY offset").fetchall()
            (next_offset,) = visitor.execute("SELECT next_offset FROM topics").fetchone()
            assert visitor.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert [offset for offset, _ in rows] == list(range(next_offset))
        stored = dict(rows)
        assert all(stored[offset] == payload for offset, payload in acknowledged.items())
        of_producer: dict[bytes, int] = {}
        for _, payload in rows:  # each producer's messages: all from the first on, in order, once
            producer, _, number = payload.rpartition(b"-")
            assert int(number) == of_producer.get(producer, 0)
            of_producer[producer] = int(number) + 1
    store = await open_store()
    assert await read_all(store, store.topic("t")) == [payload for _, payload in rows]
    assert store.starts == LIVES + 1
