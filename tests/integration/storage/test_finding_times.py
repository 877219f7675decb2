"""The offset of a time is found by a binary search: its cost hardly grows with the log."""

from __future__ import annotations

from typing import Any

import pytest

from pubsub.storage import reader
from pubsub.storage.store import Store
from tests.integration.storage.stores import copy_of


async def test_a_time_is_found_by_few_looks_not_by_a_scan(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 100_000
    topic = await store.create(copy_of(1, "t"))
    await store.change_file(
        lambda c: c.exec_driver_sql(
            "WITH RECURSIVE n(value) AS (SELECT 0 UNION ALL SELECT value + 1 FROM n WHERE value < ?) "
            "INSERT INTO messages SELECT 1, value, 1000 + value / 7, NULL, NULL, x'00', NULL FROM n",
            (count - 1,),
        ).close()
    )
    topic.committed = topic.next_offset = count
    looks = 0
    look = reader._message_from

    def counted(*arguments: Any) -> Any:
        nonlocal looks
        looks += 1
        return look(*arguments)

    monkeypatch.setattr(reader, "_message_from", counted)
    for offset in (0, 1, 6, 7, 12_345, 50_000, 99_999):
        looks = 0
        assert await store.offset_at(topic, 1000 + offset // 7) == offset // 7 * 7
        assert looks <= 18  # the binary logarithm of 100,000, and one to be sure
