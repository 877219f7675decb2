"""A topic with more copies than wanted: which one leaves."""

from pubsub.index.placing import surplus_step
from pubsub.registry import PeerState, TopicRecord


def a_record(**fields: object) -> TopicRecord:
    made = {
        "name": "t",
        "id": 1,
        "owner": "a",
        "epoch": 1,
        "created_at": 1,
        "replicas": ["a", "b", "c"],
        "in_sync": ["a", "b", "c"],
        "policy": {"replicas": 2},
    }
    return TopicRecord(**made | fields)  # type: ignore[arg-type]


def states(**topics: int) -> dict[str, PeerState]:
    return {
        name: PeerState(name=name, alive=True, deadline_at=0, topics=number, record=None)
        for name, number in topics.items()
    }


def leaving(record: TopicRecord, gone: tuple[str, ...] = (), **topics: int) -> tuple[str, ...]:
    step = surplus_step(record, states(**topics), gone)
    return step.change.leaving if step is not None and step.change is not None else ()


def test_the_peer_with_the_most_to_do_lets_go() -> None:
    assert leaving(a_record(), a=9, b=1, c=5) == ("c",)


def test_a_copy_that_is_not_in_sync_goes_first() -> None:
    assert leaving(a_record(in_sync=["a", "c"]), a=9, b=1, c=5) == ("b",)


def test_the_owner_stays() -> None:
    assert leaving(a_record(policy={}), a=9, b=1, c=0) == ("b",)
    assert surplus_step(a_record(policy={}, replicas=["a"]), {}, ()) is None


def test_nothing_leaves_for_copies_that_leave_already_or_are_replaced() -> None:
    assert surplus_step(a_record(leaving=["c"]), {}, ()) is None
    assert surplus_step(a_record(), {}, ("b",)) is None
    assert surplus_step(a_record(policy={"replicas": 3}), {}, ()) is None
