"""Every subscription that a peer serves, by topic and by connection; how one is delivered is `delivery`'s."""

from __future__ import annotations

from pubsub.config import Limits, PeerSettings
from pubsub.core.credit import Window
from pubsub.errors import PubsubError
from pubsub.net.server import ServerConnection
from pubsub.peer.delivery import Delivery, Feed, Subscriber
from pubsub.peer.positions import Until
from pubsub.peer.tail import Tail, TailBudget
from pubsub.storage.store import Appended, Store
from pubsub.storage.topic import Topic


class Deliveries:
    """See the module's text; called in the event loop only."""

    def __init__(self, store: Store, settings: PeerSettings, limits: Limits) -> None:
        self._store = store
        self._settings = settings
        self._limits = limits
        self._budget = TailBudget(settings.tails_bytes)
        self._feeds: dict[int, Feed] = {}
        self._subscribers: dict[ServerConnection, Subscriber] = {}
        self.sent_messages = 0

    def start(
        self,
        connection: ServerConnection,
        number: int,
        topic: Topic,
        position: int,
        window: Window,
        name: str,
        until: Until | None = None,
        durable: str = "",
    ) -> Delivery:
        """Begin to deliver; the caller answers the request, then calls `pump`."""
        feed, subscriber = self.feed(topic), self.subscriber(connection)
        delivery = Delivery(subscriber, number, feed, position, window, name, self._store, until, durable)
        self.add(delivery)
        return delivery

    def feed(self, topic: Topic) -> Feed:
        """The feed of a topic."""
        feed = self._feeds.get(topic.id)
        if feed is None:
            tail = Tail(self._settings.tail_bytes, self._budget)
            feed = self._feeds[topic.id] = Feed(topic, tail, self._forget)
        return feed

    def subscriber(self, connection: ServerConnection) -> Subscriber:
        """What is known of a connection to which something is delivered."""
        subscriber = self._subscribers.get(connection)
        if subscriber is None:
            subscriber = self._subscribers[connection] = Subscriber(connection)
            connection.when_lost(lambda: self._lost(connection))
            connection.when_writable = subscriber.pump
        return subscriber

    def add(self, delivery: Delivery) -> None:
        """Take in a delivery made for a feed and a subscriber from here."""
        delivery.feed.deliveries.add(delivery)
        delivery.subscriber.take(delivery)

    def find(self, connection: ServerConnection, number: int) -> Delivery | None:
        """The delivery that `connection` calls `number`."""
        subscriber = self._subscribers.get(connection)
        return None if subscriber is None else subscriber.deliveries.get(number)

    def durable(self, topic: Topic, name: str) -> list[Delivery]:
        """Those that serve a topic's durable subscription of this name: one at most, but for a moment."""
        feed = self._feeds.get(topic.id)
        return [d for d in feed.deliveries if d.durable == name] if feed is not None else []

    def count(self, connection: ServerConnection | None = None) -> int:
        """How many subscriptions there are, of one connection or in all."""
        if connection is None:
            return sum(subscriber.count for subscriber in self._subscribers.values())
        subscriber = self._subscribers.get(connection)
        return 0 if subscriber is None else subscriber.count

    def stop(self, connection: ServerConnection, number: int) -> None:
        """The subscriber wants no more of it."""
        delivery = self.find(connection, number)
        if delivery is not None:
            delivery.end()

    def on_append(self, topic: Topic, appended: Appended) -> None:
        """A commit added to a topic: send it to everyone who is up to date."""
        feed = self._feeds.get(topic.id)
        if feed is None:
            return
        marks = None
        if topic.replicas:
            marks = [(position, mark) for position, mark in enumerate(appended.marks) if mark is not None]
        feed.tail.add(appended.batch, self._limits.batch_messages, self._limits.batch_bytes, marks)
        self._pump(feed)

    def on_committed(self, topic: Topic) -> None:
        """More of a replicated topic is committed: send it to its subscribers."""
        feed = self._feeds.get(topic.id)
        if feed is not None:
            self._pump(feed)

    def _pump(self, feed: Feed) -> None:
        for delivery in list(feed.deliveries):
            delivery.pump()
        # Only now: who is up to date has taken all of it, even of a commit larger than the tail may be.
        feed.tail.forget_before(min((d.position for d in feed.deliveries), default=feed.topic.committed))
        feed.tail.trim()

    def end_topic(self, topic: Topic, error: PubsubError) -> None:
        """The topic is served no more, or not here: tell its subscribers and followers."""
        feed = self._feeds.get(topic.id)
        for delivery in list(feed.deliveries) if feed is not None else ():
            delivery.end(error)

    def by_topic(self) -> dict[str, dict[str, int]]:
        """Topic -> name of a subscription -> since when, for the registry. Topics without any are left out."""
        found: dict[str, dict[str, int]] = {}
        for feed in self._feeds.values():
            for delivery in feed.deliveries:
                if not delivery.follows:
                    name = delivery.name or f"{delivery.connection.remote}/{delivery.number}"
                    found.setdefault(feed.topic.name, {})[name] = delivery.since_us
        return found

    def _forget(self, feed: Feed) -> None:
        self._feeds.pop(feed.topic.id, None)

    def _lost(self, connection: ServerConnection) -> None:
        subscriber = self._subscribers.pop(connection, None)
        if subscriber is not None:
            subscriber.end()
