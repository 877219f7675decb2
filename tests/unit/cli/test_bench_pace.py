"""When messages are due at a rate, and who publishes which."""

import asyncio
import time

import pytest

from pubsub.cli import bench_pace
from pubsub.cli.bench_pace import FlatOut, Pace, Schedule

SECOND = 1_000_000_000


@pytest.mark.parametrize(("rate", "seconds", "share"), [(1000, 2, 1), (1000, 1, 3), (7, 0.5, 2), (1, 1, 5)])
def test_publishers_share_a_rate_without_gap_or_overlap(rate: int, seconds: float, share: int) -> None:
    schedules = [Schedule(rate, seconds, share, member, 0) for member in range(share)]
    instants = sorted(i for s in schedules for i in s.take(10 * SECOND, 10_000))
    assert instants == [n * SECOND // rate for n in range(round(rate * seconds))]


def test_a_message_is_due_at_its_instant_and_not_before() -> None:
    schedule = Schedule(1000, 1, 1, 0, 500)
    assert schedule.take(499, 10) == []
    assert schedule.take(500, 10) == [500]
    assert schedule.take(500 + 999_999, 10) == []
    assert schedule.take(500 + 1_000_000, 10) == [500 + 1_000_000]


def test_what_is_due_is_taken_once_in_portions() -> None:
    schedule = Schedule(1000, 1, 1, 0, 0)
    assert [len(schedule.take(SECOND, 400)) for _ in range(4)] == [400, 400, 200, 0]


async def test_a_pace_hands_out_all_that_is_due_to_several_callers() -> None:
    began_ns = time.monotonic_ns()
    schedule = Schedule(2000, 0.1, 1, 0, began_ns)
    pace = Pace(schedule, began_ns + SECOND // 10)

    async def call() -> list[int]:
        taken: list[int] = []
        while instants := await pace.due(1000):
            assert instants[-1] <= time.monotonic_ns()
            taken += instants
        return taken

    parts = await asyncio.gather(*(call() for _ in range(3)))
    pace.stop()
    assert sorted(i for part in parts for i in part) == [
        began_ns + n * SECOND // 2000 for n in range(schedule.total)
    ]


async def test_a_pace_that_is_stopped_lets_its_callers_go() -> None:
    began_ns = time.monotonic_ns()
    pace = Pace(Schedule(1, 3600, 1, 0, began_ns + 3600 * SECOND), began_ns + 7200 * SECOND)
    waiting = [asyncio.create_task(pace.due(1)) for _ in range(3)]
    await asyncio.sleep(0)
    pace.stop()
    assert await asyncio.gather(*waiting) == [[], [], []]


async def test_what_is_too_late_is_not_published(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_pace, "LATE_SECONDS", 0.0)
    pace = Pace(Schedule(1000, 1, 1, 0, 0), end_ns=SECOND)  # over long since
    assert await pace.due(10) == []
    pace.stop()


async def test_flat_out_is_as_many_as_a_caller_takes_until_the_end() -> None:
    before = time.monotonic_ns()
    instants = await FlatOut(before + 3600 * SECOND).due(5)
    assert instants == [instants[0]] * 5
    assert instants[0] >= before
    assert await FlatOut(before).due(5) == []
    stopped = FlatOut(before + 3600 * SECOND)
    stopped.stop()
    assert await stopped.due(5) == []
