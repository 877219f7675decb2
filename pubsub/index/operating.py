"""What operators want: other replicas, another owner, a peer that is empty.

Rules: what takes long is only noted here, in records and on peers, and carried out by the controllers, step by step; so
whoever asked may go away. Nothing that was acknowledged is lost, but for a promotion that says so.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import msgspec

from pubsub.core.epochs import next_epoch
from pubsub.core.failover import Loss, loss_of, promote
from pubsub.core.ownership import copies_wanted, is_confirmed
from pubsub.core.placement import with_added, with_leaving
from pubsub.errors import (
    ConflictError,
    InvalidRequestError,
    PeerNotFoundError,
    PeerUnavailableError,
    RegistryUnavailableError,
    TopicOfflineError,
)
from pubsub.index.changing import Changing
from pubsub.index.clock import Clock
from pubsub.index.copies import explicit, with_change
from pubsub.index.directory import Directory
from pubsub.index.electing import Electing
from pubsub.index.peer_links import PeerLinks
from pubsub.index.peer_table import PeerTable, standing_of
from pubsub.index.placing import Placing
from pubsub.index.settling import Settling
from pubsub.index.tasks import Spawn, to_the_end
from pubsub.model import check_peer_name, parse_address
from pubsub.net.server import ServerConnection
from pubsub.policy import change_record, stored_policy
from pubsub.protocol import messages as m
from pubsub.registry import Registry, TopicRecord

log = logging.getLogger("pubsub.index")

OWNER_SECONDS = 2.0
"""How long an owner may take to change the policy."""
_ATTEMPTS = 5
_SHOWN = 5
"""Topics of which a drained peer's report says what they wait for."""
_LOOKED_AT = 200


class Operating:
    """Serves ChangeReplicas, Promote and Drain."""

    def __init__(
        self,
        registry: Registry,
        peers: PeerTable,
        directory: Directory,
        settling: Settling,
        links: PeerLinks,
        changing: Changing,
        electing: Electing,
        placing: Placing,
        spawn: Spawn,
        clock: Clock,
    ) -> None:
        self._registry = registry
        self._peers = peers
        self._directory = directory
        self._settling = settling
        self._links = links
        self._changing = changing
        self._electing = electing
        self._placing = placing
        self._spawn = spawn
        self._clock = clock

    # Replicas

    async def change_replicas(self, connection: ServerConnection, frame: m.ChangeReplicas) -> m.TopicList:
        """Note where the copies of a topic shall be."""
        _check_change(frame)
        return await to_the_end(
            self._spawn, self._change_replicas(frame), f"pubsub: replicas of {frame.topic}"
        )

    async def _change_replicas(self, frame: m.ChangeReplicas) -> m.TopicList:
        record = await self._directory.record(frame.topic)
        for peer in frame.add:
            await self._check_able(peer)
        for peer in frame.remove:
            if peer not in record.holders:
                raise InvalidRequestError(
                    f"peer {peer} holds no copy of topic {frame.topic}: {', '.join(record.replicas)} do"
                )
        for _ in range(_ATTEMPTS):
            wanted = _copies_after(record, frame)
            await self._set_copies(record, wanted)
            changed = await self._with_replicas(record, frame, wanted)
            (result,) = await self._changing.replace([(record, changed)])
            if result.current is None or result.current.id != record.id:
                break
            record = result.current
            if result.applied:
                await self._peers.fresh()
                return m.TopicList(frame.id, [self._directory.describe(record)])
        raise ConflictError(f"the record of topic {frame.topic} keeps changing: try again")

    async def _with_replicas(self, record: TopicRecord, frame: m.ChangeReplicas, wanted: int) -> TopicRecord:
        life = (await self._settling.look()).id
        if not is_confirmed(explicit(record), life):
            raise ConflictError(
                f"who owns topic {record.name} is being found out, since the registry was lost: try again"
            )
        for peer in frame.add:
            record = with_change(record, with_added(record, peer, life=life))
        for peer in frame.remove:
            record = with_change(record, with_leaving(record, peer))
        # The policy is the owner's; here at once, so that no controller puts the former number of copies in order.
        return msgspec.structs.replace(record, policy=change_record(record.policy, {"replicas": wanted}))

    async def _check_able(self, peer: str) -> None:
        state = await self._registry.peer(peer, self._clock())
        if state is None or state.record is None or not standing_of(state, self._clock()).alive:
            raise PeerNotFoundError(f"peer {peer} is not alive; see pubsub index peers", peer=peer)
        if state.record.draining:
            raise InvalidRequestError(
                f"peer {peer} is being drained; end that by: pubsub peer drain {peer} --cancel"
            )

    async def _set_copies(self, record: TopicRecord, wanted: int) -> None:
        """Have the owner write down how many copies there shall be.

        Raises:
            SettingsError: fewer than must be in sync.
        """
        change_record(record.policy, {"replicas": wanted})
        if stored_policy(record.policy).replicas == wanted:
            return
        await self._peers.fresh()
        address = self._peers.standing(record.owner).address
        if address is None:
            raise TopicOfflineError(
                f"topic {record.name} is offline: its owner {record.owner} is away, and has its policy",
                owner=record.owner,
            )
        await self._links.request_all(
            record.owner,
            parse_address(address),
            lambda request: m.SetPolicy(
                id=request, topic=record.name, policy={"replicas": wanted}, topic_id=record.id
            ),
            OWNER_SECONDS,
        )

    # Promoting

    async def promote(self, connection: ServerConnection, frame: m.Promote) -> m.Done:
        """Make a peer the owner of a topic."""
        check_peer_name(frame.peer)
        note = await to_the_end(self._spawn, self._promote(frame), f"pubsub: promote {frame.topic}")
        return m.Done(frame.id, note)

    async def _promote(self, frame: m.Promote) -> str:
        record = await self._directory.record(frame.topic)
        life = (await self._settling.look()).id
        states = await self._peers.fresh()
        alive = {name for name in states if self._peers.standing(name).alive}
        if frame.peer not in alive:
            raise PeerNotFoundError(
                f"peer {frame.peer} is not alive; see pubsub index peers", peer=frame.peer
            )
        if record.owner in alive and is_confirmed(explicit(record), life):
            return await self._promote_online(record, frame)
        if (wait_seconds := self._settling.settled_in_seconds()) > 0:
            raise RegistryUnavailableError(
                f"who owns topic {frame.topic} is not decided before every peer has had the time to say that it lives: "
                f"in {wait_seconds:.1f} s",
                retry_seconds=wait_seconds,
            )
        found = (await self._electing.candidates([record], alive, frame.peer)).get(record.id, [])
        chosen = next((candidate for candidate in found if candidate.peer == frame.peer), None)
        if chosen is None:
            raise PeerUnavailableError(
                f"peer {frame.peer} does not answer, or holds no copy of topic {frame.topic}", peer=frame.peer
            )
        if not chosen.sound:
            raise InvalidRequestError(f"the copy of topic {frame.topic} on peer {frame.peer} is damaged")
        loss = loss_of(explicit(record), chosen, found, life=life)
        epoch = next_epoch([record.epoch, *(candidate.heard for candidate in found)], self._clock())
        change = promote(
            explicit(record), chosen, loss, epoch=epoch, life=life, alive=alive, accept_loss=frame.accept_loss
        )
        if change is None:
            raise InvalidRequestError(
                f"{_told_loss(record, frame.peer, loss)}; if that is wanted: --accept-loss"
            )
        (result,) = await self._changing.apply([(record, change)])
        if not result.applied:
            raise ConflictError(f"the record of topic {frame.topic} has changed meanwhile: try again")
        return f"peer {frame.peer} owns it in epoch {epoch}; {_told_loss(record, frame.peer, loss)}"

    async def _promote_online(self, record: TopicRecord, frame: m.Promote) -> str:
        if record.owner == frame.peer:
            return f"peer {frame.peer} owns it already; nothing is lost"
        if frame.peer not in record.in_sync:
            raise InvalidRequestError(
                f"topic {frame.topic} is online, and peer {frame.peer} is not in sync ({', '.join(record.in_sync)} "
                "are): only a copy that is can take it over from a live owner"
            )
        if not await self._placing.hand_over(record, frame.peer):
            raise ConflictError(f"its owner {record.owner} did not hand topic {frame.topic} over: try again")
        return f"peer {frame.peer} owns it now; nothing is lost"

    # Draining

    async def drain(self, connection: ServerConnection, frame: m.Drain) -> m.StatusReport:
        """Mark a peer, and tell how much is left on it."""
        check_peer_name(frame.peer)
        if not await self._registry.set_draining(frame.peer, not frame.cancel):
            raise PeerNotFoundError(
                f"peer {frame.peer} is not alive; what is away for longer than replace_after is replaced by itself",
                peer=frame.peer,
            )
        self._peers.doubt([frame.peer])
        left = sorted(await self._registry.topics_of(frame.peer))
        fields: dict[str, Any] = {"peer": frame.peer, "draining": not frame.cancel, "topics": len(left)}
        if not frame.cancel:
            fields["waiting"] = await self._waiting(frame.peer, left[:_LOOKED_AT])
        return m.StatusReport(frame.id, fields)

    async def _waiting(self, peer: str, names: Sequence[str]) -> dict[str, str]:
        """Topic -> what it waits for, of some of those that cannot go on."""
        states = await self._peers.loaded()
        able = {candidate.peer for candidate in self._placing.candidates(states)} - {peer}
        found: dict[str, str] = {}
        for record in await self._registry.lookup(names):
            if record is None or peer not in record.holders or len(found) >= _SHOWN:
                continue
            staying = [other for other in record.replicas if other != peer and other not in record.leaving]
            late = [other for other in staying if other not in record.in_sync]
            if len(staying) < copies_wanted(explicit(record)) and not able - record.holders:
                found[record.name] = "no other peer can take a copy"
            elif late:
                found[record.name] = f"the copy on {', '.join(late)} is not in sync yet"
        return found


def _check_change(frame: m.ChangeReplicas) -> None:
    for peer in (*frame.add, *frame.remove):
        check_peer_name(peer)
    if not frame.add and not frame.remove:
        raise InvalidRequestError("say which replica to add, to remove, or to move")
    both = set(frame.add) & set(frame.remove)
    if both or len(set(frame.add)) < len(frame.add) or len(set(frame.remove)) < len(frame.remove):
        raise InvalidRequestError("each peer may be named once only")


def _copies_after(record: TopicRecord, frame: m.ChangeReplicas) -> int:
    """How many copies the topic shall have then."""
    staying = (set(record.replicas) - set(record.leaving)) | set(frame.add)
    removed = staying & set(frame.remove)
    if not staying - removed:
        raise InvalidRequestError(
            f"peer {', '.join(sorted(removed))} holds the only copy of topic {record.name}: add another one first, or "
            "move it"
        )
    fewer = max(0, len(removed) - len(frame.add))
    return max(len(staying - removed), stored_policy(record.policy).replicas - fewer)


def _told_loss(record: TopicRecord, peer: str, loss: Loss) -> str:
    """What a promotion loses, for people."""
    if loss.none:
        return "nothing that was committed is lost"
    text = f"peer {peer} has the messages below offset {loss.kept}"
    if loss.known > loss.kept:
        text += f"; those from there to {loss.known}, which were committed, are lost"
    away = [other for other in record.in_sync if other != peer]
    if away:
        text += f"; what only {', '.join(away)} has may be lost"
    return text
