"""The pages name brokers where their readers have them; the tests have them elsewhere."""

from collections.abc import Callable
from functools import cache
from typing import Final

import pytest

from tests.docs.brokers import forget_in_kafka, forget_in_nats, forget_in_redis

# The address on a page, the fixture that says where ours is, and what removes what a page has made there.
BROKERS: Final = (
    ("redis://localhost:6379", "redis_url", forget_in_redis),
    ("nats://localhost:4222", "nats_url", forget_in_nats),
    ("kafka://localhost:9092", "kafka_url", forget_in_kafka),
)
NAMESPACES: Final = ("avx", "shop")


@pytest.fixture
def at_our_brokers(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """Return a function that gives a text with the addresses of our brokers instead of those on a page.

    The namespaces that pages use are empty when a test begins.
    """

    @cache
    def url_of(fixture: str, forget: Callable[[str, str], None]) -> str:
        url: str = request.getfixturevalue(fixture)
        for namespace in NAMESPACES:
            forget(url, namespace)
        return url

    def readdressed(text: str) -> str:
        for address, fixture, forget in BROKERS:
            if address in text:
                text = text.replace(address, url_of(fixture, forget))
        return text

    return readdressed
