"""The numbers of one producer's messages, as the client gives them: none to two messages that may both be stored.

A batch takes the next numbers when it is sent, and keeps them, and its content, for as long as it may have been stored
without our knowing. Another never gets them: it would be taken for the first one. The owner takes a producer's batches
only in order (core/sequence), so everything behind one that is known not to be stored is not stored either, and may be
numbered anew. Answers may come in another order.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from itertools import takewhile

from pubsub.client.outgoing_batch import OutgoingBatch


class Numbering:
    """A producer, the next of its numbers, and which are taken for good."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Go on as a new producer, of whom nobody has stored anything."""
        self.producer = secrets.randbits(53) | 1
        """Random, so that nobody else has it; 53 bits, so that any language can hold it."""
        self._next = 0
        self._used_to = 0
        """Numbers below this are taken: what had them was acknowledged, or was given up and may be stored."""

    def number_for(self, batch: OutgoingBatch) -> int:
        """The number under which a batch is to be sent: the one that it has, or the next."""
        return batch.sequence if self._has(batch) else self._next

    def assign(self, batch: OutgoingBatch) -> None:
        """A batch is sent under the number that `number_for` has named."""
        batch.producer, batch.sequence = self.producer, self.number_for(batch)
        self._next = max(self._next, batch.end)

    def retire(self, batch: OutgoingBatch) -> None:
        """Nothing else may ever be sent under the numbers of a batch."""
        if self._has(batch):
            self._used_to = max(self._used_to, batch.end)

    def renumber(self, batches: Sequence[OutgoingBatch]) -> None:
        """All that is under way is to be sent again, in this order.

        The first of them, which may be stored, keep their numbers; the others are not, and will take those behind.
        """
        kept = list(takewhile(lambda batch: batch.fate_unknown, filter(self._has, batches)))
        for batch in batches:
            if batch not in kept:
                batch.is_not_stored()
        self._next = max([self._used_to, *(batch.end for batch in kept)])

    def _has(self, batch: OutgoingBatch) -> bool:
        return batch.producer == self.producer and batch.sequence >= 0
