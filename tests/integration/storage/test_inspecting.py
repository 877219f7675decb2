"""The file is open to anyone who reads: the view for people, and sqlite3 beside a running peer."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from typing import Any

import pytest

from pubsub.storage.store import Store
from tests.integration.storage.stores import append, beside, change, copy_of

UTF_8 = [
    b"",
    b"plain",
    b"tab\tand\nline",
    "grün".encode(),
    "日本語".encode(),
    "🜂".encode(),
    b"nul \x00 inside",
    b"\x7f",
]
NOT_UTF_8 = [
    b"\xff\xfe",
    b"\x80",
    b"cut \xc3",
    b"\xc0\xaf",  # overlong
    b"\xed\xa0\x80",  # a surrogate
    b"\xf4\x90\x80\x80",  # beyond Unicode
    b"ok \xe2\x82",
    b"\x00\xff",
]


async def test_the_view_shows_text_as_text_and_the_rest_as_bytes(store: Store) -> None:
    topic = await store.create(copy_of(1, "sensors.temp"))
    await append(store, topic, UTF_8 + NOT_UTF_8)
    with beside(store.path) as visitor:
        shown = visitor.execute(
            "SELECT topic, offset, typeof(payload), payload FROM topic_messages"
        ).fetchall()
    assert [row[:2] for row in shown] == [("sensors.temp", n) for n in range(len(shown))]
    for payload, (_, _, kind, value) in zip(UTF_8, shown, strict=False):
        assert (kind, value) == ("text", payload.decode()), payload
    for payload, (_, _, kind, value) in zip(NOT_UTF_8, shown[len(UTF_8) :], strict=True):
        assert (kind, value) == ("blob", payload), payload


async def test_the_view_agrees_with_python_on_every_pair_of_bytes_at_an_edge(store: Store) -> None:
    topic = await store.create(copy_of(1, "t"))
    edges = (
        0x00,
        0x7F,
        0x80,
        0x8F,
        0x90,
        0x9F,
        0xA0,
        0xBF,
        0xC1,
        0xC2,
        0xDF,
        0xE0,
        0xED,
        0xEF,
        0xF0,
        0xF4,
        0xF5,
    )
    payloads = [
        bytes((a, b)) + rest for a in edges for b in edges for rest in (b"", b"\x80", b"\x80\x80", b"a")
    ]
    await append(store, topic, payloads)
    with beside(store.path) as visitor:
        kinds = [
            row[0] for row in visitor.execute("SELECT typeof(payload) FROM topic_messages ORDER BY offset")
        ]

    def is_text(payload: bytes) -> bool:
        try:
            payload.decode()
        except UnicodeDecodeError:
            return False
        return True

    assert kinds == ["text" if is_text(payload) else "blob" for payload in payloads]


async def test_the_view_shows_time_key_headers_and_a_removed_key(open_store: Any) -> None:
    store = await open_store()
    topic = await store.create(copy_of(1, "t"))
    await append(store, topic, [b"x", b"y"], keys=["room-1", None], headers=['{"unit":"C"}', None])
    await store.close()
    change(
        store.path,
        "UPDATE messages SET published_at = 1700000000000001 WHERE offset = 0",
        "UPDATE messages SET payload = NULL WHERE offset = 1",
    )
    with beside(store.path) as visitor:
        assert visitor.execute(
            "SELECT published_at, key, headers, payload FROM topic_messages WHERE offset = 0"
        ).fetchone() == ("2023-11-14T22:13:20.000001Z", "room-1", '{"unit":"C"}', "x")
        assert visitor.execute("SELECT payload FROM topic_messages WHERE offset = 1").fetchone() == (None,)


async def test_sqlite3_reads_the_live_file_while_the_peer_writes(store: Store) -> None:
    binary = shutil.which("sqlite3")
    if binary is None:
        pytest.skip("the command sqlite3 is not installed (Debian: apt-get install sqlite3)")
    topic = await store.create(copy_of(1, "t"))
    query = "SELECT count(*), max(offset) + 1 FROM topic_messages"
    stop = asyncio.Event()

    async def write_on() -> None:
        while not stop.is_set():
            await append(store, topic, [b"x" * 100] * 50)

    await append(store, topic, [b"x"])
    writing = asyncio.create_task(write_on(), name="write on")
    counts = []
    for _ in range(5):
        acknowledged = topic.committed
        visitor = await asyncio.create_subprocess_exec(
            binary,
            "-readonly",
            str(store.path),
            query,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, errors = await visitor.communicate()
        assert errors == b""
        count, end = map(int, output.split(b"|"))
        assert count == end >= acknowledged
        counts.append(count)
    stop.set()
    await writing
    assert counts == sorted(counts)


async def test_a_reader_of_the_live_file_sees_whole_appends_only(store: Store) -> None:
    topic = await store.create(copy_of(1, "t"))
    seen = set()
    for _ in range(50):
        appending = asyncio.gather(*(append(store, topic, [b"x"] * 7) for _ in range(3)))
        while not appending.done():
            with beside(store.path) as visitor:
                seen.add(visitor.execute("SELECT count(*) FROM messages").fetchone()[0])
            await asyncio.sleep(0)
        await appending
    assert all(count % 7 == 0 for count in seen)


async def test_a_reader_cannot_write_by_mistake(store: Store) -> None:
    with beside(store.path) as visitor, pytest.raises(sqlite3.OperationalError, match="readonly"):
        visitor.execute("DELETE FROM messages")
