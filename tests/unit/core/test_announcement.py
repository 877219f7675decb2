import itertools
from typing import Any

import msgspec
import pytest

from pubsub.core.announcement import Plan, plan_announcement, plan_creations

PEER = "alice"


class Copy(msgspec.Struct, frozen=True, kw_only=True):
    id: int = 7
    topic: str = "t"
    role: str = "owner"
    epoch: int = 3
    policy: dict[str, Any] = {}


class Record(msgspec.Struct, frozen=True, kw_only=True):
    name: str = "t"
    id: int = 7
    owner: str = PEER
    epoch: int = 3
    policy: dict[str, Any] = {}


APlan = Plan[Copy, Record]


def plan(copy: Copy, record: Record | None, buried: bool = False) -> APlan:
    return plan_announcement(PEER, [copy], {copy.topic: record}, {copy.id} if buried else set())


def where(found: APlan) -> str:
    """In which list the only copy is."""
    (name,) = (
        f for f in ("keep", "restore", "advance", "revise", "deleted", "set_aside") if getattr(found, f)
    )
    return name


def test_an_announced_topic_without_a_record_is_restored_as_announced() -> None:
    copy = Copy(epoch=9)
    assert plan(copy, None).restore == [copy]


def test_a_replica_does_not_restore_a_record() -> None:
    assert where(plan(Copy(role="replica"), None)) == "keep"


def test_a_copy_that_the_registry_knows_is_kept() -> None:
    assert where(plan(Copy(), Record())) == "keep"


def test_a_policy_that_its_owner_has_changed_goes_into_the_record() -> None:
    copy, record = Copy(policy={"max_messages": 5}), Record(policy={"max_messages": 9})
    assert plan(copy, record).revise == [(record, copy)]
    assert where(plan(copy, Record(policy={"max_messages": 5}))) == "keep"


@pytest.mark.parametrize(
    ("copy", "record"),
    [
        (Copy(role="replica", policy={"compact": True}), Record()),
        (Copy(role="replica", policy={"compact": True}), Record(owner="bob")),
        (Copy(epoch=2, policy={"compact": True}), Record(epoch=3)),
    ],
    ids=["a replica", "a replica of another's", "an owner before it learns its new epoch"],
)
def test_nobody_but_the_owner_of_the_present_epoch_changes_a_policy(copy: Copy, record: Record) -> None:
    assert where(plan(copy, record)) == "keep"


def test_a_buried_topic_is_dropped_and_a_record_that_still_stands_is_removed() -> None:
    found = plan(Copy(), Record(), buried=True)
    assert found.deleted == [7]
    assert found.finish == [Record()]


def test_a_buried_topic_without_a_record_is_dropped() -> None:
    found = plan(Copy(), None, buried=True)
    assert (found.deleted, found.finish) == ([7], [])


def test_a_buried_topic_leaves_the_new_topic_of_its_name_alone() -> None:
    found = plan(Copy(), Record(id=8), buried=True)
    assert (found.deleted, found.finish) == ([7], [])


def test_a_copy_whose_name_belongs_to_another_topic_is_set_aside() -> None:
    assert plan(Copy(), Record(id=8)).set_aside == [7]


def test_a_copy_with_a_newer_ownership_than_the_record_advances_the_record() -> None:
    copy, record = Copy(epoch=4), Record(owner="bob", epoch=3)
    assert plan(copy, record).advance == [(record, copy)]


def test_a_record_that_forgot_the_newest_epoch_of_its_owner_is_advanced() -> None:
    copy, record = Copy(epoch=4), Record(epoch=3)
    assert plan(copy, record).advance == [(record, copy)]


@pytest.mark.parametrize("epoch", [2, 3])
def test_an_owner_that_was_succeeded_sets_its_copy_aside(epoch: int) -> None:
    assert plan(Copy(epoch=epoch), Record(owner="bob", epoch=3)).set_aside == [7]


def test_a_replica_of_somebody_elses_topic_is_kept() -> None:
    assert where(plan(Copy(role="replica"), Record(owner="bob", epoch=5))) == "keep"


def test_nothing_is_ever_dropped_unless_it_was_buried_and_each_copy_has_one_fate() -> None:
    records = [None] + [
        Record(id=i, owner=o, epoch=e) for i, o, e in itertools.product((7, 8), (PEER, "bob"), (2, 3, 4))
    ]
    policies: list[dict[str, Any]] = [{}, {"compact": True}]
    for role, record, buried, policy in itertools.product(
        ("owner", "replica", "mirror"), records, (False, True), policies
    ):
        found = plan(Copy(role=role, policy=policy), record, buried)
        assert (where(found) == "deleted") == buried
        fates = [found.keep, found.restore, found.advance, found.revise, found.deleted, found.set_aside]
        assert sum(map(len, fates)) == 1
        assert bool(found.finish) == (buried and record is not None and record.id == 7)


def test_many_copies_are_planned_each_for_itself() -> None:
    copies = [Copy(id=n, topic=f"t{n}") for n in range(4)]
    records = {"t0": Record(name="t0", id=0), "t1": None, "t2": Record(name="t2", id=99), "t3": None}
    found = plan_announcement(PEER, copies, records, {3})
    assert found.keep == [copies[0]]
    assert found.restore == [copies[1]]
    assert found.set_aside == [2]
    assert found.deleted == [3]


def test_a_topic_that_the_peer_owns_and_did_not_announce_is_created() -> None:
    mine, announced, other = (
        Record(name="a", id=1),
        Record(name="b", id=2),
        Record(name="c", id=3, owner="bob"),
    )
    assert plan_creations(PEER, [mine, announced, other, None], announced={2}) == [mine]


def test_a_record_that_a_half_done_deletion_left_is_not_created() -> None:
    assert plan_creations(PEER, [Record(id=1)], announced=set(), buried={1}) == []
