"""Peers come, live and go: register, heartbeat, leave.

Rules: a name belongs to one live data directory. A registration is never refused because the peer cannot be
dialled, since its own clients may still reach it, but it is told so, and no topic is placed on it by default.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypeGuard

from pubsub.config import IndexSettings, Limits
from pubsub.core.liveness import start_count
from pubsub.errors import InvalidRequestError, PeerNameTakenError, PubsubError
from pubsub.index.clock import LATEST_US, Clock
from pubsub.index.coalescing import Coalescer
from pubsub.index.peer_table import PeerTable
from pubsub.index.settling import Settling
from pubsub.model import Address, check_peer_name, check_topic_name, check_zone, parse_address
from pubsub.net.link import connect
from pubsub.net.server import ServerConnection
from pubsub.protocol import messages as m
from pubsub.registry import Heartbeat, HeartbeatOutcome, PeerRecord, Registry

_DIALS = 64
"""Addresses dialled at once. With 200 new peers of which none answers, the last is registered within 10 s."""
_INCARNATION = re.compile(r"[A-Za-z0-9_-]{1,64}\.[0-9]{1,18}")
_FIGURE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_FIGURES = 64
"""Load figures of one peer at most."""
_SOFTWARE_CHARACTERS = 100


class _Report(Heartbeat, frozen=True, kw_only=True):
    """The subscriptions that a peer serves."""

    subscribers: Mapping[str, Mapping[str, int]]


class Registration:
    """Serves Register, Heartbeat and Leave."""

    def __init__(
        self,
        registry: Registry,
        peers: PeerTable,
        settling: Settling,
        greeting: m.Hello,
        here: Callable[[], object],
        settings: IndexSettings,
        limits: Limits,
        clock: Clock,
    ) -> None:
        self._registry = registry
        self._peers = peers
        self._settling = settling
        self._greeting = greeting
        self._here = here
        self._settings = settings
        self._limits = limits
        self._clock = clock
        self._dialling = asyncio.Semaphore(_DIALS)
        self.beats: Coalescer[Heartbeat, HeartbeatOutcome] = Coalescer(self._beat_all)
        self.reports: Coalescer[_Report, None] = Coalescer(self._report_all)

    async def register(self, connection: ServerConnection, frame: m.Register) -> m.Registered:
        """Record a peer; tell it when its address cannot be reached."""
        address = _check_registration(frame)
        fault = await self._dial(address, frame)
        now = self._clock()
        record = PeerRecord(
            name=frame.name,
            address=str(address),
            incarnation=frame.incarnation,
            version=frame.software[:_SOFTWARE_CHARACTERS],
            started_at=frame.started_us,
            heartbeat_at=now,
            reachable=fault is None,
            zone=check_zone(frame.zone),
        )
        result = await self._registry.register_peer(record, self._settings.ttl_seconds, now)
        if result.outcome == "held" and fault is None and _left_its_address(result.holder, record):
            # The holder's address has just answered as this peer: the data directory was replaced.
            await self._registry.remove_peer(record.name, result.holder.incarnation)
            result = await self._registry.register_peer(record, self._settings.ttl_seconds, now)
        if result.outcome == "held":
            raise self._held_by_another(record, result.holder)
        if result.outcome == "superseded":
            raise _superseded(record.name, record.incarnation, result.holder)
        self._peers.doubt([record.name])
        warning = ""
        if fault is not None:
            warning = (
                f"index {self._here()} cannot reach this peer at {address}: {fault}; others cannot either: "
                "set --advertise HOST:PORT to an address that they can reach"
            )
        return m.Registered(
            id=frame.id, ttl_seconds=self._settings.ttl_seconds, reachable=fault is None, warning=warning
        )

    async def _dial(self, address: Address, frame: m.Register) -> str | None:
        """What is wrong with the address at which a peer says it serves, or None."""
        if _is_unspecified(address.host):
            return "this address means every interface of whoever dials it"
        if address.port == 0:
            return "port 0 is no port that can be dialled"
        try:
            async with self._dialling:
                link = await connect(address, self._greeting, self._limits, self._settings.dial_seconds)
        except PubsubError as error:
            return error.message.removeprefix(f"cannot connect to {address}: ")
        link.close()
        found = link.welcome
        assert found is not None  # connect returns only then
        if found.role != "peer" or found.name != frame.name:
            return f"there answers the {found.role} {found.name}".rstrip()
        if found.incarnation != frame.incarnation:
            return f"there answers another start of {found.name}"
        return None

    def _held_by_another(self, record: PeerRecord, holder: PeerRecord | None) -> PeerNameTakenError:
        if holder is None:
            return PeerNameTakenError(f"the peer name {record.name} is taken by another live data directory")
        ago_seconds = max(0.0, (self._clock() - holder.heartbeat_at) / 1_000_000)
        return PeerNameTakenError(
            f"the peer name {record.name} is taken by another data directory, alive at {holder.address} (last "
            f"heartbeat {ago_seconds:.1f} s ago): choose another name; once that peer is stopped, its name is free "
            f"within {self._settings.ttl_seconds:g} s",
            holder=holder.incarnation,
            address=holder.address,
        )

    async def heartbeat(self, connection: ServerConnection, frame: m.Heartbeat) -> m.HeartbeatReply:
        """Believe a peer for another ttl, if it is the one that holds the name."""
        _check_load(frame)
        outcome = await self.beats.ask(
            Heartbeat(name=frame.name, incarnation=frame.incarnation, load=frame.load)
        )
        if outcome == "superseded":
            holder = await self._registry.peer(frame.name, self._clock())
            raise _superseded(frame.name, frame.incarnation, holder.record if holder is not None else None)
        if outcome == "ok" and frame.subscribers:
            for topic in frame.subscribers:
                check_topic_name(topic)
            await self.reports.ask(
                _Report(name=frame.name, incarnation=frame.incarnation, subscribers=frame.subscribers)
            )
        known = outcome == "ok" and not self._settling.must_announce(frame.name)
        return m.HeartbeatReply(frame.id, known=known)

    async def _beat_all(self, beats: Sequence[Heartbeat]) -> Sequence[HeartbeatOutcome]:
        outcomes = await self._registry.heartbeat(beats, self._settings.ttl_seconds, self._clock())
        if "missing" in outcomes:
            await self._settling.look()  # if all records are lost, the new life begins before anybody returns
        return outcomes

    async def _report_all(self, reports: Sequence[_Report]) -> Sequence[None]:
        merged: dict[str, dict[str, Mapping[str, int]]] = {}
        for report in reports:  # the later one of a peer says what holds
            merged.setdefault(report.name, {}).update(report.subscribers)
        await asyncio.gather(
            *(
                self._registry.report_subscribers(peer, topics, self._settings.ttl_seconds, self._clock())
                for peer, topics in merged.items()
            )
        )
        return [None] * len(reports)

    async def leave(self, connection: ServerConnection, frame: m.Leave) -> m.Done:
        """Forget a peer at once; its topics stay known, as offline."""
        check_peer_name(frame.name)
        removed = await self._registry.remove_peer(frame.name, frame.incarnation)
        self._peers.doubt([frame.name])
        return m.Done(frame.id, "" if removed else f"the peer name {frame.name} is held by somebody else")


def _check_registration(frame: m.Register) -> Address:
    check_peer_name(frame.name)
    if not _INCARNATION.fullmatch(frame.incarnation):
        raise InvalidRequestError(
            f"{frame.incarnation[:100]!r} is not an incarnation: it is <node id>.<start count>"
        )
    if not 0 <= frame.started_us <= LATEST_US:
        raise InvalidRequestError(f"started_us is {frame.started_us}, which is no time in microseconds")
    return parse_address(frame.address)


def _check_load(frame: m.Heartbeat) -> None:
    check_peer_name(frame.name)
    if len(frame.load) > _FIGURES or not all(map(_FIGURE.fullmatch, frame.load)):
        raise InvalidRequestError(
            f"a heartbeat may carry {_FIGURES} load figures, each named by letters, digits, _, - and ."
        )


def _is_unspecified(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:  # a name
        return False


def _left_its_address(holder: PeerRecord | None, record: PeerRecord) -> TypeGuard[PeerRecord]:
    return holder is not None and holder.address == record.address


def _superseded(name: str, incarnation: str, holder: PeerRecord | None) -> PeerNameTakenError:
    if holder is None:
        return PeerNameTakenError(f"the peer name {name} is held by another process; this one must stop")
    same = holder.incarnation.rpartition(".")[0] == incarnation.rpartition(".")[0]
    who = (
        f"its data directory was started again since (start {start_count(holder.incarnation)})"
        if same
        else "another data directory holds the name"
    )
    return PeerNameTakenError(
        f"this process is no longer the peer {name}: {who}, alive at {holder.address}; this one must stop",
        holder=holder.incarnation,
        address=holder.address,
    )
