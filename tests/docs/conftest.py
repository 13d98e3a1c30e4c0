"""The pages name brokers where their readers have them; the tests have them elsewhere."""

from collections.abc import Callable
from functools import cache
from typing import Any, Final

import pytest
from redis import Redis

REDIS: Final = "redis://localhost:6379"
NAMESPACES: Final = ("avx", "shop")


@pytest.fixture
def at_our_brokers(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """Return a function that gives a text with the addresses of our brokers instead of those on a page.

    The namespaces that pages use are empty when a test begins.
    """

    @cache
    def redis_url() -> str:
        url: str = request.getfixturevalue("redis_url")
        _forget_pages(url)
        return url

    return lambda text: text.replace(REDIS, redis_url()) if REDIS in text else text


def _forget_pages(url: str) -> None:
    client: Any = Redis
    with client.from_url(url) as redis:
        for namespace in NAMESPACES:
            for key in redis.scan_iter(f"{namespace}:*"):
                redis.delete(key)
