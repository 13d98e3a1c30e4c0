"""Where a store in PostgreSQL is, read from its URL."""

import pytest

from avx_events.core.errors import InvalidArgumentError
from avx_events.storage.postgres.location import Location, parse


def test_a_url_without_options_is_the_clients_own() -> None:
    url = "postgresql://user:secret@server:5433/events"

    assert parse(url) == Location(dsn=url, name="postgresql://server:5433/events")


def test_our_options_are_taken_out_of_the_url_and_the_clients_stay() -> None:
    location = parse(
        "postgresql://server/events?sslmode=require&schema=sales&pool_size=9&application_name=a%20b&timeout_s=2.5&poll_s=3"
    )

    assert location == Location(
        dsn="postgresql://server/events?sslmode=require&application_name=a%20b",
        name="postgresql://server/events",
        schema="sales",
        pool_size=9,
        timeout_s=2.5,
        poll_s=3.0,
    )
    assert location.settings(jit="off") == {"jit": "off", "search_path": '"sales", public'}


def test_a_session_says_whose_it_is_unless_the_url_does() -> None:
    assert parse("postgresql://server/events").settings() == {"application_name": "avx-events"}


@pytest.mark.parametrize(
    "url",
    ["postgresql://one:5432,two:5433/events", "postgresql:///events?host=/run/postgresql", "postgresql://[::1]:5432/e"],
)
def test_what_libpq_can_be_told_is_left_to_the_client(url: str) -> None:
    assert parse(url).dsn == url


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("schema=", "schema must be 1 to 63 small letters"),
        ("schema=a;drop", "schema must be 1 to 63 small letters"),
        ("schema=Sales", "schema must be 1 to 63 small letters"),
        ("pool_size=0", "pool_size must be a whole number, 1 to 1,000"),
        ("pool_size=-1", "pool_size must be a whole number"),
        ("pool_size=9999999999999", "pool_size must be a whole number"),
        ("pool_size=x", "pool_size must be a whole number"),
        ("timeout_s=0", "timeout_s must be a number of seconds"),
        ("timeout_s=nan", "timeout_s must be a number of seconds"),
        ("poll_s=soon", "poll_s must be a number of seconds.*'soon'"),
        ("poll_s=1e9", "poll_s must be a number of seconds"),
    ],
)
def test_an_option_that_cannot_be_says_what_it_can_be(query: str, problem: str) -> None:
    with pytest.raises(InvalidArgumentError, match=problem):
        parse(f"postgresql://server/events?{query}")


@pytest.mark.parametrize(
    "url", ["postgresql://server:port/events", "postgresql://server/events?flag", "postgresql://[/e"]
)
def test_a_url_that_is_none_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(InvalidArgumentError, match="url must be a URL as") as caught:
        parse(url.replace("://", "://user:secret@"))

    assert "secret" not in str(caught.value)


def test_our_own_sessions_see_the_stores_schema_only() -> None:
    location = parse("postgresql://server/events?schema=sales&application_name=a")

    assert location.own_settings(jit="off") == {"jit": "off", "search_path": '"sales"'}
    assert parse("postgresql://server/events?application_name=a").own_settings() == {}
