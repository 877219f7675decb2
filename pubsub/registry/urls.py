"""Registry URLs: text <-> where Redis is. No I/O.

    redis://[user:password@]host[:port][/db]                          one server; rediss:// for TLS
    unix://[user:password@]/path/to/redis.sock[?db=1]
    redis+sentinel://[user:password@]host[:port],host[:port]/service[/db]
    redis+cluster://[user:password@]host[:port],host[:port]

`rediss+sentinel` and `rediss+cluster` are those with TLS. A user name or password with special characters is
percent-encoded. Options stand behind a question mark, as in `?ssl_ca_certs=/etc/ssl/redis.pem`; see OPTIONS.
"""

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from pubsub.errors import SettingsError
from pubsub.model import Address, parse_address

Kind = Literal["server", "socket", "sentinel", "cluster"]

_SCHEMES: dict[str, tuple[Kind, bool]] = {
    "redis": ("server", False),
    "rediss": ("server", True),
    "unix": ("socket", False),
    "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
    "redis+cluster": ("cluster", False),
    "rediss+cluster": ("cluster", True),
}
_TLS_OPTIONS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs")
OPTIONS: dict[Kind, tuple[str, ...]] = {
    "server": _TLS_OPTIONS,
    "socket": ("db",),
    "sentinel": ("sentinel_username", "sentinel_password", *_TLS_OPTIONS),
    "cluster": _TLS_OPTIONS,
}
"""What may stand behind the question mark. The `ssl_` ones need TLS; `ssl_cert_reqs` is required or none."""


class RedisAddress(msgspec.Struct, frozen=True, kw_only=True):
    """Where Redis is and how to get in. As text it shows no password."""

    kind: Kind
    tls: bool = False
    hosts: tuple[Address, ...] = ()
    """One server, or several sentinels or cluster nodes; empty for a socket."""
    path: str = ""
    service: str = ""
    database: int = 0
    username: str | None = None
    password: str | None = None
    options: dict[str, str] = {}

    def __str__(self) -> str:
        scheme = next(name for name, (kind, tls) in _SCHEMES.items() if (kind, tls) == (self.kind, self.tls))
        where = self.path or ",".join(str(host) for host in self.hosts)
        service = f"/{self.service}" if self.service else ""
        database = f"/{self.database}" if self.kind in ("server", "sentinel") and self.database else ""
        return f"{scheme}://{where}{service}{database}"


def parse_redis_url(url: str) -> RedisAddress:
    """Read a registry URL.

    Raises:
        SettingsError: it is malformed; the message says in one line what is wrong, and shows no password.
    """
    scheme, separator, _ = url.partition("://")
    if not separator or scheme not in _SCHEMES:
        raise SettingsError(f"a registry URL begins with one of {', '.join(f'{s}://' for s in _SCHEMES)}")
    kind, tls = _SCHEMES[scheme]
    try:
        split = urlsplit(url)
    except ValueError as error:
        raise _wrong(scheme, str(error)) from error
    if split.fragment:
        raise _wrong(scheme, "write # as %23")
    credentials, _, location = split.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    options = _parse_options(scheme, kind, tls, split.query)
    hosts: tuple[Address, ...] = ()
    path, service, database = "", "", options.pop("db", "0")
    if kind == "socket":
        path = unquote(split.path)
        if location or len(path) < 2:
            raise _wrong(scheme, "write unix:///path/to/redis.sock")
    else:
        hosts = _parse_hosts(scheme, kind, location)
        service, database = _parse_path(scheme, kind, split.path.strip("/"))
    if not re.fullmatch(r"[0-9]{1,5}", database):
        raise _wrong(scheme, f"the database is a number, not {database!r}")
    return RedisAddress(
        kind=kind,
        tls=tls,
        hosts=hosts,
        path=path,
        service=service,
        database=int(database),
        username=unquote(user) or None,
        password=unquote(password) or None,
        options=options,
    )


def _parse_hosts(scheme: str, kind: Kind, location: str) -> tuple[Address, ...]:
    """Read host[:port], or several of them with commas between."""
    port = 26379 if kind == "sentinel" else 6379
    hosts = []
    for text in location.split(","):
        has_port = re.search(r":[^\]]*$", text) is not None
        try:
            hosts.append(parse_address(text if has_port else f"{text}:{port}"))
        except SettingsError as error:
            raise _wrong(scheme, f"{text!r} is not a host, such as 127.0.0.1 or 127.0.0.1:{port}") from error
    if kind == "server" and len(hosts) > 1:
        raise _wrong(scheme, "it names one server; for several use redis+sentinel:// or redis+cluster://")
    return tuple(hosts)


def _parse_path(scheme: str, kind: Kind, path: str) -> tuple[str, str]:
    """Read what follows the hosts: service and database, as far as this kind has them."""
    parts = [unquote(part) for part in path.split("/")] if path else []
    if kind == "sentinel":
        if len(parts) not in (1, 2) or not parts[0]:
            raise _wrong(
                scheme,
                "the name of the service follows the sentinels, as in redis+sentinel://host:26379/main",
            )
        return parts[0], parts[1] if len(parts) == 2 else "0"
    if kind == "cluster" and parts:
        raise _wrong(scheme, "a cluster has no databases; end the URL after the hosts")
    if len(parts) > 1:
        raise _wrong(scheme, f"only the number of a database may follow the host, not {path!r}")
    return "", parts[0] if parts else "0"


def _parse_options(scheme: str, kind: Kind, tls: bool, query: str) -> dict[str, str]:
    allowed = [name for name in OPTIONS[kind] if tls or name not in _TLS_OPTIONS]
    options = dict(parse_qsl(query, keep_blank_values=True))
    for name, value in options.items():
        if name not in allowed:
            known = f"it may have {', '.join(allowed)}" if allowed else "it has none"
            raise _wrong(scheme, f"the option {name!r} is unknown; {known}")
        if not value or (name == "ssl_cert_reqs" and value not in ("required", "none")):
            raise _wrong(scheme, f"the option {name!r} cannot be {value!r}")
    return options


def _wrong(scheme: str, reason: str) -> SettingsError:
    return SettingsError(f"the {scheme}:// registry URL is malformed: {reason}")
