import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pubsub.core.placement import (
    Candidate,
    Step,
    choose_peer,
    choose_replicas,
    may_change,
    next_step,
    with_added,
    with_leaving,
    with_moved,
)
from pubsub.core.replication import Config
from tests.unit.core.records import LIFE, Record


def a_candidate(peer: str, topics: int = 0, messages_per_second: float = 0.0) -> Candidate:
    return Candidate(peer=peer, topics=topics, messages_per_second=messages_per_second)


def test_the_peer_with_the_fewest_topics_is_chosen() -> None:
    assert choose_peer([a_candidate("a", 3), a_candidate("b", 1), a_candidate("c", 2)]) == "b"


def test_fewer_topics_count_more_than_less_traffic() -> None:
    assert choose_peer([a_candidate("a", 2, 0.0), a_candidate("b", 1, 1e6)]) == "b"


def test_among_equally_many_topics_the_least_traffic_counts() -> None:
    assert choose_peer([a_candidate("a", 1, 9.0), a_candidate("b", 1, 2.5)]) == "b"


def test_among_equals_the_first_by_name_is_chosen() -> None:
    assert choose_peer([a_candidate("b"), a_candidate("a"), a_candidate("c")]) == "a"


def test_the_excluded_are_not_chosen() -> None:
    assert choose_peer([a_candidate("a"), a_candidate("b", 5)], {"a"}) == "b"


def test_without_candidates_there_is_no_choice() -> None:
    assert choose_peer([]) is None
    assert choose_peer([a_candidate("a")], {"a"}) is None


def test_topics_placed_one_after_the_other_spread_evenly() -> None:
    topics = {"a": 0, "b": 0, "c": 0}
    for _ in range(31):
        chosen = choose_peer([a_candidate(peer, count) for peer, count in topics.items()])
        assert chosen is not None
        topics[chosen] += 1
    assert sorted(topics.values()) == [10, 10, 11]


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0.0, 1.0])), min_size=1, max_size=4))
def test_the_choice_does_not_depend_on_the_order_of_the_candidates(loads: list[tuple[int, float]]) -> None:
    candidates = [a_candidate(f"p{n}", topics, rate) for n, (topics, rate) in enumerate(loads)]
    assert len({choose_peer(order) for order in itertools.permutations(candidates)}) == 1


# Replicas


def test_replicas_go_to_different_peers_and_to_different_zones_where_they_are_named() -> None:
    candidates = [
        Candidate(peer=peer, topics=topics, zone=zone)
        for peer, topics, zone in [("a", 0, "x"), ("b", 1, "x"), ("c", 9, "y"), ("d", 2, "")]
    ]
    assert choose_replicas(candidates, 3) == ["a", "d", "c"]
    assert choose_replicas(candidates, 9) == ["a", "d", "c", "b"]
    assert choose_replicas(candidates, 2, first="c") == ["c", "a"]


def step(record: Record, *candidates: str, gone: tuple[str, ...] = ()) -> Step | None:
    return next_step(record, [a_candidate(peer) for peer in candidates], life=LIFE, gone=gone)


def test_a_topic_that_has_its_copies_is_left_alone() -> None:
    assert step(Record(), "d") is None


def test_a_replica_that_was_away_for_long_is_replaced_where_there_is_a_peer_for_it() -> None:
    record = Record(in_sync=("a", "b"), policy={"replicas": 3})
    assert step(record, gone=("c",)) is None
    add = step(record, "d", gone=("c",))
    assert add is not None
    assert (add.kind, add.peer) == ("add", "d")
    record = record.after(add.change)
    assert step(record, gone=("c",)) is None  # d has not caught up yet
    record = msgspec.structs.replace(record, in_sync=("a", "b", "d"))
    remove = step(record, gone=("c",))
    assert remove is not None
    assert record.after(remove.change).replicas == ("a", "b", "d")


def test_a_move_adds_waits_hands_over_and_removes() -> None:
    record = Record(policy={"replicas": 3})
    record = record.after(with_moved(record, "a", "d", life=LIFE))
    assert (record.replicas, record.leaving, record.in_sync) == (
        ("a", "b", "c", "d"),
        ("a",),
        ("a", "b", "c"),
    )
    waits = step(record)
    assert waits is not None
    assert waits.kind == "wait"
    record = msgspec.structs.replace(record, in_sync=("a", "b", "c", "d"))
    hands_over = step(record)
    assert hands_over is not None
    assert (hands_over.kind, hands_over.peer) == ("hand_over", "b")
    record = msgspec.structs.replace(record, owner="b", in_sync=("b", "a", "c", "d"))
    remove = step(record)
    assert remove is not None
    record = record.after(remove.change)
    assert (record.replicas, record.in_sync, record.leaving) == (("b", "c", "d"), ("b", "c", "d"), ())
    assert step(record) is None


def test_a_removed_replica_goes_without_a_replacement() -> None:
    record = Record(policy={"replicas": 3})
    record = record.after(with_leaving(record, "c"), replicas=2)
    remove = step(record, "d")
    assert remove is not None
    assert record.after(remove.change).replicas == ("a", "b")


def test_the_last_copy_is_never_taken_away() -> None:
    record = Record(replicas=("a",), in_sync=("a",), leaving=("a",), policy={"replicas": 1})
    waits = step(record)
    assert waits is not None
    assert waits.kind == "wait"


def test_the_only_copy_of_a_drained_peer_moves_in_steps() -> None:
    record = Record(replicas=("a",), in_sync=("a",), leaving=("a",), policy={"replicas": 1})
    add = step(record, "b")
    assert add is not None
    record = record.after(add.change)
    assert record.replicas == ("a", "b")
    record = msgspec.structs.replace(record, in_sync=("a", "b"))
    hands_over = step(record)
    assert hands_over is not None
    assert (hands_over.kind, hands_over.peer) == ("hand_over", "b")


def test_adding_a_replica_that_was_leaving_keeps_it() -> None:
    record = Record(leaving=("c",))
    assert record.after(with_added(record, "c", life=LIFE)).leaving == ()


def test_who_has_no_copy_cannot_leave() -> None:
    assert Record().after(with_leaving(Record(), "x")).leaving == ()


def a_config(*replicas: str, least: int = 2) -> Config:
    return Config(epoch=1, version=1, replicas=replicas, min_in_sync=least)


@pytest.mark.parametrize(
    ("of_b", "may"),
    [
        (a_config("c", "b", "a"), True),
        (a_config("a", "b"), False),
        (a_config("a", "b", "c", least=1), False),
        (None, False),
    ],
)
def test_a_set_of_copies_changes_when_all_in_sync_copies_know_the_present_one(
    of_b: Config | None, may: bool
) -> None:
    record = Record(in_sync=("a", "b"))
    assert may_change(record, {"a": a_config("a", "b", "c"), "b": of_b}) == may
    assert not may_change(record, {"b": of_b})
