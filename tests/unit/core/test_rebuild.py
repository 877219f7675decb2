from typing import Any

from pubsub.core.ownership import Change
from pubsub.core.rebuild import Promise, Short, fate_of, rebuild
from pubsub.core.replication import Config
from tests.unit.core.records import LIFE, Record, a_candidate

EPOCH = 9


def a_promise(peer: str, log_end: int = 100, *, config: Config | None = None, **fields: Any) -> Promise:
    promised = fields.pop("promised", EPOCH)
    return Promise(candidate=a_candidate(peer, log_end, **fields), promised=promised, config=config)


def a_config(*replicas: str, version: int = 9, least: int = 2) -> Config:
    return Config(epoch=5, version=version, replicas=replicas, min_in_sync=least)


def rebuilt(record: Record, *promises: Promise) -> Record:
    change = rebuild(record, promises, epoch=EPOCH, life=LIFE)
    assert isinstance(change, Change)
    return record.after(change)


def test_the_longest_of_enough_copies_becomes_the_owner() -> None:
    after = rebuilt(Record(life=""), a_promise("b", 90), a_promise("c", 95))
    assert (after.owner, after.epoch, after.in_sync, after.life) == ("c", EPOCH, ("c",), LIFE)


def test_the_newest_epoch_goes_before_the_longest_log() -> None:
    assert rebuilt(Record(life=""), a_promise("b", 90, last_epoch=6), a_promise("c", 95)).owner == "b"


def test_an_owner_that_is_as_good_as_others_stays_and_its_equals_are_in_sync() -> None:
    record = Record(owner="c", life="before")
    after = rebuilt(record, a_promise("a", 100), a_promise("b", 90), a_promise("c", 100))
    assert (after.owner, after.in_sync) == ("c", ("c", "a"))


def test_too_few_copies_decide_nothing() -> None:
    short = rebuild(Record(life=""), [a_promise("b")], epoch=EPOCH, life=LIFE)
    assert short == Short(missing=1, of=("a", "b", "c"))


def test_of_two_copies_both_are_needed() -> None:
    record = Record(replicas=("a", "b"), in_sync=("a", "b"), life="")
    assert isinstance(rebuild(record, [a_promise("b")], epoch=EPOCH, life=LIFE), Short)
    assert rebuilt(record, a_promise("b", 90), a_promise("a", 80)).owner == "b"


def test_a_refusal_and_a_damaged_copy_do_not_count() -> None:
    for other in (a_promise("c", promised=12), a_promise("c", sound=False), a_promise("x")):
        found = rebuild(Record(life=""), [a_promise("b"), other], epoch=EPOCH, life=LIFE)
        assert isinstance(found, Short)


def test_the_newest_set_of_replicas_that_anybody_knows_of_counts() -> None:
    config = a_config("a", "b", "d")
    record = Record(life="before")
    short = rebuild(record, [a_promise("b", config=config), a_promise("c")], epoch=EPOCH, life=LIFE)
    assert short == Short(missing=1, of=("a", "b", "d"))
    after = rebuilt(record, a_promise("b", config=config), a_promise("d", 80, config=a_config(version=2)))
    assert after.replicas == ("a", "b", "d")


def test_what_an_announcement_says_of_a_replicated_topic() -> None:
    unconfirmed = Record(life="before")
    assert fate_of("a", "owner", 5, None, life=LIFE) == "restore"
    assert fate_of("b", "replica", 5, None, life=LIFE) == "restore"
    assert fate_of("b", "replica", 7, unconfirmed, life=LIFE) == "advance"
    assert fate_of("b", "owner", 5, Record(), life=LIFE) == "follow"
    assert fate_of("b", "owner", 4, unconfirmed, life=LIFE) == "follow"
    assert fate_of("a", "owner", 5, Record(), life=LIFE) == "keep"
    assert fate_of("x", "replica", 5, Record(), life=LIFE) == "set_aside"


def test_a_copy_that_heard_of_a_newer_epoch_waits_for_the_confirmed_record_to_get_there() -> None:
    assert fate_of("b", "owner", 7, Record(), life=LIFE) == "keep"
