"""`Peer`: hosts topics in this process, and is a client of the others."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from pubsub.client.client import Client
from pubsub.client.cursor import Cursor
from pubsub.client.directory import Directory
from pubsub.client.outgoing import (
    Outgoing,
    check_conditions,
    check_ids_now,
    check_key,
    check_size,
    message_columns,
)
from pubsub.client.publish_verbs import check_acks
from pubsub.client.routes import Route, Routes
from pubsub.config import (
    DEFAULT_INDEX,
    ClientSettings,
    Limits,
    PeerSettings,
    StorageSettings,
    settings_of,
)
from pubsub.errors import ClosedError, PubsubError, SettingsError
from pubsub.model import (
    Address,
    CursorInfo,
    TopicInfo,
    check_peer_name,
    check_zone,
    is_text,
    parse_address,
    parse_addresses,
)
from pubsub.net.pool import LinkPool
from pubsub.net.server import Server
from pubsub.peer.node import Node
from pubsub.peer.own_cursor import OwnCursor
from pubsub.peer.registration import Registration
from pubsub.policy import Policy
from pubsub.protocol.batch import encode_headers
from pubsub.protocol.handshake import hello
from pubsub.protocol.messages import Publish, Published
from pubsub.storage.database import has_wal_reset_bug
from pubsub.storage.store import Store
from pubsub.storage.topic import Topic

log = logging.getLogger("pubsub.peer")

FIRST_REGISTRATION_SECONDS = 3.0
"""How long entering a peer waits for its first registration; it serves without one all the same."""
GOODBYE_SECONDS = 1.0
HAND_OVER_SECONDS = 1.0
"""How long a closing peer takes to give its topics to others; what is left they find out by its deadline."""
LEAVE_SECONDS = 1.0
"""How long it waits until nobody counts on its copies."""


class Peer(Client):
    """A running node with a data directory; every verb of `Client`, and topics of its own.

    Use it as `async with pubsub.Peer("alice", data="./alice", index="127.0.0.1:7470") as peer:`. Publishing to
    a topic that it owns goes straight to its file: no socket, no index. It starts and serves without an
    index, and registers when one appears.

    Args:
        name: Unique among the peers of an index; belongs to the data directory.
        data: The data directory; made if missing. One process may use it at a time.
        index: The address of an index, or several.
        listen: Where to serve; port 0 takes any free one.
        advertise: Where others reach this peer, if not at the address it listens on.
        zone: What fails together with this peer, a rack or a site; copies of a topic are spread over zones.
        set_damaged_aside: Do not refuse a damaged file: keep it under another name and begin empty. Topics with
            replicas are filled again by the other peers; what this peer alone had is then in that file only.

    Raises (on entering):
        PeerNameTakenError: another live data directory has this name.
        DataDirectoryError, DamagedFileError, NewerSchemaError: the data directory cannot be used.
        SettingsError: the address cannot be listened on.
    """

    def __init__(
        self,
        name: str,
        *,
        data: str | Path,
        index: str | Sequence[str] = DEFAULT_INDEX,
        listen: str = "127.0.0.1:0",
        advertise: str | None = None,
        zone: str = "",
        set_damaged_aside: bool = False,
        timeout_seconds: float | None = None,
        settings: ClientSettings | None = None,
        peer_settings: PeerSettings | None = None,
        storage_settings: StorageSettings | None = None,
        limits: Limits | None = None,
    ) -> None:
        check_peer_name(name)
        super().__init__(index, timeout_seconds=timeout_seconds, settings=settings, limits=limits, name=name)
        self.name = name
        if not (isinstance(data, Path) or is_text(data)) or not str(data) or "\0" in str(data):
            raise SettingsError(f"data is the path of a directory, not {data!r}")
        self._data = Path(data)
        self._index = parse_addresses(index)
        self._listen = parse_address(listen)
        self._advertise = None if advertise is None else parse_address(advertise)
        self._zone = check_zone(zone)
        self._set_damaged_aside = set_damaged_aside
        self._peer_settings = settings_of(PeerSettings, peer_settings)
        self._storage_settings = settings_of(StorageSettings, storage_settings)
        self._registering: asyncio.Task[None] | None = None
        self._side_tasks: list[asyncio.Task[None]] = []
        self._store: Store | None = None

    @property
    def address(self) -> str:
        """Where others reach this peer, `host:port`."""
        self._check_open()
        return self._node.address

    async def open(self) -> None:
        """Take the data directory, serve, and begin to register."""
        if self._opened or self._closing is not None:
            await super().open()  # which knows what to say
            return
        if has_wal_reset_bug():
            log.info(
                "this SQLite can damage a WAL file under two writers; a peer has only one, so let no one else write"
            )
        store = await Store.open(
            self._data, self.name, self._storage_settings, set_damaged_aside=self._set_damaged_aside
        )
        try:
            if self._closing is not None:  # while it was opened
                raise ClosedError("the peer has been closed; make a new one")
            greeting = hello("peer", self.name)
            index = Directory(self._index, greeting, self._limits, self._settings)
            self._node = Node(self.name, store, index, self._peer_settings, self._limits)
            self._server = Server(self._node, "peer", self._limits)
        except BaseException:
            await store.close()
            raise
        self._store = store
        try:
            await self._start(_reachable(await self._server.listen(self._listen)))
        except BaseException:
            await self.close()
            raise

    async def _start(self, listening: Address) -> None:
        self._node.schedule.start()
        self._node.zone = self._zone
        self._node.address = str(self._advertise or listening)
        self._node.connections = lambda: len(self._server.connections)
        await self._node.scrubbing.check_at_start(self._storage_settings.quick_check_bytes)
        # As a client it asks itself: the node answers what it knows and passes on the rest.
        self._own_address = listening
        self._addresses = [self._own_address]
        await super().open()  # refuses where the peer has been closed meanwhile
        self._node.start()
        self._side_tasks = [
            asyncio.create_task(run(), name=f"pubsub: {what} of peer {self.name}")
            for what, run in self._node.side_tasks.items()
        ]
        for task in self._side_tasks:
            task.add_done_callback(_on_side_task_end)
        self._registration = Registration(self._node, self._peer_settings)
        self._registering = asyncio.create_task(
            self._registration.run(), name=f"pubsub: registration of peer {self.name}"
        )
        await asyncio.wait(
            [self._registration.first, self._registering],
            timeout=FIRST_REGISTRATION_SECONDS,
            return_when=asyncio.FIRST_COMPLETED,
        )
        if self._registration.first.done():
            self._registration.first.result()
        else:
            self._registration.first.cancel()  # nobody waits any more: what goes wrong is for the log

    async def serve_until(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set, or until only a new start can mend the file.

        That is when a copy in it can be neither read nor taken back, and other peers have all that is in the file: the
        next peer that opens the data directory keeps the file under another name, and is filled by the others.

        Raises:
            Exception: whatever made a part of the peer fail that it cannot do without.
        """
        assert self._registering is not None
        ending = [
            asyncio.create_task(stop.wait(), name="pubsub: wait for the stop signal"),
            asyncio.create_task(self._node.start_again.wait(), name="pubsub: wait for what a start mends"),
        ]
        try:
            running = [self._registering, *self._side_tasks]
            await asyncio.wait([*ending, *running], return_when=asyncio.FIRST_COMPLETED)
            for task in running:
                if task.done():
                    task.result()
        finally:
            for waiting in ending:
                waiting.cancel()

    async def _close(self) -> None:
        """Stop serving, in an order that loses nothing."""
        if self._store is None:
            await super()._close()
            return
        # 1. Others take over what they have copies of; then nobody new, and the index sends nobody here any more. Until
        #    then an index that has something to tell may still have to connect.
        self._node.following.leave()
        await self._node.handing_over.hand_over_all(HAND_OVER_SECONDS)
        await self._node.following.left(LEAVE_SECONDS)
        self._server.stop_accepting()
        if self._registering is not None:
            self._registering.cancel()
            await asyncio.gather(self._registering, return_exceptions=True)
            if self._registration.first.done() and not self._registration.first.cancelled():
                self._registration.first.exception()  # seen
            await self._registration.say_goodbye(GOODBYE_SECONDS)
        for task in self._side_tasks:
            task.cancel()
        await asyncio.gather(*self._side_tasks, return_exceptions=True)
        # 2. Our own publishes and subscriptions, while the node still answers.
        await super()._close()
        await self._node.schedule.close(self._peer_settings.drain_seconds)
        # 3. What others have under way is answered, then their connections close.
        await self._store.settled(self._peer_settings.drain_seconds)
        await self._server.close(self._peer_settings.drain_seconds)
        await self._node.following.close()
        await self._node.directory.close()
        self._node.groups.close()
        # 4. Last, the file: everything submitted before is committed.
        await self._store.close()

    # What differs from a client

    def _make_routes(self) -> Routes:
        return _OwnFirst(self._directory, self._pool, self._node, self._own_address)

    async def publish(
        self,
        topic: str,
        payload: Outgoing,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        message_id: str | None = None,
        expect_offset: int | None = None,
        delay_seconds: float | None = None,
        deliver_at: datetime | None = None,
        acks: str | None = None,
    ) -> int:
        """See `Client.publish`; to a topic of its own it needs neither a socket nor an index."""
        own = self._own(topic)
        if own is None or own.replicas:  # that of a replicated one may be retried, elsewhere perhaps
            return await super().publish(
                topic,
                payload,
                key=key,
                headers=headers,
                message_id=message_id,
                expect_offset=expect_offset,
                delay_seconds=delay_seconds,
                deliver_at=deliver_at,
                acks=acks,
            )
        check_acks(acks)
        assert self._store is not None
        data, key, text, message_id = message_columns(
            payload, check_key(key), encode_headers(headers), message_id
        )
        check_size(len(data or b"") + len(key or "") + len(text or ""), self._limits.message_bytes)
        ids: list[str | None] | None = None if message_id is None else [message_id]
        conditions = check_conditions(expect_offset, delay_seconds, deliver_at)
        check_ids_now(ids, conditions)
        while self._store.full:
            room = asyncio.Event()
            self._store.when_room(room.set)
            await room.wait()
        stored: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def answer(reply: Published | PubsubError) -> None:
            if stored.done():
                return
            if isinstance(reply, PubsubError):
                stored.set_exception(reply)
            else:
                stored.set_result(reply.first_offset)

        frame = Publish(
            id=0,
            topic=topic,
            topic_id=own.id,
            producer=0,  # nobody loses an answer within a process
            sequence=0,
            keys=None if key is None else [key],
            headers=None if text is None else [text],
            payloads=[data],
            message_ids=ids,
            **conditions._asdict(),
        )
        self._node.publishing.publish(frame, answer)
        return await stored

    def _own(self, topic: str) -> Topic | None:
        self._check_open()
        held = self._node.store.topics.get(topic)
        return held if held is not None and held.role == "owner" else None

    async def create_topic(
        self,
        topic: str,
        *,
        on: str | None = None,
        policy: Policy | Mapping[str, Any] | None = None,
        replicas: int | None = None,
    ) -> TopicInfo:
        """Create a topic, on this peer unless `on` names another. See `Client.create_topic`."""
        return await super().create_topic(topic, on=on or self.name, policy=policy, replicas=replicas)

    def _cursor(self, topic: str, name: str) -> Cursor:
        """In the file of this peer, whoever owns the topic; its own topics' are kept there by any means."""
        return super()._cursor(topic, name) if self._own(topic) else OwnCursor(self._node, topic, name)

    async def subscription(self, topic: str, name: str) -> CursorInfo:
        """One durable subscription; of those of this peer its own file is asked, also while the owner is away."""
        self._check_open()
        full_name = self._full_name(topic, name)
        if full_name.endswith(f"@{self.name}"):
            own = await self._node.cursors.own(topic, full_name.partition("@")[0])
            if own is not None:
                return own
        return await super().subscription(topic, name)

    def _full_name(self, topic: str, name: str) -> str:
        """A plain name means this peer's own subscription, if it has one, before one that the owner keeps."""
        full_name = super()._full_name(topic, name)
        if "@" not in full_name and self._node.cursors.has_own(topic, full_name):
            return f"{full_name}@{self.name}"
        return full_name

    async def _peer_addresses(self, peers: set[str] | None = None) -> dict[str, Address]:
        own = {self.name: self._own_address} if peers is None or self.name in peers else {}
        if peers is not None and peers <= own.keys():
            return own
        return await super()._peer_addresses(peers) | own

    async def status(self) -> dict[str, Any]:
        """What this peer says of itself."""
        self._check_open()
        return self._node.status()


class _OwnFirst(Routes):
    """Routes of a peer: to its own topics never by the address that it advertises to others."""

    def __init__(self, directory: Directory, pool: LinkPool, node: Node, own_address: Address) -> None:
        super().__init__(directory, pool, relay=False)
        self._node = node
        self._own_address = own_address

    async def find(self, topic: str, timeout_seconds: float) -> Route:
        return self._own(topic) or await super().find(topic, timeout_seconds)

    def route(self, info: TopicInfo) -> Route:
        own = self._own(info.topic)
        return own if own is not None and own.topic_id == info.id else super().route(info)

    def _own(self, topic: str) -> Route | None:
        held = self._node.store.topics.get(topic)
        if held is None or held.role != "owner" or held.id in self._node.changing_hands:
            return None
        return Route(
            topic=topic,
            topic_id=held.id,
            epoch=held.epoch,
            owner=held.owner,
            address=self._own_address,
            replicated=bool(held.replicas),
        )


def _on_side_task_end(task: asyncio.Task[None]) -> None:
    """Say at once that a part of the peer has failed; `serve_until` raises it, where somebody waits there."""
    if not task.cancelled() and task.exception() is not None:
        log.critical("%s ended by a fault", task.get_name(), exc_info=task.exception())


def _reachable(address: Address) -> Address:
    """Where to reach a server that listens on `address`: every interface means also this machine's own."""
    own = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}
    return msgspec.structs.replace(address, host=own.get(address.host, address.host))
