"""The checker accepts what may happen, and names what may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.torture.checker import check
from tests.torture.history import (
    Broken,
    Copy,
    Event,
    Fault,
    History,
    Publish,
    Read,
    message_name,
    read_history,
)


def published(client: str, number: int, offset: int | None, outcome: str = "ok") -> list[Event]:
    told = offset if outcome == "ok" else None
    return [
        Publish(client=client, topic="t", number=number, outcome="invoke"),
        Publish(client=client, topic="t", number=number, outcome=outcome, offset=told),  # type: ignore[arg-type]
    ]


def read(client: str, *names: str, offsets: list[int] | None = None) -> Event:
    return Read(client=client, topic="t", offsets=offsets or list(range(len(names))), messages=list(names))


def copy(peer: str, *names: str, prints: list[str] | None = None, committed: int | None = None) -> Event:
    return Copy(
        peer=peer,
        topic="t",
        committed=len(names) if committed is None else committed,
        offsets=list(range(len(names))),
        messages=list(names),
        fingerprints=prints or [f"print of {name}" for name in names],
    )


FINE: list[Event] = [*published("a", 0, 0), *published("b", 0, 1), *published("a", 1, 2)]
NAMES = ("a:0", "b:0", "a:1")


def test_a_history_in_which_all_is_well_is_valid() -> None:
    events = [*FINE, read("r", *NAMES), read("s", *NAMES), copy("x", *NAMES), copy("y", *NAMES)]
    verdict = check([*events, Fault(what="kill x")])
    assert verdict.violations == []
    assert (verdict.acknowledged, verdict.invoked, verdict.read, verdict.copies, verdict.faults) == (
        3,
        3,
        6,
        2,
        1,
    )
    assert str(verdict).startswith("VALID: 3 of 3 publishes acknowledged")


def test_an_empty_history_is_valid() -> None:
    assert check([]).violations == []


@pytest.mark.parametrize("names", [("a:0", "a:1"), ("a:0",)])
def test_of_an_unknown_outcome_a_message_may_be_there_or_not(names: tuple[str, ...]) -> None:
    events = [
        *published("a", 0, 0),
        *published("a", 1, None, "unknown"),
        read("r", *names),
        copy("x", *names),
    ]
    assert check(events).violations == []


BAD: dict[str, tuple[list[Event], str]] = {
    "an acknowledged message that nobody reads": ([read("r", "a:0", "b:0")], "lost: a:1, acknowledged at 2"),
    "a message that one of two subscribers misses": (
        [read("r", *NAMES), read("s", "a:0", "b:0")],
        "read by s: lost: a:1",
    ),
    "a message that is read twice": ([read("r", *NAMES, "b:0")], "doubled: b:0 at 1 and at 3"),
    "an offset that is read twice": (
        [read("r", "a:0", "b:0", "b:0", "a:1", offsets=[0, 1, 1, 2])],
        "offset 1 (b:0) came where 2 was due",
    ),
    "a gap": ([read("r", *NAMES, offsets=[0, 1, 3])], "offset 3 (a:1) came where 2 was due"),
    "a producer's messages in another order": ([read("r", "a:1", "b:0", "a:0")], "reordered: a:0 at 2"),
    "a message elsewhere than was acknowledged": (
        [read("r", "b:0", "a:0", "a:1")],
        "moved: a:0, acknowledged at 0, is at 1",
    ),
    "subscribers that read another order": (
        [read("r", *NAMES), read("s", "b:0", "a:0", "a:1")],
        "offset 0 is b:0, and a:0 for r",
    ),
    "a message out of nowhere": ([read("r", *NAMES, "z:9")], "never published: z:9 at 3"),
    "a message that was refused": (
        [*published("c", 0, None, "fail"), read("r", *NAMES, "c:0")],
        "refused, and there all the same: c:0 at 3",
    ),
    "one offset for two messages": ([*published("c", 0, 2), read("r", *NAMES)], "offset 2 to a:1, c:0"),
    "copies of which one has less": (
        [read("r", *NAMES), copy("x", *NAMES), copy("y", "a:0", "b:0")],
        "copy of y: 1 offsets from 2 on that others have are missing",
    ),
    "copies of which one has more": (
        [read("r", *NAMES), *published("c", 0, None, "unknown"), copy("x", *NAMES, "c:0")],
        "copy of x: offset 3 (c:0) is there for nobody else before",
    ),
    "copies with other messages": (
        [read("r", *NAMES), copy("x", *NAMES), copy("y", "a:0", "a:1", "b:0")],
        "copy of y: offset 1 is a:1, and b:0 for r",
    ),
    "copies that differ in a time, a key or a header": (
        [read("r", *NAMES), copy("x", *NAMES), copy("y", *NAMES, prints=["other", "x", "y"])],
        "copies: offset 0 differs between x and y",
    ),
    "a copy that takes for committed what it does not have": (
        [read("r", *NAMES), copy("x", *NAMES, committed=4)],
        "copy of x: committed is 4, beyond the end 3",
    ),
    "no subscriber at all": ([], "subscribers: there were none"),
    "an error that no fault explains": (
        [read("r", *NAMES), Broken(client="r", error="internal: oops")],
        "r: internal: oops",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_it_is_found(what: str) -> None:
    more, expected = BAD[what]
    verdict = check([*FINE, *more])
    assert any(expected in violation for violation in verdict.violations), verdict
    assert str(verdict).startswith("INVALID")


def test_many_violations_of_one_kind_do_not_hide_the_others() -> None:
    events = [event for number in range(50) for event in published("a", number, number)]
    verdict = check([*events, read("r", "a:0"), Broken(client="s", error="lost")])
    assert len(verdict.violations) < 10
    assert "44 more" in str(verdict)
    assert "s: lost" in str(verdict)


def test_a_history_is_the_same_when_it_is_read_again(tmp_path: Path) -> None:
    history = History(tmp_path / "history.jsonl")
    for event in [
        *FINE,
        read("r", *NAMES),
        copy("x", *NAMES),
        Fault(what="kill x"),
        Broken(client="r", error="é"),
    ]:
        history.add(event)
    history.close()
    assert list(read_history(history.path)) == history.events
    assert message_name("a.1", 7) == "a.1:7"
