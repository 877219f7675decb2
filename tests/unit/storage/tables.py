"""The table of messages, for tests that need no whole file."""

MESSAGES = (
    "CREATE TABLE messages (topic_id INTEGER NOT NULL, offset INTEGER NOT NULL, published_at INTEGER NOT NULL, "
    "key TEXT, headers TEXT, payload BLOB, batch TEXT, PRIMARY KEY (topic_id, offset)) WITHOUT ROWID"
)
