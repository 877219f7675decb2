"""What changes a copy besides appending to it: its role and epoch, who else has one, where it is cut.

A `Topic` learns of a change at once when it is committed, before anything that is committed later is told. Whose word a
copy takes is checked and stored in the transaction that changes it (core/epochs.Bond); it never goes back.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar, cast

import msgspec
from sqlalchemy import Connection

from pubsub.core.epochs import EpochStart, opened, reached
from pubsub.core.replication import Config, Proposal
from pubsub.errors import NotOwnerError, PubsubError
from pubsub.protocol.messages import CopyState
from pubsub.storage import beside, copying
from pubsub.storage.epochs import read_epochs, store_epochs
from pubsub.storage.topic import OWNER, Topic
from pubsub.storage.work import Received

if TYPE_CHECKING:
    from pubsub.storage.store import Store

T = TypeVar("T")

CHANGE_BYTES = 1000
"""What a change of role adds to the write-ahead log, about."""

_MEMBERS = "replicas = ?1, in_sync = ?2, version = ?3, owner_address = ?4, policy = ?5"
_TAKE = (
    f"UPDATE topics SET {_MEMBERS}, role = ?6, owner = ?7, epoch = ?8, proposal = NULL "
    "WHERE id = ?9 AND (epoch < ?8 OR (epoch = ?8 AND owner = ?7)) AND promised <= ?8 AND set_aside IS NULL"
)
_CHANGE = (
    f"UPDATE topics SET {_MEMBERS}, committed = iif(?1 IS NULL AND role = 'owner', next_offset, committed), "
    "configs = ?9, proposal = NULL "
    "WHERE id = ?6 AND epoch = ?7 AND owner = ?8 AND set_aside IS NULL"
)


class Copies:
    """Called in the event loop only.

    Raises (all of its coroutines):
        ReadOnlyError: the file cannot be written to.
        ClosedError: the store has been closed.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def received(self, work: Received, error: PubsubError | None) -> None:
        """A commit stored part of a log, or could not."""
        topic = self._store.by_id.get(work.topic_id)
        if topic is not None and error is None:
            topic.next_offset = work.stop
            topic.committed = max(topic.committed, min(work.committed, work.stop))
            topic.messages += work.messages
            topic.size_bytes += work.stored_bytes
            if work.epochs:
                topic.epochs = (*topic.epochs, *work.epochs)
        work.done(error)

    async def take_role(self, topic: Topic, copy: CopyState) -> None:
        """Own or follow in another epoch, by a record of the registry.

        A new owner's epoch begins at the end of its log: that is written down before anything is served in it.

        Raises:
            NotOwnerError: the copy takes nobody's word for that epoch any more.
        """
        owns = copy.role == OWNER

        def change(cursor: sqlite3.Cursor) -> tuple[int, tuple[EpochStart, ...], set[str] | None]:
            roles = (copy.role, copy.owner, copy.epoch, topic.id)
            if cursor.execute(_TAKE, (*_members(copy), *roles)).rowcount != 1:
                raise NotOwnerError(f"topic {topic.name} is in another epoch by now")
            (end,) = cursor.execute("SELECT next_offset FROM topics WHERE id = ?", (topic.id,)).fetchone()
            epochs = _log_epochs(cursor, topic)
            own: set[str] | None = None
            if owns:
                if topic.role != OWNER:
                    beside.take_over(cursor, topic.id)
                epochs = opened(epochs, copy.epoch, end, lossy=copy.lossy, owner=copy.owner)
            elif topic.role == OWNER:
                own = beside.give_back(cursor, topic.id, self._store.name)
            store_epochs(cursor, topic.id, epochs)
            return end, epochs, own

        def committed(result: tuple[int, tuple[EpochStart, ...], set[str] | None]) -> None:
            topic.role, topic.owner, topic.epoch = copy.role, copy.owner, copy.epoch
            topic.next_offset, topic.epochs, own = result
            if own is not None:
                self._store.cursors.keep(topic.id, own)
            topic.taken_up_at = topic.next_offset if owns else 0
            topic.proposal = None
            _take_members(topic, copy)

        await self._store.step(change, CHANGE_BYTES, committed, moves=topic.id)

    async def set_members(self, topic: Topic, copy: CopyState, configs: Sequence[Config]) -> None:
        """Write down who has copies, within an epoch; a topic that one peer alone has is committed as it is stored.

        Args:
            configs: the sets of copies that count from now on.

        Raises:
            NotOwnerError: the copy is in another epoch by now.
        """

        def change(cursor: sqlite3.Cursor) -> tuple[int, tuple[EpochStart, ...]]:
            epochs = _log_epochs(cursor, topic)
            bound = (topic.id, copy.epoch, copy.owner, encode_configs(configs))
            if cursor.execute(_CHANGE, (*_members(copy), *bound)).rowcount != 1:
                raise NotOwnerError(f"topic {topic.name} is in another epoch by now")
            row = cursor.execute("SELECT committed FROM topics WHERE id = ?", (topic.id,)).fetchone()
            store_epochs(cursor, topic.id, epochs)
            return row[0], epochs

        def committed(result: tuple[int, tuple[EpochStart, ...]]) -> None:
            _take_members(topic, copy)
            topic.configs, topic.proposal = tuple(configs), None
            topic.committed, topic.epochs = max(topic.committed, result[0]), result[1]

        await self._store.step(change, CHANGE_BYTES, committed)

    async def set_state(
        self, topic: Topic, epoch: int, configs: Sequence[Config], proposal: Proposal | None
    ) -> None:
        """Write down which sets of copies count, and what is proposed; see core/replication.

        Raises:
            NotOwnerError: the copy is in another epoch by now.
        """
        texts = encode_configs(configs), encode_proposal(proposal)

        def change(cursor: sqlite3.Cursor) -> None:
            sql = "UPDATE topics SET configs = ?, proposal = ? WHERE id = ? AND epoch = ?"
            if cursor.execute(sql, (*texts, topic.id, epoch)).rowcount != 1:
                raise NotOwnerError(f"topic {topic.name} is in another epoch by now")

        def committed(_: None) -> None:
            topic.configs, topic.proposal = tuple(configs), proposal

        await self._store.step(change, CHANGE_BYTES, committed)

    async def set_sound(self, topic: Topic) -> None:
        """Write down that a copy may be believed again: by its owner's word, in this epoch."""
        epoch = topic.epoch

        def change(cursor: sqlite3.Cursor) -> None:
            sql = "UPDATE topics SET sound = 1 WHERE id = ? AND epoch = ?"
            if cursor.execute(sql, (topic.id, epoch)).rowcount != 1:
                raise NotOwnerError(f"topic {topic.name} is in another epoch by now")

        def committed(_: None) -> None:
            topic.sound = 1

        await self._store.step(change, 100, committed)

    async def set_unsound(self, topic: Topic) -> None:
        """Write down that a copy has lost something."""
        topic.sound = 0  # at once: it must not be chosen

        def change(cursor: sqlite3.Cursor) -> None:
            cursor.execute("UPDATE topics SET sound = 0 WHERE id = ?", (topic.id,))

        await self._store.step(change, 100)

    async def promise(self, topic: Topic, epoch: int) -> bool:
        """Take nothing of older epochs any more; False: a newer one is known, or that one was promised before."""

        def change(cursor: sqlite3.Cursor) -> bool:
            sql = "UPDATE topics SET promised = ?1 WHERE id = ?2 AND epoch < ?1 AND promised < ?1"
            return cursor.execute(sql, (epoch, topic.id)).rowcount == 1

        def committed(promised: bool) -> None:
            if promised:
                topic.promised = epoch

        return await self._store.step(change, CHANGE_BYTES, committed)

    async def set_epochs(self, topic: Topic, theirs: Sequence[EpochStart], epoch: int) -> None:
        """Take over what the owner that is followed in `epoch` knows of the log, as far as the copy reaches.

        How far that is, the transaction says: what was received before may be stored in the same one.
        """

        def change(cursor: sqlite3.Cursor) -> tuple[EpochStart, ...]:
            sql = "SELECT next_offset FROM topics WHERE id = ? AND epoch = ?"
            row = cursor.execute(sql, (topic.id, epoch)).fetchone()
            if row is None:
                raise NotOwnerError(f"topic {topic.name} is in another epoch by now")
            epochs = reached(theirs, row[0])
            store_epochs(cursor, topic.id, epochs)
            return epochs

        def committed(epochs: tuple[EpochStart, ...]) -> None:
            topic.epochs = epochs

        await self._store.step(change, CHANGE_BYTES, committed)

    async def cut(self, topic: Topic, offset: int, epoch: int, owner: str) -> int:
        """Cut a copy at an offset and keep what was behind it as orphans; returns how many messages they are.

        Raises:
            NotOwnerError: the copy has moved on to another epoch.
        """

        def change(cursor: sqlite3.Cursor) -> tuple[int, tuple[int, ...]]:
            removed = copying.cut(cursor, topic.id, offset, epoch, owner)
            sql = "SELECT first_offset, next_offset, committed, messages, bytes FROM topics WHERE id = ?"
            return removed, cursor.execute(sql, (topic.id,)).fetchone()

        removed, bounds = await self._change(change)
        topic.first_offset, topic.next_offset, topic.committed, topic.messages, topic.size_bytes = bounds
        topic.epochs = reached(topic.epochs, offset)
        return removed

    async def begin_at(self, topic: Topic, offset: int, epochs: Sequence[EpochStart], epoch: int) -> None:
        """Have a copy that ends before its owner's first kept offset begin there, empty; `epochs` reach that far."""

        def change(cursor: sqlite3.Cursor) -> None:
            copying.begin_at(cursor, topic.id, offset, epoch)
            store_epochs(cursor, topic.id, epochs)

        await self._change(change)
        topic.epochs = tuple(epochs)
        topic.first_offset = topic.next_offset = topic.committed = offset
        topic.messages = topic.size_bytes = 0

    async def _change(self, change: Callable[[sqlite3.Cursor], T]) -> T:
        """Make a change in a transaction of its own: what is remembered of topics is read anew after it."""

        def with_cursor(connection: Connection) -> T:
            cursor = cast(sqlite3.Cursor, connection.connection.cursor())
            try:
                return change(cursor)
            finally:
                cursor.close()

        return cast(T, await self._store.change_file(with_cursor))

    async def save_committed(self, topics: Sequence[Topic]) -> list[Topic]:
        """Write down what is committed of replicated topics; returns those that were changing hands meanwhile."""
        rows = [(topic.committed, topic.id, topic.epoch) for topic in topics]
        sql = "UPDATE topics SET committed = max(committed, min(next_offset, ?)) WHERE id = ? AND epoch = ?"

        def change(cursor: sqlite3.Cursor) -> list[Topic]:
            return [
                topic
                for topic, row in zip(topics, rows, strict=True)
                if cursor.execute(sql, row).rowcount != 1
            ]

        return await self._store.step(change, 100 * len(rows))


def _log_epochs(cursor: sqlite3.Cursor, topic: Topic) -> tuple[EpochStart, ...]:
    """`Topic.log_epochs`, as of the transaction that is open: what was received may have added to them in it."""
    return read_epochs(cursor, topic.id) or topic.log_epochs


def _members(copy: CopyState) -> tuple[str | None, str | None, int, str, str]:
    replicas = shared(copy.replicas)
    policy = msgspec.json.encode(copy.policy).decode()
    in_sync = encode_names(copy.in_sync) if replicas else None
    return encode_names(replicas), in_sync, copy.version, copy.owner_address, policy


def _take_members(topic: Topic, copy: CopyState) -> None:
    topic.replicas = shared(copy.replicas)
    topic.in_sync = list(copy.in_sync) if topic.replicas else []
    topic.version, topic.owner_address = copy.version, copy.owner_address
    if topic.policy != copy.policy:
        topic.policy = copy.policy


# Columns


def shared(replicas: Sequence[str]) -> list[str]:
    """Who has copies, where that is more than one peer."""
    return list(replicas) if len(replicas) > 1 else []


def encode_names(names: Sequence[str]) -> str | None:
    """Names as the columns have them; none as null."""
    return msgspec.json.encode(names).decode() if names else None


def decode_names(text: str | None) -> list[str]:
    """Names from their column."""
    return msgspec.json.decode(text, type=list[str]) if text else []


def encode_configs(configs: Sequence[Config]) -> str | None:
    """Sets of copies as the column has them; none as null."""
    return msgspec.json.encode(configs).decode() if configs else None


def decode_configs(text: str | None) -> tuple[Config, ...]:
    """Sets of copies from their column."""
    return msgspec.json.decode(text, type=tuple[Config, ...]) if text else ()


def encode_proposal(proposal: Proposal | None) -> str | None:
    """A proposal as the column has it."""
    return None if proposal is None else msgspec.json.encode(proposal).decode()


def decode_proposal(text: str | None) -> Proposal | None:
    """A proposal from its column."""
    return msgspec.json.decode(text, type=Proposal) if text else None
