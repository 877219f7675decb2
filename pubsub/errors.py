"""The error tree: every failure that a user of pubsub can see.

Each class carries its wire `code`, whether trying again can help (`retriable`), and a message that names
the thing and the way out. A client retries what is retriable, with jittered backoff, until its timeout.

    PubsubError
    ├── SettingsError               a setting or command line value is wrong
    ├── InvalidNameError            a topic, peer or pattern name breaks the naming rules
    ├── InvalidRequestError         a request asks for something that cannot be
    │   ├── MessageTooLargeError    a payload (with key and headers) is over the limit
    │   ├── OffsetOutOfRangeError   an offset lies before the first kept or beyond the next one
    │   └── WrongOffsetError        the log is not at the offset that a publish expected
    ├── TopicNotFoundError / TopicExistsError / TopicOfflineError*
    ├── PeerNotFoundError / PeerNameTakenError / PeerUnavailableError*
    ├── NotOwnerError*              this peer does not own the topic (data: owner, address)
    ├── TooFewCopiesError*          fewer copies than `min_in_sync` are in sync (data: in_sync, min_in_sync)
    ├── ReadOnlyError*              the peer cannot write now, a full disk say; reads go on
    ├── SequenceError               a producer's batches came out of order; nothing was stored
    ├── ConflictError*              somebody else changed the record first
    ├── RegistryUnavailableError* / IndexUnavailableError* / ConnectionLostError*
    ├── GroupNotFoundError / SubscriptionNotFoundError / ScheduledNotFoundError
    ├── SubscriptionTakenError      a durable subscription was taken up by another subscriber, or reset
    ├── LateAcknowledgementError    the delivery was not this member's any more
    ├── TimeoutExpiredError         the time allowed is over; whether it took effect may be unknown
    ├── ClosedError                 the client, peer or subscription has been closed
    ├── ProtocolError               a frame breaks docs/protocol.md
    │   ├── LocalProtocolError      our fault
    │   ├── RemoteProtocolError     the other end's fault
    │   └── UnsupportedVersionError the two ends share no major protocol version
    ├── StorageError                the data directory or its file cannot be used
    │   ├── DataDirectoryError      in use, not writable, or not a directory
    │   ├── DamagedFileError        peer.db is not a sound database; left untouched
    │   └── NewerSchemaError        peer.db was written by a newer version; left untouched
    └── InternalError               a fault in pubsub itself

(* retriable)
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, ClassVar


def shown(value: object) -> str:
    """A wrong value, short enough for a message of one line."""
    if isinstance(value, int) and value.bit_length() > 200:  # Python refuses to write thousands of digits
        return f"a number of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}…"


class PubsubError(Exception):
    """Base of all errors of this package.

    `data` holds facts for programs, such as an owner's address; its keys depend on the class.
    """

    code: ClassVar[str] = "error"
    retriable: ClassVar[bool] = False

    def __init__(self, message: str, **data: Any) -> None:
        super().__init__(message)
        self.message = message
        self.data: dict[str, Any] = data
        self.acknowledged: Sequence[int] = ()
        """Set by `publish_many`: the offsets of the messages of that call that are stored all the same."""

    def __str__(self) -> str:
        return self.message


class SettingsError(PubsubError):
    """A setting or a command line value is wrong."""

    code = "settings"


class InvalidNameError(PubsubError):
    """A name breaks the naming rules; the message states them."""

    code = "invalid_name"


class InvalidRequestError(PubsubError):
    """A request asks for something that cannot be."""

    code = "invalid_request"


class MessageTooLargeError(InvalidRequestError):
    """A message is over the limit that the text names (data: limit_bytes, and index within `publish_many`)."""

    code = "message_too_large"


class OffsetOutOfRangeError(InvalidRequestError):
    """An offset lies before the first kept one or beyond the next one (data: first_offset, next_offset)."""

    code = "offset_out_of_range"


class WrongOffsetError(InvalidRequestError):
    """The log is not at the offset that a publish expected; nothing was stored (data: next_offset)."""

    code = "wrong_offset"


class TopicNotFoundError(PubsubError):
    """No topic has this name, or the one meant has been deleted."""

    code = "topic_not_found"


class TopicExistsError(PubsubError):
    """A topic of this name is there already (data: owner)."""

    code = "topic_exists"


class TopicOfflineError(PubsubError):
    """The topic exists, but its owner is away (data: owner)."""

    code = "topic_offline"
    retriable = True


class PeerNotFoundError(PubsubError):
    """No peer of this name is registered."""

    code = "peer_not_found"


class PeerNameTakenError(PubsubError):
    """Another live data directory holds this peer name (data: holder, its address)."""

    code = "peer_name_taken"


class PeerUnavailableError(PubsubError):
    """The peer is registered but cannot be reached."""

    code = "peer_unavailable"
    retriable = True


class NotOwnerError(PubsubError):
    """The peer asked does not own the topic (data: owner, address where known)."""

    code = "not_owner"
    retriable = True


class TooFewCopiesError(PubsubError):
    """Fewer copies than the topic's `min_in_sync` are in sync: nothing is committed (data: in_sync, min_in_sync)."""

    code = "too_few_copies"
    retriable = True


class ReadOnlyError(PubsubError):
    """The peer cannot write at the moment; nothing of the request was stored, reads go on."""

    code = "read_only"
    retriable = True


class SequenceError(PubsubError):
    """A producer's batch came out of order; nothing of it was stored (data: expected)."""

    code = "sequence_out_of_order"


class ConflictError(PubsubError):
    """A record was changed by somebody else in between; nothing was changed by this request."""

    code = "conflict"
    retriable = True


class RegistryUnavailableError(PubsubError):
    """The registry (Redis) does not answer."""

    code = "registry_unavailable"
    retriable = True


class IndexUnavailableError(PubsubError):
    """No index answers."""

    code = "index_unavailable"
    retriable = True


class ConnectionLostError(PubsubError):
    """A connection broke or could not be made; whether a request on it took effect is unknown."""

    code = "connection_lost"
    retriable = True


class TimeoutExpiredError(PubsubError, TimeoutError):
    """The time allowed is over. The message says what is known and what is not."""

    code = "timeout"


class GroupNotFoundError(PubsubError):
    """The topic has no group of this name."""

    code = "group_not_found"


class SubscriptionNotFoundError(PubsubError):
    """The topic has no durable subscription of this name."""

    code = "subscription_not_found"


class SubscriptionTakenError(PubsubError):
    """Another subscriber has taken up this durable subscription since, or it was reset; nothing was committed."""

    code = "subscription_taken"


class ScheduledNotFoundError(PubsubError):
    """No message is held under this schedule id: it has been delivered or cancelled, or never was."""

    code = "scheduled_not_found"


class LateAcknowledgementError(PubsubError):
    """The message had been given to somebody else, or settled, before; nothing was changed by this."""

    code = "late_acknowledgement"


class ClosedError(PubsubError):
    """The object has been closed."""

    code = "closed"


class ProtocolError(PubsubError):
    """A frame breaks docs/protocol.md."""

    code = "protocol"


class LocalProtocolError(ProtocolError):
    """This end was asked to send something that the protocol does not allow."""

    code = "local_protocol"


class RemoteProtocolError(ProtocolError):
    """The other end sent something that the protocol does not allow; the connection is closed."""

    code = "remote_protocol"


class UnsupportedVersionError(ProtocolError):
    """The two ends share no major protocol version; the message names both."""

    code = "unsupported_version"


class StorageError(PubsubError):
    """The data directory or its file cannot be used."""

    code = "storage"


class DataDirectoryError(StorageError):
    """The data directory is in use, not writable, or not a directory."""

    code = "data_directory"


class DamagedFileError(StorageError):
    """peer.db is not a sound SQLite database; it was left as it is."""

    code = "damaged_file"


class NewerSchemaError(StorageError):
    """peer.db was written by a newer version of pubsub; it was left as it is."""

    code = "newer_schema"


class InternalError(PubsubError):
    """A fault in pubsub itself; please report it."""

    code = "internal"


def _tree(cls: type[PubsubError]) -> dict[str, type[PubsubError]]:
    found = {cls.code: cls}
    for child in cls.__subclasses__():
        found |= _tree(child)
    return found


ERRORS_BY_CODE: dict[str, type[PubsubError]] = _tree(PubsubError)
"""Every error class under its wire code."""


def error_from_wire(code: str, message: str, data: dict[str, Any] | None) -> PubsubError:
    """Make the error that an error frame describes; a code of a newer version becomes a PubsubError."""
    error = ERRORS_BY_CODE.get(code, PubsubError)(message)
    error.data = data or {}
    return error


def reason_of(error: OSError) -> str:
    """Why the system refused something, in its own words: no number, and nothing that a library put around them."""
    if error.errno is not None and error.errno > 0:  # name resolution has negative numbers
        return os.strerror(error.errno)
    return error.strerror or str(error)
