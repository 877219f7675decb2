"""Alembic's entry: run the migrations on the connection that `pubsub.storage.migrate` hands over."""

from alembic import context

from pubsub.storage.schema import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
