"""Peers are told what the registry says of the topics that they hold, or hold no more.

Rules: a record that was changed is told to all whom it concerns, and told again until they confirm it, for as long as
they are alive; who is away for longer is told when it announces. Of several changes of one topic only the last is
told. The owner is told first. One request a topic, many of them under way at once: one connection to each peer
carries them all.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

import msgspec

from pubsub.errors import ConflictError, PubsubError, TimeoutExpiredError
from pubsub.index.copies import copy_state, order
from pubsub.index.peer_links import PeerLinks
from pubsub.index.peer_table import PeerTable
from pubsub.index.tasks import Spawn
from pubsub.model import parse_address
from pubsub.net.backoff import Backoff
from pubsub.protocol import messages as m
from pubsub.registry import Registry, TopicRecord

log = logging.getLogger("pubsub.index")

TELL_SECONDS = 4.0
"""How long a peer may take to confirm; then it is told again."""
_AT_ONCE = 500
"""Requests under way at one peer."""
_BACKOFF_FIRST_SECONDS = 0.1
_BACKOFF_MOST_SECONDS = 2.0


class _Word(msgspec.Struct, frozen=True):
    """What a peer is to be told of a topic."""

    record: TopicRecord
    held: bool
    """False: it holds no copy any more."""
    until: float
    """By the loop's clock: if the peer is away for so long, it is told when it announces."""


class Telling:
    """Tells peers, each in a task that ends when it knows everything."""

    def __init__(
        self, registry: Registry, peers: PeerTable, links: PeerLinks, ttl_seconds: float, spawn: Spawn
    ) -> None:
        self._registry = registry
        self.on_lost_copy: Callable[[TopicRecord], None] = lambda record: None
        """Called when the owner of a topic that others hold, too, has no copy of it any more."""
        self._peers = peers
        self._links = links
        self._patience_seconds = 2 * ttl_seconds
        self._spawn = spawn
        self._waiting: dict[str, dict[int, _Word]] = {}
        """Peer -> topic id -> the last word; there while a task works on it."""
        self.told: dict[str, tuple[int, int]] = {}
        """Topic -> epoch and version that this index was last asked to tell, for as long as it has replicas."""
        self.on_refused: Callable[[TopicRecord, int], None] = lambda record, highest_epoch: None
        """Called when a peer has promised a newer epoch than that of a record, and cannot take it."""

    def tell(self, record: TopicRecord, *, removed_from: Iterable[str] = (), but: str = "") -> None:
        """Tell all who hold a copy, except `but`, and those who hold none any more."""
        self.told[record.name] = order(record)
        until = asyncio.get_running_loop().time() + self._patience_seconds
        for peer in sorted(record.holders, key=lambda peer: (peer != record.owner, peer)):
            if peer != but:
                self._add(peer, _Word(record, True, until))
        for peer in removed_from:
            self._add(peer, _Word(record, False, until))

    def _add(self, peer: str, word: _Word) -> None:
        waiting = self._waiting.get(peer)
        if waiting is None:
            waiting = self._waiting[peer] = {}
            self._spawn(self._tell_all(peer, waiting), f"pubsub: tell {peer}")
        before = waiting.get(word.record.id)
        if before is None or order(before.record) <= order(word.record):
            waiting[word.record.id] = word

    async def _tell_all(self, peer: str, waiting: dict[int, _Word]) -> None:
        backoff = Backoff(_BACKOFF_FIRST_SECONDS, _BACKOFF_MOST_SECONDS)
        try:
            while waiting:
                words = [waiting.pop(topic_id) for topic_id in list(waiting)[:_AT_ONCE]]
                again = await self._tell_some(peer, words)
                if again:
                    await asyncio.sleep(backoff.next_seconds())
                    for word in await self._up_to_date(peer, again):
                        waiting.setdefault(word.record.id, word)
                else:
                    backoff.reset()
        finally:
            del self._waiting[peer]

    async def _up_to_date(self, peer: str, words: list[_Word]) -> list[_Word]:
        """What the registry says by now, so that nobody makes a copy that was taken away from it meanwhile."""
        if self._peers.standing(peer).address is None:
            return words
        try:
            records = await self._registry.lookup([word.record.name for word in words])
        except PubsubError:
            return words
        return [
            _Word(record, peer in record.holders, word.until)
            for word, record in zip(words, records, strict=True)
            if record is not None and record.id == word.record.id  # who deletes a topic sees to its copies
        ]

    async def _tell_some(self, peer: str, words: list[_Word]) -> list[_Word]:
        """Returns what is to be said again."""
        try:
            await self._peers.fresh()
        except PubsubError:
            return words
        address = self._peers.standing(peer).address
        if address is None:  # it may only be late with a heartbeat; after that it announces when it returns
            now = asyncio.get_running_loop().time()
            return [word for word in words if now < word.until]
        confirmed = await asyncio.gather(*(self._tell_one(peer, address, word) for word in words))
        return [word for word, done in zip(words, confirmed, strict=True) if not done]

    async def _tell_one(self, peer: str, address: str, word: _Word) -> bool:
        record = word.record
        owner_address = self._peers.standing(record.owner).address or ""

        def make(request: int) -> m.Request:
            if word.held:
                return m.CreateCopy(request, copy_state(record, peer, owner_address))
            return m.DropCopy(request, record.id, record.epoch, record.version)

        try:
            await self._links.request_all(peer, parse_address(address), make, TELL_SECONDS)
        except ConflictError as error:
            highest_epoch = error.data.get("highest_epoch")
            if isinstance(highest_epoch, int):
                self.on_refused(record, highest_epoch)
            elif error.data.get("lost"):
                self.on_lost_copy(record)
            else:
                return False
            return True
        except PubsubError as error:
            log.info("peer %s is not told of topic %s yet: %s", peer, record.name, error)
            return not error.retriable and not isinstance(error, TimeoutExpiredError)
        return True
