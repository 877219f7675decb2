"""A peer: owns the topic in some epochs, follows its owner in others, and tells indexes what it holds.

As the real one will do, in the order in which it must; what is decided is decided by the rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pubsub.core.epochs import EpochStart, reached
from pubsub.core.ownership import membership_of
from pubsub.core.rebuild import Promise
from pubsub.core.replication import Contacts, Membership, OwnerProgress
from tests.simulation.checks import Ledger, demand
from tests.simulation.copies import Copy, Disk, Entry
from tests.simulation.frames import BATCH, EPOCHS_SENT, LAG, TTL, Announcement, Answer, Batch, Parted
from tests.simulation.nodes import Flow, Future, Network, Node
from tests.simulation.registry import Record
from tests.simulation.rules import Rules
from tests.simulation.scheduler import MS, Scheduler


class Peer(Node):
    """One node. What is in `copy` is on disk, all else is lost in a crash."""

    def __init__(
        self,
        scheduler: Scheduler,
        network: Network,
        name: str,
        rules: Rules,
        ledger: Ledger,
        peers: dict[str, Peer],
    ) -> None:
        super().__init__(scheduler, network, name)
        self.rules, self.ledger, self.peers = rules, ledger, peers
        self.indexes: Sequence[Node] = ()
        self.copy = Copy()
        self.disk = Disk(self, self.copy)
        self.progress: OwnerProgress | None = None

    def create(self, record: Record) -> None:
        """It has been told to hold a new topic, as its owner."""
        copy, membership = self.copy, membership_of(record)
        copy.epochs = self.rules.opened((), record.epoch, 0, self.name)
        copy.bond = copy.bond.bound(record.epoch, self.name)
        copy.owns, copy.membership, copy.config = True, membership, membership.config
        copy.configs = (membership.config,)

    def begin(self) -> None:
        bond = self.copy.bond
        self.say(
            "starts with {} messages, bound to {} in epoch {}, promised {}",
            len(self.copy.log),
            bond.owner or "nobody",
            bond.epoch,
            bond.promised,
        )
        self.contacts = Contacts(LAG, self.clock())
        self.progress = None
        self._checked = 0
        self._waiting: list[tuple[int, Future, Any]] = []
        """(offset, whom to tell, what) of publishes that are not committed."""
        self.target: tuple[int, str] = (self.copy.bond.epoch, self.copy.bond.owner)
        self._agreed = 0
        self._heard_from: dict[str, tuple[int, int]] = {}
        self._fetches = 0
        self._idle: dict[str, tuple[OwnerProgress, int]] = {}
        """Followers that have everything, and wait for more."""
        self._woken = Future()
        self._index = self.scheduler.between(0, 9)
        if self.copy.owns and self.copy.membership is not None:
            self._own(self.copy.membership)
        self.start(self._beating())
        self.start(self._following())
        self.start(self._ticking())

    def crash(self) -> None:
        if not self.up:
            return
        self.say("CRASHES")
        self.disk.crash()
        self.progress = None
        super().crash()

    def lose_disk(self) -> None:
        """It starts on a new one."""
        self.crash()
        self.say("LOSES ITS DISK")
        self.ledger.lost(self.name)
        self.copy = Copy()
        self.copy.sound = False
        self.disk = Disk(self, self.copy)

    # Ownership

    def learn(self, answer: Answer) -> None:
        """What the registry holds, as an index says."""
        record = answer.record
        if record is None:
            return
        if record.owner != self.name:
            if self.rules.is_newer(record.epoch, self.target[0]) and self.name in record.replicas:
                self.target = (record.epoch, record.owner)
            if self.progress is not None and self.rules.is_newer(record.epoch, self.progress.epoch):
                self._retire(f"{record.owner} owns the topic in epoch {record.epoch}")
            return
        membership = membership_of(record)
        if self.progress is not None and self.progress.epoch == record.epoch:
            if membership.order > self.progress.membership.order:
                self._store_membership(membership)
        elif self.rules.is_newer(record.epoch, self.copy.bond.epoch) and self.rules.is_confirmed(
            record, answer.life
        ):
            self._begin_epoch(membership)

    def _store_membership(self, membership: Membership) -> None:
        progress = self.progress

        def transaction(copy: Copy) -> bool:
            if not copy.owns or copy.bond.epoch != membership.epoch:
                return False
            if copy.membership is not None and copy.membership.order >= membership.order:
                return False
            copy.membership, copy.config = membership, membership.config
            if not any(config.same_as(membership.config) for config in copy.configs[-1:]):
                copy.configs = (*copy.configs, membership.config)
            return True

        def then(stored: bool) -> None:
            if stored and progress is not None and progress is self.progress:
                progress.confirmed(membership)
                self._moved()

        self.disk.write(transaction, then)

    def _begin_epoch(self, membership: Membership) -> None:
        def transaction(copy: Copy) -> bool:
            taken = self.rules.takes(copy.bond, membership.epoch, self.name)
            newer = self.rules.is_newer(membership.epoch, copy.bond.epoch)
            if not newer or not taken or not self.rules.may_own(copy.sound):
                return False
            copy.epochs = self.rules.opened(copy.epochs, membership.epoch, len(copy.log), self.name)
            copy.bond = copy.bond.bound(membership.epoch, self.name)
            copy.owns, copy.membership, copy.proposal = True, membership, None
            known = [] if copy.config is None or copy.config.same_as(membership.config) else [copy.config]
            copy.configs, copy.config = (*known, membership.config), membership.config
            self.ledger.bound(self.name, membership.epoch, self.name, copy.epochs)
            return True

        def then(begun: bool) -> None:
            if begun and self.copy.bond.epoch == membership.epoch:
                self.say("owns the topic in epoch {} from offset {}", membership.epoch, len(self.copy.log))
                self._own(membership)

        self.disk.write(transaction, then)

    def _own(self, membership: Membership) -> None:
        """The epoch is on disk: serve."""
        copy = self.copy
        self._fail_waiting("renewed")
        start = next((e.start for e in copy.epochs if e.epoch == membership.epoch), len(copy.log))
        self._checked = min(self._checked, copy.committed)
        self.progress = self.rules.progress(
            peer=self.name,
            epoch_start=start,
            log_end=len(copy.log),
            committed=copy.committed,
            membership=membership,
            now=self.clock(),
            proposal=copy.proposal if self.rules.proposal_is_stored_first else None,
            known=copy.configs,
        )
        self.target = (membership.epoch, self.name)
        self._moved()

    def _retire(self, why: str) -> None:
        self.say("owns it no more: {}", why)
        self.progress = None
        self._fail_waiting("not owner")

    def _fail_waiting(self, why: str) -> None:
        waiting, self._waiting = self._waiting, []
        for _, future, _ in waiting:
            future.set((why, 0))

    def _ticking(self) -> Flow:
        sent, said = -1, None
        while True:
            yield self.sleep(self.scheduler.between(40 * MS, 90 * MS))
            now = self.clock()
            self.contacts.tick(now)
            progress = self.progress
            if progress is None:
                continue
            if progress.superseded:
                self._retire("superseded")
                continue
            proposal = progress.tick(now, self.contacts)
            self._moved()
            if proposal is None:
                continue
            if self.copy.proposal != proposal:
                if self.rules.proposal_is_stored_first:
                    self.disk.write(lambda copy, p=proposal: self._store_proposal(copy, p))
                    continue
                self.copy.proposal = proposal
            if self.scheduler.now - sent < 200 * MS:
                continue
            sent = self.scheduler.now
            if said != proposal:
                said = proposal
                text = "proposes to version {}: in sync {}"
                self.say(text, proposal.version, " ".join(proposal.in_sync))
            asked_at = self.clock()
            answer = self.call(self._an_index(), "propose", proposal)
            answer.then(lambda value, asked_at=asked_at: self._take(value, asked_at))

    def _store_proposal(self, copy: Copy, proposal: Any) -> None:
        if copy.owns and copy.bond.epoch == proposal.epoch:
            copy.proposal = proposal

    def resign(self, then: Any) -> None:
        """Hand over, say goodbye, stop."""
        self.start(self._resigning(then))

    def _resigning(self, then: Any) -> Flow:
        progress = self.progress
        if progress is not None:
            self.say("resigns")
            progress.resign()
            for _ in range(8):
                if progress is not self.progress:
                    break
                successor = progress.successor()
                if successor is not None:
                    yield self.call(self._an_index(), "hand_over", progress.epoch, successor, True)
                    break
                yield self.sleep(60 * MS)
        yield self.call(self._an_index(), "goodbye")
        self.crash()
        then()

    # Talking to indexes

    def _an_index(self) -> Node:
        self._index += 1
        return self.indexes[self._index % len(self.indexes)]

    def announcement(self) -> Announcement:
        copy = self.copy
        if copy.owns and copy.membership is not None:
            in_sync = copy.membership.in_sync
        else:
            in_sync = (copy.bond.owner,)
        return Announcement(
            copy.owns, copy.bond.highest, copy.bond.epoch, copy.bond.owner, copy.config, in_sync, copy.sound
        )

    def _beating(self) -> Flow:
        while True:
            asked_at = self.clock()
            answer = yield self.call(self._an_index(), "heartbeat", self.announcement())
            self._take(answer, asked_at)
            yield self.sleep(self.scheduler.between(TTL // 5, TTL // 3))

    def _take(self, answer: Answer | None, asked_at: int) -> None:
        """An answer that was long under way may be of a time when others decided."""
        if answer is not None and self.clock() - asked_at <= self.rules.answers_are_fresh_for:
            self.learn(answer)

    def on_hint(self, sender: str) -> None:
        """The record has changed: ask."""
        asked_at = self.clock()
        self.call(self._an_index(), "heartbeat", self.announcement()).then(
            lambda answer: self._take(answer, asked_at)
        )

    def on_end(self, sender: str, promise: int) -> Future:
        """How long the copy is; with a number: and take nothing of older epochs any more."""
        found = Future()

        def transaction(copy: Copy) -> Promise:
            promised = copy.bond.highest
            if promise:
                bond = self.rules.promise(copy.bond, promise)
                if bond is not None:
                    copy.bond, promised = bond, promise
            return Promise(candidate=copy.candidate(self.name), promised=promised, config=copy.config)

        self.disk.write(transaction, found.set)
        return found

    # Following

    def _following(self) -> Flow:
        older = 0
        while True:
            epoch, owner = self.target
            if not owner or owner == self.name:
                yield self.sleep(self.scheduler.between(20 * MS, 60 * MS))
                continue
            if self._agreed != epoch:
                sent = self.copy.epochs[-EPOCHS_SENT - older :]
                end = len(self.copy.log)
                parted = yield self.call(self.peers[owner], "follow", epoch, sent, end)
                if parted is None:
                    yield self.sleep(self.scheduler.between(30 * MS, 120 * MS))
                elif parted.parting is None and len(sent) < len(self.copy.epochs):
                    older += EPOCHS_SENT
                else:
                    if (yield self._agree(epoch, owner, parted, end)) and self.target == (epoch, owner):
                        self._agreed, older = epoch, 0
                continue
            self._fetches += 1
            order = (0, 0) if self.copy.config is None else self.copy.config.order
            number = (self.incarnation, self._fetches)
            self._woken = Future()
            sound = self.copy.sound
            self.call(self.peers[owner], "fetch", epoch, len(self.copy.log), order, number, sound)
            self.later(400 * MS, self._woken.set)
            yield self._woken

    def _agree(self, epoch: int, owner: str, parted: Parted, end: int) -> Future:
        done = Future()
        self.disk.write(lambda copy: self._part(copy, epoch, owner, parted, end), done.set)
        return done

    def take(self, epoch: int, owner: str, batch: Batch) -> None:
        """A part of an owner's log has come; it may have been under way for long."""
        self.disk.write(lambda copy: self._append(copy, epoch, owner, batch), lambda _: self._woken.set())

    def _part(self, copy: Copy, epoch: int, owner: str, parted: Parted, asked_end: int) -> bool:
        """Cut off what the owner does not have; whether the logs agree now."""
        if not self.rules.takes(copy.bond, epoch, owner) or len(copy.log) != asked_end:
            return False
        cut = self.rules.cut(parted.parting or 0, copy.committed, len(copy.log), parted.epochs)
        demand(not cut.diverged, f"{self.name} would have to cut off what it knows to be committed: {cut}")
        if cut.orphaned:
            self.say("cuts off {} messages at {}, to follow {} in {}", cut.orphaned, cut.at, owner, epoch)
            copy.cut(cut.at, producers_too=self.rules.producers_are_taken_back)
            self.ledger.was_cut(self.name, copy)
        copy.epochs = reached(parted.epochs, cut.at)
        copy.bond = copy.bond.bound(epoch, owner)
        copy.owns, copy.membership, copy.proposal, copy.configs = False, None, None, ()
        self.ledger.bound(self.name, epoch, owner, copy.epochs)
        if self.progress is not None:
            self._retire(f"follows {owner} in {epoch}")
        return not cut.orphaned

    def _append(self, copy: Copy, epoch: int, owner: str, batch: Batch) -> bool:
        if not self.rules.follows(copy.bond, epoch, owner) or len(copy.log) != batch.start or copy.owns:
            return False
        for entry in batch.entries:
            offset = copy.append(entry)
            self.ledger.appended(self.name, offset, entry)
        copy.epochs = reached(batch.epochs, len(copy.log))
        if batch.admits == self.incarnation:
            copy.sound = True
        if copy.config is None or batch.config.order > copy.config.order:
            copy.config = batch.config
        before, copy.committed = copy.committed, max(copy.committed, min(batch.committed, len(copy.log)))
        if copy.committed > before:
            self.ledger.known_committed(self.name, copy, before)
        return True

    def on_follow(self, sender: str, epoch: int, epochs: Sequence[EpochStart], end: int) -> Parted | None:
        if self.progress is None or self.progress.epoch != epoch:
            return None
        copy = self.copy
        return Parted(self.rules.parting(copy.epochs, len(copy.log), epochs, end), copy.epochs)

    def on_fetch(
        self,
        sender: str,
        epoch: int,
        log_end: int,
        config: tuple[int, int],
        number: tuple[int, int],
        sound: bool,
    ) -> None:
        progress = self.progress
        if progress is None or progress.epoch != epoch or number <= self._heard_from.get(sender, (-1, -1)):
            return
        self._heard_from[sender] = number
        now = self.clock()
        self.contacts.heard(sender, now)
        progress.followed(sender, epoch, log_end, now, config, sound=self.rules.says(sound))
        self._moved()
        if log_end < len(self.copy.log):
            self._send(progress, sender, log_end)
            return
        # There is nothing new: the batch goes when there is, or a little later as a sign of life.
        self._idle[sender] = (progress, log_end)
        self.later(200 * MS, lambda: self._tell(sender, (progress, log_end)))

    def _tell_followers(self) -> None:
        for follower, waits in list(self._idle.items()):
            self._tell(follower, waits)

    def _tell(self, follower: str, waits: tuple[OwnerProgress, int]) -> None:
        if self._idle.get(follower) == waits:
            del self._idle[follower]
            self._send(waits[0], follower, waits[1])

    def _send(self, progress: OwnerProgress, follower: str, start: int) -> None:
        if progress is not self.progress:
            return
        copy, peer, epoch = self.copy, self.peers[follower], progress.epoch
        entries = tuple(copy.log[start : start + BATCH])
        admits = self._heard_from[follower][0] if progress.admits(follower) else None
        batch = Batch(start, entries, copy.epochs, progress.committed, progress.config, admits)
        self.network.send(self.name, peer, lambda: peer.take(epoch, self.name, batch))

    # Publishing and reading

    def on_publish(self, sender: str, sequence: int, everybody: bool) -> Future | tuple[str, int]:
        progress = self.progress
        if progress is None or progress.resigning:
            return "not owner", 0
        if everybody and not progress.enough:
            return "not enough in sync", 0
        epoch, found = progress.epoch, Future()

        def transaction(copy: Copy) -> tuple[str, int]:
            if not copy.owns or not self.rules.follows(copy.bond, epoch, self.name):
                return "not owner", 0
            offsets = copy.producers.get(sender, [])
            if sequence < len(offsets):
                return "stored", offsets[sequence]
            if sequence > len(offsets):
                return "out of order", len(offsets)
            entry = Entry(epoch, self.name, sender, sequence)
            offset = copy.append(entry)
            self.ledger.appended(self.name, offset, entry)
            before, copy.committed = copy.committed, max(copy.committed, progress.committed)
            if copy.committed > before:
                self.ledger.known_committed(self.name, copy, before)
            return "stored", offset

        def then(answer: tuple[str, int]) -> None:
            if progress is self.progress:
                progress.appended(len(self.copy.log), self.clock())
                self._tell_followers()
            if answer[0] != "stored" or not everybody:
                found.set(answer)
            elif progress is not self.progress:
                found.set(("not owner", 0))
            else:
                self._waiting.append((answer[1], found, answer))
            self._moved()

        self.disk.write(transaction, then)
        return found

    def on_read(self, sender: str, position: int) -> tuple[int, tuple[Entry, ...]] | None:
        if self.progress is None:
            return None
        end = min(self.progress.committed, position + BATCH)
        return position, tuple(self.copy.log[position:end])

    def _moved(self) -> None:
        """Whoever waits for a commit is told; the commit is looked at."""
        progress = self.progress
        if progress is None:
            return
        if progress.committed > self._checked:
            self.ledger.committed(self.name, progress.epoch, self.copy.log, self._checked, progress.committed)
            self._checked = progress.committed
            self._tell_followers()
        if self._waiting:
            told = [entry for entry in self._waiting if entry[0] < progress.committed]
            self._waiting = [entry for entry in self._waiting if entry[0] >= progress.committed]
            for _, future, answer in told:
                future.set(answer)


def first_record(peers: Sequence[str], life: str, policy: dict[str, Any]) -> Record:
    """Of a topic that has just been created."""
    return Record(
        owner=peers[0], epoch=1, in_sync=(peers[0],), replicas=tuple(peers), policy=policy, life=life
    )
