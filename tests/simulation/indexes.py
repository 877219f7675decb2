"""An index: answers peers from the registry, and proposes who shall own the topic and on which peers it shall be.

There are several, and each does all of it; only the registry's compare-and-set keeps them apart.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from pubsub.core.ownership import Change, changed, is_replicated
from pubsub.core.placement import Candidate as Place
from pubsub.core.placement import next_step, with_leaving, with_moved
from pubsub.core.rebuild import Short, fate_of
from pubsub.core.replication import Proposal
from tests.simulation.frames import TTL, Announcement, Answer
from tests.simulation.nodes import Flow, Future, Network, Node, gather
from tests.simulation.peers import Peer
from tests.simulation.registry import Record, Registry, View
from tests.simulation.rules import Rules
from tests.simulation.scheduler import MS, Scheduler

REPLACE_AFTER = 6_000 * MS


class Index(Node):
    """Stateless but for what it heard since it started."""

    def __init__(
        self,
        scheduler: Scheduler,
        network: Network,
        name: str,
        rules: Rules,
        registry: Registry,
        peers: dict[str, Peer],
    ) -> None:
        super().__init__(scheduler, network, name)
        self.rules, self.registry, self.peers = rules, registry, peers

    def begin(self) -> None:
        self._heard: dict[str, tuple[int, Announcement]] = {}
        self._refused = 0
        """The newest epoch that any copy told of when it was asked."""
        self.start(self._controlling())

    def _ask(self, method: str, *args: Any) -> Future:
        return self.call(self.registry, method, *args)

    def _write(self, view: View, record: Record) -> Future:
        return self._ask("cas", view.life, view.record, record)

    # For peers

    def on_heartbeat(self, sender: str, said: Announcement) -> Future:
        answer = Future()
        self._heard[sender] = (self.scheduler.now, said)
        self.start(self._heartbeat(sender, said, answer))
        return answer

    def _heartbeat(self, peer: str, said: Announcement, answer: Future) -> Flow:
        now = self.clock()
        view: View | None = yield self._ask("beat", peer, now + TTL, now)
        if view is None:
            return
        record = view.record
        if said.config is not None:
            role = "owner" if said.owns else "replica"
            fate = fate_of(peer, role, said.epoch, record, life=view.life)
            if fate in ("restore", "advance"):
                restored = Record(
                    owner=said.owner,
                    epoch=self.rules.restored(said.epoch),
                    in_sync=said.in_sync,
                    replicas=said.config.replicas,
                    policy={"replicas": len(said.config.replicas), "min_in_sync": said.config.min_in_sync},
                )
                result = yield self._write(view, restored)
                record = result[1] if result is not None else record
        if record is not None and self._must_renew(view, record, said):
            epoch = self.rules.next_epoch([record.epoch, said.heard], self.clock())
            change = self.rules.hand_over(record, record.owner, epoch, view.life, False)
            if change is not None:
                self.say("renews: {} has promised epoch {}", peer, said.heard)
                result = yield self._write(view, record.after(change))
                record = result[1] if result is not None else record
        answer.set(Answer(view.life, record))

    def _must_renew(self, view: View, record: Record, said: Announcement) -> bool:
        """A copy takes nothing of the present owner, because it promised something that was never decided."""
        return (
            is_replicated(record)
            and said.heard > record.epoch
            and record is view.record
            and self.rules.is_confirmed(record, view.life)
        )

    def on_propose(self, sender: str, proposal: Proposal) -> Future:
        answer = Future()
        self.start(self._propose(sender, proposal, answer))
        return answer

    def _propose(self, peer: str, proposal: Proposal, answer: Future) -> Flow:
        view: View | None = yield self._ask("view", self.clock())
        if view is None:
            return
        record = view.record
        if (
            record is not None
            and (record.owner, record.epoch, record.version) == (peer, proposal.epoch, proposal.version)
            and self.rules.is_confirmed(record, view.life)
        ):
            change = changed(record, in_sync=proposal.in_sync, life=view.life)
            result = yield self._write(view, record.after(change))
            record = result[1] if result is not None else record
        answer.set(Answer(view.life, record))

    def on_hand_over(self, sender: str, epoch: int, successor: str, leaving: bool) -> Future:
        answer = Future()
        self.start(self._hand_over(sender, epoch, successor, leaving, answer))
        return answer

    def _hand_over(self, peer: str, epoch: int, successor: str, leaving: bool, answer: Future) -> Flow:
        view: View | None = yield self._ask("view", self.clock())
        if view is None or view.record is None:
            return
        record = view.record
        if (record.owner, record.epoch) == (peer, epoch):
            newer = self._next_epoch(record, [])
            change = self.rules.hand_over(record, successor, newer, view.life, leaving)
            if change is not None:
                result = yield self._write(view, record.after(change))
                record = result[1] if result is not None else record
                self._hint(record)
        answer.set(Answer(view.life, record))

    def on_goodbye(self, sender: str) -> Future:
        return self._ask("leave", sender)

    def _hint(self, record: Record | None) -> None:
        for name in record.replicas if record is not None else ():
            self.call(self.peers[name], "hint")

    # The controller

    def _controlling(self) -> Flow:
        away: dict[str, int] = {}
        while True:
            yield self.sleep(self.scheduler.between(100 * MS, 300 * MS))
            now = self.clock()
            view: View | None = yield self._ask("view", now)
            if view is None or view.record is None:
                continue
            alive = {peer for peer, deadline in view.deadlines.items() if deadline > now}
            settled = now >= view.began_at + TTL or not self.rules.waits_a_ttl
            for name in self.peers:
                if name in alive:
                    away.pop(name, None)
                else:
                    away.setdefault(name, self.scheduler.now)
            heard = self._heard.get(view.record.owner)
            if heard is not None and not self.rules.may_own(heard[1].sound):
                alive.discard(view.record.owner)
            verdict = self.rules.judge(view.record, view.life, settled, alive)
            if verdict == "fail_over":
                yield from self._fail_over(view, view.record, alive)
            elif verdict == "rebuild":
                yield from self._rebuild(view, view.record, alive)
            elif verdict == "fine" and self.rules.is_confirmed(view.record, view.life):
                gone = {name for name, since in away.items() if self.scheduler.now - since > REPLACE_AFTER}
                yield from self._place(view, view.record, alive, gone)

    def _next_epoch(self, record: Record, heard: list[int]) -> int:
        told = [said.heard for _, said in self._heard.values()]
        return self.rules.next_epoch([record.epoch, self._refused, *heard, *told], self.clock())

    def _fail_over(self, view: View, record: Record, alive: set[str]) -> Flow:
        asked = sorted(alive.intersection(record.in_sync))
        ends = yield gather(self.call(self.peers[name], "end", 0, timeout=250 * MS) for name in asked)
        candidates = [end.candidate for end in ends if end is not None]
        epoch = self._next_epoch(record, [candidate.heard for candidate in candidates])
        change = self.rules.fail_over(record, candidates, alive, epoch, view.life)
        if change is not None:
            self.say("sees that {} is dead, and proposes {}", record.owner, change.owner)
            yield from self._make(view, record, change)

    def _rebuild(self, view: View, record: Record, alive: set[str]) -> Flow:
        epoch = self._next_epoch(record, [])
        asked = set(record.replicas) & alive
        promises: list[Any] = []
        for _ in range(2):
            ends = yield gather(
                self.call(self.peers[name], "end", epoch, timeout=250 * MS) for name in sorted(asked)
            )
            promises += [end for end in ends if end is not None]
            self._refused = max([self._refused, *(p.promised for p in promises if p.promised != epoch)])
            found = self.rules.rebuild(record, promises, epoch, view.life)
            if isinstance(found, Change):
                told = [
                    f"{p.candidate.peer}: ends at {p.candidate.log_end} in epoch {p.candidate.last_epoch}"
                    for p in promises
                    if p.promised == epoch
                ]
                self.say("rebuilds the record; epoch {} was promised by {}", epoch, ", ".join(told))
                yield from self._make(view, record, found)
                return
            assert isinstance(found, Short)
            asked = (set(found.of) & alive) - {promise.candidate.peer for promise in promises}
            if not asked:
                return

    def _make(self, view: View, record: Record, change: Change) -> Flow:
        result = yield self._write(view, record.after(change))
        if result is not None and result[0]:
            self._hint(result[1])

    def _place(self, view: View, record: Record, alive: set[str], gone: set[str]) -> Flow:
        places = [Place(peer=name, topics=0) for name in sorted(alive)]
        step = next_step(record, places, life=view.life, gone=gone)
        if step is None or step.kind == "wait" or not (yield from self._may_change(record)):
            return
        if step.change is not None:
            self.say("places: {} {}", step.kind, step.peer)
            yield from self._make(view, record, step.change)
        else:
            change = self.rules.hand_over(record, step.peer, self._next_epoch(record, []), view.life, False)
            if change is not None:
                self.say("moves the ownership from {} to {}", record.owner, step.peer)
                yield from self._make(view, record, change)

    def _may_change(self, record: Record) -> Generator[Future, Any, bool]:
        """Whether the copies know of the last change of their set."""
        asked = [self.call(self.peers[name], "end", 0, timeout=250 * MS) for name in record.in_sync]
        ends = yield gather(asked)
        stored = {end.candidate.peer: end.config for end in ends if end is not None}
        return self.rules.may_change(record, stored)

    # For operators

    def move(self, source: str, target: str | None) -> None:
        """`topic replicas --move`, or `--remove` where there is no target."""
        self.start(self._moving(source, target))

    def _moving(self, source: str, target: str | None) -> Flow:
        view: View | None = yield self._ask("view", self.clock())
        if view is None or view.record is None or not self.rules.is_confirmed(view.record, view.life):
            return
        record = view.record
        if source not in record.replicas or target in record.replicas or record.leaving:
            return
        if not (yield from self._may_change(record)):
            return
        if target is not None:
            yield self._write(view, record.after(with_moved(record, source, target, life=view.life)))
        elif record.policy["replicas"] > 2 and all(peer.copy.sound for peer in self.peers.values()):
            # Of fewer than three copies, one that has lost its disk takes an operator's word to be gone without.
            policy = {"replicas": record.policy["replicas"] - 1}
            yield self._write(view, record.after(with_leaving(record, source), **policy))
