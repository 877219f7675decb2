"""Parts of the demo that need no processes."""

import math

import pytest

from pubsub.cli import demo_readings
from pubsub.cli.demo_load import percentile
from pubsub.cli.demo_readings import SOURCES, describe
from pubsub.cli.demo_subscriber import Tally
from pubsub.cli.demo_view import Summary


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


def make_summary(lost: int, doubled: int, published: int = 10) -> Summary:
    return Summary(
        published=published,
        delivered=2 * published,
        lost=lost,
        doubled=doubled,
        rate=1,
        burst_rate=1,
        p50_ms=1,
        p99_ms=1,
        subscribers=2,
        peers=3,
        seconds=1,
        restarted="carol",
        away_seconds=1,
    )


def test_only_a_run_that_lost_and_doubled_nothing_is_flawless() -> None:
    assert make_summary(0, 0).flawless
    assert not make_summary(1, 0).flawless
    assert not make_summary(0, 1).flawless
    assert not make_summary(0, 0, published=0).flawless
