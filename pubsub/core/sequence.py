"""Whether a producer's batch is new, already stored, or out of order.

A producer numbers its messages of a topic from 0 and sends them in order; a batch carries the number of its
first message. What has been stored is remembered in the same transaction as the messages, so a batch sent
again after a lost acknowledgement is recognised, also after a restart (the method of KIP-98, with message
counts in place of one number a batch).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from pubsub.errors import SequenceError

REMEMBERED_BATCHES = 16
"""Batches of a producer that can be recognised. A client keeps at most half as many in flight."""


class StoredBatch(msgspec.Struct, frozen=True, array_like=True):
    """A batch that has been stored. One that is held for later has schedule ids in place of offsets."""

    sequence: int
    messages: int
    first_offset: int
    runs: tuple[tuple[int, int], ...] | None = None
    """(first offset, messages) of each run, where the offsets are not consecutive: some were stored before."""

    @property
    def offsets(self) -> list[int] | None:
        """The offset of each message, where they are not consecutive."""
        if self.runs is None:
            return None
        return [offset for first, count in self.runs for offset in range(first, first + count)]


class ProducerState(msgspec.Struct, frozen=True):
    """What a topic remembers of a producer. `recent` is in order of sequence and ends at `next_sequence`."""

    next_sequence: int = 0
    recent: tuple[StoredBatch, ...] = ()


def stored_batch(state: ProducerState, sequence: int, messages: int) -> StoredBatch | None:
    """The batch as it is stored already, or None when it is the next one.

    Raises:
        SequenceError: it is neither: a batch before it is missing, or it is not one that was sent before.
    """
    if sequence == state.next_sequence:
        return None
    for batch in reversed(state.recent):
        if batch.sequence == sequence and batch.messages == messages:
            return batch
    raise SequenceError(
        f"messages {sequence} to {sequence + messages - 1} of this producer came out of order: "
        f"number {state.next_sequence} is the next one; nothing of them was stored",
        expected=state.next_sequence,
    )


def after(
    state: ProducerState,
    sequence: int,
    messages: int,
    first_offset: int,
    offsets: Sequence[int] | None = None,
) -> ProducerState:
    """The state once the next batch is stored; `offsets` where they are not consecutive."""
    runs = None if offsets is None else runs_of(offsets)
    recent = (*state.recent, StoredBatch(sequence, messages, first_offset, runs))
    return ProducerState(sequence + messages, recent[-REMEMBERED_BATCHES:])


def replay(state: ProducerState, batches: Iterable[StoredBatch]) -> ProducerState:
    """The state once batches that the log has, in its order, are known too; those that it knows are passed over."""
    unknown = [batch for batch in batches if batch.sequence >= state.next_sequence]
    if not unknown:
        return state
    recent = (*state.recent, *unknown)[-REMEMBERED_BATCHES:]
    return ProducerState(recent[-1].sequence + recent[-1].messages, recent)


def runs_of(offsets: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """(first, count) of each run of consecutive offsets."""
    runs: list[tuple[int, int]] = []
    for offset in offsets:
        if runs and sum(runs[-1]) == offset:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((offset, 1))
    return tuple(runs)
