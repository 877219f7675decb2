"""Durable publish/subscribe without a broker cluster: what applications import."""

from pubsub.client.client import Client
from pubsub.client.subscription import Subscription
from pubsub.errors import (
    ClosedError,
    ConflictError,
    ConnectionLostError,
    DamagedFileError,
    DataDirectoryError,
    IndexUnavailableError,
    InternalError,
    InvalidNameError,
    InvalidRequestError,
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
    SequenceError,
    SettingsError,
    StorageError,
    TimeoutExpiredError,
    TopicExistsError,
    TopicNotFoundError,
    TopicOfflineError,
    UnsupportedVersionError,
)
from pubsub.model import Change, Message, NewMessage, Offsets, PeerInfo, TopicInfo
from pubsub.version import __version__

__all__ = [
    "Change",
    "Client",
    "ClosedError",
    "ConflictError",
    "ConnectionLostError",
    "DamagedFileError",
    "DataDirectoryError",
    "IndexUnavailableError",
    "InternalError",
    "InvalidNameError",
    "InvalidRequestError",
    "Message",
    "MessageTooLargeError",
    "NewMessage",
    "NewerSchemaError",
    "NotOwnerError",
    "OffsetOutOfRangeError",
    "Offsets",
    "Peer",
    "PeerInfo",
    "PeerNameTakenError",
    "PeerNotFoundError",
    "PeerUnavailableError",
    "ProtocolError",
    "PubsubError",
    "ReadOnlyError",
    "RegistryUnavailableError",
    "SequenceError",
    "SettingsError",
    "StorageError",
    "Subscription",
    "TimeoutExpiredError",
    "TopicExistsError",
    "TopicInfo",
    "TopicNotFoundError",
    "TopicOfflineError",
    "UnsupportedVersionError",
    "__version__",
]


def __getattr__(name: str) -> object:
    """Import `Peer` when it is first asked for: a pure client needs no SQLAlchemy."""
    if name == "Peer":
        from pubsub.peer.peer import Peer

        return Peer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
