"""What a scrub finds in real files: flipped bytes, pages that cannot be read; and digests by which copies compare."""

from __future__ import annotations

from pathlib import Path

import pytest

from pubsub.errors import DamagedFileError
from pubsub.storage.copying import read_encoded
from pubsub.storage.digests import Range
from pubsub.storage.schema import PAGE_BYTES
from pubsub.storage.scrub import Scrubbed, scrub
from pubsub.storage.store import Store
from pubsub.storage.topic import Topic
from tests.integration.storage.stores import append, change, copy_of

BATCHES, MESSAGES = 30, 50


async def fill(directory: Path, size: int = 100) -> Path:
    store = await Store.open(directory, "alice")
    topic = await store.create(copy_of(7, "t"))
    for batch in range(BATCHES):
        numbers = range(batch * MESSAGES, (batch + 1) * MESSAGES)
        await append(
            store,
            topic,
            [b"%06d" % n + b"x" * size for n in numbers],
            keys=[f"key {n}" for n in numbers],
        )
    await store.close()
    return store.path


def flip(path: Path, what: bytes, by: bytes) -> None:
    data = path.read_bytes()
    assert data.count(what) == 1
    assert len(what) == len(by)
    path.write_bytes(data.replace(what, by))


async def look(
    store: Store, topic: Topic, start: int = 0, step: int = 1000, max_bytes: int = 10**9
) -> Scrubbed:
    return await store.look(scrub, topic.id, start, topic.next_offset, step, max_bytes)


async def test_a_sound_log_has_the_same_digests_in_whatever_chunks_it_is_read(tmp_path: Path):
    await fill(tmp_path)
    store = await Store.open(tmp_path, "alice")
    topic = store.topics["t"]
    whole = await look(store, topic, step=400)
    assert (whole.stop, whole.damaged_at) == (1500, None)
    assert [(r.start, r.stop, r.messages) for r in whole.ranges] == [
        *((0, 400, 400), (400, 800, 400), (800, 1200, 400), (1200, 1500, 300))
    ]
    ranges: list[Range] = []
    position, begun = 0, None
    while position < 1500:
        found = await store.look(scrub, topic.id, position, 1500, 400, 3000, begun)
        assert position < found.stop
        ranges += found.ranges
        position, begun = found.stop, None
        if position % 400 and position < 1500:
            begun = ranges.pop()
    assert ranges == whole.ranges
    await store.close()


async def test_a_flipped_byte_of_a_payload_is_found_at_its_batch_and_changes_the_digest(tmp_path: Path):
    path = await fill(tmp_path)
    store = await Store.open(tmp_path, "alice")
    before = await look(store, store.topics["t"], step=100)
    await store.close()
    flip(path, b"000777x", b"000777y")
    store = await Store.open(tmp_path, "alice")
    topic = store.topics["t"]
    found = await look(store, topic, step=100)
    assert found.damaged_at == 750
    assert "offset 750 does not fit its checksum" in found.why
    assert found.ranges[:7] == before.ranges[:7]
    assert (found.ranges[7].start, found.ranges[7].digest) == (700, -1)
    behind = await look(store, topic, start=found.stop, step=100)
    assert (behind.damaged_at, behind.ranges) == (None, before.ranges[8:])
    await store.close()


@pytest.mark.parametrize("which", ["offset = 777", "offset BETWEEN 750 AND 799"])
async def test_a_time_that_has_changed_is_damage(tmp_path: Path, which: str):
    path = await fill(tmp_path)
    change(path, f"UPDATE messages SET published_at = published_at + 256 WHERE {which}")
    store = await Store.open(tmp_path, "alice")
    assert (await look(store, store.topics["t"])).damaged_at == 750
    with pytest.raises(DamagedFileError, match="offset 750 does not fit its checksum"):
        await store.look(read_encoded, "t", 7, 0, 1500, 1500, 10**9)
    await store.close()


async def test_a_key_that_is_no_text_any_more_is_damage(tmp_path: Path):
    path = await fill(tmp_path)
    flip(path, b"key 777000777", b"key \xff77000777")
    store = await Store.open(tmp_path, "alice")
    found = await look(store, store.topics["t"])
    assert found.damaged_at == 750
    await store.close()


@pytest.mark.parametrize(
    "cell", ["payload = CAST(payload AS TEXT)", "key = CAST(key AS BLOB)", "published_at = 'now'"]
)
async def test_a_cell_of_another_type_is_damage_although_its_bytes_are_right(tmp_path: Path, cell: str):
    path = await fill(tmp_path)
    change(path, f"UPDATE messages SET {cell} WHERE offset = 777")
    store = await Store.open(tmp_path, "alice")
    found = await look(store, store.topics["t"])
    assert found.damaged_at == 750
    assert "offset 777 has a cell of another type" in found.why
    await store.close()


async def test_a_page_that_cannot_be_read_is_damage_that_reads_and_scrubs_name(tmp_path: Path):
    path = await fill(tmp_path)
    store = await Store.open(tmp_path, "alice")
    topic = store.topics["t"]
    page = path.read_bytes().index(b"000777x") // PAGE_BYTES
    with path.open("r+b") as file:
        file.seek(page * PAGE_BYTES)
        file.write(bytes(PAGE_BYTES))
    found = await look(store, topic)
    assert found.damaged_at is not None
    assert found.damaged_at <= 777
    with pytest.raises(DamagedFileError, match="malformed"):
        await store.read(topic, 777, 10)
    await store.close()


async def test_of_a_batch_that_is_not_whole_any_more_nobody_can_tell(tmp_path: Path):
    path = await fill(tmp_path)
    change(path, "DELETE FROM messages WHERE offset = 775")
    flip(path, b"000777x", b"000777y")
    store = await Store.open(tmp_path, "alice")
    assert (await look(store, store.topics["t"])).damaged_at is None
    await store.close()
