"""Where durable subscriptions have got to: the table `cursors`, and its mirror in memory.

Rules: every change shares a group commit, and the mirror changes after it. A cursor is whose who took it up last:
each taking and each reset gives it a new generation, and what comes under an older one changes nothing. Within a
generation a position never falls. Whether a position lies in the log is for the caller to know.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

import msgspec
from sqlalchemy import Connection

from pubsub.errors import InvalidRequestError, PubsubError, SubscriptionNotFoundError, SubscriptionTakenError
from pubsub.storage.work import Statement, resolve

CURSORS_OF_A_TOPIC = 10_000
"""So many durable subscriptions a topic may have: each is a row, an object in memory, and a say in retention."""

Done = Callable[[PubsubError | None], None]


class Cursor(msgspec.Struct, kw_only=True):
    """A row of the table, as of the last commit."""

    topic_id: int
    name: str
    topic: str
    position: int
    """Offset of the next message."""
    generation: int
    updated_us: int


class CursorTable:
    """Called in the event loop only."""

    def __init__(self, change: Callable[[Sequence[Statement], Done], None]) -> None:
        self._change = change
        self._topics: dict[int, dict[str, Cursor]] = {}
        self._generation = 0
        """The highest given out. They follow the clock, so that a data directory made anew goes on above the old."""

    def load(self, cursors: Iterable[Cursor]) -> None:
        """Take in what others stored: what the file has when it is opened, or a topic that is taken over."""
        for cursor in cursors:
            self._put(cursor)

    def _put(self, cursor: Cursor) -> None:
        self._topics.setdefault(cursor.topic_id, {})[cursor.name] = cursor
        self._generation = max(self._generation, cursor.generation)

    # Looking

    def find(self, topic_id: int, name: str) -> Cursor | None:
        """The cursor of one subscription."""
        return self._topics.get(topic_id, {}).get(name)

    def current(self, topic_id: int, name: str, generation: int) -> Cursor:
        """The cursor of one subscription, if it is still of this generation.

        Raises:
            SubscriptionNotFoundError: there is none; it was deleted.
            SubscriptionTakenError: it is of another generation.
        """
        cursor = self.find(topic_id, name)
        if cursor is None:
            raise SubscriptionNotFoundError(f"there is no durable subscription {name} of this topic any more")
        if cursor.generation != generation:
            raise _taken(name)
        return cursor

    def all(self, topic: str = "") -> Iterator[Cursor]:
        """Every cursor, or those of topics of one name."""
        for cursors in self._topics.values():
            for cursor in cursors.values():
                if not topic or cursor.topic == topic:
                    yield cursor

    def floor(self, topic_id: int) -> int | None:
        """The lowest position of a topic's durable subscriptions; None where it has none."""
        return min((cursor.position for cursor in self._topics.get(topic_id, {}).values()), default=None)

    # Changing

    async def take(self, topic_id: int, topic: str, name: str, position: int) -> Cursor:
        """Take a subscription up: what others had of it is void. Made at `position` if it is not there.

        Cursors of the same name for topics of this name that were deleted since go with it.

        Raises:
            InvalidRequestError: the topic has too many.
            SubscriptionTakenError: somebody else took it up meanwhile.
            ReadOnlyError: the file cannot be written to.
        """
        self._check_room(topic_id, topic, name)
        generation, now_us = self._next_generation(), _now_us()
        stale = [c for c in self.all(topic) if c.name == name and c.topic_id != topic_id]
        statements: list[Statement] = [
            (
                "INSERT INTO cursors (topic_id, name, topic, position, generation, updated_at) "
                "VALUES (?, ?, ?, ?, ?, ?) "
                "ON CONFLICT DO UPDATE SET generation = excluded.generation, updated_at = excluded.updated_at",
                [(topic_id, name, topic, position, generation, now_us)],
            )
        ]
        if stale:
            statements.append(_delete_rows(stale))

        def taken() -> None:
            cursor = self.find(topic_id, name)
            at = position if cursor is None else cursor.position
            self._put(
                Cursor(
                    topic_id=topic_id,
                    name=name,
                    topic=topic,
                    position=at,
                    generation=generation,
                    updated_us=now_us,
                )
            )
            for old in stale:
                self._drop(old)

        await self._run(statements, taken)
        return self.current(topic_id, name, generation)

    def commit(self, topic_id: int, name: str, generation: int, position: int, done: Done) -> None:
        """Move a cursor on; one that is there already stays. `done` is called once that is on disk, or why not."""
        try:
            if self.current(topic_id, name, generation).position >= position:
                done(None)
                return
        except PubsubError as error:
            done(error)
            return
        now_us = _now_us()

        def committed(error: PubsubError | None) -> None:
            if error is None:
                try:
                    cursor = self.current(topic_id, name, generation)  # it may have changed hands before us
                except PubsubError as changed:
                    error = changed
                else:
                    cursor.position, cursor.updated_us = max(cursor.position, position), now_us
            done(error)

        sql = (
            "UPDATE cursors SET position = ?, updated_at = ? "
            "WHERE topic_id = ? AND name = ? AND generation = ? AND position < ?"
        )
        self._change([(sql, [(position, now_us, topic_id, name, generation, position)])], committed)

    def note(self, cursor: Cursor, done: Done) -> None:
        """Note where a subscription has got to whose cursor is kept elsewhere.

        What comes late is older, by generation and then by position, than what is noted, and changes nothing.
        """
        held = self.find(cursor.topic_id, cursor.name)
        if held is None:
            try:
                self._check_room(cursor.topic_id, cursor.topic, cursor.name)
            except PubsubError as error:
                done(error)
                return
        elif _age(held) >= _age(cursor):
            done(None)
            return

        def noted(error: PubsubError | None) -> None:
            held = self.find(cursor.topic_id, cursor.name)
            if error is None and (held is None or _age(held) < _age(cursor)):
                self._put(cursor)
            done(error)

        sql = (
            "INSERT INTO cursors (topic_id, name, topic, position, generation, updated_at) "
            "VALUES (?, ?, ?, ?, ?, ?) "
            "ON CONFLICT DO UPDATE SET position = excluded.position, generation = excluded.generation, "
            "updated_at = excluded.updated_at "
            "WHERE (excluded.generation, excluded.position) > (generation, position)"
        )
        row = (
            *(cursor.topic_id, cursor.name, cursor.topic),
            *(cursor.position, cursor.generation, cursor.updated_us),
        )
        self._change([(sql, [row])], noted)

    async def reset(self, cursor: Cursor, position: int) -> None:
        """Move a cursor anywhere; whoever had it taken up has it no more.

        Raises:
            ReadOnlyError: the file cannot be written to; nothing has changed.
        """
        generation, now_us = self._next_generation(), _now_us()

        def moved() -> None:
            held = self.find(cursor.topic_id, cursor.name)
            if held is not None:
                held.position, held.generation, held.updated_us = position, generation, now_us

        sql = (
            "UPDATE cursors SET position = ?, generation = ?, updated_at = ? WHERE topic_id = ? AND name = ?"
        )
        await self._run([(sql, [(position, generation, now_us, cursor.topic_id, cursor.name)])], moved)

    async def delete(self, cursors: Sequence[Cursor]) -> None:
        """Delete cursors.

        Raises:
            ReadOnlyError: the file cannot be written to; nothing has changed.
        """

        def deleted() -> None:
            for cursor in cursors:
                self._drop(cursor)

        await self._run([_delete_rows(cursors)], deleted)

    def forget(self, topic_id: int) -> None:
        """The topic has been deleted, and its rows with it."""
        self._topics.pop(topic_id, None)

    def keep(self, topic_id: int, names: Collection[str]) -> None:
        """The topic has another owner, which has all others."""
        kept = [cursor for name, cursor in self._topics.pop(topic_id, {}).items() if name in names]
        self.load(kept)

    def _drop(self, cursor: Cursor) -> None:
        cursors = self._topics.get(cursor.topic_id, {})
        cursors.pop(cursor.name, None)
        if not cursors:
            self._topics.pop(cursor.topic_id, None)

    def _check_room(self, topic_id: int, topic: str, name: str) -> None:
        cursors = self._topics.get(topic_id, {})
        if name not in cursors and len(cursors) >= CURSORS_OF_A_TOPIC:
            raise InvalidRequestError(
                f"topic {topic} has {len(cursors)} durable subscriptions, and no more are allowed: "
                f"delete those that nobody uses (pubsub subscription list {topic})"
            )

    def _next_generation(self) -> int:
        self._generation = max(self._generation + 1, _now_us())
        return self._generation

    async def _run(self, statements: Sequence[Statement], then: Callable[[], None]) -> None:
        """Have statements committed; `then` runs in the order of commits, whoever waits for it."""
        finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def done(error: PubsubError | None) -> None:
            if error is None:
                then()
            resolve(finished, None, error)

        self._change(statements, done)
        await finished


def _delete_rows(cursors: Sequence[Cursor]) -> Statement:
    rows = [(cursor.topic_id, cursor.name) for cursor in cursors]
    return "DELETE FROM cursors WHERE topic_id = ? AND name = ?", rows


def _taken(name: str) -> SubscriptionTakenError:
    return SubscriptionTakenError(
        f"the durable subscription {name} was taken up by another subscriber, or reset; subscribe again to go on"
    )


def _age(cursor: Cursor) -> tuple[int, int]:
    return cursor.generation, cursor.position


def _now_us() -> int:
    return time.time_ns() // 1000


def load_cursors(connection: Connection, topic_id: int | None = None) -> list[Cursor]:
    """Every cursor of the file, or those of one topic.

    Raises:
        msgspec.ValidationError: a row holds what none can.
    """
    of_topic, values = ("", ()) if topic_id is None else (" WHERE topic_id = ?", (topic_id,))
    rows = connection.exec_driver_sql(
        f"SELECT topic_id, name, topic, position, generation, updated_at FROM cursors{of_topic}", values
    )
    return [msgspec.convert(dict(zip(Cursor.__struct_fields__, row, strict=True)), Cursor) for row in rows]
