"""The mark of a batch: what the column `batch` of its first row says, a JSON array.

    [messages, checksum, producer, sequence]

`messages` is how many rows the batch was when it was stored, `checksum` that of their cells
(`protocol.batch.batch_checksum`). `producer` and `sequence` say who sent it: both 0 where the log alone does not tell
what is known of a producer, because nobody numbered the batch or it was not stored as one plain whole. Retention and
compaction may have taken rows of a batch since, the one with its mark too; what is left is then no whole batch.
"""

from __future__ import annotations

import msgspec

from pubsub.protocol.batch import batch_checksum

Marks = list[tuple[int, str]]
"""Position in a batch of columns, and the mark of the batch that begins there."""


class Mark(msgspec.Struct, frozen=True, array_like=True):
    """A mark as it is read."""

    messages: int
    checksum: int
    producer: int
    sequence: int

    def fits(
        self,
        times: list[int],
        keys: list[str | None] | None,
        headers: list[str | None] | None,
        payloads: list[bytes | None],
    ) -> bool:
        """Whether a whole batch is as it was stored; its messages have one time."""
        checksum = batch_checksum(times[0], keys, headers, payloads)
        return checksum == self.checksum and times.count(times[0]) == len(times)


decode_mark = msgspec.json.Decoder(Mark).decode


def slice_marks(marks: Marks, start: int, stop: int) -> Marks:
    """The marks of the positions `start` to `stop` of a batch, as those of a batch of its own."""
    return [(position - start, mark) for position, mark in marks if start <= position < stop]


def encode_mark(
    published_us: int,
    keys: list[str | None] | None,
    headers: list[str | None] | None,
    payloads: list[bytes | None],
    producer: int,
    sequence: int,
) -> str:
    """The mark of a batch with these columns."""
    return f"[{len(payloads)},{batch_checksum(published_us, keys, headers, payloads)},{producer},{sequence}]"
