"""The verb of `Client` that lists orphans: messages that were cut off copies, kept by the peers that had those."""

from __future__ import annotations

from pubsub.client.asking_peers import PeersVerbs
from pubsub.client.group_options import checked_count
from pubsub.model import OrphanedMessage, check_topic_name
from pubsub.protocol import messages as m

MOST_ORPHANS = 1000


class OrphanVerbs(PeersVerbs):
    """Mixed into `Client`."""

    async def orphans(self, topic: str, *, limit: int = 100) -> tuple[int, list[OrphanedMessage]]:
        """How many messages were cut off copies of a topic, and the first of them, by peer and number.

        They were on the disk of an owner that was replaced before they were committed, and never acknowledged with
        `acks="all"`. As many as can be learnt: of every peer that is alive and answers.

        Args:
            limit: So many of each peer, at most 1,000.
        """
        self._check_owner_verb(topic)
        check_topic_name(topic)
        checked_count("a limit", limit, MOST_ORPHANS)
        replies = await self._ask_peers(
            await self._peer_addresses(),
            lambda request: m.Orphans(id=request, topic=topic, limit=limit),
            "orphans of its copies",
        )
        lists = [reply for reply in replies if isinstance(reply, m.OrphanList)]
        found = [orphan for part in lists for orphan in part.orphans]
        return sum(part.total for part in lists), sorted(found, key=lambda o: (o.peer, o.number))
