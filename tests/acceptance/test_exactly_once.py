"""The program of docs/exactly-once.md, killed with -9 at random moments: every message has been applied once."""

from __future__ import annotations

import random
import re
import signal
import sqlite3
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

from tests.acceptance.site import Running, Site
from tests.waiting import wait_until_blocking

TEXT = (Path(__file__).parents[2] / "docs" / "exactly-once.md").read_text()
KILLS = 15
MESSAGES = 30_000


def program() -> str:
    (found,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    return found


def read(path: Path, sql: str) -> list[tuple[object, ...]]:
    """Rows of the application's database; none while it is not there yet."""
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            return database.execute(sql).fetchall()
    except sqlite3.OperationalError:
        return []


def position(path: Path) -> int:
    rows = read(path, "SELECT next_offset FROM progress")
    return int(str(rows[0][0])) if rows else 0


def test_a_consumer_that_is_killed_at_random_moments_applies_each_message_once(site: Site) -> None:
    chance = random.Random(7)
    expected: Counter[str] = Counter()
    lines = []
    for _ in range(MESSAGES):
        amount = chance.randrange(1, 1000)
        lines.append(b"%d" % amount)
        expected["total"] += amount
    site.ok("topic", "create", "payments")
    site.ok("publish", "payments", "--key", "total", stdin=b"\n".join(lines[: MESSAGES // 2]) + b"\n")
    consumer_path = site.directory / "consumer.py"
    consumer_path.write_text(program())
    database = site.directory / "balances.db"

    def start() -> Running:
        return site.start(str(consumer_path), site.index, "payments", str(database), module=False)

    publishing = site.start("publish", "payments", "--key", "total", stdin=-1)
    later = lines[MESSAGES // 2 :]
    part = len(later) // KILLS
    killed_in_the_middle = 0
    for kill in range(KILLS):
        consumer = start()
        publishing.write(b"".join(line + b"\n" for line in later[kill * part : (kill + 1) * part]))
        before = position(database)
        wait_until_blocking(lambda before=before: position(database) > before, 30)
        time.sleep(chance.uniform(0, 0.01))
        consumer.signal(signal.SIGKILL)
        assert consumer.ended() == -signal.SIGKILL
        killed_in_the_middle += position(database) < MESSAGES
    publishing.write(b"".join(line + b"\n" for line in later[KILLS * part :]))
    assert publishing.process.stdin is not None
    publishing.process.stdin.close()
    assert publishing.ended() == 0
    consumer = start()
    wait_until_blocking(lambda: position(database) == MESSAGES, 30)
    consumer.signal(signal.SIGKILL)
    consumer.ended()
    assert read(database, "SELECT account, amount FROM balances") == [("total", expected["total"])]
    assert killed_in_the_middle >= 10
