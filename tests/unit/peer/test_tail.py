"""The tail against a model: a list of every message ever added, in which anything may be looked up."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pubsub.peer.tail import MESSAGE_BYTES, Tail, TailBudget, cut
from pubsub.protocol.batch import batch_bytes, message_sizes, next_position, slice_batch
from pubsub.protocol.codec import encode_batch
from pubsub.protocol.messages import Batch

LIMIT, TOTAL = 2_000, 3_000

sizes = st.lists(st.one_of(st.integers(0, 40), st.integers(0, 1_500)), min_size=1, max_size=30)


def batch(first_offset: int, lengths: list[int], keys: bool = False) -> Batch:
    payloads: list[bytes | None] = [bytes([n % 256]) * length for n, length in enumerate(lengths)]
    return Batch(first_offset, None, 5, ["k"] * len(lengths) if keys else None, None, payloads)


@given(sizes, st.integers(1, 40), st.integers(1, 3_000), st.booleans())
def test_the_parts_of_a_cut_batch_are_the_batch(
    lengths: list[int], most_messages: int, most_bytes: int, keys: bool
) -> None:
    whole = batch(17, lengths, keys)
    parts = list(cut(whole, most_messages, most_bytes))
    assert [payload for part in parts for payload in part.payloads] == whole.payloads
    assert [part.first_offset for part in parts] == [17, *map(next_position, parts[:-1])]
    assert all(part.keys == (["k"] * len(part.payloads) if keys else None) for part in parts)


@given(sizes, st.integers(1, 40), st.integers(1, 3_000))
def test_a_part_holds_to_both_bounds_unless_it_is_one_message(
    lengths: list[int], most_messages: int, most_bytes: int
) -> None:
    for part in cut(batch(0, lengths), most_messages, most_bytes):
        assert 1 <= len(part.payloads) <= most_messages
        assert len(part.payloads) == 1 or batch_bytes(part) <= 2 * most_bytes


@given(sizes)
def test_a_batch_within_the_bounds_is_left_whole(lengths: list[int]) -> None:
    whole = batch(3, lengths)
    assert list(cut(whole, len(lengths), batch_bytes(whole))) == [whole]


@given(sizes, st.sets(st.integers(0, 29)))
def test_holes_are_cut_where_they_are(lengths: list[int], gone: set[int]) -> None:
    kept = [n for n in range(len(lengths)) if n not in gone] or [0]
    payloads: list[bytes | None] = [b"x" * lengths[n] for n in kept]
    whole = Batch(kept[0], kept, 5, None, None, payloads)
    parts = list(cut(whole, 3, 500))
    read = [(o, p) for part in parts for o, p in zip(part.offsets or [], part.payloads, strict=True)]
    assert read == list(zip(kept, payloads, strict=True))


class TailAgainstList(RuleBasedStateMachine):
    """Two tails that share a budget; the model is every message ever added, and where each tail may begin."""

    @initialize(starts=st.tuples(st.integers(0, 9), st.integers(0, 9)))
    def begin(self, starts: tuple[int, int]) -> None:
        self.budget = TailBudget(TOTAL)
        self.tails = [Tail(LIMIT, self.budget), Tail(LIMIT, self.budget)]
        self.logs: list[dict[int, bytes | None]] = [{}, {}]
        self.ends = list(starts)
        self.floors = list(starts)
        """Below these, a tail has been told to forget, or has seen a gap."""

    which = st.integers(0, 1)

    @rule(which=which, lengths=sizes)
    def add(self, which: int, lengths: list[int]) -> None:
        added = batch(self.ends[which], lengths)
        self.logs[which] |= dict(enumerate(added.payloads, self.ends[which]))
        self.ends[which] += len(lengths)
        self.tails[which].add(added, 10, 800)
        for offset in range(added.first_offset, self.ends[which]):  # whoever is up to date can take all of it
            assert self.tails[which].find(offset) is not None

    @rule(which=which)
    def trim(self, which: int) -> None:
        self.tails[which].trim()
        assert self.held(which) <= LIMIT
        assert self.budget.used_bytes <= TOTAL or self.held(which) == 0

    @rule(which=which, back=st.integers(0, 20))
    def forget_before(self, which: int, back: int) -> None:
        offset = self.ends[which] - back
        self.tails[which].forget_before(offset)
        for below in range(max(0, offset - 3), offset):
            piece = self.tails[which].find(below)
            assert piece is None or piece.stop > offset  # only what lies wholly before it goes

    @rule(which=which)
    def clear(self, which: int) -> None:
        self.tails[which].clear()
        assert self.held(which) == 0

    @rule(which=which, skipped=st.integers(1, 5), lengths=sizes)
    def add_after_a_gap(self, which: int, skipped: int, lengths: list[int]) -> None:
        self.ends[which] += skipped
        self.floors[which] = self.ends[which]
        self.add(which, lengths)

    def held(self, which: int) -> int:
        return sum(piece.held_bytes for piece in self.tails[which]._pieces)

    @invariant()
    def what_is_found_is_what_was_added(self) -> None:
        for which, tail in enumerate(self.tails):
            seen = False
            for offset in range(self.ends[which] + 2):
                piece = tail.find(offset)
                if piece is None:
                    assert not seen or offset >= self.ends[which], (
                        "a tail has no holes and ends at the log's end"
                    )
                    continue
                seen = True
                assert self.floors[which] <= offset < self.ends[which]
                assert piece.first <= offset < piece.stop
                assert piece.batch.payloads[offset - piece.first] == self.logs[which][offset]

    @invariant()
    def the_budget_counts_what_all_tails_hold(self) -> None:
        assert self.budget.used_bytes == self.held(0) + self.held(1)


TestTailAgainstList = TailAgainstList.TestCase


def test_empty_messages_count_so_that_a_tail_of_them_is_bounded() -> None:
    tail = Tail(10 * MESSAGE_BYTES, TailBudget(10**9))
    for offset in range(0, 100, 5):
        tail.add(batch(offset, [0] * 5), 1000, 10**6)
        tail.trim()
    assert tail.find(89) is None
    assert tail.find(90) is not None


def test_a_batch_larger_than_the_tail_may_be_is_held_until_it_is_trimmed() -> None:
    tail = Tail(1_000, TailBudget(10**9))
    tail.add(batch(0, [900] * 10), 1000, 900)
    assert all(tail.find(offset) is not None for offset in range(10))
    tail.trim()
    assert [offset for offset in range(10) if tail.find(offset) is not None] == [9]


def test_a_tail_gives_way_when_others_have_used_up_the_budget() -> None:
    budget = TailBudget(1_000)
    other, tail = Tail(10_000, budget), Tail(10_000, budget)
    other.add(batch(0, [2_000]), 1000, 10**6)
    tail.add(batch(0, [10]), 1000, 10**6)
    tail.trim()
    assert tail.find(0) is None
    other.trim()
    assert budget.used_bytes == 0


def test_a_piece_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[Batch] = []

    def counting(whole: Batch) -> bytes:
        encoded.append(whole)
        return encode_batch(whole)

    monkeypatch.setattr("pubsub.peer.tail.encode_batch", counting)
    tail = Tail(10_000, TailBudget(10_000))
    tail.add(batch(0, [1, 2, 3]), 1000, 10**6)
    piece: Any = tail.find(1)
    assert piece.encoded is piece.encoded
    assert piece.encoded == encode_batch(slice_batch(piece.batch, 0, 3))
    assert len(encoded) == 1
    assert message_sizes(piece.batch) == [1, 2, 3]
