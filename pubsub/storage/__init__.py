"""A peer's data directory: its lock, its SQLite file, the log in it, group commit. The only user of SQLAlchemy."""
