from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pubsub.core.epochs import (
    Bond,
    EpochStart,
    end_of,
    last_epoch,
    next_epoch,
    opened,
    plan_cut,
    reached,
    trimmed,
    where_logs_part,
)


def epochs(*pairs: tuple[int, int]) -> tuple[EpochStart, ...]:
    return tuple(EpochStart(epoch, start) for epoch, start in pairs)


# Numbers


def test_a_new_epoch_is_greater_than_all_that_are_known_and_not_less_than_the_clock() -> None:
    assert next_epoch([1, 7, 3], now=0) == 8
    assert next_epoch([1], now=1_700_000_000_000_000) == 1_700_000_000_000_000
    assert next_epoch([1_700_000_000_000_005], now=1_700_000_000_000_000) == 1_700_000_000_000_006
    assert next_epoch([], now=0) == 1


# The list


def test_an_owner_records_its_epoch_even_with_no_data() -> None:
    assert opened(epochs((1, 0)), 4, 10) == epochs((1, 0), (4, 10))
    assert opened(opened((), 4, 0), 6, 0) == epochs((4, 0), (6, 0))


def test_an_epoch_that_was_begun_is_not_begun_again() -> None:
    assert opened(epochs((1, 0), (4, 10)), 4, 25) == epochs((1, 0), (4, 10))


def test_an_older_epoch_cannot_begin() -> None:
    with pytest.raises(ValueError, match="cannot begin"):
        opened(epochs((4, 10)), 3, 12)


def test_a_copy_has_the_epochs_that_its_log_reaches() -> None:
    owner = epochs((1, 0), (4, 10), (6, 20))
    assert reached(owner, 9) == epochs((1, 0))
    assert reached(owner, 10) == epochs((1, 0), (4, 10))
    assert reached(owner, 99) == owner


def test_epochs_of_which_nothing_is_kept_are_forgotten_and_the_others_keep_their_starts() -> None:
    owner = epochs((1, 0), (4, 10), (6, 20))
    assert trimmed(owner, 9) == owner
    assert trimmed(owner, 10) == epochs((4, 10), (6, 20))
    assert trimmed(owner, 15) == epochs((4, 10), (6, 20))
    assert trimmed(owner, 500) == epochs((6, 20))
    assert trimmed((), 5) == ()


def test_an_epoch_ends_where_a_later_one_begins() -> None:
    owner = epochs((1, 0), (4, 10))
    assert (end_of(owner, 1, 30), end_of(owner, 4, 30)) == (10, 30)
    assert (last_epoch(owner), last_epoch(())) == (4, 0)


# Where logs part


@pytest.mark.parametrize(
    ("owner", "owner_end", "follower", "follower_end", "parting"),
    [
        (epochs((1, 0)), 10, (), 0, 0),
        (epochs((1, 0)), 10, epochs((1, 0)), 7, 7),
        (epochs((1, 0)), 10, epochs((1, 0)), 10, 10),
        # The owner of epoch 2 never had what the old owner appended last.
        (epochs((1, 0), (2, 8)), 12, epochs((1, 0)), 10, 8),
        # The follower was the owner of an epoch in which nothing was committed, nor anything written.
        (epochs((1, 0), (3, 8)), 12, epochs((1, 0), (2, 8)), 8, 8),
        (epochs((1, 0), (3, 8)), 12, epochs((1, 0), (2, 7)), 20, 7),
        # Two fast failovers: a length alone would not tell the logs apart (KIP-279).
        (epochs((1, 0), (3, 5)), 9, epochs((1, 0), (2, 5)), 9, 5),
        (epochs((1, 0), (2, 5), (4, 9)), 9, epochs((1, 0), (2, 5), (3, 7)), 11, 7),
        # Only the last epochs were sent, and none is known: older ones are asked for.
        (epochs((1, 0), (9, 5)), 9, epochs((2, 5), (3, 6)), 9, None),
    ],
)
def test_logs_part_at_the_end_of_the_newest_epoch_that_both_have(
    owner: Sequence[EpochStart],
    owner_end: int,
    follower: Sequence[EpochStart],
    follower_end: int,
    parting: int | None,
) -> None:
    assert where_logs_part(owner, owner_end, follower, follower_end) == parting


Log = list[tuple[int, int]]
"""(epoch, number of the message in that epoch)."""


@st.composite
def histories(draw: st.DrawFn) -> tuple[tuple[Log, tuple[EpochStart, ...]], ...]:
    """Two copies after some epochs, in each of which one of three copies owned and others copied a part."""
    logs: list[Log] = [[], [], []]
    lists: list[tuple[EpochStart, ...]] = [(), (), ()]
    for epoch in range(1, draw(st.integers(1, 5)) + 1):
        owner = draw(st.integers(0, 2))
        lists[owner] = opened(lists[owner], epoch, len(logs[owner]))
        logs[owner] = logs[owner] + [(epoch, n) for n in range(draw(st.integers(0, 3)))]
        for copy in {0, 1, 2} - {owner}:
            if not draw(st.booleans()):
                continue
            parting = where_logs_part(lists[owner], len(logs[owner]), lists[copy], len(logs[copy]))
            at = 0 if parting is None else parting
            end = min(len(logs[owner]), at + draw(st.integers(0, 3)))
            logs[copy] = logs[copy][:at] + logs[owner][at:end]
            lists[copy] = reached(lists[owner], end)
    return (logs[0], lists[0]), (logs[1], lists[1])


@given(histories())
def test_where_logs_part_is_where_they_differ_or_one_of_them_ends(
    found: tuple[tuple[Log, tuple[EpochStart, ...]], ...],
) -> None:
    (log, own), (other, theirs) = found
    equal = next(
        (n for n, (a, b) in enumerate(zip(log, other, strict=False)) if a != b), min(len(log), len(other))
    )
    parting = where_logs_part(own, len(log), theirs, len(other))
    assert (0 if parting is None else parting) == equal


# Cutting


def test_a_follower_cuts_off_what_the_owner_does_not_have() -> None:
    cut = plan_cut(parting=8, committed=6, log_end=10, owner_epochs=epochs((1, 0), (2, 8)))
    assert (cut.at, cut.orphaned, cut.diverged) == (8, 2, False)


def test_a_follower_that_has_nothing_else_cuts_nothing() -> None:
    cut = plan_cut(parting=10, committed=6, log_end=10, owner_epochs=epochs((1, 0)))
    assert (cut.at, cut.orphaned, cut.diverged) == (10, 0, False)


def test_a_copy_never_cuts_what_it_knows_to_be_committed() -> None:
    cut = plan_cut(parting=5, committed=6, log_end=10, owner_epochs=epochs((1, 0), (2, 5)))
    assert (cut.at, cut.orphaned, cut.diverged) == (10, 0, True)


def test_an_operators_word_lets_committed_messages_go() -> None:
    owner = (EpochStart(1, 0), EpochStart(2, 5, lossy=True), EpochStart(3, 5))
    cut = plan_cut(parting=5, committed=6, log_end=10, owner_epochs=owner)
    assert (cut.at, cut.orphaned, cut.diverged) == (5, 5, False)


def test_an_operators_word_of_before_lets_nothing_go() -> None:
    owner = (EpochStart(1, 0), EpochStart(2, 3, lossy=True), EpochStart(3, 5))
    assert plan_cut(parting=5, committed=6, log_end=10, owner_epochs=owner).diverged


def test_who_was_away_until_the_owner_had_forgotten_its_epochs_keeps_what_is_committed_and_goes_on() -> None:
    owner = trimmed(epochs((1, 0), (4, 10), (6, 20)), 30)
    parting = where_logs_part(owner, 40, epochs((1, 0)), 12)
    assert parting is None  # with nothing older to send, they part at 0
    cut = plan_cut(parting=0, committed=10, log_end=12, owner_epochs=owner, owner_first=30)
    assert (cut.at, cut.orphaned, cut.diverged) == (10, 2, False)
    assert plan_cut(parting=0, committed=31, log_end=35, owner_epochs=owner, owner_first=30).diverged


# Whose word is taken


def test_a_copy_takes_messages_of_the_newest_epoch_only() -> None:
    bond = Bond().bound(5, "a")
    assert bond.takes(5, "a")
    assert bond.takes(6, "b")
    assert not bond.takes(4, "a")


def test_a_copy_appends_only_what_comes_from_the_owner_with_which_it_agreed() -> None:
    bond = Bond().bound(5, "a")
    assert bond.follows(5, "a")
    assert not bond.follows(6, "b")
    assert not bond.follows(5, "b")
    assert not bond.follows(4, "a")
    promised = bond.promise(7)
    assert promised is not None
    assert not promised.follows(5, "a")


def test_no_two_peers_are_taken_for_the_owner_of_one_epoch() -> None:
    assert not Bond().bound(5, "a").takes(5, "b")


def test_after_a_promise_nothing_older_is_taken() -> None:
    promised = Bond().bound(5, "a").promise(9)
    assert promised is not None
    assert not promised.takes(5, "a")
    assert not promised.takes(8, "b")
    assert promised.takes(9, "b")
    assert promised.bound(9, "b").takes(9, "b")
    assert not promised.bound(9, "b").takes(9, "a")


@pytest.mark.parametrize("epoch", [4, 5])
def test_an_epoch_that_was_followed_is_not_promised(epoch: int) -> None:
    assert Bond().bound(5, "a").promise(epoch) is None


def test_an_epoch_is_promised_once() -> None:
    promised = Bond().promise(9)
    assert promised is not None
    assert promised.promise(9) is None
    assert promised.promise(10) is not None
    assert promised.highest == 9


def test_two_epochs_of_one_number_with_different_owners_are_not_taken_for_one() -> None:
    ours = opened(opened((), 1, 0, owner="a"), 7, 5, owner="a")
    theirs = opened(opened((), 1, 0, owner="a"), 7, 5, owner="b")
    assert where_logs_part(ours, 9, theirs, 8) == 5
