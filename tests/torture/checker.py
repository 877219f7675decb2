"""Whether a history is one that may happen: pure, events in, verdict out.

The rules:

- every acknowledged publish is read by every subscriber of its topic, once, at the offset that was acknowledged;
- what was refused, or never published, is read by nobody; of an unknown outcome, once or not at all;
- every subscriber reads the offsets from 0 on without a gap, and all of them the same message at each;
- each publisher's messages are in the order in which it published them, also across unknown outcomes;
- at the end all copies of a topic are equal, hold everything that was read and nothing else;
- nobody was told an error that no fault explains (`Broken`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.torture.history import Broken, Copy, Event, Fault, Publish, Read, message_name

SHOWN = 5
"""Of violations of the same kind in the same place so many are told; of the others how many there are."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    violations: list[str]
    invoked: int = 0
    acknowledged: int = 0
    failed: int = 0
    unknown: int = 0
    read: int = 0
    copies: int = 0
    faults: int = 0

    def __str__(self) -> str:
        counts = (
            f"{self.acknowledged:,} of {self.invoked:,} publishes acknowledged, {self.unknown} unknown, "
            f"{self.failed} refused; {self.read:,} reads; {self.copies} copies; {self.faults} faults"
        )
        if not self.violations:
            return f"VALID: {counts}"
        return "\n  ".join([f"INVALID: {counts}", *self.violations])


@dataclass
class _Topic:
    """What the history says of one topic."""

    invoked: set[str] = field(default_factory=set)
    acknowledged: dict[str, int] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    reads: dict[str, list[tuple[int, str]]] = field(default_factory=lambda: defaultdict(list))
    copies: dict[str, Copy] = field(default_factory=dict)


def check(events: Iterable[Event]) -> Verdict:
    """Look at a whole history; the copies in it are those at the end."""
    topics: dict[str, _Topic] = defaultdict(_Topic)
    outcomes: Counter[str] = Counter()
    violations: list[str] = []
    faults = 0
    for event in events:
        match event:
            case Publish():
                outcomes[event.outcome] += 1
                _take(topics[event.topic], event)
            case Read():
                topics[event.topic].reads[event.client] += zip(event.offsets, event.messages, strict=True)
            case Copy():
                topics[event.topic].copies[event.peer] = event
            case Fault():
                faults += 1
            case Broken():
                violations.append(f"{event.client}: {event.error}")
    for name, topic in sorted(topics.items()):
        for about, found in _violations(topic):
            violations += [f"{name}: {about}: {one}" for one in found[:SHOWN]]
            if len(found) > SHOWN:
                violations.append(f"{name}: {about}: {len(found) - SHOWN} more")
    return Verdict(
        violations=violations,
        invoked=outcomes["invoke"],
        acknowledged=outcomes["ok"],
        failed=outcomes["fail"],
        unknown=outcomes["unknown"],
        read=sum(len(reads) for topic in topics.values() for reads in topic.reads.values()),
        copies=sum(len(topic.copies) for topic in topics.values()),
        faults=faults,
    )


def _take(topic: _Topic, event: Publish) -> None:
    name = message_name(event.client, event.number)
    topic.invoked.add(name)
    if event.outcome == "ok":
        assert event.offset is not None
        topic.acknowledged[name] = event.offset
    elif event.outcome == "fail":
        topic.refused.add(name)


def _violations(topic: _Topic) -> Iterable[tuple[str, list[str]]]:
    """What is wrong, and where: in pairs, so that one cause does not drown the others."""
    yield "acknowledged twice", _twice(topic.acknowledged)
    agreed: dict[int, tuple[str, str]] = {}
    for reader, reads in sorted(topic.reads.items()):
        yield f"read by {reader}", list(_of_reader(topic, reads))
        yield f"read by {reader}", list(_unlike(agreed, reader, reads))
    if not topic.reads and topic.acknowledged:
        yield "subscribers", ["there were none"]
    for peer, copy in sorted(topic.copies.items()):
        content = list(zip(copy.offsets, copy.messages, strict=True))
        yield f"copy of {peer}", list(_of_reader(topic, content))
        yield f"copy of {peer}", list(_unlike(agreed, peer, content))
        end = copy.offsets[-1] + 1 if copy.offsets else 0
        if copy.committed > end:
            yield f"copy of {peer}", [f"committed is {copy.committed}, beyond the end {end}"]
    yield "copies", list(_unequal(topic.copies))


def _twice(acknowledged: dict[str, int]) -> list[str]:
    names: dict[int, list[str]] = defaultdict(list)
    for name, offset in acknowledged.items():
        names[offset].append(name)
    return [f"offset {offset} to {', '.join(who)}" for offset, who in names.items() if len(who) > 1]


def _of_reader(topic: _Topic, reads: list[tuple[int, str]]) -> Iterable[str]:
    """What is wrong with one sequence of (offset, message), whatever others saw."""
    seen: dict[str, int] = {}
    last_number: dict[str, int] = {}
    expected = 0
    for offset, name in reads:
        if offset != expected:
            yield f"offset {offset} ({name}) came where {expected} was due"
        expected = offset + 1
        if name in seen:
            yield f"doubled: {name} at {seen[name]} and at {offset}"
            continue
        seen[name] = offset
        if name not in topic.invoked:
            yield f"never published: {name} at {offset}"
        elif name in topic.refused:
            yield f"refused, and there all the same: {name} at {offset}"
        client, _, number = name.rpartition(":")
        if number.isdigit():
            if int(number) < last_number.get(client, -1):
                yield f"reordered: {name} at {offset}, after {client}:{last_number[client]}"
            last_number[client] = max(int(number), last_number.get(client, -1))
    for name, offset in topic.acknowledged.items():
        if name not in seen:
            yield f"lost: {name}, acknowledged at {offset}"
        elif seen[name] != offset:
            yield f"moved: {name}, acknowledged at {offset}, is at {seen[name]}"


def _unlike(agreed: dict[int, tuple[str, str]], who: str, content: list[tuple[int, str]]) -> Iterable[str]:
    """Where this one has another message at an offset than those before it, or more, or fewer."""
    first = not agreed
    for offset, name in content:
        other = agreed.setdefault(offset, (name, who))
        if other[0] != name:
            yield f"offset {offset} is {name}, and {other[0]} for {other[1]}"
        elif not first and other[1] == who:
            yield f"offset {offset} ({name}) is there for nobody else before"
    if not first and (missing := agreed.keys() - {offset for offset, _ in content}):
        yield f"{len(missing)} offsets from {min(missing)} on that others have are missing"


def _unequal(copies: dict[str, Copy]) -> Iterable[str]:
    (first, *others) = copies.values() if copies else (None,)
    for other in others:
        assert first is not None
        mine, theirs = dict(zip(first.offsets, first.fingerprints, strict=True)), other
        for offset, fingerprint in zip(theirs.offsets, theirs.fingerprints, strict=True):
            if mine.get(offset, fingerprint) != fingerprint:
                yield f"offset {offset} differs between {first.peer} and {other.peer}"
