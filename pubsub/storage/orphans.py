"""Reading `orphaned_messages`: what was cut off copies."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import Connection


class Orphan(NamedTuple):
    """A row."""

    number: int
    topic: str
    offset: int
    epoch: int
    published_us: int
    cut_us: int
    owner: str
    owner_epoch: int
    key: str | None
    headers: str | None
    payload: bytes | None


def read_orphans(
    connection: Connection, topic: str, after: int, limit: int, max_bytes: int
) -> tuple[int, list[Orphan]]:
    """How many there are of a topic (or of all: ""), and those with the next numbers, within bounds."""
    (total,) = connection.exec_driver_sql(
        "SELECT count(*) FROM orphaned_messages WHERE ?1 = '' OR topic = ?1", (topic,)
    ).one()
    found: list[Orphan] = []
    size = 0
    rows = connection.exec_driver_sql(
        "SELECT id, topic, offset, epoch, published_at, cut_at, owner, owner_epoch, key, headers, payload "
        "FROM orphaned_messages WHERE id > ?2 AND (?1 = '' OR topic = ?1) ORDER BY id LIMIT ?3",
        (topic, after, limit),
    )
    for row in rows:
        orphan = Orphan(*row)
        size += len(orphan.payload or b"") + len(orphan.headers or "") + len(orphan.key or "")
        if size > max_bytes and found:
            break
        found.append(orphan)
    rows.close()
    return total, found
