"""What was cut off this peer's copies, for people to look at: it is in the file, and nowhere else any more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pubsub.errors import InvalidRequestError
from pubsub.model import OrphanedMessage, check_topic_name, iso_from_us
from pubsub.net.server import ImmediateHandler, RequestHandler, ServerConnection
from pubsub.protocol import messages as m
from pubsub.protocol.batch import decode_headers
from pubsub.storage.orphans import read_orphans

if TYPE_CHECKING:
    from pubsub.peer.node import Node

MOST_LISTED = 1000


class Orphaned:
    """Serves Orphans."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.immediate: dict[type, ImmediateHandler] = {}
        self.requests: dict[type, RequestHandler] = {m.Orphans: self.on_orphans}

    async def on_orphans(self, connection: ServerConnection, frame: m.Orphans) -> m.Frame:
        if frame.limit < 1 or not 0 <= frame.after < 2**63:
            raise InvalidRequestError("a list goes on after a number from 0 on, and its limit is from 1 on")
        if frame.topic:
            check_topic_name(frame.topic)
        node = self._node
        total, found = await node.store.look(
            read_orphans, frame.topic, frame.after, min(frame.limit, MOST_LISTED), node.limits.batch_bytes
        )
        orphans = [
            OrphanedMessage(
                topic=row.topic,
                peer=node.name,
                number=row.number,
                offset=row.offset,
                epoch=row.epoch,
                published_at=iso_from_us(row.published_us),
                cut_at=iso_from_us(row.cut_us),
                owner=row.owner,
                owner_epoch=row.owner_epoch,
                key=row.key,
                headers=dict(decode_headers(row.headers)),
                payload=row.payload,
            )
            for row in found
        ]
        return m.OrphanList(frame.id, total, orphans)
