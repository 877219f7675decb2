"""Registry URLs: what is understood, and what is said about the rest."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pubsub.errors import SettingsError
from pubsub.model import Address
from pubsub.registry.urls import RedisAddress, parse_redis_url

LOCAL = Address("127.0.0.1", 6379)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://127.0.0.1", RedisAddress(kind="server", hosts=(LOCAL,))),
        ("redis://127.0.0.1/", RedisAddress(kind="server", hosts=(LOCAL,))),
        ("redis://h:7000/2", RedisAddress(kind="server", hosts=(Address("h", 7000),), database=2)),
        ("redis://[::1]:7000", RedisAddress(kind="server", hosts=(Address("::1", 7000),))),
        ("redis://[::1]", RedisAddress(kind="server", hosts=(Address("::1", 6379),))),
        ("redis://:pw@127.0.0.1", RedisAddress(kind="server", hosts=(LOCAL,), password="pw")),
        (
            "redis://al%40ice:p%2Fw%3A%23@127.0.0.1",
            RedisAddress(kind="server", hosts=(LOCAL,), username="al@ice", password="p/w:#"),
        ),
        (
            "rediss://127.0.0.1?ssl_ca_certs=/etc/ca.pem&ssl_cert_reqs=none",
            RedisAddress(
                kind="server",
                tls=True,
                hosts=(LOCAL,),
                options={"ssl_ca_certs": "/etc/ca.pem", "ssl_cert_reqs": "none"},
            ),
        ),
        ("unix:///run/redis.sock", RedisAddress(kind="socket", path="/run/redis.sock")),
        (
            "unix://u:p@/run/redis.sock?db=3",
            RedisAddress(kind="socket", path="/run/redis.sock", database=3, username="u", password="p"),
        ),
        (
            "redis+sentinel://s1,s2:26380/main",
            RedisAddress(kind="sentinel", hosts=(Address("s1", 26379), Address("s2", 26380)), service="main"),
        ),
        (
            "redis+sentinel://u:p@s1:1/main/4?sentinel_password=sp",
            RedisAddress(
                kind="sentinel",
                hosts=(Address("s1", 1),),
                service="main",
                database=4,
                username="u",
                password="p",
                options={"sentinel_password": "sp"},
            ),
        ),
        (
            "redis+cluster://c1:7001,[::1]:7002",
            RedisAddress(kind="cluster", hosts=(Address("c1", 7001), Address("::1", 7002))),
        ),
        ("rediss+cluster://c1", RedisAddress(kind="cluster", tls=True, hosts=(Address("c1", 6379),))),
    ],
)
def test_url_is_understood(url: str, expected: RedisAddress) -> None:
    assert parse_redis_url(url) == expected


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "begins with one of redis://"),
        ("127.0.0.1:6379", "begins with one of redis://"),
        ("http://127.0.0.1", "begins with one of redis://"),
        ("redis:/127.0.0.1", "begins with one of redis://"),
        ("redis://", "'' is not a host"),
        ("redis://:pw@", "'' is not a host"),
        ("redis://h:port", "'h:port' is not a host"),
        ("redis://h:99999", "'h:99999' is not a host"),
        ("redis://h:", "'h:' is not a host"),
        ("redis://[::1", "malformed"),
        ("redis://a b", "'a b' is not a host"),
        ("redis://h1,h2", "it names one server"),
        ("redis://h/zero", "the database is a number, not 'zero'"),
        ("redis://h/-1", "the database is a number, not '-1'"),
        ("redis://h/0/1", "only the number of a database may follow"),
        ("redis://h?timeout=3", "the option 'timeout' is unknown; it has none"),
        ("redis://h?ssl_ca_certs=x", "the option 'ssl_ca_certs' is unknown"),
        ("rediss://h?ssl_cert_reqs=maybe", "the option 'ssl_cert_reqs' cannot be 'maybe'"),
        ("redis://:se#cret@h", "write # as %23"),
        ("unix://", "write unix:///path"),
        ("unix://run/redis.sock", "write unix:///path"),
        ("unix:///run/redis.sock?db=x", "the database is a number"),
        ("redis+sentinel://s1,s2", "the name of the service follows"),
        ("redis+sentinel://s1/", "the name of the service follows"),
        ("redis+sentinel://s1,/main", "'' is not a host"),
        ("redis+sentinel://s1/main/x", "the database is a number"),
        ("redis+cluster://c1/1", "a cluster has no databases"),
        ("redis+cluster://c1:7001,,c2", "'' is not a host"),
    ],
)
def test_malformed_url_is_refused_in_one_line_that_says_why(url: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_redis_url(url)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://u:secret@h/2", "redis://h:6379/2"),
        ("rediss://u:secret@h", "rediss://h:6379"),
        ("unix://u:secret@/run/redis.sock?db=1", "unix:///run/redis.sock"),
        (
            "redis+sentinel://u:secret@s1,s2/main/3?sentinel_password=secret",
            "redis+sentinel://s1:26379,s2:26379/main/3",
        ),
        ("redis+cluster://u:secret@c1,c2", "redis+cluster://c1:6379,c2:6379"),
    ],
)
def test_address_shows_no_password(url: str, shown: str) -> None:
    assert str(parse_redis_url(url)) == shown


@pytest.mark.parametrize(
    "url", ["redis://u:secret@h:port", "redis://u:secret@h/x", "redis+sentinel://u:secret@s1"]
)
def test_refusal_shows_no_password(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_redis_url(url)
    assert "secret" not in str(caught.value)


@given(
    scheme=st.sampled_from(["redis", "rediss", "unix", "redis+sentinel", "redis+cluster", "x"]),
    rest=st.text(alphabet="abc019:/@,?&=#[]%. -", max_size=30),
)
def test_any_text_is_understood_or_refused(scheme: str, rest: str) -> None:
    try:
        address = parse_redis_url(f"{scheme}://{rest}")
    except SettingsError:
        return
    assert parse_redis_url(str(address)).hosts == address.hosts
