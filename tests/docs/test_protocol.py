"""docs/protocol.md says what the code does: its examples, its tables, and a client made from it alone."""

from __future__ import annotations

import asyncio
import re
import types
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple, Union, get_args, get_origin, get_type_hints

import msgspec
import pytest

import pubsub
from pubsub.config import Limits
from pubsub.core.sequence import REMEMBERED_BATCHES
from pubsub.errors import ERRORS_BY_CODE
from pubsub.model import (
    NAME_MAX_LENGTH,
    Change,
    CursorInfo,
    OrphanedMessage,
    PeerInfo,
    ScheduledMessage,
    TopicInfo,
)
from pubsub.net import connection as net_connection
from pubsub.net import server as net_server
from pubsub.peer.publishing import BATCH_MESSAGES
from pubsub.policy import Policy
from pubsub.protocol import messages as m
from pubsub.protocol.codec import FrameReader, decode_frame, delivery_head, encode_batch, encode_frame
from pubsub.protocol.handshake import ACCEPTED
from tests.docs.plain_client import PlainClient, size_of

TEXT = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
FRAMES: tuple[Any, ...] = get_args(m.Frame)
INSIDE: tuple[Any, ...] = (
    *(m.Batch, m.CopyState, m.CopyEnd, m.CopySet),
    *(TopicInfo, PeerInfo, CursorInfo, ScheduledMessage, OrphanedMessage),
)
"""Structures that occur within frames."""


# Examples


class Example(NamedTuple):
    stated: str
    frame: Any
    encoded: bytes


def examples() -> list[Example]:
    names = vars(m) | {"TopicInfo": TopicInfo, "PeerInfo": PeerInfo}
    found = []
    for block in re.findall(r"```frame\n(.*?)```", TEXT, re.DOTALL):
        stated, _, hex_lines = block.partition("\n")
        encoded = bytes.fromhex("".join(line.partition("#")[0] for line in hex_lines.splitlines()))
        found.append(Example(stated, eval(stated, {"__builtins__": {}}, names), encoded))
    return found


EXAMPLES = examples()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: type(example.frame).__name__)
def test_an_example_decodes_to_what_is_stated_and_encodes_to_the_bytes_printed(example: Example):
    (payload,) = FrameReader(Limits().frame_bytes).feed(example.encoded)
    assert decode_frame(payload) == example.frame
    if isinstance(example.frame, m.Deliver):  # peers encode the batch once and put a head before it
        batch = encode_batch(example.frame.batch)
        assert delivery_head(example.frame.subscription, len(batch)) + batch == example.encoded
    else:
        assert encode_frame(example.frame) == example.encoded


def test_the_frames_that_a_client_needs_all_have_an_example():
    assert len(EXAMPLES) > 20
    assert {type(example.frame) for example in EXAMPLES} >= {
        *(
            m.Hello,
            m.Welcome,
            m.Failure,
            m.Done,
            m.Publish,
            m.Published,
            m.Subscribe,
            m.Subscribed,
            m.Deliver,
        ),
        *(m.Credit, m.Unsubscribe, m.Ended, m.Query, m.QueryResult, m.Lookup, m.TopicList, m.CreateTopic),
    }


# Tables


def section(heading: str) -> str:
    """What stands below a heading, up to the next of any level."""
    match = re.search(rf"^{re.escape(heading)}$\n(.*?)(?=^#|\Z)", TEXT, re.DOTALL | re.MULTILINE)
    assert match, f"docs/protocol.md has no heading {heading!r}"
    return match[1]


def rows(text: str) -> list[list[str]]:
    """The cells of every table in a text, without heads."""
    found: list[list[str]] = []
    for table in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        lines = table.splitlines()
        assert re.fullmatch(r"(\|-+)+\|", lines[1])
        found += [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    return found


def type_text(kind: Any) -> str:
    """A type as the document writes it."""
    simple = {
        int: "int",
        str: "str",
        bytes: "bin",
        bool: "bool",
        float: "float",
        type(None): "nil",
        Any: "any",
    }
    if kind in simple:
        return simple[kind]
    if get_origin(kind) in (Union, types.UnionType):
        parts = [part for part in get_args(kind) if part is not type(None)]
        parts += [type(None)] * (len(parts) < len(get_args(kind)))
        return " or ".join(map(type_text, parts))
    if get_origin(kind) is list:
        (inner,) = get_args(kind)
        text = type_text(inner)
        return f"array of ({text})" if " or " in text else f"array of {text}"
    if get_origin(kind) is tuple:
        return f"[{', '.join(map(type_text, get_args(kind)))}]"
    if get_origin(kind) is dict:
        key, value = get_args(kind)
        return f"map of {type_text(key)} to {type_text(value)}"
    return str(kind.__name__)


def default_text(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return ""
    if field.default_factory is not msgspec.NODEFAULT:
        return {list: "`[]`", dict: "`{}`"}[field.default_factory]
    return "`nil`" if field.default is None else f"`{msgspec.json.encode(field.default).decode()}`"


@pytest.mark.parametrize("kind", [*FRAMES, *INSIDE], ids=lambda kind: kind.__name__)
def test_every_field_is_documented_in_order_with_type_and_default(kind: Any):
    config = kind.__struct_config__
    if kind in FRAMES:
        heading = f"### {config.tag} `{kind.__name__}`"
    else:
        heading = f"### `{kind.__name__}` ({'array' if config.array_like else 'map'})"
    hints = get_type_hints(kind)
    expected = [
        [f"`{field.name}`", type_text(hints[field.name]), default_text(field)]
        for field in msgspec.structs.fields(kind)
    ]
    assert [row[:3] for row in rows(section(heading))] == expected


def test_the_frames_stand_in_the_order_of_their_type_numbers_and_there_are_no_others():
    documented = re.findall(r"^### (\d+) `(\w+)`$", TEXT, re.MULTILINE)
    assert documented == [(str(kind.__struct_config__.tag), kind.__name__) for kind in FRAMES]


def test_every_error_code_is_documented_in_the_order_of_the_tree_with_whether_it_is_retriable():
    documented = [(row[0].strip("`"), row[1]) for row in rows(section("## 11. Errors"))]
    assert documented == [(code, "yes" if cls.retriable else "no") for code, cls in ERRORS_BY_CODE.items()]


def test_every_request_is_documented_with_its_reply():
    documented = {row[0] for row in rows(section("## 4. Requests and replies"))}
    assert documented == {kind.__name__ for kind in get_args(m.Request)}


def test_the_table_of_legal_frames_is_the_one_that_servers_use():
    accepted: dict[str, set[str]] = {"index": set(), "peer": set()}
    text = section("## 3. Which frame may come when").partition("After its `Welcome`")[0]
    for frames, index, peer in rows(text):
        accepted["index"] |= set(frames.split(", ")) if index.startswith("yes") else set()
        accepted["peer"] |= set(frames.split(", ")) if peer.startswith("yes") else set()
    assert accepted == {role: {kind.__name__ for kind in kinds} for role, kinds in ACCEPTED.items()}


def test_limits_and_numbers_are_those_of_the_code():
    documented = {
        name.strip("`"): float(value) for name, value, _ in rows(section("## 12. Limits and times"))
    }
    assert documented == {name: getattr(Limits(), name) for name in Limits.__struct_fields__}
    for said in (
        f"version {m.PROTOCOL_MAJOR}.{m.PROTOCOL_MINOR}",
        f"its last {REMEMBERED_BATCHES} batches",
        f"at most {REMEMBERED_BATCHES // 2} batches of one topic in flight",
        f"1 to {BATCH_MESSAGES:,} payloads",
        f"at most {NAME_MAX_LENGTH} characters",
        f"for up to {net_server.FAREWELL_SECONDS:g} s",
        f"first probe after {net_connection.KEEPALIVE_IDLE_SECONDS} s, then every "
        f"{net_connection.KEEPALIVE_INTERVAL_SECONDS} s, {net_connection.KEEPALIVE_PROBES} of them",
    ):
        assert said in " ".join(TEXT.split()), said
    starts = [
        int(row[0].split(",")[0]) for row in rows(section("## 7. Subscribing: positions and credit"))[:3]
    ]
    assert starts == [m.LATEST, m.EARLIEST, m.AT_TIME]
    policies, _, watching = section("## 9. The directory").partition("**Watching.**")
    parts = {row[0].strip("`"): row[2] for row in rows(policies)}
    defaults = {
        field.name: msgspec.json.encode(field.default).decode() for field in msgspec.structs.fields(Policy)
    }
    assert parts == {name: text.replace("null", "none") for name, text in defaults.items()}
    kinds = {row[0].strip("`") for row in rows(watching)}
    assert all(f'"{kind}"' in (Change.__doc__ or "") for kind in kinds)
    assert set(Change.__struct_fields__) == {"kind", "name", "topic"}


# A client made from the document alone


TOPIC, TOPIC_ID = "sensors.temp", 4711


@pytest.fixture
async def peer(tmp_path: Path) -> AsyncIterator[pubsub.Peer]:
    """A peer without an index that owns a topic, as if an index had said so."""
    async with pubsub.Peer("alice", data=tmp_path / "alice", index="127.0.0.1:1") as peer:
        await peer._node.holding.take(
            m.CopyState(id=TOPIC_ID, topic=TOPIC, role="owner", owner="alice", epoch=1, created_us=1)
        )
        yield peer


@pytest.fixture
async def client(peer: pubsub.Peer) -> AsyncIterator[PlainClient]:
    host, _, port = peer.address.rpartition(":")
    client = PlainClient(*await asyncio.open_connection(host, int(port)))
    yield client
    client.writer.close()
    await client.writer.wait_closed()


async def test_hello_is_answered_as_documented(client: PlainClient):
    welcome = await client.hello()
    assert welcome[:4] == [2, "pubsub", 1, 0]
    assert welcome[5:7] == ["peer", "alice"]
    assert welcome[8:] == [16 * 1024 * 1024, 1024 * 1024]


async def test_a_batch_sent_twice_is_stored_once_and_a_gap_is_refused(client: PlainClient):
    await client.hello()
    first = [TOPIC, TOPIC_ID, 77, 0, None, None, [b"a", b"b"]]
    assert await client.ask(10, *first) == [11, 1, 0, False, None, None]
    assert await client.ask(10, *first) == [11, 2, 0, True, None, None]
    failure = await client.ask(10, TOPIC, TOPIC_ID, 77, 3, None, None, [b"d"])
    assert failure[:3] == [3, 3, "sequence_out_of_order"]
    assert failure[4] == {"expected": 2}
    assert await client.ask(10, TOPIC, TOPIC_ID, 77, 2, ["k"], ['{"h":"v"}'], [b"c"]) == [
        11,
        4,
        2,
        False,
        None,
        None,
    ]
    result = await client.ask(18, TOPIC, 0, -2, 0, 100)
    assert result[:3] == [19, 5, TOPIC_ID]
    assert result[3][5] == [b"a", b"b", b"c"]
    assert result[3][3] == [None, None, "k"]
    assert result[3][4] == [None, None, '{"h":"v"}']
    assert result[4:] == [3, 3]


async def test_a_topic_is_found_and_a_missing_one_is_an_error(client: PlainClient):
    await client.hello()
    (topic,) = (await client.ask(30, TOPIC))[2]
    assert (topic["topic"], topic["id"], topic["owner"]) == (TOPIC, TOPIC_ID, "alice")
    assert (await client.ask(10, "no.such", 0, 1, 0, None, None, [b"x"]))[2] == "topic_not_found"


PAYLOADS = [b"x" * (n % 7) for n in range(35)]
KEYS = ["é🙂" if n % 3 else None for n in range(35)]
SIZES = [len(payload) + len(key or "") for payload, key in zip(PAYLOADS, KEYS, strict=True)]


@pytest.mark.parametrize(("window_messages", "window_bytes"), [(10, 1_000_000), (1000, 20), (3, 20), (10, 1)])
@pytest.mark.parametrize("behind", [True, False], ids=["from-disk", "live"])
async def test_the_window_is_never_exceeded_and_everything_comes_once_in_order(
    client: PlainClient, window_messages: int, window_bytes: int, behind: bool
):
    await client.hello()
    publish = [10, TOPIC, TOPIC_ID, 77, 0, KEYS, None, PAYLOADS]
    subscribe = [12, 9, TOPIC, TOPIC_ID, -2, 0, window_messages, window_bytes, "a plain client"]
    if behind:
        assert (await client.ask(*publish))[0] == 11
        reply = await client.ask(*subscribe)
    else:
        reply = await client.ask(*subscribe)
        client.send(*publish[:1], client.next_id(), *publish[1:])
    assert reply[0] == 13
    assert reply[2:] == [TOPIC_ID, 1, 0, 0, 0]

    payloads: list[bytes] = []
    outstanding: list[int] = []
    most_seen = 0
    while len(payloads) < len(PAYLOADS):
        frame = await client.receive()
        if frame[0] == 11:
            continue
        assert frame[:2] == [14, 9]
        first_offset, offsets, _, keys, headers, part, *_ = frame[2]
        assert (first_offset, offsets, headers) == (len(payloads), None, None)
        assert keys is None or keys == KEYS[first_offset : first_offset + len(part)]
        payloads += part
        outstanding += [size_of(part, keys, headers, n) for n in range(len(part))]
        most_seen = max(most_seen, len(outstanding))
        assert len(outstanding) <= window_messages
        assert sum(outstanding) <= window_bytes or len(outstanding) == 1
        if len(outstanding) == window_messages or sum(outstanding) + max(SIZES) > window_bytes:
            taken, outstanding = outstanding[:2], outstanding[2:]
            client.send(15, 9, len(taken), sum(taken))
    assert payloads == PAYLOADS
    assert most_seen == window_messages or window_bytes < 10 * max(SIZES)
    assert await client.ask(16, 9) == [4, client.last_id, ""]


async def test_no_more_than_the_window_comes_without_credit(client: PlainClient):
    await client.hello()
    assert (await client.ask(10, TOPIC, TOPIC_ID, 77, 0, None, None, PAYLOADS))[0] == 11
    assert (await client.ask(12, 9, TOPIC, TOPIC_ID, -2, 0, 10, 1_000_000))[0] == 13
    received = await client.payloads_until(10)
    assert received == PAYLOADS[:10]
    assert (await client.ask(39))[0] == 40, "a delivery came beyond the window"
    client.send(15, 9, 4, 0)
    assert await client.payloads_until(4) == PAYLOADS[10:14]
    assert (await client.ask(39))[0] == 40, "a delivery came beyond the credit"
    assert (await client.ask(16, 9))[0] == 4
    client.send(15, 9, 100, 0)  # of a subscription that is no more: ignored
    assert (await client.ask(39))[0] == 40


async def test_what_breaks_the_rules_is_answered_with_id_0_and_closed(client: PlainClient):
    await client.hello()
    client.send(99, 1)
    failure = await client.receive()
    assert failure[:3] == [3, 0, "remote_protocol"]
    assert await client.reader.read(1) == b""
