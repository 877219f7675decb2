"""Who waits for a commit is told once it has happened, in order, or that nobody knows."""

from __future__ import annotations

from typing import Any

from pubsub.errors import NotOwnerError, TooFewCopiesError
from pubsub.peer.owning import Owned
from pubsub.storage.topic import Topic


def owned(**fields: Any) -> Owned:
    values: dict[str, Any] = {
        "replicas": ["alice", "bob", "carol"],
        "in_sync": ["alice", "bob", "carol"],
        "policy": {"replicas": 3},
        "next_offset": 0,
        "committed": 0,
    }
    topic = Topic(
        id=1, name="t", role="owner", owner="alice", epoch=1, first_offset=0, created_us=0, **values | fields
    )
    return Owned(topic, 0)


def advance(one: Owned, end: int, *peers: str) -> None:
    """The owner appends up to `end`, and these copies report it."""
    one.topic.next_offset = end
    one.progress.appended(end, 1)
    for peer in peers:
        one.progress.followed(peer, 1, end, 1)
    one.topic.committed = one.progress.committed
    one.answer_committed()


def test_a_batch_is_answered_when_all_copies_in_sync_have_it_with_who_has_it() -> None:
    one, told = owned(), []
    one.wait(5, lambda holders, error: told.append((5, holders, error)))
    one.wait(7, lambda holders, error: told.append((7, holders, error)))
    advance(one, 7, "bob")
    assert told == []
    advance(one, 7, "carol")
    assert told == [(5, ["alice", "bob", "carol"], None), (7, ["alice", "bob", "carol"], None)]
    one.wait(6, lambda holders, error: told.append((6, holders, error)))
    assert told[-1][0] == 6


def test_a_batch_that_was_stored_before_may_wait_behind_later_ones() -> None:
    one, told = owned(), []
    for stop in (9, 3, 6):
        one.wait(stop, lambda holders, error, stop=stop: told.append(stop))
    advance(one, 3, "bob", "carol")
    assert told == [3]
    advance(one, 9, "bob", "carol")
    assert sorted(told) == [3, 6, 9]
    assert not one.waiting


def test_with_too_few_copies_nothing_is_taken_and_with_a_successor_nothing_either() -> None:
    one = owned(in_sync=["alice"])
    refusal = one.refusal()
    assert isinstance(refusal, TooFewCopiesError)
    assert refusal.data == {"in_sync": ["alice"], "min_in_sync": 2}
    one = owned()
    assert one.refusal() is None
    one.progress.resign()
    assert isinstance(one.refusal(), NotOwnerError)


def test_who_waits_at_a_former_owner_is_told_that_nobody_knows() -> None:
    one, told = owned(), []
    one.wait(5, lambda holders, error: told.append(error))
    one.fail_waiting(NotOwnerError("bob owns it"))
    assert told[0].data["fate"] == "unknown"


def test_what_is_changed_besides_messages_waits_for_the_copies_in_sync() -> None:
    one, told = owned(), []
    one.beside_number = 3
    one.wait_beside(told.append)
    one.beside_acked = {"bob": 3, "carol": 2}
    one.answer_beside()
    assert told == []
    one.beside_acked["carol"] = 3
    one.answer_beside()
    assert told == [None]
