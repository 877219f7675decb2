"""Which copy is not as the others are."""

from __future__ import annotations

from pubsub.client.comparing import Copy, common_bounds, compare
from pubsub.protocol.messages import Verified


def copy(*digests: int, messages: int = 1000, compacted: bool = False, **fields: object) -> Copy:
    end = 1000 * len(digests)
    told = Verified(
        id=1,
        topic_id=1,
        role="replica",
        epoch=1,
        first_offset=0,
        committed=end,
        sound=True,
        compacted=compacted,
        next_offset=end,
    )
    ranges = [(1000 * n, 1000 * (n + 1), messages, digest) for n, digest in enumerate(digests)]
    return Copy(told=told, ranges=ranges, **fields)  # type: ignore[arg-type]


def verdicts(owner: str, **copies: Copy) -> dict[str, list[bool | None]]:
    found: dict[str, list[bool | None]] = {}
    for part in compare("t", owner, copies):
        found.setdefault(part.peer, []).append(part.equal)
    return found


def test_what_most_copies_have_is_right_even_against_the_owner():
    assert verdicts("a", a=copy(5, 8), b=copy(5, 7), c=copy(5, 7)) == {
        "a": [True, False],
        "b": [True, True],
        "c": [True, True],
    }


def test_among_as_many_the_owner_is_right():
    assert verdicts("b", a=copy(1), b=copy(2)) == {"a": [False], "b": [True]}


def test_a_range_that_is_known_to_be_damaged_has_no_vote():
    assert verdicts("a", a=copy(-1), b=copy(2)) == {"a": [False], "b": [True]}
    damaged = copy(1, damage={500: "does not fit"})
    (part, _) = compare("t", "b", {"a": damaged, "b": copy(1)})
    assert (part.equal, part.problem, part.sound) == (False, "does not fit", False)


def test_of_a_copy_alone_and_of_ranges_compacted_at_another_time_nobody_can_tell():
    assert verdicts("a", a=copy(1)) == {"a": [None]}
    assert verdicts("a", a=copy(1, compacted=True), b=copy(2, messages=900)) == {"a": [True], "b": [None]}
    assert verdicts("a", a=copy(1), b=copy(2, messages=900)) == {"a": [True], "b": [False]}


def test_a_copy_that_was_not_heard_of_is_a_problem_and_an_empty_one_is_not():
    away, empty = compare("t", "b", {"a": Copy(problem="its peer is away"), "b": copy()})
    assert (away.peer, away.sound) == ("a", False)
    assert (empty.peer, empty.sound) == ("b", True)


def test_copies_are_compared_from_the_last_of_their_beginnings_up_to_what_the_owner_has_committed():
    assert common_bounds({"a": copy(1, 2), "b": copy(1), "c": Copy(problem="away")}, "b") == (0, 1000)
    assert common_bounds({"a": copy(1, 2), "b": copy(1), "c": Copy(problem="away")}, "c") == (0, 2000)
    assert common_bounds({}, "a") == (0, 0)
