"""Durable subscriptions, groups, delayed messages, message ids; the latest of each key; marks of batches; replicas."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "cursors",
        sa.Column("topic_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("updated_at", sa.Integer, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "groups",
        sa.Column("topic_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("cursor", sa.Integer, nullable=False),
        sa.Column("options", sa.Text, nullable=False),
        sa.Column("created_at", sa.Integer, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "group_messages",
        sa.Column("topic_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("group_name", sa.Text, primary_key=True),
        sa.Column("offset", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("due_at", sa.Integer, nullable=False),
        sa.Column("member", sa.Text, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "dead_letters",
        sa.Column("topic_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("offset", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("source_topic_id", sa.Integer, nullable=False),
        sa.Column("source_offset", sa.Integer, nullable=False),
        sa.Column("group_name", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("dead_letters_source", "dead_letters", ["source_topic_id", "group_name"])
    op.create_index(
        "dead_letters_message", "dead_letters", ["source_topic_id", "group_name", "source_offset"]
    )
    op.create_table(
        "scheduled",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("topic_id", sa.Integer, nullable=False),
        sa.Column("due_at", sa.Integer, nullable=False),
        sa.Column("key", sa.Text),
        sa.Column("headers", sa.Text),
        sa.Column("payload", sa.LargeBinary),
        sa.Column("created_at", sa.Integer, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("scheduled_due", "scheduled", ["topic_id", "due_at"])
    op.create_table(
        "message_ids",
        sa.Column("topic_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("message_id", sa.Text, primary_key=True),
        sa.Column("offset", sa.Integer, nullable=False),
        sa.Column("published_at", sa.Integer, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("message_ids_age", "message_ids", ["topic_id", "published_at"])
    op.create_table(
        "latest_keys",
        sa.Column("topic_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("offset", sa.Integer, nullable=False),
        sa.Column("removed_at", sa.Integer),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "latest_keys_removed",
        "latest_keys",
        ["topic_id", "removed_at"],
        sqlite_where=sa.text("removed_at IS NOT NULL"),
    )
    op.add_column("messages", sa.Column("batch", sa.Text))
    op.create_table(
        "epochs",
        sa.Column("topic_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("epoch", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("start_offset", sa.Integer, nullable=False),
        sa.Column("lossy", sa.Integer, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "copied_state",
        sa.Column("topic_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("kind", sa.Text, primary_key=True),
        sa.Column("row_key", sa.Text, primary_key=True),
        sa.Column("cells", sa.LargeBinary, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "orphaned_messages",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("topic_id", sa.Integer, nullable=False),
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("offset", sa.Integer, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("published_at", sa.Integer, nullable=False),
        sa.Column("key", sa.Text),
        sa.Column("headers", sa.Text),
        sa.Column("payload", sa.LargeBinary),
        sa.Column("cut_at", sa.Integer, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("owner_epoch", sa.Integer, nullable=False),
    )
    op.create_index("orphaned_messages_topic", "orphaned_messages", ["topic_id", "id"])
    _count_messages()


def _count_messages() -> None:
    """Make `topics` anew with more columns: added ones would not stand where a new file has them."""
    connection = op.get_bind()
    view = connection.exec_driver_sql("SELECT sql FROM sqlite_master WHERE name = 'topic_messages'").scalar()
    op.execute("DROP VIEW topic_messages")
    op.rename_table("topics", "topics_0001")
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
        sa.Column("messages", sa.Integer, nullable=False),
        sa.Column("bytes", sa.Integer, nullable=False),
        sa.Column("compacted_to", sa.Integer, nullable=False),
        sa.Column("producers_to", sa.Integer, nullable=False),
        sa.Column("replicas", sa.Text),
        sa.Column("in_sync", sa.Text),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("owner_address", sa.Text, nullable=False),
        sa.Column("sound", sa.Integer, nullable=False),
        sa.Column("promised", sa.Integer, nullable=False),
        sa.Column("configs", sa.Text),
        sa.Column("proposal", sa.Text),
    )
    op.execute(
        """
INSERT INTO topics
SELECT topics_0001.*, count(offset), coalesce(sum(
  coalesce(length(payload), 0)
  + coalesce(length(CAST(key AS BLOB)), 0)
  + coalesce(length(CAST(headers AS BLOB)), 0)
), 0), 0, next_offset, NULL, NULL, 0, '', 1, 0, NULL, NULL
FROM topics_0001 LEFT JOIN messages ON topic_id = id
GROUP BY id
"""
    )
    op.drop_table("topics_0001")
    connection.exec_driver_sql(view)
