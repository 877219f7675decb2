"""A group, with its rows in a real SQLite file, against a simple model of what becomes of each message.

Publish, take, settle in every way, expire, members that die, restarts before and after commits, retention, dead
letters, redriving and resetting come in any order. At each point every message is in exactly one place: to be given
out, in flight at one member, waiting, dying, a dead letter, done, or taken away by retention.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import HealthCheck, assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import Text, create_engine
from sqlalchemy.pool import StaticPool

from pubsub.core.group import Group
from pubsub.core.group_options import GroupOptions
from pubsub.core.group_state import DYING
from pubsub.storage import groups as rows
from pubsub.storage.given_up import GivenUp
from pubsub.storage.schema import metadata
from pubsub.storage.work import run_statements

TOPIC, DEAD_TOPIC, NAME = 1, 2, "workers"
LEASE_US, WINDOW, MOST_ATTEMPTS = 10_000_000, 4, 2
MEMBERS = ("ann", "bob")
KEYS = (None, "k", "l")


@dataclass
class Place:
    """Where a message is."""

    state: str = "ready"
    attempts: int = 0
    due_us: int = 0
    delivery: int = 0
    """Number of the present delivery, if it is in flight."""


@dataclass
class Delivery:
    """A message that was given to a member once; `number` is unlike that of any other, ever."""

    number: int
    member: str
    offset: int
    attempt: int
    nacked: bool = False
    """The member settled it itself, and does so once."""


@dataclass
class Model:
    """What should be: offset -> place; acknowledged and removed ones have none."""

    places: dict[int, Place] = field(default_factory=dict)
    first_offset: int = 0
    done: set[int] = field(default_factory=set)
    removed: set[int] = field(default_factory=set)

    def of(self, *states: str) -> list[int]:
        return [offset for offset, place in self.places.items() if place.state in states]

    def finish(self, offset: int, into: set[int]) -> None:
        del self.places[offset]
        into.add(offset)

    def fail(self, offset: int, ready_at_us: int, now_us: int) -> None:
        place = self.places[offset]
        if offset < self.first_offset:
            self.finish(offset, self.removed)
        elif place.attempts >= MOST_ATTEMPTS:
            place.state = "dying"
        elif ready_at_us > now_us:
            place.state, place.due_us = "delayed", ready_at_us
        else:
            place.state = "ready"

    def retain(self, first_offset: int) -> None:
        self.first_offset = first_offset
        for offset in [o for o, p in self.places.items() if o < first_offset]:
            if self.places[offset].state not in ("in_flight", "dead"):
                self.finish(offset, self.removed)


def topic_row(topic_id: int) -> dict[str, object]:
    """An empty topic; what does not matter here is 0, or empty."""
    return {
        column.name: "" if isinstance(column.type, Text) else 0
        for column in metadata.tables["topics"].columns
        if not column.nullable
    } | {"id": topic_id, "name": f"t{topic_id}", "role": "owner", "owner": "p", "epoch": 1, "policy": "{}"}


class GroupMachine(RuleBasedStateMachine):
    ordered = False
    backoff_seconds = 1.0

    @initialize()
    def begin(self) -> None:
        self.engine = create_engine("sqlite+pysqlite://", poolclass=StaticPool)
        self.connection = self.engine.connect()
        metadata.create_all(self.connection)
        self.sql = self.connection.connection.cursor()
        for topic_id in (TOPIC, DEAD_TOPIC):
            cells = topic_row(topic_id)
            self.sql.execute(
                f"INSERT INTO topics ({', '.join(cells)}) VALUES ({', '.join('?' * len(cells))})",
                [*cells.values()],
            )
        run_statements(self.sql, rows.create_group(TOPIC, NAME, 0, {}, 0))
        self.options = GroupOptions(
            lease_seconds=LEASE_US / 1e6,
            max_attempts=MOST_ATTEMPTS,
            backoff_seconds=self.backoff_seconds,
            ordered=self.ordered,
        )
        self.group = Group(self.options, 0)
        self.now_us = 1_000_000
        self.next_offset = 0
        self.dead_offset = 0
        self.keys: dict[int, str | None] = {}
        self.deliveries: list[Delivery] = []
        self.leaving: set[str] = set()
        self.model = Model()
        self.committed = copy.deepcopy(self.model)
        self.publish(["k", None, "k"])

    def teardown(self) -> None:
        if hasattr(self, "engine"):
            self.sql.close()
            self.connection.close()
            self.engine.dispose()

    # What happens

    @rule(keys=st.lists(st.sampled_from(KEYS), min_size=1, max_size=4))
    def publish(self, keys: list[str | None]) -> None:
        for key in keys:
            self.sql.execute(
                "INSERT INTO messages VALUES (?, ?, 0, ?, NULL, x'61', NULL)", (TOPIC, self.next_offset, key)
            )
            self.keys[self.next_offset] = key
            self.model.places[self.next_offset] = Place()
            self.committed.places[self.next_offset] = Place()
            self.next_offset += 1

    @rule(member=st.sampled_from(MEMBERS), most=st.integers(1, WINDOW + 1))
    def take_some(self, member: str, most: int) -> None:
        self.take(member, most)

    @rule(member=st.sampled_from(MEMBERS), most=st.just(WINDOW))
    def take(self, member: str, most: int) -> None:
        assume(member not in self.leaving)
        if member not in self.group.members:
            self.group.join(member, WINDOW, 10**6)
        held = len(self._held_by(member))
        expected = min(most, WINDOW - held, len(self._free()))
        before = self._free()
        given = self._give_again(member, most)
        if most > len(given):
            given |= self._give_new(member, most - len(given))
        assert len(given) == expected
        for offset, attempt in given.items():
            assert offset in before
            self._deliver(member, offset, attempt)

    def _give_again(self, member: str, most: int) -> dict[int, int]:
        picked = self.group.pick(most)
        positions, attempts = self.group.retake(member, picked, [1] * len(picked), self.now_us)
        self.group.put_back(picked)
        return dict(zip([picked[position] for position in positions], attempts, strict=True))

    def _give_new(self, member: str, most: int) -> dict[int, int]:
        offsets = list(range(max(self.group.cursor, self.model.first_offset), self.next_offset))
        keys = [self.keys[offset] for offset in offsets]
        positions, _ = self.group.take(member, offsets, keys, [1] * len(offsets), most, self.now_us)
        return {offsets[position]: 1 for position in positions}

    def _deliver(self, member: str, offset: int, attempt: int) -> None:
        place = self.model.places[offset]
        assert place.state == "ready"
        assert attempt > place.attempts
        if (
            attempt != place.attempts + 1
        ):  # only so as not to repeat a delivery that this member may yet settle
            before = [d for d in self.deliveries if (d.member, d.offset) == (member, offset) and not d.nacked]
            assert max(delivery.attempt for delivery in before) == attempt - 1
        delivery = Delivery(len(self.deliveries) + 1, member, offset, attempt)
        self.deliveries.append(delivery)
        self.model.places[offset] = Place("in_flight", attempt, self.now_us + LEASE_US, delivery.number)

    def _held_by(self, member: str) -> list[int]:
        return [
            offset
            for offset, place in self.model.places.items()
            if place.state == "in_flight" and self.deliveries[place.delivery - 1].member == member
        ]

    def _free(self) -> set[int]:
        """What may be given out now."""
        ready = set(self.model.of("ready"))
        if not self.ordered:
            return ready
        open_ones = sorted(self.model.of("ready", "in_flight", "delayed"))
        free = set()
        for offset in ready:
            same = [o for o in open_ones if self.keys[o] == self.keys[offset]]
            in_flight = any(self.model.places[o].state == "in_flight" for o in same)
            if self.keys[offset] is None or (same[0] == offset and not in_flight):
                free.add(offset)
        return free

    def _chosen(self, data: st.DataObject) -> tuple[Delivery, bool]:
        """Any delivery that ever was, and whether it is the present one of its message."""
        open_ones = [delivery for delivery in self.deliveries if not delivery.nacked]
        of_members = [delivery for delivery in open_ones if delivery.member in self.group.members]
        assume(open_ones)
        delivery = data.draw(st.sampled_from(of_members or open_ones))
        place = self.model.places.get(delivery.offset)
        present = place is not None and place.state == "in_flight" and place.delivery == delivery.number
        return delivery, present

    @precondition(lambda self: self.deliveries)
    @rule(data=st.data())
    def ack(self, data: st.DataObject) -> None:
        delivery, present = self._chosen(data)
        late = self.group.ack(delivery.member, [delivery.offset], [delivery.attempt])
        assert late == ([] if present else [delivery.offset])
        if present:
            self.model.finish(delivery.offset, self.model.done)

    @precondition(lambda self: self.deliveries)
    @rule(data=st.data(), delay_us=st.sampled_from([-1, 0, 3_000_000]))
    def nack(self, data: st.DataObject, delay_us: int) -> None:
        delivery, present = self._chosen(data)
        deliveries = ([delivery.offset], [delivery.attempt])
        late = self.group.nack(delivery.member, *deliveries, delay_us, self.now_us)
        assert late == ([] if present else [delivery.offset])
        if present:
            delivery.nacked = True
            wait_us = self._backoff_us(delivery.attempt) if delay_us < 0 else delay_us
            self.model.fail(delivery.offset, self.now_us + wait_us, self.now_us)

    def _backoff_us(self, attempts: int) -> int:
        return round(self.backoff_seconds * 1_000_000) << (attempts - 1)

    @precondition(lambda self: self.deliveries)
    @rule(data=st.data())
    def extend(self, data: st.DataObject) -> None:
        delivery, present = self._chosen(data)
        late = self.group.extend(delivery.member, [delivery.offset], [delivery.attempt], self.now_us)
        assert late == ([] if present else [delivery.offset])
        if present:
            self.model.places[delivery.offset].due_us = self.now_us + LEASE_US

    @precondition(lambda self: self.deliveries)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        delivery, present = self._chosen(data)
        assume(delivery.member in self.group.members)
        late = self.group.release(delivery.member, [delivery.offset], [delivery.attempt])
        assert late == ([] if present else [delivery.offset])
        self.leaving.add(delivery.member)
        if present:
            place = self.model.places[delivery.offset]
            place.state, place.attempts = "ready", place.attempts - 1
            if delivery.offset < self.model.first_offset:
                self.model.finish(delivery.offset, self.model.removed)

    @rule()
    def leases_end(self) -> None:
        self.wait(11)

    @rule()
    def delays_end(self) -> None:
        self.wait(4)

    @rule(seconds=st.sampled_from([0.5, 1, 4, 11]))
    def wait(self, seconds: float) -> None:
        self.now_us += round(seconds * 1_000_000)
        self.group.expire(self.now_us)
        for offset, place in list(self.model.places.items()):
            if place.state == "in_flight" and place.due_us <= self.now_us:
                ready_at_us = self.now_us + self._backoff_us(place.attempts)
                self.model.fail(offset, ready_at_us, self.now_us)
            elif place.state == "delayed" and place.due_us <= self.now_us:
                place.state = "ready"

    @rule(member=st.sampled_from(MEMBERS))
    def member_dies(self, member: str) -> None:
        held = self._held_by(member)
        self.group.leave(member)
        for offset in held:
            self.model.fail(offset, 0, self.now_us)
        self._rename(member)

    def _rename(self, member: str) -> None:
        """Whoever joins next is another member: another connection, or another subscription of one."""
        self.leaving.discard(member)
        self.deliveries = [
            replace(d, member=f"{member} before") if d.member == member else d for d in self.deliveries
        ]

    @rule()
    def commit(self) -> None:
        changes = self.group.changes()
        if changes is not None:
            run_statements(self.sql, rows.change_group(TOPIC, NAME, changes))
        self.committed = copy.deepcopy(self.model)

    @rule()
    def crash(self) -> None:
        """The peer is started anew: what was not committed has not been, and every connection is gone."""
        self.model = copy.deepcopy(self.committed)
        for offset in self.model.of("in_flight"):
            place = self.model.places[offset]
            place.state = "ready"
            if offset < self.model.first_offset:
                self.model.finish(offset, self.model.removed)
        for member in MEMBERS:
            self._rename(member)
        stored = rows.load_group(self.connection, TOPIC, NAME)
        assert stored is not None
        self.group = Group(self.options, stored.cursor, stored.rows, first_offset=self.model.first_offset)
        self.group.expire(self.now_us)
        for place in self.model.places.values():
            if place.state == "delayed" and place.due_us <= self.now_us:
                place.state = "ready"

    @rule(data=st.data())
    def retention(self, data: st.DataObject) -> None:
        first_offset = data.draw(st.integers(self.model.first_offset, self.next_offset))
        self.sql.execute("DELETE FROM messages WHERE topic_id = ? AND offset < ?", (TOPIC, first_offset))
        self.group.keep_from(first_offset)
        self.model.retain(first_offset)
        self.committed.retain(first_offset)

    # Dead letters

    @rule(most=st.integers(1, 3))
    def bury(self, most: int) -> None:
        self.commit()
        moved = self.group.dying(most)
        for n, offset in enumerate(moved):
            assert self.group.entries[offset].state == DYING
            self.sql.execute(
                "INSERT INTO messages VALUES (?, ?, 0, NULL, NULL, x'61', NULL)",
                (DEAD_TOPIC, self.dead_offset + n),
            )
        given_up = [GivenUp(NAME, offset, "nack", 1) for offset in moved]
        run_statements(self.sql, rows.bury(TOPIC, given_up, DEAD_TOPIC, self.dead_offset))
        self.group.buried(moved)
        self.dead_offset += len(moved)
        for offset in moved:
            assert self.model.places[offset].state == "dying"
            self.model.places[offset].state = "dead"
        self.committed = copy.deepcopy(self.model)

    @rule(most=st.integers(1, 3))
    def redrive(self, most: int) -> None:
        self.commit()
        letters = rows.dead_letters(self.connection, TOPIC, NAME, most)
        again = [letter for letter in letters if letter.source_kept]
        offsets = [letter.source_offset for letter in again if letter.source_offset < self.group.cursor]
        rows.revive(self.sql, TOPIC, NAME, again, offsets)
        for letter in again:
            assert self.model.places[letter.source_offset].state == "dead"
            self.model.places[letter.source_offset] = Place()
            if letter.source_offset in offsets:
                self.group.restore(letter.source_offset, letter.source_key)
        self.committed = copy.deepcopy(self.model)

    @rule()
    def spare(self) -> None:
        dying = self.model.of("dying")
        assert self.group.spare() == len(dying)
        for offset in dying:
            self.model.places[offset] = Place()

    @precondition(lambda self: not self.model.of("dead"))
    @rule(data=st.data())
    def reset(self, data: st.DataObject) -> None:
        position = data.draw(st.integers(self.model.first_offset, self.next_offset))
        given_up = [row for row in self.group.given_up() if row.offset < position]
        kept = {row.offset: self.model.places[row.offset] for row in given_up}
        assert all(place.state == "dying" for place in kept.values())
        run_statements(self.sql, rows.reset_group(TOPIC, NAME, position, given_up))
        self.group = Group(self.options, position, given_up, first_offset=self.model.first_offset)
        for member in MEMBERS:
            self._rename(member)
        self.model.done = set(range(position)) - self.model.removed - kept.keys()
        self.model.places = kept | {offset: Place() for offset in range(position, self.next_offset)}
        self.model.removed = {offset for offset in self.model.removed if offset < position}
        self.committed = copy.deepcopy(self.model)

    # What always holds

    @invariant()
    def every_message_is_in_one_place(self) -> None:
        if not hasattr(self, "model"):
            return
        model = self.model
        assert set(model.places) | model.done | model.removed == set(range(self.next_offset))
        assert len(model.places) + len(model.done | model.removed) == self.next_offset
        counts = self.group.counts()
        ahead = self.next_offset - max(self.group.cursor, model.first_offset)
        assert counts.ready + ahead == len(model.of("ready"))
        assert counts.in_flight == len(model.of("in_flight"))
        assert counts.delayed == len(model.of("delayed"))
        assert counts.dying == len(model.of("dying"))
        for member, held in self.group.members.items():
            assert held.offsets == set(self._held_by(member))
            assert held.window.messages == WINDOW - len(held.offsets)
        if self.ordered:
            keys = [self.keys[o] for o in model.of("in_flight") if self.keys[o] is not None]
            assert len(keys) == len(set(keys))

    @invariant()
    def the_rows_say_what_was_committed(self) -> None:
        if not hasattr(self, "model"):
            return
        stored = rows.load_group(self.connection, TOPIC, NAME)
        assert stored is not None
        there = {row.offset: row for row in stored.rows}
        kept = {o: p for o, p in self.committed.places.items() if o >= self.committed.first_offset}
        for offset, place in kept.items():
            row = there.get(offset)
            if place.state == "dead" or (place.state == "ready" and offset >= stored.cursor):
                assert row is None
            else:
                assert row is not None
                assert (row.state, row.attempts) == (place.state, place.attempts)
        assert {offset for offset in there if offset >= self.committed.first_offset} <= set(kept)
        assert stored.dead == len(self.committed.of("dead"))


class OrderedGroupMachine(GroupMachine):
    ordered = True


class HurriedGroupMachine(GroupMachine):
    backoff_seconds = 0.0


@pytest.mark.parametrize("machine", [GroupMachine, OrderedGroupMachine, HurriedGroupMachine])
def test_each_message_is_in_exactly_one_place_whatever_happens(machine: type[GroupMachine]):
    case = machine.TestCase
    case.settings = settings(
        max_examples=100,
        stateful_step_count=50,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
    case("runTest").debug()
