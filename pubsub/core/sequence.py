"""Whether a producer's batch is new, already stored, or out of order.

A producer numbers its messages of a topic from 0 and sends them in order; a batch carries the number of its
first message. What has been stored is remembered in the same transaction as the messages, so a batch sent
again after a lost acknowledgement is recognised, also after a restart (the method of KIP-98, with message
counts in place of one number a batch).
"""

from __future__ import annotations

import msgspec

from pubsub.errors import SequenceError

REMEMBERED_BATCHES = 16
"""Batches of a producer that can be recognised. A client keeps at most half as many in flight."""


class StoredBatch(msgspec.Struct, frozen=True, array_like=True):
    """A batch that has been stored."""

    sequence: int
    messages: int
    first_offset: int


class ProducerState(msgspec.Struct, frozen=True):
    """What a topic remembers of a producer. `recent` is in order of sequence and ends at `next_sequence`."""

    next_sequence: int = 0
    recent: tuple[StoredBatch, ...] = ()


def stored_offset(state: ProducerState, sequence: int, messages: int) -> int | None:
    """The offset at which the batch is stored already, or None when it is the next one.

    Raises:
        SequenceError: it is neither: a batch before it is missing, or it is not one that was sent before.
    """
    if sequence == state.next_sequence:
        return None
    for batch in reversed(state.recent):
        if batch.sequence == sequence and batch.messages == messages:
            return batch.first_offset
    raise SequenceError(
        f"messages {sequence} to {sequence + messages - 1} of this producer came out of order: "
        f"number {state.next_sequence} is the next one; nothing of them was stored",
        expected=state.next_sequence,
    )


def after(state: ProducerState, sequence: int, messages: int, first_offset: int) -> ProducerState:
    """The state once the next batch is stored."""
    recent = (*state.recent, StoredBatch(sequence, messages, first_offset))
    return ProducerState(sequence + messages, recent[-REMEMBERED_BATCHES:])
