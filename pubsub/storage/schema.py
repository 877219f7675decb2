"""The tables of peer.db, under names that people read (docs/inspecting.md).

This is the schema of the newest version; `migrations/` leads there from any older one, and a test demands that
both give the same. Instants are integer microseconds UTC.
"""

from __future__ import annotations

from sqlalchemy import Column, Index, Integer, LargeBinary, MetaData, Table, Text

HEAD_REVISION = "0002"
"""Revision of this schema: the newest in migrations/versions."""

PAGE_BYTES = 8192
"""A page holds a message of up to 2,000 bytes whole in a WITHOUT ROWID table; at 4096 bytes 1 KiB would not fit."""

metadata = MetaData()

node = Table(
    "node",
    metadata,
    Column("id", Text, primary_key=True),  # 32 hex digits, made with the data directory
    Column("name", Text, nullable=False),
    Column("starts", Integer, nullable=False),  # how often a peer has been started on it
    Column("written_at", Integer, nullable=False),
)

topics = Table(
    "topics",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("name", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("first_offset", Integer, nullable=False),
    Column("next_offset", Integer, nullable=False),
    Column("committed", Integer, nullable=False),
    Column("policy", Text, nullable=False),  # JSON
    Column("created_at", Integer, nullable=False),
    Column("set_aside", Text),  # why the copy is kept but not served, or null
    Column("messages", Integer, nullable=False),  # how many there are ...
    Column("bytes", Integer, nullable=False),  # ... and what their payloads, keys and headers (UTF-8) take
    Column(
        "compacted_to", Integer, nullable=False
    ),  # of messages below it, latest_keys knows the keys; -1: it is emptied
    Column("producers_to", Integer, nullable=False),  # every batch below it is in the rows of producers
    Column("replicas", Text),  # JSON, names of peers; null: this peer alone has the topic
    Column("in_sync", Text),  # JSON, likewise: those that hold everything committed
    Column("version", Integer, nullable=False),  # of the registry's record, as it was known last
    Column("owner_address", Text, nullable=False),  # where the owner was to be reached then
    Column(
        "sound", Integer, nullable=False
    ),  # 0: it has lost something, and its owner has not said since that it counts
    Column("promised", Integer, nullable=False),  # nothing of an epoch below it is taken any more
    Column("configs", Text),  # JSON: the sets of copies that count
    Column("proposal", Text),  # JSON: what the owner has proposed to change in the registry's record
)

messages = Table(
    "messages",
    metadata,
    Column("topic_id", Integer, primary_key=True, autoincrement=False),
    Column("offset", Integer, primary_key=True, autoincrement=False),
    Column("published_at", Integer, nullable=False),
    Column("key", Text),
    Column("headers", Text),  # a JSON object
    Column("payload", LargeBinary),  # null only for a removed key
    Column("batch", Text),  # of the first row of a batch: JSON [messages, checksum, producer, sequence]
    sqlite_with_rowid=False,
)

producers = Table(
    "producers",  # a snapshot: what has come since stands in messages.batch, from topics.producers_to on
    metadata,
    Column("topic_id", Integer, primary_key=True, autoincrement=False),
    Column("producer", Integer, primary_key=True, autoincrement=False),
    Column("next_sequence", Integer, nullable=False),
    Column(
        "recent", Text, nullable=False
    ),  # JSON [[sequence, messages, first offset, runs], ...], newest last
    Column("updated_at", Integer, nullable=False),
    sqlite_with_rowid=False,
)

cursors = Table(
    "cursors",  # where durable subscriptions have got to; also of topics that live elsewhere
    metadata,
    Column("topic_id", Integer, primary_key=True, autoincrement=False),
    Column("name", Text, primary_key=True),
    Column("topic", Text, nullable=False),
    Column("position", Integer, nullable=False),  # offset of the next message
    Column(
        "generation", Integer, nullable=False
    ),  # new when it is taken up or reset; older commits count no more
    Column("updated_at", Integer, nullable=False),
    sqlite_with_rowid=False,
)

groups = Table(
    "groups",
    metadata,
    Column("topic_id", Integer, primary_key=True, autoincrement=False),
    Column("name", Text, primary_key=True),
    Column("cursor", Integer, nullable=False),  # offsets from it on have not been given out yet
    Column("options", Text, nullable=False),  # JSON
    Column("created_at", Integer, nullable=False),
    sqlite_with_rowid=False,
)

group_messages = Table(
    "group_messages",  # below the group's cursor and not acknowledged; what has no row there is done
    metadata,
    Column("topic_id", Integer, primary_key=True, autoincrement=False),
    Column("group_name", Text, primary_key=True),
    Column("offset", Integer, primary_key=True, autoincrement=False),
    Column("state", Text, nullable=False),  # ready, in_flight, delayed, or dying: to be a dead letter next
    Column("attempts", Integer, nullable=False),
    Column("due_at", Integer, nullable=False),  # end of the lease or of the delay; 0 when ready
    Column("member", Text, nullable=False),  # who has it in flight; of a dying one, why it was given up
    sqlite_with_rowid=False,
)

dead_letters = Table(
    "dead_letters",  # messages of dead letter topics: which message of which group each was
    metadata,
    Column("topic_id", Integer, primary_key=True, autoincrement=False),  # of the dead letter topic
    Column("offset", Integer, primary_key=True, autoincrement=False),  # in it
    Column("source_topic_id", Integer, nullable=False),
    Column("source_offset", Integer, nullable=False),
    Column("group_name", Text, nullable=False),
    Column("reason", Text, nullable=False),  # why it was given up, ...
    Column("attempts", Integer, nullable=False),  # ... and after how many
    Index("dead_letters_source", "source_topic_id", "group_name"),  # with the key behind it: in their order
    Index("dead_letters_message", "source_topic_id", "group_name", "source_offset"),
    sqlite_with_rowid=False,
)

scheduled = Table(
    "scheduled",  # published for later; moves into messages when due
    metadata,
    Column("id", Integer, primary_key=True),
    Column("topic_id", Integer, nullable=False),
    Column("due_at", Integer, nullable=False),
    Column("key", Text),
    Column("headers", Text),
    Column("payload", LargeBinary),
    Column("created_at", Integer, nullable=False),
    Index("scheduled_due", "topic_id", "due_at"),
    sqlite_autoincrement=True,
)

message_ids = Table(
    "message_ids",  # ids that applications gave their messages, for the dedupe window of the topic
    metadata,
    Column("topic_id", Integer, primary_key=True, autoincrement=False),
    Column("message_id", Text, primary_key=True),
    Column("offset", Integer, nullable=False),
    Column("published_at", Integer, nullable=False),
    Index("message_ids_age", "topic_id", "published_at"),
    sqlite_with_rowid=False,
)

latest_keys = Table(
    "latest_keys",  # of compacted topics: where the latest message of each key is; kept by the compactor
    metadata,
    Column("topic_id", Integer, primary_key=True, autoincrement=False),
    Column("key", Text, primary_key=True),
    Column("offset", Integer, nullable=False),
    Column("removed_at", Integer),  # of a message that removes its key: when it was published
    sqlite_with_rowid=False,
)
Index(
    "latest_keys_removed",
    latest_keys.c.topic_id,
    latest_keys.c.removed_at,
    sqlite_where=latest_keys.c.removed_at.is_not(None),
)

epochs = Table(
    "epochs",  # of replicated topics: at which offset each ownership began
    metadata,
    Column("topic_id", Integer, primary_key=True, autoincrement=False),
    Column("epoch", Integer, primary_key=True, autoincrement=False),
    Column("start_offset", Integer, nullable=False),
    Column(
        "lossy", Integer, nullable=False
    ),  # 1: it began on an operator's word, and may lack committed messages
    Column("owner", Text, nullable=False),
    sqlite_with_rowid=False,
)

copied_state = Table(
    "copied_state",  # of a topic that this peer has a copy of: what its owner has besides messages
    metadata,
    Column("topic_id", Integer, primary_key=True, autoincrement=False),
    Column("kind", Text, primary_key=True),  # the table that the owner has it in
    Column("row_key", Text, primary_key=True),  # JSON array
    Column("cells", LargeBinary, nullable=False),  # msgpack array
    sqlite_with_rowid=False,
)

orphaned_messages = Table(
    "orphaned_messages",  # cut off copies: the topic's log has something else there, or nothing
    metadata,
    Column("id", Integer, primary_key=True),
    Column("topic_id", Integer, nullable=False),
    Column("topic", Text, nullable=False),
    Column("offset", Integer, nullable=False),  # where it stood in this copy
    Column("epoch", Integer, nullable=False),  # in which it was appended
    Column("published_at", Integer, nullable=False),
    Column("key", Text),
    Column("headers", Text),
    Column("payload", LargeBinary),
    Column("cut_at", Integer, nullable=False),
    Column("owner", Text, nullable=False),  # whose log has not got it ...
    Column("owner_epoch", Integer, nullable=False),  # ... and in which epoch that was
    Index("orphaned_messages_topic", "topic_id", "id"),
)

BY_TOPIC = (
    "messages",
    "producers",
    "cursors",
    "group_messages",
    "groups",
    "dead_letters",
    "scheduled",
    "message_ids",
    "latest_keys",
    "epochs",
    "orphaned_messages",
    "copied_state",
)
"""Tables with a column topic_id: what has to go when a topic is deleted."""

MANY_OF_A_TOPIC = (
    ("latest_keys", "key"),
    ("message_ids", "message_id"),
    ("producers", "producer"),
    ("orphaned_messages", "id"),
    ("copied_state", "row_key"),
)
"""Those of them, besides messages, that may have very many rows of one topic; and the rest of their primary key."""

_HEX = "hex(substr(payload, at, 4))"

TOPIC_MESSAGES_VIEW = f"""
CREATE VIEW topic_messages AS
SELECT
  topics.name AS topic,
  messages.offset AS offset,
  strftime('%Y-%m-%dT%H:%M:%S', messages.published_at / 1000000, 'unixepoch')
    || printf('.%06dZ', messages.published_at % 1000000) AS published_at,
  messages.key AS key,
  messages.headers AS headers,
  CASE
    WHEN payload IS NULL THEN NULL
    -- ASCII, by far the most common, needs no look at each character
    WHEN instr(payload, x'00') = 0
      AND CAST(payload AS TEXT) NOT GLOB '*[^' || char(1) || '-' || char(127) || ']*'
      THEN CAST(payload AS TEXT)
    -- RFC 3629, section 4: walk from character to character; whoever arrives at the end is UTF-8
    WHEN (
      WITH RECURSIVE walk(at) AS (
        SELECT 1
        UNION ALL
        SELECT at + CASE
          WHEN {_HEX} GLOB '[0-7]*' THEN 1
          WHEN {_HEX} GLOB 'C[2-9A-F][89AB]*' OR {_HEX} GLOB 'D?[89AB]*' THEN 2
          WHEN {_HEX} GLOB 'E0[AB]?[89AB]*' OR {_HEX} GLOB 'ED[89]?[89AB]*'
            OR {_HEX} GLOB 'E[1-9A-CEF][89AB]?[89AB]*' THEN 3
          WHEN {_HEX} GLOB 'F0[9AB]?[89AB]?[89AB]*' OR {_HEX} GLOB 'F[123][89AB]?[89AB]?[89AB]*'
            OR {_HEX} GLOB 'F48?[89AB]?[89AB]*' THEN 4
        END
        FROM walk WHERE at <= length(payload)
      )
      SELECT max(at) = length(payload) + 1 AND count(*) = count(at) FROM walk
    ) THEN CAST(payload AS TEXT)
    ELSE payload
  END AS payload
FROM messages JOIN topics ON topics.id = messages.topic_id
"""
"""The view for people: names in place of ids, times as text, payloads as text where they are UTF-8."""
