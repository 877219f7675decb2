"""Durable publish/subscribe without a broker cluster: what applications import."""

from pubsub.client.client import Client
from pubsub.client.durable import DurableSubscription
from pubsub.client.group import GroupMessage, GroupSubscription
from pubsub.client.pattern import PatternSubscription
from pubsub.client.subscription import Subscription
from pubsub.errors import (
    ClosedError,
    ConflictError,
    ConnectionLostError,
    DamagedFileError,
    DataDirectoryError,
    GroupNotFoundError,
    IndexUnavailableError,
    InternalError,
    InvalidNameError,
    InvalidRequestError,
    LateAcknowledgementError,
    MessageTooLargeError,
    NewerSchemaError,
    NotOwnerError,
    OffsetOutOfRangeError,
    PeerNameTakenError,
    PeerNotFoundError,
    PeerUnavailableError,
    ProtocolError,
    PubsubError,
    ReadOnlyError,
    RegistryUnavailableError,
    ScheduledNotFoundError,
    SequenceError,
    SettingsError,
    StorageError,
    SubscriptionNotFoundError,
    SubscriptionTakenError,
    TimeoutExpiredError,
    TooFewCopiesError,
    TopicExistsError,
    TopicNotFoundError,
    TopicOfflineError,
    UnsupportedVersionError,
    WrongOffsetError,
)
from pubsub.model import (
    Change,
    CopyRange,
    CursorInfo,
    GroupInfo,
    Message,
    NewMessage,
    Offset,
    Offsets,
    OrphanedMessage,
    PeerInfo,
    ScheduledMessage,
    TopicInfo,
)
from pubsub.policy import Policy
from pubsub.version import __version__

__all__ = [
    "Change",
    "Client",
    "ClosedError",
    "ConflictError",
    "ConnectionLostError",
    "CopyRange",
    "CursorInfo",
    "DamagedFileError",
    "DataDirectoryError",
    "DurableSubscription",
    "GroupInfo",
    "GroupMessage",
    "GroupNotFoundError",
    "GroupSubscription",
    "IndexUnavailableError",
    "InternalError",
    "InvalidNameError",
    "InvalidRequestError",
    "LateAcknowledgementError",
    "Message",
    "MessageTooLargeError",
    "NewMessage",
    "NewerSchemaError",
    "NotOwnerError",
    "Offset",
    "OffsetOutOfRangeError",
    "Offsets",
    "OrphanedMessage",
    "PatternSubscription",
    "Peer",
    "PeerInfo",
    "PeerNameTakenError",
    "PeerNotFoundError",
    "PeerUnavailableError",
    "Policy",
    "ProtocolError",
    "PubsubError",
    "ReadOnlyError",
    "RegistryUnavailableError",
    "ScheduledMessage",
    "ScheduledNotFoundError",
    "SequenceError",
    "SettingsError",
    "StorageError",
    "Subscription",
    "SubscriptionNotFoundError",
    "SubscriptionTakenError",
    "TimeoutExpiredError",
    "TooFewCopiesError",
    "TopicExistsError",
    "TopicInfo",
    "TopicNotFoundError",
    "TopicOfflineError",
    "UnsupportedVersionError",
    "WrongOffsetError",
    "__version__",
]


def __getattr__(name: str) -> object:
    """Import `Peer` when it is first asked for: a pure client needs no SQLAlchemy."""
    if name == "Peer":
        from pubsub.peer.peer import Peer

        return Peer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
