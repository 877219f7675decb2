"""A producer that retries against an owner that forgets nothing: every message once, in order."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pubsub.core.sequence import REMEMBERED_BATCHES, ProducerState, after, replay, runs_of, stored_batch
from pubsub.errors import SequenceError

IN_FLIGHT = REMEMBERED_BATCHES // 2
"""What a client may keep unacknowledged."""


def stored(*counts: int) -> ProducerState:
    """A producer whose batches of so many messages have been stored, at offsets from 100 on."""
    state = ProducerState()
    for count in counts:
        state = after(state, state.next_sequence, count, 100 + state.next_sequence)
    return state


def stored_offset(state: ProducerState, sequence: int, messages: int) -> int | None:
    batch = stored_batch(state, sequence, messages)
    return None if batch is None else batch.first_offset


def test_the_first_batch_of_an_unknown_producer_is_number_0():
    assert stored_offset(ProducerState(), 0, 5) is None
    with pytest.raises(SequenceError):
        stored_offset(ProducerState(), 1, 5)


@pytest.mark.parametrize("known", [0, 3, REMEMBERED_BATCHES, REMEMBERED_BATCHES + 5])
def test_a_state_that_is_behind_the_log_catches_up_with_it_from_wherever_the_log_is_read(known: int):
    counts = [number % 3 + 1 for number in range(REMEMBERED_BATCHES + 5)]
    everything, behind = stored(*counts), stored(*counts[:known])
    for read_from in range(known + 1):
        log = [stored(*counts[: number + 1]).recent[-1] for number in range(read_from, len(counts))]
        assert replay(behind, log) == everything
        assert replay(everything, log) == everything


def test_a_producer_that_was_forgotten_is_known_again_by_what_the_log_has_of_it_since():
    state = stored(*[2] * 5)
    assert replay(ProducerState(), state.recent[3:]) == ProducerState(10, state.recent[3:])


def test_the_next_batch_is_new():
    assert stored_offset(stored(3, 2), 5, 7) is None


def test_each_remembered_batch_is_recognised_at_its_offset():
    state = stored(*[2] * (REMEMBERED_BATCHES + 5))
    for number in range(5, REMEMBERED_BATCHES + 5):
        assert stored_offset(state, 2 * number, 2) == 100 + 2 * number


def test_a_batch_before_those_remembered_is_out_of_order():
    state = stored(*[2] * (REMEMBERED_BATCHES + 1))
    with pytest.raises(SequenceError) as caught:
        stored_offset(state, 0, 2)
    assert caught.value.data == {"expected": 2 * (REMEMBERED_BATCHES + 1)}


def test_a_gap_is_out_of_order_and_says_what_was_expected():
    with pytest.raises(
        SequenceError, match=r"messages 7 to 8 .* number 5 is the next one; nothing .* stored"
    ) as caught:
        stored_offset(stored(3, 2), 7, 2)
    assert caught.value.data == {"expected": 5}


@pytest.mark.parametrize(("sequence", "messages"), [(3, 1), (3, 3), (4, 1), (0, 5), (1, 2)])
def test_a_batch_cut_differently_than_before_is_out_of_order(sequence: int, messages: int):
    with pytest.raises(SequenceError):
        stored_offset(stored(3, 2), sequence, messages)


def test_a_refusal_changes_nothing():
    state = stored(3, 2)
    before = msgspec.json.encode(state)
    with pytest.raises(SequenceError):
        stored_offset(state, 9, 1)
    assert msgspec.json.encode(state) == before


@pytest.mark.parametrize("offsets", [[7], [3, 4, 5], [9, 3, 4, 9, 10, 0], [5, 5, 6]])
def test_offsets_that_are_not_consecutive_are_remembered_as_they_were(offsets: list[int]):
    state = after(stored(2), 2, len(offsets), offsets[0], offsets)
    state = msgspec.convert(msgspec.json.decode(msgspec.json.encode(state)), ProducerState)
    batch = stored_batch(state, 2, len(offsets))
    assert batch is not None
    assert batch.offsets == offsets
    assert stored_batch(state, 0, 2).offsets is None  # type: ignore[union-attr]


def test_runs_hold_one_entry_for_consecutive_offsets():
    assert runs_of(range(5, 1005)) == ((5, 1000),)
    assert runs_of([]) == ()


def test_a_batch_stored_by_an_older_version_is_recognised():
    state = msgspec.convert({"next_sequence": 2, "recent": [[0, 2, 100]]}, ProducerState)
    assert stored_offset(state, 0, 2) == 100


class RetryingProducer(RuleBasedStateMachine):
    """A producer, a connection that breaks, and an owner; each message is a number of its own.

    The producer keeps at most IN_FLIGHT batches unacknowledged and sends all of them again, in order, on each new
    connection. The connection carries frames and replies in order until it breaks, and then loses both. When the
    producer restarts it forgets everything, and goes on under a new id with messages of its own.
    """

    def __init__(self) -> None:
        super().__init__()
        self.producer = 0
        self.next_message = 0
        self.next_sequence = 0
        self.unacknowledged: list[tuple[int, int, list[int]]] = []
        self.frames: list[tuple[int, int, list[int]]] = []
        self.replies: list[tuple[int, int, int, bool]] = []
        self.log: list[int] = []
        self.states: dict[int, ProducerState] = {}
        self.acknowledged: dict[int, int] = {}
        self.abandoned: set[int] = set()

    @precondition(lambda self: len(self.unacknowledged) < IN_FLIGHT)
    @rule(count=st.integers(1, 5))
    def publish(self, count: int) -> None:
        messages = list(range(self.next_message, self.next_message + count))
        batch = (self.producer, self.next_sequence, messages)
        self.next_message += count
        self.next_sequence += count
        self.unacknowledged.append(batch)
        self.frames.append(batch)

    @precondition(lambda self: self.frames)
    @rule()
    def owner_takes_a_frame(self) -> None:
        producer, sequence, messages = self.frames.pop(0)
        state = self.states.get(producer, ProducerState())
        offset = stored_offset(state, sequence, len(messages))  # never out of order
        if offset is None:
            self.states[producer] = after(state, sequence, len(messages), len(self.log))
            offset, duplicate = len(self.log), False
            self.log += messages
        else:
            duplicate = True
        self.replies.append((producer, sequence, offset, duplicate))

    @precondition(lambda self: self.replies)
    @rule()
    def producer_takes_a_reply(self) -> None:
        producer, sequence, offset, _ = self.replies.pop(0)
        expected_producer, expected_sequence, messages = self.unacknowledged.pop(0)
        assert (producer, sequence) == (expected_producer, expected_sequence)
        assert self.log[offset : offset + len(messages)] == messages
        self.acknowledged.update(zip(messages, range(offset, offset + len(messages)), strict=True))

    @rule()
    def connection_breaks(self) -> None:
        self.replies.clear()
        self.frames = list(self.unacknowledged)

    @rule()
    def owner_restarts(self) -> None:
        self.connection_breaks()
        self.states = msgspec.convert(
            msgspec.json.decode(msgspec.json.encode(self.states)), dict[int, ProducerState], strict=False
        )

    @rule()
    def producer_restarts(self) -> None:
        self.replies.clear()
        self.frames.clear()
        self.abandoned.update(message for _, _, messages in self.unacknowledged for message in messages)
        self.unacknowledged.clear()
        self.producer += 1
        self.next_sequence = 0

    @invariant()
    def every_message_is_there_at_most_once_and_in_order(self) -> None:
        assert self.log == sorted(set(self.log))

    @invariant()
    def what_is_acknowledged_stays_where_it_is(self) -> None:
        assert all(self.log[offset] == message for message, offset in self.acknowledged.items())

    def teardown(self) -> None:
        """In the end, with a connection that holds, everything not abandoned is stored exactly once."""
        self.connection_breaks()
        while self.frames:
            self.owner_takes_a_frame()
        while self.replies:
            self.producer_takes_a_reply()
        assert set(range(self.next_message)) - set(self.log) <= self.abandoned
        self.every_message_is_there_at_most_once_and_in_order()


TestRetryingProducer = RetryingProducer.TestCase
TestRetryingProducer.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
