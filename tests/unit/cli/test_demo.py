"""Parts of the demo that need no processes."""

import math

import msgspec
import pytest

from pubsub.cli import demo_readings
from pubsub.cli.demo_failover import longest_gap
from pubsub.cli.demo_load import percentile
from pubsub.cli.demo_readings import SOURCES, describe
from pubsub.cli.demo_schedule import (
    AWAY_SECONDS,
    DELIVERED_SECONDS,
    ENDED_SECONDS,
    KILL_AT_SECONDS,
    KILL_SOON_SECONDS,
    OVER_SECONDS,
    PUBLISHED_SECONDS,
    SLOW_START_SECONDS,
    TAKEN_OVER_SECONDS,
    Schedule,
)
from pubsub.cli.demo_subscriber import Tally
from pubsub.cli.demo_summary import Summary, summary_lines


@pytest.mark.parametrize("topic", sorted(SOURCES))
def test_each_source_reads_this_machine(topic: str) -> None:
    reading = SOURCES[topic]()
    assert reading
    assert all(math.isfinite(value) and value >= 0 for value in reading.values())
    assert describe(reading)


@pytest.mark.parametrize("topic", sorted(SOURCES))
def test_each_source_has_something_to_say_where_there_is_no_proc(
    topic: str, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setattr(demo_readings, "_PROC", tmp_path)
    assert SOURCES[topic]()


def count(*numbers: int) -> Tally:
    tally = Tally()
    for number in numbers:
        tally.count(number)
    return tally


def test_a_tally_counts_what_comes_twice_and_what_is_passed_over() -> None:
    assert count(0, 1, 2) == Tally(received=3, next=3)
    assert count(0, 1, 1, 2) == Tally(received=4, doubled=1, next=3)
    assert count(0, 3) == Tally(received=2, skipped=2, next=4)
    assert count(1, 0) == Tally(received=2, skipped=1, doubled=1, next=2)


def test_percentiles_are_values_that_were_measured() -> None:
    values = [float(number) for number in range(100, 0, -1)]
    assert percentile(values, 0.5) == 51
    assert percentile(values, 0.99) == 100
    assert percentile([3.0], 0.99) == 3
    assert percentile([], 0.5) == 0


def test_the_pause_is_the_longest_gap_between_the_kill_and_the_takeover() -> None:
    times = [0.0, 4.0, 5.0, 5.1, 7.5, 7.6, 12.0]
    assert longest_gap(times, after=5.05, before=7.0) == pytest.approx(2.4)
    assert longest_gap(times, after=5.0, before=5.05) == pytest.approx(0.1)
    assert longest_gap([1.0, 2.0], after=2.0, before=9.0) is None
    assert longest_gap([1.0], after=0.0, before=9.0) is None


async def test_a_wait_ends_with_its_condition_or_at_its_second() -> None:
    schedule = Schedule()

    async def yes() -> bool:
        return True

    async def no() -> bool:
        return False

    assert await schedule.until(yes, 10)
    assert schedule.left(10) > 0
    assert not await schedule.until(no, 0.05)
    assert schedule.left(0.05) == 0


async def test_only_a_slow_start_leaves_out_what_is_there_to_be_watched() -> None:
    quick, slow = Schedule(), Schedule()
    slow.began -= SLOW_START_SECONDS
    quick.publishing_begins()
    slow.publishing_begins()
    assert (quick.kill_after_seconds, quick.away_seconds) == (KILL_AT_SECONDS, AWAY_SECONDS)
    assert (slow.kill_after_seconds, slow.away_seconds) == (KILL_SOON_SECONDS, 0)


def test_a_busy_machine_gets_the_demo_over_in_time() -> None:
    assert TAKEN_OVER_SECONDS < PUBLISHED_SECONDS < DELIVERED_SECONDS < OVER_SECONDS < ENDED_SECONDS < 20


def make_summary(**changed: object) -> Summary:
    summary = Summary(
        published=10,
        delivered=20,
        lost=0,
        doubled=0,
        rate=1,
        burst_rate=1,
        p50_ms=1,
        p99_ms=1,
        subscribers=2,
        peers=3,
        seconds=1,
        restarted="carol",
        away_seconds=1,
        replicated_topic="machine.activity",
        replicated_published=5,
        replicated_lost=0,
        replicated_doubled=0,
        replicated_p50_ms=1,
        failover_pause_ms=2345,
        old_owner="carol",
        new_owner="bob",
        in_sync=["alice", "bob", "carol"],
    )
    return msgspec.structs.replace(summary, **changed)


def test_a_run_that_lost_and_doubled_nothing_and_failed_over_is_flawless() -> None:
    assert make_summary().flawless


@pytest.mark.parametrize(
    "changed",
    [
        {"lost": 1},
        {"doubled": 1},
        {"published": 0},
        {"replicated_lost": 1},
        {"replicated_doubled": 1},
        {"replicated_published": 0},
        {"new_owner": None},
        {"failover_pause_ms": None},
    ],
)
def test_a_run_with_any_flaw_is_not_flawless(changed: dict[str, object]) -> None:
    assert not make_summary(**changed).flawless


def test_the_summary_names_the_pause_both_owners_and_what_was_lost_and_doubled() -> None:
    shown = "\n".join(summary_lines(make_summary(replicated_lost=3, replicated_doubled=4)))
    for part in ("carol was its owner", "bob took over", "2.35 s", "lost 3, doubled 4", "alice, bob, carol"):
        assert part in shown
    assert "nobody took over from carol" in "\n".join(summary_lines(make_summary(new_owner=None)))
