"""Records are changed by what the rules of core say, and those concerned are told.

Rules: by compare-and-set, many in a few round trips; where somebody was faster, the change is dropped, and whoever
wanted it looks again. What this index has changed itself it also tells; of what others have changed see `controller`.
"""

from __future__ import annotations

from collections.abc import Sequence

from pubsub.core.ownership import Change
from pubsub.index.copies import with_change
from pubsub.index.peer_table import PeerTable
from pubsub.index.telling import Telling
from pubsub.registry import CasResult, Registry, TopicRecord


class Changing:
    """Carries changes of records out."""

    def __init__(self, registry: Registry, peers: PeerTable, telling: Telling) -> None:
        self._registry = registry
        self._peers = peers
        self._telling = telling

    async def apply(
        self, changes: Sequence[tuple[TopicRecord, Change]], *, known_to: Sequence[str] = ()
    ) -> list[CasResult]:
        """Make these changes; see `CasResult`.

        Args:
            known_to: for each change the peer that need not be told, or empty.
        """
        return await self.replace(
            [(record, with_change(record, change)) for record, change in changes], known_to=known_to
        )

    async def replace(
        self, changes: Sequence[tuple[TopicRecord, TopicRecord]], *, known_to: Sequence[str] = ()
    ) -> list[CasResult]:
        """The same with whole records."""
        results = await self._registry.compare_and_set_topics(changes)
        for place, ((before, _), result) in enumerate(zip(changes, results, strict=True)):
            if not result.applied or result.current is None:
                continue
            current = result.current
            self._peers.doubt(before.holders ^ current.holders)
            self._telling.tell(
                current,
                removed_from=before.holders - current.holders,
                but=known_to[place] if known_to else "",
            )
        return results
