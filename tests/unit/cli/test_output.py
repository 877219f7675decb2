"""Records as printed where no terminal is."""

import json

import pytest

from pubsub.cli.output import aligned, as_records, flattened, print_list, print_one
from pubsub.model import PeerInfo, TopicInfo

TOPIC = TopicInfo(topic="a.b", id=5, owner="alice", epoch=1, online=False, in_sync=["alice", "bob"])


def test_a_piped_list_has_a_header_line_and_aligned_columns_that_can_be_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_list(as_records([TOPIC]), ("topic", "owner", "online", "next_offset", "in_sync"), as_json=False)
    assert capsys.readouterr().out.splitlines() == [
        "TOPIC  OWNER  ONLINE  NEXT_OFFSET  IN_SYNC",
        "a.b    alice  no      -            alice,bob",
    ]


def test_a_piped_list_cuts_nothing_off(capsys: pytest.CaptureFixture[str]) -> None:
    name = "x" * 200
    print_list([{"peer": name}], ("peer",), as_json=False)
    assert name in capsys.readouterr().out


def test_a_json_list_has_one_object_with_all_fields_per_line(capsys: pytest.CaptureFixture[str]) -> None:
    peers = [PeerInfo(peer=name, address="h:1", alive=True, topics=2) for name in ("alice", "bob")]
    print_list(as_records(peers), ("peer",), as_json=True)
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["peer"] for line in lines] == ["alice", "bob"]
    assert {"peer", "address", "alive", "topics"} <= json.loads(lines[0]).keys()


def test_one_record_is_a_field_per_line_with_inner_fields_by_their_path(
    capsys: pytest.CaptureFixture[str],
) -> None:
    record = {"peer": "alice", "load": {"topics": 2.0, "rate": 0.5}, "empty": {}, "ok": True}
    assert flattened(record) == [
        ("peer", "alice"),
        ("load.topics", 2.0),
        ("load.rate", 0.5),
        ("empty", {}),
        ("ok", True),
    ]
    print_one(record, as_json=False)
    assert capsys.readouterr().out.splitlines() == [
        "peer         alice",
        "load.topics  2",
        "load.rate    0.5",
        "empty        -",
        "ok           yes",
    ]


def test_no_rows_are_no_lines_but_the_header() -> None:
    assert aligned([["A", "B"]]) == ["A  B"]
