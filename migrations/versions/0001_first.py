"""The first schema: node, topics, messages, producers, and the view topic_messages."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_HEX = "hex(substr(payload, at, 4))"


def upgrade() -> None:
    op.create_table(
        "node",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("starts", sa.Integer, nullable=False),
        sa.Column("written_at", sa.Integer, nullable=False),
    )
    op.create_table(
        "topics",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("first_offset", sa.Integer, nullable=False),
        sa.Column("next_offset", sa.Integer, nullable=False),
        sa.Column("committed", sa.Integer, nullable=False),
        sa.Column("policy", sa.Text, nullable=False),
        sa.Column("created_at", sa.Integer, nullable=False),
        sa.Column("set_aside", sa.Text),
    )
    op.create_table(
        "messages",
        sa.Column("topic_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("offset", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("published_at", sa.Integer, nullable=False),
        sa.Column("key", sa.Text),
        sa.Column("headers", sa.Text),
        sa.Column("payload", sa.LargeBinary),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "producers",
        sa.Column("topic_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("producer", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("next_sequence", sa.Integer, nullable=False),
        sa.Column("recent", sa.Text, nullable=False),
        sa.Column("updated_at", sa.Integer, nullable=False),
        sqlite_with_rowid=False,
    )
    # A migration keeps its own text of a view: what the schema says today may be something else tomorrow.
    op.execute(
        f"""
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
    )
