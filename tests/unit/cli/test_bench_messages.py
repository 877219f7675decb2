"""What a measurement publishes, and what its subscribers find wrong with what comes."""

from collections.abc import Sequence

import pytest

from pubsub.cli.bench_messages import HEAD, WARM, Came, Check, make_payloads, sum_up

BASE, STREAMS, SIZE = 7_000, 4, 100


def make_check() -> Check:
    return Check(BASE, STREAMS, SIZE)


def messages(stream: int, numbers: Sequence[int], instant: int = 10, size_bytes: int = SIZE) -> list[bytes]:
    return [make_payloads(BASE + stream, number, [instant], size_bytes)[0] for number in numbers]


def outcome(numbers: Sequence[int], published: int, waited: bool = True) -> Came:
    check = make_check()
    check.take(messages(1, numbers), 20)
    return check.ended([0, published, 0, 0], waited)


@pytest.mark.parametrize("size_bytes", [16, 17, 100, 65536])
def test_messages_have_the_size_asked_for_and_say_who_they_are(size_bytes: int) -> None:
    payloads = make_payloads(3, 5, [70, 71], size_bytes)
    assert [len(payload) for payload in payloads] == [size_bytes] * 2
    assert [HEAD.unpack_from(payload) for payload in payloads] == [((3 << 32) + 5, 70), ((3 << 32) + 6, 71)]


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ([0, 1, 2, 3], {}),
        ([0, 1, 3], {"lost": 1}),
        ([0, 1, 2], {"lost": 1}),
        ([], {"lost": 4}),
        ([0, 0, 1, 2, 3], {"doubled": 1}),
        ([0, 1, 2, 3, 0, 1, 2, 3], {"doubled": 4}),
        ([1, 0, 2, 3], {"out_of_order": 1}),
        ([3, 2, 1, 0], {"out_of_order": 3}),
        ([3, 1, 1], {"out_of_order": 1, "doubled": 1, "lost": 2}),
        ([2, 3, 0, 1, 2], {"out_of_order": 2, "doubled": 1}),
        ([0, 3], {"lost": 2}),
    ],
)
def test_what_is_lost_doubled_or_out_of_order_is_counted(
    numbers: list[int], expected: dict[str, int]
) -> None:
    assert outcome(numbers, 4) == Came(received=len(numbers), **expected)


def test_how_batches_are_cut_makes_no_difference() -> None:
    numbers = [0, 1, 5, 2, 2, 6, 7, 3, 9]
    whole = outcome(numbers, 12)
    check = make_check()
    for number in numbers:
        check.take(messages(1, [number]), 20)
    assert check.ended([0, 12, 0, 0], True) == whole
    assert (whole.out_of_order, whole.doubled, whole.lost) == (2, 1, 4)


def test_streams_are_told_apart_however_they_are_mixed() -> None:
    check = make_check()
    check.take([*messages(1, [0, 1]), *messages(2, [0]), *messages(1, [2]), *messages(3, [0, 1])], 20)
    assert check.whole([0, 3, 1, 2])
    assert not check.whole([0, 3, 2, 2])
    assert check.ended([0, 3, 1, 2], True) == Came(received=6)


def test_messages_of_others_are_left_out() -> None:
    check = make_check()
    others = [
        b"",
        b"short",
        None,
        b"x" * SIZE,
        *messages(-1, [0]),
        *messages(STREAMS, [0]),
        *messages(1, [0], size_bytes=200),
    ]
    check.take([*others, *messages(1, [0]), *others], 20)
    assert check.ended([0, 1, 0, 0], True) == Came(received=1)
    assert check.latency.total == 1


def test_messages_that_warm_up_are_not_counted() -> None:
    check = make_check()
    check.take(messages(WARM, [0, 5]), 20)
    assert check.ended([0] * STREAMS, True) == Came()
    assert check.latency.total == 0


def test_what_may_still_come_is_not_lost_if_nobody_waited_for_it() -> None:
    assert outcome([0, 2], 9, waited=False) == Came(received=2, lost=1, undelivered=6)


def test_more_than_is_known_to_be_published_is_no_fault() -> None:
    assert outcome([0, 1, 2], 2) == Came(received=3)


def test_latency_counts_from_the_instant_of_each_message() -> None:
    check = make_check()
    check.take([*messages(1, [0, 1], instant=100), *messages(2, [0], instant=50)], 110)
    assert (check.latency.total, check.latency.max_ns) == (3, 60)
    assert check.latency.percentile(0.5) == 10


def test_several_subscribers_are_summed_up() -> None:
    assert sum_up([Came(received=1, lost=2), Came(received=3, doubled=4)]) == Came(
        received=4, lost=2, doubled=4
    )
