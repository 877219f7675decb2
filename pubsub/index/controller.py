"""The controller: sees to it that topics with replicas have a live owner, and enough copies, where they shall be.

Rules:
- It runs in every index at once, and only proposes changes of records; the compare-and-set decides.
- It looks at a topic when its record changed, when a peer that holds a copy came, went or is being drained, when
  something was left undone, and now and then without any reason. What is to be done follows from the record and from
  who is alive, never from what was done before; so any index goes on where another one stopped.
- No owner is replaced before every peer that lives has had a full ttl to say so (`Settling.settled`).
- A topic with one copy is left alone, unless its peer is being drained.

Whoever is dead is known by its deadline alone: those are read several times a ttl, all of them in one call.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
from collections.abc import Iterable, Mapping

from pubsub.core.failover import judge
from pubsub.core.ownership import is_confirmed
from pubsub.core.placement import Step
from pubsub.errors import PubsubError, RegistryUnavailableError
from pubsub.index.clock import Clock
from pubsub.index.copies import explicit, names, order
from pubsub.index.electing import Electing
from pubsub.index.peer_table import PeerTable
from pubsub.index.placing import Placing, surplus_step
from pubsub.index.settling import Settling
from pubsub.index.tasks import Spawn
from pubsub.index.telling import Telling
from pubsub.policy import stored_policy
from pubsub.registry import Event, PeerState, Registry, TopicRecord

log = logging.getLogger("pubsub.index")

_PAGE = 1000
"""Topics looked at together."""
_WITHOUT_REASON = 50
"""Topics looked at in each round for no reason, one after the other: what was missed is found so."""
_MOVES = 100
"""Copies that are being added elsewhere at once, for peers that are drained or away."""


class Controller:
    """Runs in an index; see the module's docstring."""

    def __init__(
        self,
        registry: Registry,
        peers: PeerTable,
        settling: Settling,
        electing: Electing,
        placing: Placing,
        telling: Telling,
        ttl_seconds: float,
        spawn: Spawn,
        clock: Clock,
    ) -> None:
        self._registry = registry
        self._peers = peers
        self._settling = settling
        self._electing = electing
        self._placing = placing
        self._telling = telling
        self._ttl_seconds = ttl_seconds
        self._round_seconds = ttl_seconds / 6
        self._watch_seconds = min(0.5, ttl_seconds / 12)
        self._spawn = spawn
        self._clock = clock
        self._replicated: set[str] = set()
        """Names of topics with replicas, and of some that have none any more."""
        self._due: dict[str, float] = {}
        """Topic -> when it is to be looked at, by the loop's clock."""
        self._deadlines: dict[str, int] = {}
        """Peer -> until when it is believed alive."""
        self._draining: set[str] = set()
        self._missed_at: dict[str, int] = {}
        """Peer that has said goodbye -> since when that is known here."""
        self._marked: set[str] = set()
        """Peers of which it is to be found out whether they are being drained."""
        self._seen: dict[str, tuple[int, int]] = {}
        """Topic -> epoch and version that it had when it was looked at; nothing of those found at a start."""
        self._lost: set[tuple[int, int, str]] = set()
        """(topic id, epoch, owner): the owner has no copy of it any more."""
        self._heard: dict[int, int] = {}
        """Topic id -> an epoch that copies have promised, and that the record has not."""
        self._to_tell: dict[str, float] = {}
        """Topic that another index changed -> when what holds then is told."""
        self._moving: set[str] = set()
        """Topics that get a copy in place of one that is drained or away."""
        self._handing_over: set[str] = set()
        self._surplus_since: dict[str, float] = {}
        self._reload = True
        self._watched_at = float("-inf")
        self._wake = asyncio.Event()
        self._order: list[str] = []
        """What is still to be looked at for no reason."""

    # What happens

    def note(self, events: Iterable[Event]) -> None:
        """Take in what the registry says has changed."""
        for event in events:
            if event.kind == "resync":
                self._reload = True
                self._wake.set()
            elif event.kind == "peer":
                if event.draining or event.name in self._draining:
                    self._marked.add(event.name)
            elif event.replicated or event.name in self._replicated:
                self._replicated.add(event.name)
                self._seen.setdefault(event.name, (0, 0))
                self.look_at([event.name])

    def look_at(self, names: Iterable[str], after_seconds: float = 0.0) -> None:
        """Look at these topics, at once or in a while; a time that is set already stays if it is earlier."""
        at = asyncio.get_running_loop().time() + after_seconds
        for name in names:
            self._due[name] = min(at, self._due.get(name, at))
        if after_seconds <= 0:
            self._wake.set()

    def on_lost_copy(self, record: TopicRecord) -> None:
        """The owner of a topic says that it has no copy of it."""
        self._lost.add((record.id, record.epoch, record.owner))
        self.look_at([record.name])

    def on_refused(self, record: TopicRecord, highest_epoch: int) -> None:
        """A peer has promised a newer epoch than that of a record."""
        self._heard[record.id] = max(highest_epoch, self._heard.get(record.id, 0))
        self.look_at([record.name])

    # The loop

    async def run(self) -> None:
        """Look, for ever."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause_seconds()):
                    await self._wake.wait()
            self._wake.clear()
            try:
                await self._round()
            except RegistryUnavailableError as error:
                log.debug("the controller waits: %s", error)
                self._reload = True
                await asyncio.sleep(self._round_seconds / 2)

    def _pause_seconds(self) -> float:
        """Until the next round, the next topic that is due, or the next deadline of a peer."""
        now = asyncio.get_running_loop().time()
        due = min(self._due.values(), default=now + self._round_seconds)
        pause = min(self._round_seconds, due - now)
        if self._deadlines:
            pause = min(pause, (min(self._deadlines.values()) - self._clock()) / 1_000_000)
        return max(0.01, pause)

    def _somebody_died(self) -> bool:
        return bool(self._deadlines) and min(self._deadlines.values()) <= self._clock()

    async def _round(self) -> None:
        if self._reload:
            self._reload = False
            await self._load()
        now = asyncio.get_running_loop().time()
        if now - self._watched_at >= self._watch_seconds or self._somebody_died():
            self._watched_at = now
            await self._watch_peers()
            self._look_without_reason()
        due = [name for name, at in self._due.items() if at <= now]
        for first in range(0, len(due), _PAGE):
            page = due[first : first + _PAGE]
            for name in page:
                self._due.pop(name, None)
            try:
                await self._look(page)
            except BaseException:
                self.look_at(due[first:], self._round_seconds)
                raise

    async def _load(self) -> None:
        """Anything may have changed."""
        try:
            self._replicated = await self._registry.replicated_topics()
            self._marked.update(await self._registry.deadlines())
        except PubsubError:
            self._reload = True
            raise
        self.look_at(self._replicated)

    def _look_without_reason(self) -> None:
        if not self._order:
            self._order = sorted(self._replicated)
        self.look_at(self._order[-_WITHOUT_REASON:])
        del self._order[-_WITHOUT_REASON:]

    async def _watch_peers(self) -> None:
        """Have the topics looked at of peers that came, went, or are being drained."""
        marked, self._marked = self._marked, set()
        now = self._clock()
        before = self._deadlines.keys()
        deadlines = await self._registry.deadlines()
        alive = {name for name, deadline in deadlines.items() if deadline > now}
        self._deadlines = {name: deadlines[name] for name in alive}
        changed = before ^ alive
        self._peers.doubt(alive - before)  # who has died is known to be dead by its deadline
        for name in before - deadlines.keys():
            self._missed_at.setdefault(name, now)
        for name in alive:
            self._missed_at.pop(name, None)
        if marked:
            self._peers.doubt(marked & alive)
            states = await self._peers.fresh()
            draining = {
                name
                for name in marked
                if (state := states.get(name)) is not None
                and state.record is not None
                and state.record.draining
            }
            changed |= (draining ^ self._draining) & marked
            self._draining = (self._draining - marked) | draining
        for name in changed if self._replicated else changed & self._draining:
            held = await self._registry.topics_of(name)
            self.look_at(held if name in self._draining else held & self._replicated)

    # Looking at topics

    async def _look(self, names: list[str]) -> None:
        """Do what is to be done about these topics; owners first."""
        life = (await self._settling.look()).id
        states = dict(await self._peers.loaded())
        alive = {name for name in states if self._peers.standing(name).alive}
        dead_owners: list[TopicRecord] = []
        unconfirmed: list[TopicRecord] = []
        tended: list[TopicRecord] = []
        for name, record in zip(names, await self._registry.lookup(names), strict=True):
            if record is None or not self._concerns(record):
                self._forget(name)
                continue
            if is_confirmed(explicit(record), life):  # nobody owns a topic by another record
                self._tell_again(record)
            lost = (record.id, record.epoch, record.owner) in self._lost
            able = alive - {record.owner} if lost else alive
            verdict = judge(explicit(record), life=life, settled=self._settling.settled, alive=able)
            if verdict == "fail_over":
                dead_owners.append(record)
            elif verdict == "rebuild":
                unconfirmed.append(record)
            elif verdict == "wait":
                self.look_at(
                    [name], min(max(self._settling.settled_in_seconds(), 0.0) + 0.05, self._ttl_seconds)
                )
            elif verdict == "fine":
                tended.append(record)
        await self._elect(dead_owners, unconfirmed, alive, life)
        await self._tend(tended, states, life)

    def _concerns(self, record: TopicRecord) -> bool:
        return record.replicated or bool(record.holders & self._draining)

    def _forget(self, name: str) -> None:
        self._replicated.discard(name)
        self._moving.discard(name)
        for noted in (self._surplus_since, self._to_tell, self._seen, self._telling.told):
            noted.pop(name, None)

    def _tell_again(self, record: TopicRecord) -> None:
        """What another index has changed it tells itself; in case it died over it, this one does, a little later."""
        name, now = record.name, asyncio.get_running_loop().time()
        seen = self._seen.get(name)
        self._seen[name] = order(record)
        if self._telling.told.get(name, (0, 0)) >= order(record):
            self._to_tell.pop(name, None)
        elif self._to_tell.get(name, math.inf) <= now:
            del self._to_tell[name]
            self._telling.tell(record)
        elif seen is not None and seen < order(record):
            pause = self._ttl_seconds / 3 * random.uniform(1.0, 1.5)
            self.look_at([name], self._to_tell.setdefault(name, now + pause) - now + 0.01)

    async def _elect(
        self, dead_owners: list[TopicRecord], unconfirmed: list[TopicRecord], alive: set[str], life: str
    ) -> None:
        if not dead_owners and not unconfirmed:
            return
        wait_seconds = self._settling.settled_in_seconds()
        if wait_seconds > 0:
            self.look_at(names([*dead_owners, *unconfirmed]), min(wait_seconds + 0.05, 60.0))
            return
        undecided: set[str] = set()
        if dead_owners:
            undecided |= await self._electing.fail_over(dead_owners, alive, life)
        if unconfirmed:
            undecided |= await self._electing.rebuild(unconfirmed, alive, life)
        self.look_at(undecided, self._soon())

    def _soon(self) -> float:
        """When to look again at what could not be done: another index at another time."""
        return self._round_seconds * random.uniform(0.5, 1.5)

    # Copies

    async def _tend(self, records: list[TopicRecord], states: Mapping[str, PeerState], life: str) -> None:
        """Their owners live: see to the copies."""
        changes: list[tuple[TopicRecord, Step]] = []
        for record in records:
            heard = self._heard.pop(record.id, 0)
            if heard > record.epoch:
                self.look_at(await self._electing.renew(record, heard, life), self._soon())
                continue
            step = self._next_step(record, states, life)
            if step is None:
                continue
            if step.change is not None:
                changes.append((record, step))
            elif step.kind == "hand_over":
                self._hand_over(record, step.peer)
        self.look_at(await self._placing.take(changes), self._soon())

    def _next_step(self, record: TopicRecord, states: Mapping[str, PeerState], life: str) -> Step | None:
        gone = self._gone(record, states)
        step = self._placing.next_step(record, states, gone, life)
        if step is None:
            self._moving.discard(record.name)
            return self._surplus(record, states, gone)
        self._surplus_since.pop(record.name, None)
        if step.kind == "add" and gone and record.name not in self._moving:
            if len(self._moving) >= _MOVES:
                self.look_at([record.name], self._soon())
                return None
            self._moving.add(record.name)
        return step

    def _surplus(self, record: TopicRecord, states: Mapping[str, PeerState], gone: set[str]) -> Step | None:
        """Not at once: while replicas are changed, record and policy differ for a moment."""
        step = surplus_step(record, states, gone)
        if step is None:
            self._surplus_since.pop(record.name, None)
            return None
        now = asyncio.get_running_loop().time()
        since = self._surplus_since.setdefault(record.name, now)
        if now - since >= self._ttl_seconds:
            return step
        self.look_at([record.name], since + self._ttl_seconds - now + 0.01)
        return None

    def _hand_over(self, record: TopicRecord, to: str) -> None:
        """Ask the owner, and do not wait for it: it may take a while."""
        if record.name in self._handing_over:
            return
        self._handing_over.add(record.name)

        async def ask() -> None:
            try:
                if not await self._placing.hand_over(record, to):
                    self.look_at([record.name], self._soon())
            finally:
                self._handing_over.discard(record.name)

        self._spawn(ask(), f"pubsub: hand over {record.name}")

    def _gone(self, record: TopicRecord, states: Mapping[str, PeerState]) -> set[str]:
        """The replicas that are to be replaced: on peers that are drained, or away for too long.

        Those that are away for less are looked at again when it is time.
        """
        now = self._clock()
        after_us = round(stored_policy(record.policy).replace_after_seconds * 1_000_000)
        gone = record.holders & self._draining
        for peer in record.holders - gone:
            if self._peers.standing(peer).alive:
                continue
            state = states.get(peer)
            since = state.deadline_at if state is not None else self._missed_at.setdefault(peer, now)
            if now - since >= after_us:
                gone.add(peer)
            else:
                self.look_at([record.name], (since + after_us - now) / 1_000_000 + 0.01)
        return gone
