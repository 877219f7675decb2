import itertools

import pytest

from pubsub.core.failover import (
    choose_owner,
    fail_over,
    hand_over,
    judge,
    loss_of,
    promote,
)
from pubsub.core.ownership import is_confirmed, membership_of, min_in_sync
from pubsub.core.replication import answers_needed
from tests.unit.core.records import LIFE, Record, a_candidate

# What is to be done


def test_a_topic_with_a_live_owner_is_left_alone() -> None:
    assert judge(Record(), life=LIFE, settled=True, alive={"a"}) == "fine"


def test_a_dead_owner_is_followed_by_a_live_in_sync_copy() -> None:
    assert judge(Record(), life=LIFE, settled=True, alive={"c"}) == "fail_over"


def test_a_topic_without_a_live_in_sync_copy_is_offline() -> None:
    record = Record(in_sync=("a",))
    assert judge(record, life=LIFE, settled=True, alive={"b", "c"}) == "offline"


def test_a_sole_copy_is_waited_for_in_any_life_of_the_registry() -> None:
    record = Record(in_sync=("a",), replicas=("a",), life="before")
    assert judge(record, life=LIFE, settled=False, alive={"a"}) == "fine"
    assert judge(record, life=LIFE, settled=True, alive={"b"}) == "offline"


@pytest.mark.parametrize(
    ("settled", "alive", "verdict"),
    [
        (False, {"a", "b", "c"}, "wait"),
        (True, {"a"}, "wait"),
        (True, {"b", "c"}, "rebuild"),
        (True, {"a", "b", "c"}, "rebuild"),
    ],
)
def test_a_record_of_another_life_is_rebuilt_once_enough_copies_are_alive(
    settled: bool, alive: set[str], verdict: str
) -> None:
    assert judge(Record(life="before"), life=LIFE, settled=settled, alive=alive) == verdict


def test_any_so_many_copies_have_one_in_common_with_those_that_have_a_committed_message() -> None:
    for copies in range(1, 6):
        for least in range(1, copies + 1):
            peers = range(copies)
            needed = answers_needed(copies, least)
            assert needed > copies / 2
            for asked in itertools.combinations(peers, needed):
                assert all(set(asked) & set(having) for having in itertools.combinations(peers, least))


# Who is chosen


def test_only_an_in_sync_copy_may_be_chosen() -> None:
    chosen = choose_owner(("a", "b"), [a_candidate("b", 10), a_candidate("c", 99)])
    assert chosen is not None
    assert chosen.peer == "b"
    assert choose_owner(("a", "b"), [a_candidate("c", 99)]) is None


def test_the_longest_log_goes_first() -> None:
    longest = choose_owner(("b", "c"), [a_candidate("b", 10), a_candidate("c", 11)])
    newest = choose_owner(("b", "c"), [a_candidate("b", 10, last_epoch=6), a_candidate("c", 11)])
    assert longest is not None
    assert newest is not None
    assert (longest.peer, newest.peer) == ("c", "b")


def test_the_choice_does_not_depend_on_the_order_of_the_candidates() -> None:
    candidates = [a_candidate(peer) for peer in "abc"]
    assert {c.peer for o in itertools.permutations(candidates) if (c := choose_owner("abc", o))} == {"a"}


def test_a_damaged_copy_is_never_chosen() -> None:
    assert choose_owner(("b",), [a_candidate("b", sound=False)]) is None


def test_a_copy_that_lacks_what_another_one_knows_to_be_committed_is_never_chosen() -> None:
    assert choose_owner(("b", "c"), [a_candidate("b", 10), a_candidate("x", 90, committed=20)]) is None


# The changes


def test_a_failover_drops_the_dead_and_keeps_the_others_that_were_in_sync() -> None:
    record = Record(in_sync=("a", "b", "c"), replicas=("a", "b", "c", "d"))
    change = fail_over(record, [a_candidate("c")], alive={"b", "c", "d"}, epoch=9, life=LIFE)
    after = record.after(change)
    assert (after.owner, after.epoch, after.in_sync) == ("c", 9, ("c", "b"))
    assert after.replicas == ("a", "b", "c", "d")


def test_a_failover_needs_a_newer_epoch_and_a_confirmed_record() -> None:
    candidates = [a_candidate("c")]
    assert fail_over(Record(epoch=9), candidates, alive={"c"}, epoch=9, life=LIFE) is None
    assert fail_over(Record(life="before"), candidates, alive={"c"}, epoch=9, life=LIFE) is None


def test_a_stopping_owner_hands_over_to_an_in_sync_copy_and_is_not_waited_for() -> None:
    record = Record(in_sync=("a", "b"))
    assert record.after(hand_over(record, "b", epoch=9, life=LIFE, leaving=True)).in_sync == ("b",)
    assert record.after(hand_over(record, "b", epoch=9, life=LIFE, leaving=False)).in_sync == ("b", "a")
    assert hand_over(record, "c", epoch=9, life=LIFE, leaving=True) is None


def test_an_owner_may_renew_its_ownership_in_a_newer_epoch() -> None:
    after = Record().after(hand_over(Record(), "a", epoch=9, life=LIFE, leaving=False))
    assert (after.owner, after.epoch, after.in_sync) == ("a", 9, ("a", "b", "c"))


# An operator's word


def test_promoting_an_in_sync_copy_loses_nothing() -> None:
    record, chosen = Record(), a_candidate("b", 100, committed=90)
    loss = loss_of(record, chosen, [], life=LIFE)
    assert loss.none
    change = promote(record, chosen, loss, epoch=9, life=LIFE, alive={"b"}, accept_loss=False)
    assert not record.after(change).lossy


def test_promoting_another_copy_needs_the_loss_to_be_accepted_and_says_what_is_known_of_it() -> None:
    record, chosen = Record(in_sync=("a",)), a_candidate("b", 70, committed=60)
    loss = loss_of(record, chosen, [a_candidate("c", 80, committed=75)], life=LIFE)
    assert (loss.none, loss.kept, loss.known) == (False, 70, 75)
    assert promote(record, chosen, loss, epoch=9, life=LIFE, alive={"b"}, accept_loss=False) is None
    after = record.after(promote(record, chosen, loss, epoch=9, life=LIFE, alive={"b"}, accept_loss=True))
    assert (after.owner, after.in_sync, after.lossy) == ("b", ("b",), True)


def test_who_is_in_sync_by_a_record_of_before_may_lack_something() -> None:
    assert not loss_of(Record(life="before"), a_candidate("b"), [], life=LIFE).none


def test_a_promoted_copy_that_was_leaving_stays() -> None:
    record = Record(in_sync=("a",), leaving=("b",))
    chosen = a_candidate("b")
    loss = loss_of(record, chosen, [], life=LIFE)
    change = promote(record, chosen, loss, epoch=9, life=LIFE, alive={"b"}, accept_loss=True)
    assert record.after(change).leaving == ()


# What a record says


def test_how_many_must_have_a_message_follows_from_the_copies_wanted_not_from_those_that_are_leaving() -> (
    None
):
    assert min_in_sync(Record()) == 2
    assert min_in_sync(Record(replicas=("a", "b", "c", "d"), leaving=("c",))) == 2
    assert min_in_sync(Record(policy={"min_in_sync": 3})) == 3
    assert min_in_sync(Record(policy={"replicas": 5})) == 3
    assert min_in_sync(Record(policy={"replicas": 2, "min_in_sync": 3})) == 2
    assert membership_of(Record()).min_in_sync == 2


def test_a_record_is_confirmed_in_the_life_in_which_it_was_decided() -> None:
    assert is_confirmed(Record(), LIFE)
    assert not is_confirmed(Record(), "another")
