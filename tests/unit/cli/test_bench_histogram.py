"""The histogram of latencies: how wrong it may be, what it costs, adding up."""

import math
import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pubsub.cli.bench_histogram import (
    PERCENTILES,
    RELATIVE_ERROR,
    Histogram,
    band_edges,
    bucket_of,
    highest_of,
    merged,
)

TIMES = st.integers(min_value=0, max_value=2**63 - 1)


@given(TIMES)
def test_the_highest_value_of_a_bucket_is_never_below_its_values_and_exceeds_them_by_the_stated_error(
    value: int,
) -> None:
    highest = highest_of(bucket_of(value))
    assert value <= highest <= value * (1 + RELATIVE_ERROR)
    assert bucket_of(highest) == bucket_of(value)
    assert bucket_of(highest + 1) == bucket_of(value) + 1


def test_all_of_64_bit_time_takes_as_many_buckets_as_stated() -> None:
    assert bucket_of(2**64 - 1) + 1 == 7424


@given(st.lists(TIMES, min_size=1, max_size=200))
def test_percentiles_are_those_of_the_values_within_the_stated_error(values: list[int]) -> None:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    ordered = sorted(values)
    for share in PERCENTILES.values():
        exact = ordered[math.ceil(share * len(ordered)) - 1]
        assert exact <= (histogram.percentile(share) or 0) <= exact * (1 + RELATIVE_ERROR)
    assert histogram.max_ns == ordered[-1]
    assert histogram.percentile(1.0) == ordered[-1]


@given(st.lists(st.lists(TIMES, max_size=20), max_size=5))
def test_merging_is_recording_all_in_one(parts: list[list[int]]) -> None:
    whole, histograms = Histogram(), []
    for part in parts:
        histogram = Histogram()
        for value in part:
            histogram.record(value)
            whole.record(value)
        histograms.append(histogram)
    assert merged(histograms) == whole


def test_a_count_is_as_many_records() -> None:
    one, many = Histogram(), Histogram()
    one.record(1_000_000, 3)
    for _ in range(3):
        many.record(1_000_000)
    assert one == many


def test_memory_is_bounded_whatever_is_recorded() -> None:
    histogram = Histogram()
    numbers = random.Random(1)
    for _ in range(20_000):
        histogram.record(numbers.randrange(1_000_000_000))
    assert len(histogram.counts) < 128 * 23


def test_without_values_there_are_no_percentiles() -> None:
    assert Histogram().percentile(0.5) is None
    assert Histogram().shares_up_to([1, 2]) == [0.0, 0.0]


def test_two_histograms_share_no_counts() -> None:
    Histogram().record(1)
    assert Histogram().counts == {}


def test_a_clock_that_goes_back_counts_as_no_time() -> None:
    histogram = Histogram()
    histogram.record(-5)
    assert (histogram.percentile(0.5), histogram.max_ns) == (0, 0)


def test_a_histogram_survives_the_way_to_another_process() -> None:
    histogram = Histogram()
    histogram.record(123_456_789, 2)
    assert msgspec.json.decode(msgspec.json.encode(histogram), type=Histogram) == histogram


@pytest.mark.parametrize(
    ("smallest", "largest", "edges"),
    [
        (3, 30, [5, 10, 20, 50]),
        (5, 5, [5]),
        (0, 1, [1]),
        (150, 1000, [200, 500, 1000]),
        (1000, 1001, [1000, 2000]),
        (21, 30, [50]),
    ],
)
def test_bands_are_round_and_hold_all(smallest: int, largest: int, edges: list[int]) -> None:
    assert band_edges(smallest, largest) == edges


@given(st.lists(st.integers(min_value=1, max_value=10**12), min_size=1, max_size=50))
def test_the_shares_of_bands_that_hold_all_are_all(values: list[int]) -> None:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    edges = band_edges(histogram.percentile(0.0) or 0, histogram.max_ns)
    assert sum(histogram.shares_up_to(edges)) == pytest.approx(1)
