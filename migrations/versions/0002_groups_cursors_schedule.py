"""Durable subscriptions, groups, delayed messages, message ids."""

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
        sqlite_with_rowid=False,
    )
    op.create_index("dead_letters_source", "dead_letters", ["source_topic_id", "group_name"])
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
