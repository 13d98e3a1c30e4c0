"""What pages and examples make in brokers: found, and removed. A namespace may be a pattern of the shell's kind."""

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import nats
from confluent_kafka.admin import AdminClient
from nats.js.errors import NotFoundError
from redis import Redis

ResultT = TypeVar("ResultT")

_nats: Any = nats  # its types are unknown in part

_IS_DELETED_WITHIN_S = 1.0
"""NATS says that a stream is gone before it has removed its files, and then removes those of a new one, too."""


def kept_in_redis(url: str, namespace: str) -> list[str]:
    """Return the keys of ``namespace``."""
    client: Any = Redis
    with client.from_url(url, decode_responses=True) as redis:
        return list(redis.scan_iter(f"{namespace}:*"))


def kept_in_nats(url: str, namespace: str) -> list[str]:
    """Return the streams of ``namespace``, those of its buckets included."""
    return _in_a_thread(_streams(url, namespace))


def kept_in_kafka(url: str, namespace: str) -> list[str]:
    """Return the topics of ``namespace``."""
    return [topic for topic in _kafka(url).list_topics(timeout=10).topics if fnmatchcase(topic, f"{namespace}.*")]


def forget_in_redis(url: str, namespace: str) -> None:
    """Remove the keys of ``namespace``."""
    keys = kept_in_redis(url, namespace)
    client: Any = Redis
    with client.from_url(url) as redis:
        for key in keys:
            redis.delete(key)


def forget_in_nats(url: str, namespace: str) -> None:
    """Remove the streams of ``namespace``."""
    _in_a_thread(_delete_streams(url, namespace))


def forget_in_kafka(url: str, namespace: str) -> None:
    """Remove the topics of ``namespace``, and with them where its groups are."""
    topics = kept_in_kafka(url, namespace)
    admin = _kafka(url)  # the futures of one that is gone fail
    for deleted in admin.delete_topics(topics).values() if topics else ():
        deleted.result(10)


def _kafka(url: str) -> Any:
    return AdminClient({"bootstrap.servers": url.removeprefix("kafka://")})


async def _streams(url: str, namespace: str) -> list[str]:
    client = await _nats.connect(url)
    try:
        names = [info.config.name or "" for info in await client.jetstream().streams_info()]
    finally:
        await client.close()
    patterns = (namespace, f"{namespace}-*", f"KV_{namespace}-*")
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


async def _delete_streams(url: str, namespace: str) -> None:
    names = await _streams(url, namespace)
    client = await _nats.connect(url)
    try:
        for name in names:
            with suppress(NotFoundError):
                await client.jetstream().delete_stream(name)
    finally:
        await client.close()
    if names:
        await asyncio.sleep(_IS_DELETED_WITHIN_S)


def _in_a_thread(work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """Do it on a loop of its own: the test that asks may run on one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
