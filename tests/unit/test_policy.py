"""Policies: how people write them, what is refused, how they are stored."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pubsub
from pubsub.errors import SettingsError
from pubsub.policy import (
    DEFAULT,
    MOST_AGE_SECONDS,
    MOST_DEDUPE_SECONDS,
    MOST_NUMBER,
    NAMES,
    Policy,
    changed,
    check_parts,
    encode_policy,
    format_duration,
    format_policy,
    format_size,
    make_policy,
    parse_changes,
    parse_duration,
    parse_size,
    stored_policy,
)


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("7d", 604_800),
        ("12h", 43_200),
        ("2m", 120),
        ("90s", 90),
        ("1w", 604_800),
        ("500ms", 0.5),
        ("1h30m", 5400),
        ("1.5h", 5400),
        (60, 60),
        (0.25, 0.25),
        (timedelta(days=1, seconds=1), 86_401),
    ],
)
def test_durations_are_read_as_people_write_them(written: Any, seconds: float) -> None:
    assert make_policy({"max_age": written}).max_age_seconds == seconds


@pytest.mark.parametrize(
    ("written", "size_bytes"),
    [
        ("10GiB", 10 * 1024**3),
        ("500MB", 500_000_000),
        ("1.5MiB", 1_572_864),
        ("10 kB", 10_000),
        ("64KiB", 65_536),
        ("1_000_000", 1_000_000),
        ("7B", 7),
        (42, 42),
    ],
)
def test_sizes_are_read_as_people_write_them(written: Any, size_bytes: int) -> None:
    assert make_policy({"max_bytes": written}).max_bytes == size_bytes


def test_counts_may_have_underscores() -> None:
    assert make_policy({"max_messages": "1_000_000"}).max_messages == 1_000_000


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("max_age", "-1d", "more than 0"),
        ("max_age", "0d", "more than 0"),
        ("max_age", 0, "more than 0"),
        ("max_age", -5, "more than 0"),
        ("max_age", "7", "say the unit"),
        ("max_age", "7x", "no unit of time"),
        ("max_age", "7 d", "a duration such as"),
        ("max_age", "", "a duration such as"),
        ("max_age", "forever", "a duration such as"),
        ("max_age", True, "a duration such as"),
        ("max_age", b"7d", "a duration such as"),
        ("max_age", math.nan, "more than 0"),
        ("max_age", math.inf, "36,500 days at most"),
        ("max_age", "9" * 400 + "d", "36,500 days at most"),
        ("max_age", "36501d", "36,500 days at most"),
        ("max_messages", "0", "more than 0"),
        ("max_messages", "-1", "more than 0"),
        ("max_messages", 0, "more than 0"),
        ("max_messages", "10k", "a number such as 1_000_000"),
        ("max_messages", "1__0", "a number such as 1_000_000"),
        ("max_messages", 1.5, "a number such as 1_000_000"),
        ("max_messages", False, "a number such as 1_000_000"),
        ("max_messages", "9" * 30, "at most"),
        ("max_messages", "9" * 5000, "at most"),
        pytest.param("max_messages", 10**5000, "at most", id="a number that Python does not write"),
        ("max_bytes", "0", "more than 0"),
        ("max_bytes", "-10GiB", "more than 0"),
        ("max_bytes", "10gib", "no unit of size"),
        ("max_bytes", "10 G B", "a size such as 10GiB"),
        ("max_bytes", "9999999PiB", "at most"),
        ("max_bytes", 1.5, "a size such as 10GiB"),
        ("dedupe", "0s", "more than 0"),
        ("dedupe", "-2m", "more than 0"),
        ("dedupe", "31d", "30 days at most"),
        ("compact", "yes", "on or off"),
        ("compact", 1, "on or off"),
        ("until_acknowledged", "", "on or off"),
        ("replicas", 0, "more than 0"),
        ("replicas", 33, "32 at most"),
        ("replicas", 1.5, "a number such as"),
        ("min_in_sync", 2, "more than there are copies"),
        ("replica_lag", "0s", "more than 0"),
        ("replace_after", "-1m", "more than 0"),
        ("max_size", "10GiB", "no part of a policy; there are max_age, max_messages"),
        ("", 1, "no part of a policy"),
    ],
)
def test_a_wrong_value_is_an_error_of_one_line_that_names_it(name: str, value: Any, why: str) -> None:
    with pytest.raises(SettingsError, match=why) as caught:
        make_policy({name: value})
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 200
    assert name in caught.value.message


@pytest.mark.parametrize(
    "fields",
    [
        {"max_age_seconds": -1},
        {"max_age_seconds": "7d"},
        {"max_age_seconds": True},
        {"max_messages": 0},
        {"max_messages": 1.0},
        {"max_bytes": MOST_NUMBER + 1},
        {"dedupe_seconds": -1},
        {"dedupe_seconds": None},
        {"compact": "on"},
        {"replicas": None},
        {"replicas": 0},
        {"replicas": 3, "min_in_sync": 4},
        {"replica_lag_seconds": None},
        {"replace_after_seconds": 0},
    ],
)
def test_a_policy_made_by_its_fields_is_checked_too(fields: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        Policy(**fields)


def test_compact_and_until_acknowledged_exclude_each_other_also_when_one_comes_later() -> None:
    with pytest.raises(SettingsError, match="exclude each other"):
        make_policy({"compact": True, "until_acknowledged": True})
    with pytest.raises(SettingsError, match="exclude each other"):
        changed(Policy(compact=True), {"until_acknowledged": "on"})
    both = changed(Policy(compact=True), {"until_acknowledged": "on", "compact": "off"})
    assert both == Policy(until_acknowledged=True)


def test_off_removes_a_part_and_leaves_the_others() -> None:
    policy = make_policy({"max_age": "7d", "max_bytes": "1MiB", "compact": "on", "dedupe": "1h"})
    assert changed(policy, {"max_age": "off"}) == make_policy(
        {"max_bytes": "1MiB", "compact": "on", "dedupe": "1h"}
    )
    everything = dict.fromkeys(NAMES, "off")
    assert changed(policy, everything) == Policy(dedupe_seconds=0)
    assert changed(policy, dict.fromkeys(NAMES, None)) == DEFAULT


def test_a_part_may_not_be_given_twice() -> None:
    with pytest.raises(SettingsError, match="max_age is given twice"):
        make_policy({"max_age": "1d", "max_age_seconds": 5})


def test_what_is_no_policy_at_all_is_refused() -> None:
    with pytest.raises(SettingsError, match="a Policy or a dict, not str"):
        make_policy("7d")  # type: ignore[arg-type]


def test_a_policy_is_stored_without_its_defaults() -> None:
    assert encode_policy(DEFAULT) == {}
    assert encode_policy(make_policy({"max_age": "7d", "compact": True})) == {
        "max_age_seconds": 604_800,
        "compact": True,
    }
    assert msgspec.json.encode(encode_policy(make_policy({"max_age": "7d"}))) == b'{"max_age_seconds":604800}'


def test_what_a_stored_policy_says_and_nobody_understands_deletes_nothing() -> None:
    assert stored_policy({"keep": 1, "max_age_seconds": "soon", "max_messages": 5}) == Policy(max_messages=5)
    assert stored_policy({"max_age_seconds": -1, "max_bytes": 0, "compact": None}) == DEFAULT
    both = stored_policy({"compact": True, "until_acknowledged": True})
    assert both in (Policy(until_acknowledged=True), Policy(compact=True))


def test_a_policy_is_shown_as_people_write_it() -> None:
    policy = make_policy(
        {"max_age": "36h", "max_bytes": "10GiB", "max_messages": 5, "compact": True, "dedupe": "off"}
    )
    assert format_policy(policy) == {
        "max_age": "1d12h",
        "max_messages": "5",
        "max_bytes": "10GiB",
        "compact": "on",
        "dedupe": "off",
    }
    assert format_policy(DEFAULT) == {}


def test_applications_find_it_beside_the_client() -> None:
    assert pubsub.Policy is Policy


policies = st.builds(
    Policy,
    max_age_seconds=st.none() | st.integers(1, MOST_AGE_SECONDS),
    max_messages=st.none() | st.integers(1, MOST_NUMBER),
    max_bytes=st.none() | st.integers(1, MOST_NUMBER),
    until_acknowledged=st.just(False),
    compact=st.booleans(),
    dedupe_seconds=st.integers(0, MOST_DEDUPE_SECONDS),
    replicas=st.integers(3, 32),
    min_in_sync=st.none() | st.integers(1, 3),
    replica_lag_seconds=st.integers(1, 1000),
    replace_after_seconds=st.integers(1, MOST_AGE_SECONDS),
)


@given(policies)
def test_what_is_stored_or_shown_is_read_as_the_same_policy(policy: Policy) -> None:
    assert stored_policy(msgspec.json.decode(msgspec.json.encode(encode_policy(policy)))) == policy
    assert make_policy(encode_policy(policy)) == policy
    assert make_policy(format_policy(policy)) == policy
    every_field = {field: getattr(policy, field) for field in policy.__struct_fields__}
    assert changed(Policy(max_messages=3, dedupe_seconds=7), every_field) == policy


@given(st.integers(1, MOST_AGE_SECONDS * 1000))
def test_a_duration_of_whole_milliseconds_is_written_exactly(milliseconds: int) -> None:
    assert parse_duration(format_duration(milliseconds / 1000)) == pytest.approx(
        milliseconds / 1000, rel=1e-12
    )


@given(st.integers(1, MOST_NUMBER))
def test_a_size_is_written_exactly(size_bytes: int) -> None:
    assert parse_size(format_size(size_bytes)) == size_bytes


@given(
    st.dictionaries(
        st.sampled_from([*NAMES, "max_age_seconds", "x"]), st.text() | st.integers() | st.floats()
    )
)
def test_whatever_is_given_becomes_a_policy_or_a_settings_error(given_: dict[str, Any]) -> None:
    try:
        policy = make_policy(given_)
    except SettingsError:
        return
    assert stored_policy(encode_policy(policy)) == policy
    assert set(parse_changes(given_)) <= set(policy.__struct_fields__)


def test_a_default_that_was_read_from_a_file_is_not_stored_again() -> None:
    read = msgspec.json.decode(b'{"replace_after_seconds":300,"dedupe_seconds":120,"replicas":3}')
    assert encode_policy(stored_policy(read)) == {"replicas": 3}


def test_some_parts_are_checked_whatever_the_others_are() -> None:
    check_parts({"min_in_sync": 3})
    for parts in ({"min_in_sync": 40}, {"min_in_sync": 3, "replicas": 2}, {"replicas": 0}):
        with pytest.raises(SettingsError):
            check_parts(parts)
