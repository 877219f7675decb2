"""Names, patterns, addresses, offsets and times."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise, product

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pubsub.errors import InvalidNameError, InvalidRequestError, SettingsError
from pubsub.model import (
    NAME_MAX_LENGTH,
    NO_HEADERS,
    Address,
    Message,
    Offsets,
    check_group_name,
    check_new_topic_name,
    check_pattern,
    check_peer_name,
    check_topic_name,
    datetime_from_us,
    fixed_prefix,
    iso_from_us,
    matches,
    parse_address,
    parse_addresses,
    us_from_datetime,
)

# Names


@pytest.mark.parametrize("name", ["a", "a.b", "A-1_z.9", "-", "_._", "a" * NAME_MAX_LENGTH])
def test_legal_topic_names(name: str):
    assert check_topic_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "a.", ".a", "a..b", "a b", "a/b", "é", "a*", "*", "a.>", "a\n", "\na", "a\x00", "\uff11"],
)
def test_illegal_topic_names_are_told_the_rule(name: str):
    with pytest.raises(InvalidNameError, match="letters, digits, _ and - joined by single dots"):
        check_topic_name(name)


def test_a_topic_name_has_a_longest_length():
    with pytest.raises(
        InvalidNameError, match=f"{NAME_MAX_LENGTH + 1} characters long; at most {NAME_MAX_LENGTH}"
    ):
        check_topic_name("a" * (NAME_MAX_LENGTH + 1))


@pytest.mark.parametrize("name", ["dead", "orders.dead", "a.b.dead"])
def test_names_whose_last_part_is_dead_are_reserved_for_dead_letters(name: str):
    assert check_topic_name(name) == name
    with pytest.raises(InvalidNameError, match=f"the topic name {name} is reserved"):
        check_new_topic_name(name)


@pytest.mark.parametrize("name", ["dead.letters", "a.deadly", "undead", "a.Dead"])
def test_other_names_with_dead_in_them_may_be_created(name: str):
    assert check_new_topic_name(name) == name


@pytest.mark.parametrize("name", [None, 7, b"a", ["a"]])
def test_what_is_not_text_is_no_name(name: object):
    for check in (check_topic_name, check_peer_name, check_group_name, check_pattern):
        with pytest.raises(InvalidNameError):
            check(name)  # type: ignore[arg-type]


@pytest.mark.parametrize("check", [check_peer_name, check_group_name])
@pytest.mark.parametrize("name", ["a", "alice-2", "A_b", "x" * 64])
def test_legal_names_of_peers_and_groups(check: Callable[[str], str], name: str):
    assert check(name) == name


@pytest.mark.parametrize("check", [check_peer_name, check_group_name])
@pytest.mark.parametrize("name", ["", "a.b", "x" * 65, "x" * 10**6, "a b", "a\n", "é", "a/../b"])
def test_illegal_names_of_peers_and_groups_are_told_the_rule(check: Callable[[str], str], name: str):
    with pytest.raises(InvalidNameError, match="letters, digits, _ and -, at most 64") as caught:
        check(name)
    assert len(str(caught.value)) < 200


# Patterns


@pytest.mark.parametrize("pattern", [">", "*", "a", "a.b", "a.*", "*.b", "a.>", "*.*.>", "a.*.c"])
def test_legal_patterns(pattern: str):
    assert check_pattern(pattern) == pattern


@pytest.mark.parametrize(
    "pattern",
    ["", ".", "a.", "a*", "*a", ">.a", "a.>.b", ">>", "**", "a.>b", "a..*", "a >", "*\n", "a." * 101 + "a"],
)
def test_illegal_patterns_are_told_the_rule(pattern: str):
    with pytest.raises(InvalidNameError, match="for one part and > at the end for the rest"):
        check_pattern(pattern)


def brute_force_matches(pattern: str, name: str) -> bool:
    """By expanding the pattern into every name of up to four parts that it could mean."""
    wanted = pattern.split(".")
    if wanted[-1] == ">":
        expansions = [[*wanted[:-1], *["*"] * more] for more in range(1, 5)]
    else:
        expansions = [wanted]
    alphabet = sorted(set(name.split(".")))
    return any(
        ".".join(parts) == name
        for expansion in expansions
        for parts in product(*([part] if part != "*" else alphabet for part in expansion))
    )


def test_patterns_mean_what_their_expansion_says():
    names = [".".join(parts) for length in (1, 2, 3) for parts in product("ab", repeat=length)]
    patterns = [
        ".".join([*parts, *tail])
        for length in (0, 1, 2, 3)
        for parts in product("ab*", repeat=length)
        for tail in ([], [">"])
        if parts or tail
    ]
    for pattern in map(check_pattern, patterns):
        for name in names:
            assert matches(pattern, name) == brute_force_matches(pattern, name), (pattern, name)


parts_of_patterns = st.lists(st.sampled_from(["a", "ab", "b", "*"]), max_size=3)
parts_of_names = st.lists(st.sampled_from(["a", "ab", "b", "c"]), min_size=1, max_size=4)


@given(parts_of_patterns, st.booleans(), parts_of_names)
def test_every_name_that_a_pattern_means_begins_with_its_fixed_prefix(
    parts: list[str], rest: bool, name_parts: list[str]
):
    pattern = ".".join([*parts, *([">"] if rest or not parts else [])])
    name = ".".join(name_parts)
    if matches(pattern, name):
        assert name.startswith(fixed_prefix(pattern))
    if fixed_prefix(pattern) == pattern:
        assert matches(pattern, name) == (pattern == name)


# Addresses


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:7470", "127.0.0.1", 7470),
        (" host.example:1 ", "host.example", 1),
        ("[::1]:0", "::1", 0),
        ("h:65535", "h", 65535),
        ("h:00080", "h", 80),
    ],
)
def test_addresses_are_read(text: str, host: str, port: int):
    assert parse_address(text) == Address(host, port)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "h",
        ":1",
        "h:",
        "h:x",
        "h:-1",
        "h:65536",
        "h:1:2",
        "::1:80",
        "[::1]",
        "[]:1",
        "a b:1",
        "http://h:1",
        "h:\uff11",
    ],
)
def test_what_is_no_address_is_told_what_one_looks_like(text: str):
    with pytest.raises(SettingsError, match="write host:port"):
        parse_address(text)


@given(
    st.from_regex(r"[a-z0-9.-]{1,20}|[0-9a-f]{1,4}(:[0-9a-f]{0,4}){1,7}", fullmatch=True),
    st.integers(0, 65535),
)
@example("::1", 7470)
def test_an_address_is_read_as_it_is_written(host: str, port: int):
    address = Address(host, port)
    assert parse_address(str(address)) == address


def test_several_addresses_may_be_one_text_or_a_sequence():
    both = [Address("a", 1), Address("b", 2)]
    assert parse_addresses("a:1,b:2") == both
    assert parse_addresses("a:1, b:2") == both
    assert parse_addresses(["a:1", "b:2"]) == both


@pytest.mark.parametrize("text", ["", ",", "a:1,", [], ["a"]])
def test_a_list_with_an_empty_or_malformed_address_is_refused(text: str | list[str]):
    with pytest.raises(SettingsError, match="write host:port"):
        parse_addresses(text)


# Offsets

runs_of_offsets = st.lists(
    st.builds(lambda start, length: range(start, start + length), st.integers(0, 30), st.integers(0, 5)),
    max_size=8,
)


@given(runs_of_offsets)
def test_offsets_are_the_sequence_of_their_runs(runs: list[range]):
    offsets, plain = Offsets(runs), [offset for run in runs for offset in run]
    assert list(offsets) == plain
    assert len(offsets) == len(plain)
    assert offsets == plain
    assert list(reversed(offsets)) == plain[::-1]
    assert bool(offsets) == bool(plain)
    for index in range(-len(plain), len(plain)):
        assert offsets[index] == plain[index]
    for index in (len(plain), -len(plain) - 1):
        with pytest.raises(IndexError):
            offsets[index]


@given(runs_of_offsets, st.slices(20))
def test_slices_of_offsets_are_slices_of_the_list(runs: list[range], part: slice):
    offsets = Offsets(runs)
    assert offsets[part] == list(offsets)[part]


@given(runs_of_offsets)
def test_consecutive_runs_are_kept_as_one_and_empty_ones_not_at_all(runs: list[range]):
    kept = Offsets(runs).runs
    assert all(run for run in kept)
    assert all(before.stop != after.start for before, after in pairwise(kept))


@given(runs_of_offsets)
def test_equal_offsets_are_equal_however_they_were_cut(runs: list[range]):
    one_by_one = Offsets([range(offset, offset + 1) for run in runs for offset in run])
    assert Offsets(runs) == one_by_one
    assert Offsets(runs) != [*one_by_one, 7]
    assert Offsets(runs) != "text"


def test_a_million_offsets_are_one_run_and_print_short():
    offsets = Offsets([range(i, i + 1000) for i in range(0, 1_000_000, 1000)])
    assert offsets.runs == (range(1_000_000),)
    assert repr(offsets) == "Offsets(1000000: 0..999999)"
    assert len(repr(Offsets([range(i, i + 1) for i in range(0, 1000, 2)]))) < 100


# Times


@given(
    st.datetimes(
        timezones=st.sampled_from(
            [UTC, timezone(timedelta(hours=5, minutes=45)), timezone(-timedelta(hours=8))]
        )
    )
)
def test_an_instant_survives_the_way_to_microseconds_and_back(instant: datetime):
    assert datetime_from_us(us_from_datetime(instant)) == instant


@given(st.integers(-(10**15), 10**17))
def test_microseconds_survive_the_way_to_an_instant_and_back(microseconds: int):
    instant = datetime_from_us(microseconds)
    assert instant.utcoffset() == timedelta(0)
    assert us_from_datetime(instant) == microseconds


def test_a_time_without_a_zone_is_refused():
    with pytest.raises(
        InvalidRequestError, match=r"2026-01-01T00:00:00 has no zone; give one, such as .*\+00:00"
    ):
        us_from_datetime(datetime(2026, 1, 1))


@given(st.integers(0, 10**17))
def test_iso_text_sorts_like_the_time_and_is_read_back_exactly(microseconds: int):
    text = iso_from_us(microseconds)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", text)
    assert us_from_datetime(datetime.fromisoformat(text)) == microseconds


def test_a_message_tells_its_time_as_an_aware_datetime():
    message = Message("a", 0, 1_767_225_600_000_001, None, NO_HEADERS, b"")
    assert message.published_at == datetime(2026, 1, 1, 0, 0, 0, 1, tzinfo=UTC)


def test_the_headers_of_a_message_without_any_cannot_be_changed():
    with pytest.raises(TypeError):
        NO_HEADERS["a"] = "b"  # type: ignore[index]
