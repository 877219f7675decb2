"""Every frame of the protocol, as a typed struct: docs/protocol.md describes each, byte by byte.

A frame is a msgpack array whose first element is the frame type, a small integer; the fields follow in the
order given here. A reader ignores elements beyond those it knows, so that a minor version may append fields
(with defaults); removing or reordering one needs a new major version. `id` numbers a request on its
connection; the reply carries the same id.
"""

from __future__ import annotations

from typing import Any

import msgspec

from pubsub.model import CursorInfo, GroupInfo, OrphanedMessage, PeerInfo, ScheduledMessage, TopicInfo

PROTOCOL_MAJOR = 1
PROTOCOL_MINOR = 0

LATEST = -1
"""`start` of a subscription or query: after the newest message."""
EARLIEST = -2
"""`start`: at the first kept message."""
AT_TIME = -3
"""`start`: at the first message published at or after `at_us`."""


class Batch(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Consecutive messages of one topic as columns.

    Message i has offset `offsets[i]`, or `first_offset + i` where `offsets` is nil; its time is
    `published_us[i]`, or `published_us` where that is one number. `keys` and `headers` (JSON objects as text)
    are nil where no message has any. `attempts` says how often each has been given out, to members of a group.
    """

    first_offset: int
    offsets: list[int] | None
    published_us: int | list[int]
    keys: list[str | None] | None
    headers: list[str | None] | None
    payloads: list[bytes | None]
    attempts: list[int] | None = None


class CopyState(msgspec.Struct, array_like=True, frozen=True, kw_only=True):
    """A topic as its holder announces it, or as it is told to hold it."""

    id: int
    topic: str
    role: str
    owner: str
    epoch: int
    next_offset: int = 0
    created_us: int = 0
    policy: dict[str, Any] = {}
    replicas: list[str] = []
    """Peers on which the topic shall live, the owner among them."""
    in_sync: list[str] = []
    """Those that hold everything committed, the owner among them."""
    version: int = 0
    """Of the registry's record, as far as it is known; grows within an epoch. 0: of none."""
    owner_address: str = ""
    """Where the owner serves, to whoever is to follow it; empty while that is not known."""
    lossy: bool = False
    """The epoch began with a copy that may have missed committed messages, on an operator's word."""


class CopyEnd(msgspec.Struct, array_like=True, frozen=True, kw_only=True):
    """How far a peer's copy of a topic goes."""

    topic_id: int
    last_epoch: int
    """In which the end of its log was written; 0 of an empty one that never followed."""
    highest_epoch: int
    """The newest that it has promised, owned or followed."""
    next_offset: int
    committed: int
    sound: bool = True
    """False: the copy is damaged, set aside, or does not yet hold again what it once had; it may not own the topic."""
    config_epoch: int = 0
    """Of the newest `core.replication.Config` that it has stored; 0: none."""
    config_version: int = 0
    replicas: list[str] = []
    """Of that `Config`."""
    min_in_sync: int = 0
    """Of that `Config`."""


class Hello(msgspec.Struct, array_like=True, tag=1, frozen=True, kw_only=True):
    """First frame of whoever connects."""

    magic: str = "pubsub"
    major: int
    minor: int
    software: str
    role: str
    """client, peer or index"""
    name: str = ""


class Welcome(msgspec.Struct, array_like=True, tag=2, frozen=True, kw_only=True):
    """First frame of whoever was connected to, if it accepts."""

    magic: str = "pubsub"
    major: int
    minor: int
    software: str
    role: str
    """peer or index"""
    name: str
    incarnation: str
    frame_bytes: int
    message_bytes: int


class Failure(msgspec.Struct, array_like=True, tag=3, frozen=True):
    """A request failed; id 0 when no request can be named: the connection is then closed."""

    id: int
    code: str
    message: str
    data: dict[str, Any] = {}


class Done(msgspec.Struct, array_like=True, tag=4, frozen=True):
    """A request that has no other result succeeded."""

    id: int
    note: str = ""
    """Something that a person should know, or empty."""


# Publishing


class Publish(msgspec.Struct, array_like=True, tag=10, frozen=True, gc=False):
    """Append messages. `sequence` counts the messages of `producer` in this topic; the first is 0."""

    id: int
    topic: str
    topic_id: int
    producer: int
    sequence: int
    keys: list[str | None] | None
    headers: list[str | None] | None
    payloads: list[bytes | None]
    expect_offset: int = -1
    """Store only if this is the topic's next offset; -1: wherever it is."""
    message_ids: list[str | None] | None = None
    """Ids that the application chose; one that was stored within the topic's window is not stored again."""
    deliver_us: int = 0
    """Hold the messages until then, microseconds UTC; 0: store them now."""
    delay_us: int = 0
    """Hold them for so long, by the owner's clock; 0: see `deliver_us`."""
    acks: int = 0
    """Of a replicated topic: when to answer. 1: once they are on the owner's disk. 2: once they are committed, on
    all that are in sync. 0: as 2."""


class Published(msgspec.Struct, array_like=True, tag=11, frozen=True, gc=False):
    """The messages are on disk, at `first_offset` and the offsets after it."""

    id: int
    first_offset: int
    duplicate: bool = False
    offsets: list[int] | None = None
    """The offset of each message, where they are not consecutive; their schedule ids, if they are held."""
    in_sync: list[str] | None = None
    """Of a replicated topic: the peers that have them on disk, as far as the owner knows."""


# Reading


class Subscribe(msgspec.Struct, array_like=True, tag=12, frozen=True, kw_only=True):
    """Start an ordered stream. The connection names it `subscription`. topic_id 0: whatever has this name."""

    id: int
    subscription: int
    topic: str
    topic_id: int = 0
    start: int = LATEST
    at_us: int = 0
    window_messages: int
    window_bytes: int
    name: str = ""
    """Shown to people who look at the topic's subscribers."""
    until: int = -1
    """Offset before which the stream ends; -1: never."""
    until_us: int = 0
    """Time before which the stream ends: only messages published earlier are sent; 0: never."""
    durable: str = ""
    """Name of a durable subscription: goes on at its stored cursor, if it has one."""
    skip_lost: bool = False
    """What to do if retention has taken the start away: begin at the first kept offset, or fail."""
    generation: int = 0
    """With `durable`, after a lost connection: what Subscribed said; go on at `start`. 0: take it up anew."""


class Subscribed(msgspec.Struct, array_like=True, tag=13, frozen=True, kw_only=True):
    """The stream starts at `position`."""

    id: int
    topic_id: int
    epoch: int
    position: int
    skipped: int = 0
    """Messages that retention took away before this subscription could read them."""
    generation: int = 0
    """Of a durable subscription: names this taking of it; goes with its commits."""


class Deliver(msgspec.Struct, array_like=True, tag=14, frozen=True, gc=False):
    """The next messages of a subscription. Not a reply."""

    subscription: int
    batch: Batch


class Credit(msgspec.Struct, array_like=True, tag=15, frozen=True, gc=False):
    """The subscriber has taken so much; the server may have so much more outstanding. No reply."""

    subscription: int
    messages: int
    bytes: int


class Unsubscribe(msgspec.Struct, array_like=True, tag=16, frozen=True):
    """End a stream. Nothing of it is delivered after the reply."""

    id: int
    subscription: int


class Ended(msgspec.Struct, array_like=True, tag=17, frozen=True):
    """The server ends a stream, with an error; or, with an empty code, at its `until`. Not a reply."""

    subscription: int
    code: str
    message: str
    data: dict[str, Any] = {}


class Query(msgspec.Struct, array_like=True, tag=18, frozen=True, kw_only=True):
    """Read a range once, up to `limit` messages; the reply may hold fewer."""

    id: int
    topic: str
    topic_id: int = 0
    start: int = EARLIEST
    at_us: int = 0
    limit: int
    until: int = -1
    until_us: int = 0
    key: str | None = None
    """Only messages with this key."""
    headers: dict[str, str] | None = None
    """Only messages with all these headers."""


class QueryResult(msgspec.Struct, array_like=True, tag=19, frozen=True, kw_only=True):
    """Messages from the start asked for; `batch` is nil where there is none. Ask again from `position`."""

    id: int
    topic_id: int
    batch: Batch | None
    position: int
    next_offset: int


# Groups: members share the messages of a topic


class JoinGroup(msgspec.Struct, array_like=True, tag=60, frozen=True, kw_only=True):
    """Become a member: messages come as Deliver with `attempts`, and each is to be settled.

    The first member of a new group makes it, with these options, starting at `start`. Leaving is Unsubscribe.
    """

    id: int
    subscription: int
    topic: str
    topic_id: int = 0
    group: str
    max_in_flight: int
    """Messages that this member may have unsettled at once."""
    window_bytes: int
    """And their size; a single larger message still comes, alone."""
    options: dict[str, Any] = {}
    """Of a new group: see core.group_options. Empty: the defaults, or whatever the group has."""
    start: int = EARLIEST
    at_us: int = 0
    name: str = ""
    """Shown to people who look at the group's members."""


class Joined(msgspec.Struct, array_like=True, tag=61, frozen=True, kw_only=True):
    """`options` are those of the group, which may have been made with others than asked for."""

    id: int
    topic_id: int
    epoch: int
    options: dict[str, Any]


class Settle(msgspec.Struct, array_like=True, tag=62, frozen=True, kw_only=True):
    """What became of deliveries. Each is named by its offset and its attempt."""

    id: int
    subscription: int
    how: str
    """ack: done. nack: failed, to be given out again. extend: the lease begins anew. release: not begun, give
    them to others at once without counting this as an attempt, and give me nothing more: I am leaving."""
    offsets: list[int]
    attempts: list[int]
    delay_us: int = -1
    """Of a nack: how long it is not to be given out; -1: the group's backoff."""


class Settled(msgspec.Struct, array_like=True, tag=63, frozen=True):
    """On disk. `late`: offsets that are not this member's under that attempt any more; nothing changed for them."""

    id: int
    late: list[int]


class Groups(msgspec.Struct, array_like=True, tag=64, frozen=True):
    """Which groups does the topic have? With `group`, only that one; with no topic, those of all topics here."""

    id: int
    topic: str = ""
    group: str = ""


class GroupList(msgspec.Struct, array_like=True, tag=65, frozen=True):
    id: int
    groups: list[GroupInfo]


class ChangeGroup(msgspec.Struct, array_like=True, tag=66, frozen=True, kw_only=True):
    """Answered by Done, with a note that says what was done."""

    id: int
    topic: str
    group: str
    how: str
    """reset: go on at `start`, as if nothing had been given out. redrive: make its dead letters ready again.
    delete."""
    start: int = EARLIEST
    at_us: int = 0


class PeekGroup(msgspec.Struct, array_like=True, tag=67, frozen=True, kw_only=True):
    """The next messages that the group would give out; nothing changes. Answered by QueryResult."""

    id: int
    topic: str
    group: str
    limit: int


# Durable subscriptions


class CommitCursor(msgspec.Struct, array_like=True, tag=70, frozen=True, kw_only=True):
    """A durable subscription has processed everything before `position`. Answered by Done, once on disk.

    A name with an @ is that of a peer's subscription, whose cursor is in that peer's own file: the owner notes
    it for retention, and makes it if it is not there.
    """

    id: int
    topic: str
    topic_id: int
    name: str
    generation: int
    position: int


class Cursors(msgspec.Struct, array_like=True, tag=71, frozen=True):
    """Which durable subscriptions are kept here, of one topic or (empty) of all?"""

    id: int
    topic: str = ""


class CursorList(msgspec.Struct, array_like=True, tag=72, frozen=True):
    """Part of a reply; `more` says that another frame with the same id follows."""

    id: int
    cursors: list[CursorInfo]
    more: bool = False


class ChangeCursor(msgspec.Struct, array_like=True, tag=73, frozen=True, kw_only=True):
    """reset: to `start`. delete. Whoever reads by it is ended. Answered by Done."""

    id: int
    topic: str
    name: str
    how: str
    start: int = EARLIEST
    at_us: int = 0


# Delayed messages


class Scheduled(msgspec.Struct, array_like=True, tag=74, frozen=True, kw_only=True):
    """Which messages of a topic are held for later? In order of time; those after a given one, to go on."""

    id: int
    topic: str
    after_us: int = 0
    after_id: int = 0
    limit: int = 100


class ScheduledList(msgspec.Struct, array_like=True, tag=75, frozen=True):
    """As many as fit, which may be fewer than the limit; none: that was all. `total` counts all that are held."""

    id: int
    total: int
    messages: list[ScheduledMessage]


class CancelScheduled(msgspec.Struct, array_like=True, tag=76, frozen=True):
    """Let go of these. One that is not held is an error, which says so; the others are let go all the same."""

    id: int
    topic: str
    schedule_ids: list[int]


class SetPolicy(msgspec.Struct, array_like=True, tag=77, frozen=True, kw_only=True):
    """Change parts of a topic's policy: to the owner. Answered by a TopicList with the topic as it is now.

    A part that is nil gets its default again; parts that are not named stay as they are.
    """

    id: int
    topic: str
    policy: dict[str, Any]
    topic_id: int = 0


# The directory: what an index answers, and a peer passes on


class Lookup(msgspec.Struct, array_like=True, tag=30, frozen=True):
    """Where is a topic?"""

    id: int
    topic: str


class Topics(msgspec.Struct, array_like=True, tag=31, frozen=True):
    """Which topics are there? With `offsets` their owners are asked for next_offset and the like."""

    id: int
    pattern: str = ">"
    offsets: bool = True


class TopicList(msgspec.Struct, array_like=True, tag=32, frozen=True):
    """Part of a reply; `more` says that another frame with the same id follows."""

    id: int
    topics: list[TopicInfo]
    more: bool = False


class Peers(msgspec.Struct, array_like=True, tag=33, frozen=True):
    """Which peers are there?"""

    id: int


class PeerList(msgspec.Struct, array_like=True, tag=34, frozen=True):
    id: int
    peers: list[PeerInfo]


class CreateTopic(msgspec.Struct, array_like=True, tag=35, frozen=True, kw_only=True):
    """Create a topic on the peer `on`, or on the least loaded one that is alive.

    `topic_id` is chosen by who asks (0: by the index), so that asking again after a lost answer succeeds.
    """

    id: int
    topic: str
    on: str | None = None
    policy: dict[str, Any] = {}
    topic_id: int = 0


class DeleteTopic(msgspec.Struct, array_like=True, tag=36, frozen=True):
    id: int
    topic: str


class Watch(msgspec.Struct, array_like=True, tag=37, frozen=True):
    """Tell me of changes to topics that match `pattern`, and to peers, until the connection closes."""

    id: int
    pattern: str = ">"


class Changes(msgspec.Struct, array_like=True, tag=38, frozen=True):
    """To a watcher, `id` being its request's. Not a reply."""

    id: int
    changes: list[dict[str, Any]]


class Status(msgspec.Struct, array_like=True, tag=39, frozen=True):
    """How are you?"""

    id: int


class StatusReport(msgspec.Struct, array_like=True, tag=40, frozen=True):
    id: int
    fields: dict[str, Any]


# Between peers and index


class Register(msgspec.Struct, array_like=True, tag=50, frozen=True, kw_only=True):
    """I am a peer and serve at `address`."""

    id: int
    name: str
    address: str
    incarnation: str
    software: str
    started_us: int
    zone: str = ""
    """What fails together with this peer: a rack, a site. Copies of a topic are spread over zones."""


class Registered(msgspec.Struct, array_like=True, tag=51, frozen=True, kw_only=True):
    """Send a heartbeat each third of the ttl. `warning` is for people: an address that cannot be dialled."""

    id: int
    ttl_seconds: float
    reachable: bool = True
    warning: str = ""


class Heartbeat(msgspec.Struct, array_like=True, tag=52, frozen=True, kw_only=True):
    """I live. `subscribers`: topic -> name of a subscription that I serve -> since when, microseconds UTC."""

    id: int
    name: str
    incarnation: str
    load: dict[str, float]
    subscribers: dict[str, dict[str, int]] | None = None


class HeartbeatReply(msgspec.Struct, array_like=True, tag=53, frozen=True):
    """known false: the registry lost you, register and announce again."""

    id: int
    known: bool


class Announce(msgspec.Struct, array_like=True, tag=54, frozen=True, kw_only=True):
    """Part of what I hold; `more` says that another part follows, and only the last is answered."""

    id: int
    name: str
    incarnation: str
    copies: list[CopyState]
    more: bool = False


class Reconciled(msgspec.Struct, array_like=True, tag=55, frozen=True, kw_only=True):
    """What the registry says of it."""

    id: int
    create: list[CopyState] = []
    """Hold these in the role and with the owner that they say: registered as yours but not announced (create
    them, empty), or changed since you last heard of them."""
    deleted: list[int] = []
    """Deleted while you were away: drop these copies."""
    set_aside: list[int] = []
    """Their name belongs to another topic now: keep the file's rows, serve them no more."""
    unwanted: list[CopyState] = []
    """They live on other peers now: drop your copy, unless you know of a later epoch or version than this."""


class Leave(msgspec.Struct, array_like=True, tag=56, frozen=True, kw_only=True):
    """Goodbye: I am going away on purpose."""

    id: int
    name: str
    incarnation: str


class CreateCopy(msgspec.Struct, array_like=True, tag=57, frozen=True):
    """Index to peer: hold this topic, in this role. Repeating it, or an older epoch or version, changes nothing."""

    id: int
    copy: CopyState


class DropCopy(msgspec.Struct, array_like=True, tag=58, frozen=True):
    """Index to peer: the topic was deleted, or lives on other peers now. Repeating it changes nothing."""

    id: int
    topic_id: int
    epoch: int = 0
    """0: the topic was deleted. Otherwise it lives elsewhere, by the record of this epoch and version: a peer that
    knows of a later one keeps its copy."""
    version: int = 0


class Held(msgspec.Struct, array_like=True, tag=59, frozen=True):
    """Which topics do you hold (of `topics`, or all where nil)? The reply is a TopicList."""

    id: int
    topics: list[str] | None = None


# Replication: who holds, who owns


class Propose(msgspec.Struct, array_like=True, tag=80, frozen=True, kw_only=True):
    """The owner of a topic to an index: change its record, if it still is the one that I know.

    `owner` empty: these are in sync from now on. Otherwise I resign, in favour of that one among them; and I am
    about to stop, if I am not among them myself.
    """

    id: int
    name: str
    incarnation: str
    topic: str
    topic_id: int
    epoch: int
    version: int
    in_sync: list[str]
    owner: str = ""


class Proposed(msgspec.Struct, array_like=True, tag=81, frozen=True):
    """Whether it was done, and what the registry holds now; `record` nil: none of this topic, so announce it."""

    id: int
    applied: bool
    record: CopyState | None


class CopyEnds(msgspec.Struct, array_like=True, tag=82, frozen=True):
    """Index to peer: how far do your copies of these topics go? Those that you do not hold are left out.

    With `promise`: take nothing of older epochs any more, and have that on disk before you answer. A copy that has
    heard of this epoch, or a later one, does not promise, and says so by its `highest_epoch`.
    """

    id: int
    topic_ids: list[int]
    promise: int = 0


class CopyEndList(msgspec.Struct, array_like=True, tag=83, frozen=True):
    id: int
    ends: list[CopyEnd]


class CopySet(msgspec.Struct, array_like=True, frozen=True):
    """On which peers a topic lives, and how many must have a message before it counts as committed.

    Of two, the one with the greater (epoch, version) is the newer.
    """

    epoch: int
    version: int
    replicas: list[str]
    min_in_sync: int


class Follow(msgspec.Struct, array_like=True, tag=84, frozen=True, kw_only=True):
    """A copy's peer to the owner: send me the topic's log from `next_offset` on, as `subscription`.

    `epochs`: (epoch, first offset, lossy, owner) of each epoch of the copy, the oldest first.
    """

    id: int
    subscription: int
    topic: str
    topic_id: int
    epoch: int
    name: str
    next_offset: int
    epochs: list[tuple[int, int, bool, str]]
    window_messages: int
    window_bytes: int
    config: tuple[int, int] = (0, 0)
    """(epoch, version) of the newest CopySet that the copy has stored."""
    sound: bool = True
    """False: the copy has lost something, and was not told since that it counts."""


class Followed(msgspec.Struct, array_like=True, tag=85, frozen=True, kw_only=True):
    """Where the logs part. Once they agree (-1) the owner sends; otherwise the copy is cut there, and asks again."""

    id: int
    truncate_to: int
    epochs: list[tuple[int, int, bool, str]]
    """Those of the owner's log."""
    first_offset: int
    committed: int
    config: CopySet
    """For the copy to store."""


class Replicate(msgspec.Struct, array_like=True, tag=86, frozen=True, gc=False):
    """Offsets `start` up to, not including, `stop` of the log that a copy follows. Not a reply."""

    subscription: int
    epoch: int
    start: int
    stop: int
    committed: int
    batch: Batch | None
    """What is kept of them; nil: nothing."""
    marks: list[tuple[int, str]]
    """(position in the batch, mark) of each batch as it was stored that begins there: a JSON array [messages,
    checksum, producer, sequence]."""


class Progress(msgspec.Struct, array_like=True, tag=87, frozen=True):
    """A follower to the owner: what it has on disk. Also empty, each second, as a sign of life. No reply."""

    ends: list[tuple[int, int, int, int]]
    """(subscription, log end, messages, bytes): so much of what was sent since the last report may be sent anew."""
    configs: list[tuple[int, int, int]] = []
    """(subscription, epoch, version) of a CopySet that it has stored."""
    beside: list[tuple[int, int]] = []
    """(subscription, number) of the last Beside that it has stored."""
    leaving: bool = False
    """It is about to stop: it goes on reporting, but is not to be waited for."""


class Marks(msgspec.Struct, array_like=True, tag=88, frozen=True):
    """The owner to a follower: what is committed, and kept, by now. Not a reply."""

    marks: list[tuple[int, int, int]]
    """(subscription, committed, first offset)."""
    sound: list[int] = []
    """Subscriptions of copies that said they are not sound, and are from now on."""


class HandOver(msgspec.Struct, array_like=True, tag=89, frozen=True):
    """Index to owner: resign in favour of `to`, which is in sync. Answered by Done once the record says so."""

    id: int
    topic_id: int
    to: str


class ChangeReplicas(msgspec.Struct, array_like=True, tag=90, frozen=True, kw_only=True):
    """Have copies of a topic on these peers, and not on those, which go once enough others are in sync.

    Answered by a TopicList with the topic as it is now; the copies follow. Both: a move, the number stays.
    """

    id: int
    topic: str
    add: list[str] = []
    remove: list[str] = []


class Promote(msgspec.Struct, array_like=True, tag=91, frozen=True):
    """Make `peer` the owner of a topic. Answered by Done, with a note that says what may be lost.

    `accept_loss`: also while no copy that is in sync is alive, to one that is not.
    """

    id: int
    topic: str
    peer: str
    accept_loss: bool = False


class Drain(msgspec.Struct, array_like=True, tag=92, frozen=True):
    """Move everything off `peer`, and place nothing there until it is started again, or with `cancel`.

    Answered by a StatusReport that says how much is left; ask again to see it grow less.
    """

    id: int
    peer: str
    cancel: bool = False


class Orphans(msgspec.Struct, array_like=True, tag=93, frozen=True, kw_only=True):
    """What was cut off this peer's copy of a topic, or (empty) of any? Those after a number, to go on."""

    id: int
    topic: str = ""
    after: int = 0
    limit: int = 100


class Verify(msgspec.Struct, array_like=True, tag=94, frozen=True, kw_only=True):
    """What is your copy of a topic like, from offset `start` on, below `stop`? Without `stop`: only how far it goes."""

    id: int
    topic: str
    topic_id: int = 0
    start: int = 0
    stop: int = 0


class OrphanList(msgspec.Struct, array_like=True, tag=95, frozen=True):
    """As many as fit, which may be fewer than the limit; none: that was all. `total` counts all that are kept."""

    id: int
    total: int
    orphans: list[OrphanedMessage]


class Beside(msgspec.Struct, array_like=True, tag=96, frozen=True):
    """The owner to a follower: what the topic has besides messages, or what of it has changed. Not a reply."""

    subscription: int
    number: int
    """Counts them, within an epoch of the topic."""
    at: int
    """Log end of the owner then: to be stored together with the messages up to there."""
    rows: list[tuple[str, str, bytes | None]]
    """(table, key of a row as a JSON array, its other cells as a msgpack array); nil: the row is gone."""
    reset: bool = False
    """This, and what follows up to the last of it, is all there is."""
    more: bool = False


class Verified(msgspec.Struct, array_like=True, tag=97, frozen=True, kw_only=True):
    """A part of it, one range at least; ask again from the end of the last one on."""

    id: int
    topic_id: int
    role: str
    epoch: int
    first_offset: int
    committed: int
    sound: bool
    """False: it is damaged, or has lost something and is being filled again."""
    ranges: list[tuple[int, int, int, int]] = []
    """(start, stop, messages, digest), ending at multiples of 1,000; digest -1: damaged."""
    damage: list[tuple[int, str]] = []
    """(offset from which on it is damaged, what is wrong)."""
    compacted: bool = False
    """Whether messages may have been taken out by compaction, at another time than elsewhere."""
    next_offset: int = 0


Frame = (
    Hello | Welcome | Failure | Done | Publish | Published
    | Subscribe | Subscribed | Deliver | Credit | Unsubscribe | Ended | Query | QueryResult
    | Lookup | Topics | TopicList | Peers | PeerList | CreateTopic | DeleteTopic
    | Watch | Changes | Status | StatusReport
    | Register | Registered | Heartbeat | HeartbeatReply | Announce | Reconciled | Leave
    | CreateCopy | DropCopy | Held
    | JoinGroup | Joined | Settle | Settled | Groups | GroupList | ChangeGroup | PeekGroup
    | CommitCursor | Cursors | CursorList | ChangeCursor
    | Scheduled | ScheduledList | CancelScheduled | SetPolicy
    | Propose | Proposed | CopyEnds | CopyEndList
    | Follow | Followed | Replicate | Progress | Marks
    | HandOver | ChangeReplicas | Promote | Drain
    | Orphans | Verify | OrphanList | Beside | Verified
)  # fmt: skip
"""Any frame."""

Request = (
    Publish | Subscribe | Unsubscribe | Query
    | JoinGroup | Settle | Groups | ChangeGroup | PeekGroup
    | CommitCursor | Cursors | ChangeCursor | Scheduled | CancelScheduled | SetPolicy
    | Lookup | Topics | Peers | CreateTopic | DeleteTopic
    | Watch | Status | Register | Heartbeat | Announce | Leave | CreateCopy | DropCopy | Held
    | Propose | CopyEnds | Follow | HandOver | ChangeReplicas | Promote | Drain | Orphans | Verify
)  # fmt: skip
"""A frame that is answered by one with the same id."""
