"""What becomes of a topic's messages, and how many copies there are: its policy, as written and as stored.

A policy is JSON of the names below, without those that have their default: `{"max_age_seconds": 604800,
"compact": true}`. People write durations with units (`7d`, `1h30m`), sizes with units (`10GiB`, `500MB`), numbers
with underscores if they like (`1_000_000`), and `off` for what shall not be. Who sets a policy is told what is
wrong with it. Who carries one out (`stored_policy`) takes what it understands: it was checked when it was set, a
newer version may have added names, and what cannot be read must never delete anything.

What the limits mean together is decided in `core/retention`, what the copies mean in `core/replication`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import msgspec

from pubsub.errors import SettingsError, shown

OFF = "off"

DEDUPE_SECONDS = 120
"""For how long a message id is remembered, unless a policy says otherwise."""

DAY_SECONDS = 86_400
MOST_AGE_SECONDS = 36_500 * DAY_SECONDS
MOST_DEDUPE_SECONDS = 30 * DAY_SECONDS
"""Every id within the window is a row in the owner's file."""
MOST_REPLICAS = 32
"""Each of them takes every message from the owner."""
MOST_NUMBER = 2**53 - 1
"""What the numbers of any JSON reader hold exactly."""

UNIT_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": DAY_SECONDS, "w": 7 * DAY_SECONDS}
UNIT_BYTES = {
    "B": 1,
    **{"kMGTP"[n] + "B": 1000 ** (n + 1) for n in range(5)},
    **{"KMGTP"[n] + "iB": 1024 ** (n + 1) for n in range(5)},
}

_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)([a-z]+)")
_NUMBER = re.compile(r"[0-9]+(?:_[0-9]+)*")
_SIZE = re.compile(r"([0-9]+(?:_[0-9]+)*(?:\.[0-9]+)?) ?([A-Za-z]*)")


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What a topic keeps, and for how long. None: without such a limit.

    Raises (when it is made):
        SettingsError: a value is out of range, or two exclude each other.
    """

    max_age_seconds: float | None = None
    """A message goes when it is older."""
    max_messages: int | None = None
    """The oldest go when there are more."""
    max_bytes: int | None = None
    """The oldest go when payloads, keys and headers together are larger."""
    until_acknowledged: bool = False
    """A message goes once every group and durable subscription is past it; at the latest when a limit above says so."""
    compact: bool = False
    """Of each key only the latest message is kept; one without a payload removes its key."""
    dedupe_seconds: float = DEDUPE_SECONDS
    """For how long a message id is remembered; 0: not at all."""
    replicas: int = 1
    """On how many peers the topic lives, its owner's included; any but one may vanish."""
    min_in_sync: int | None = None
    """With fewer copies in sync, a publish with acks="all" is refused. None: a majority from three on, else 1."""
    replica_lag_seconds: float = 10
    """A replica that is behind or out of contact for longer is not in sync any more."""
    replace_after_seconds: float = 300
    """A replica whose peer is away for longer is replaced by one on another peer."""

    def __post_init__(self) -> None:
        _check_seconds("max_age", self.max_age_seconds, MOST_AGE_SECONDS)
        _check_count("max_messages", self.max_messages)
        _check_count("max_bytes", self.max_bytes)
        if self.dedupe_seconds != 0:
            _check_seconds("dedupe", self.dedupe_seconds, MOST_DEDUPE_SECONDS)
        self._check_replicas()
        for name in ("until_acknowledged", "compact"):
            if type(getattr(self, name)) is not bool:
                raise SettingsError(f"{name} is True or False, not {getattr(self, name)!r}")
        if self.compact and self.until_acknowledged:
            raise SettingsError(
                "compact and until_acknowledged exclude each other: one keeps the latest of each key, the other "
                "nothing that has been acknowledged"
            )

    def _check_replicas(self) -> None:
        _check_count("replicas", self.replicas, MOST_REPLICAS)
        if self.replicas is None:
            raise SettingsError("replicas is a whole number, from 1 on")
        _check_count("min_in_sync", self.min_in_sync, MOST_REPLICAS)
        if self.min_in_sync is not None and self.min_in_sync > self.replicas:
            raise SettingsError(
                f"min_in_sync ({self.min_in_sync}) is more than there are copies (replicas is {self.replicas})"
            )
        for name in ("replica_lag", "replace_after"):
            value = getattr(self, f"{name}_seconds")
            if value is None:
                raise SettingsError(f"{name} is a number of seconds")
            _check_seconds(name, value, MOST_AGE_SECONDS)

    @property
    def keeps_everything(self) -> bool:
        """Whether no message ever goes by it."""
        limits = (self.max_age_seconds, self.max_messages, self.max_bytes)
        return limits == (None, None, None) and not self.until_acknowledged and not self.compact

    @property
    def dedupe_us(self) -> int:
        """For how long a message id is remembered, microseconds."""
        return round(self.dedupe_seconds * 1_000_000)

    @property
    def max_age_us(self) -> int | None:
        """How old a message may get, microseconds."""
        return None if self.max_age_seconds is None else round(self.max_age_seconds * 1_000_000)


# Values as people give them


def parse_duration(value: Any, name: str = "the duration") -> float:
    """Seconds: from `7d`, `1h30m`, `1.5h`, `500ms`; from a timedelta; or from a number of seconds (not as text).

    Raises:
        SettingsError: it is none of these, or not more than 0.
    """
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif _is_number(value):
        seconds = value
    elif isinstance(value, str):
        seconds = _duration_from_text(value, name)
    else:
        raise SettingsError(f"{name} is a duration such as 7d or 12h, not {shown(value)}")
    if not seconds > 0:
        raise _not_positive(name, value)
    return _whole(seconds)


def _duration_from_text(text: str, name: str) -> float:
    _check_sign(text, name)
    parts = _DURATION_PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        hint = "; say the unit, such as d for days" if _NUMBER.fullmatch(text) else ""
        raise SettingsError(f"{name} is a duration such as 7d, 12h or 1h30m, not {shown(text)}{hint}")
    seconds = 0.0
    for number, unit in parts:
        if unit not in UNIT_SECONDS:
            raise SettingsError(f"{name}: {unit!r} is no unit of time; there are {', '.join(UNIT_SECONDS)}")
        seconds += float(number) * UNIT_SECONDS[unit]
    return seconds


def parse_size(value: Any, name: str = "the size") -> int:
    """Bytes: from `10GiB`, `500MB`, `1.5 MiB`, `1_000_000`, or a number.

    Raises:
        SettingsError: it is none of these, or not more than 0.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    else:
        _check_sign(value, name)
        match = _SIZE.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            raise SettingsError(f"{name} is a size such as 10GiB, 500MB or 1_000_000, not {shown(value)}")
        number, unit = match[1], match[2] or "B"
        if unit not in UNIT_BYTES:
            raise SettingsError(f"{name}: {unit!r} is no unit of size; there are {', '.join(UNIT_BYTES)}")
        if "." in number:
            exact = float(number.replace("_", "")) * UNIT_BYTES[unit]
            size = round(exact) if exact < math.inf else MOST_NUMBER + 1
        else:
            size = _int(number, name) * UNIT_BYTES[unit]
    if size <= 0:
        raise _not_positive(name, value)
    return size


def parse_count(value: Any, name: str = "the number") -> int:
    """A number from 1 on: from `1_000_000`, or a number.

    Raises:
        SettingsError: it is neither.
    """
    _check_sign(value, name)
    if isinstance(value, int) and not isinstance(value, bool):
        count = value
    elif isinstance(value, str) and _NUMBER.fullmatch(value):
        count = _int(value, name)
    else:
        raise SettingsError(f"{name} is a number such as 1_000_000, not {shown(value)}")
    if count <= 0:
        raise _not_positive(name, value)
    return count


def parse_switch(value: Any, name: str = "the switch") -> bool:
    """True or False: from `on`, `off`, or a bool.

    Raises:
        SettingsError: it is neither.
    """
    if isinstance(value, bool):
        return value
    if value not in ("on", OFF):
        raise SettingsError(f"{name} is on or off, not {shown(value)}")
    return bool(value == "on")


_Parse = Callable[[Any, str], Any]

_FIELDS: dict[str, tuple[str, _Parse, Any]] = {
    "max_age": ("max_age_seconds", parse_duration, None),
    "max_messages": ("max_messages", parse_count, None),
    "max_bytes": ("max_bytes", parse_size, None),
    "until_acknowledged": ("until_acknowledged", parse_switch, False),
    "compact": ("compact", parse_switch, False),
    "dedupe": ("dedupe_seconds", parse_duration, 0),
    "replicas": ("replicas", parse_count, 1),
    "min_in_sync": ("min_in_sync", parse_count, None),
    "replica_lag": ("replica_lag_seconds", parse_duration, 10),
    "replace_after": ("replace_after_seconds", parse_duration, 300),
}
"""Name, as people write it -> field, how its value is read, and what `off` makes of it."""

NAMES = tuple(_FIELDS)
_NAME_OF_FIELD = {field: name for name, (field, _, _) in _FIELDS.items()}


def parse_changes(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Field -> value, from names and values as people give them: `{"max_age": "7d", "compact": True}`.

    A name may also be that of the field. `off` stays None, or whatever stands for it; None is the default again.

    Raises:
        SettingsError: a name is unknown, one comes twice, or a value cannot be read.
    """
    found: dict[str, Any] = {}
    for given, value in changes.items():
        name = _NAME_OF_FIELD.get(given, given)
        if name not in _FIELDS:
            raise SettingsError(f"{shown(given)} is no part of a policy; there are {', '.join(NAMES)}")
        field, parse, off = _FIELDS[name]
        if field in found:
            raise SettingsError(f"{name} is given twice")
        if value is None:
            found[field] = getattr(DEFAULT, field)
        elif value == OFF or (field == "dedupe_seconds" and given == field and value == 0):
            found[field] = off
        else:
            found[field] = parse(value, name)
    return found


def check_parts(parts: Mapping[str, Any]) -> None:
    """Check some parts of a policy, by field, whatever the others are.

    Raises:
        SettingsError: a value is out of range, or two exclude each other.
    """
    if parts.get("min_in_sync") is not None and "replicas" not in parts:
        parts = {**parts, "replicas": MOST_REPLICAS}
    Policy(**parts)


def make_policy(given: Policy | Mapping[str, Any] | None) -> Policy:
    """A policy from whatever an application may give: a `Policy`, a mapping, or None for the default.

    Raises:
        SettingsError: a name is unknown, or a value is wrong; the message says which and why.
    """
    if isinstance(given, Policy):
        return given
    if given is not None and not isinstance(given, Mapping):
        raise SettingsError(f"a policy is a Policy or a dict, not {type(given).__name__}")
    return Policy(**parse_changes(given or {}))


def changed(policy: Policy, changes: Mapping[str, Any]) -> Policy:
    """The policy with some of its parts changed.

    Raises:
        SettingsError: a name is unknown, a value is wrong, or it does not go with what is kept.
    """
    return msgspec.structs.replace(policy, **parse_changes(changes))


# As it is stored


def change_record(record: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A stored policy with some of its parts changed; parts that only a newer version knows stay.

    Raises:
        SettingsError: a name is unknown, a value is wrong, or it does not go with what is kept.
    """
    unknown = {name: value for name, value in record.items() if name not in _NAME_OF_FIELD}
    return unknown | encode_policy(changed(stored_policy(record), changes))


def encode_policy(policy: Policy) -> dict[str, Any]:
    """As JSON: without what has its default."""
    fields = ((field, getattr(policy, field)) for field in policy.__struct_fields__)
    return {field: value for field, value in fields if value != getattr(DEFAULT, field)}


def stored_policy(record: Mapping[str, Any]) -> Policy:
    """The policy that a stored record means. What is not understood counts as not said: that keeps messages."""
    known = {field: record[field] for field in _NAME_OF_FIELD if field in record}
    try:
        return Policy(**known)
    except (SettingsError, TypeError):
        pass
    understood: dict[str, Any] = {}
    for field, value in known.items():
        try:
            Policy(**understood, **{field: value})
        except (SettingsError, TypeError):
            continue
        understood[field] = value
    return Policy(**understood)


def format_duration(seconds: float) -> str:
    """As people write it, exactly: `7d`, `1h30m`, `2m`."""
    left, text = round(seconds * 1000), ""
    for unit in ("d", "h", "m", "s", "ms"):
        number, left = divmod(left, round(UNIT_SECONDS[unit] * 1000))
        text += f"{number}{unit}" if number else ""
    return text or f"{seconds:g}s"


def format_size(size_bytes: int) -> str:
    """As people write it, exactly: in the largest unit of which it is a whole number."""
    for unit, unit_bytes in sorted(UNIT_BYTES.items(), key=lambda item: -item[1]):
        if size_bytes and size_bytes % unit_bytes == 0:
            return f"{size_bytes // unit_bytes}{unit}"
    return f"{size_bytes}B"


def format_policy(policy: Policy) -> dict[str, str]:
    """Name -> value as people write them, for what differs from the default."""
    write: dict[_Parse, Callable[[Any], str]] = {parse_duration: format_duration, parse_size: format_size}
    found = {}
    for name, (field, parse, off) in _FIELDS.items():
        value = getattr(policy, field)
        if value != getattr(DEFAULT, field):
            text = write.get(parse, str)(value)
            found[name] = OFF if value == off else "on" if value is True else text
    return found


def _check_seconds(name: str, value: Any, most_seconds: float) -> None:
    if value is None and name != "dedupe":
        return
    if not _is_number(value):
        raise SettingsError(f"{name} is a number of seconds, not {shown(value)}")
    if not value > 0:
        raise _not_positive(name, value)
    if value > most_seconds:
        raise SettingsError(f"{name} may be {most_seconds // DAY_SECONDS:,} days at most, not {shown(value)}")


def _check_count(name: str, value: Any, most: int = MOST_NUMBER) -> None:
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool):
        raise SettingsError(f"{name} is a whole number, not {shown(value)}")
    if value <= 0:
        raise _not_positive(name, value)
    if value > most:
        raise SettingsError(f"{name} may be {most:,} at most, not {shown(value)}")


def _check_sign(value: Any, name: str) -> None:
    if isinstance(value, str) and re.fullmatch(r"-[0-9].*", value, re.DOTALL):
        raise _not_positive(name, value)


def _not_positive(name: str, value: Any) -> SettingsError:
    return SettingsError(f"{name} must be more than 0, not {shown(value)}; off removes it")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _whole(seconds: float) -> float:
    """An int where it is one, so that JSON shows 604800, not 604800.0."""
    return int(seconds) if seconds < math.inf and seconds == int(seconds) else seconds


def _int(text: str, name: str) -> int:
    if len(text) > 40:  # nobody means it, and Python refuses to read thousands of digits
        raise SettingsError(f"{name} may be {MOST_NUMBER:,} at most, not a number of {len(text)} digits")
    return int(text)


DEFAULT = Policy()
