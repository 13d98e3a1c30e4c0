"""From the URL of a command to the bus, store or queue behind it; nothing is made where nothing is."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from avx_events.core.errors import InvalidArgumentError, UnknownSchemeError
from avx_events.storage.sqlite.location import parse
from avx_events.store.ports import ENTRY_POINT_GROUP as STORES

if TYPE_CHECKING:
    from avx_events.bus.dead_letters import DeadLetterQueue
    from avx_events.bus.topic_bus import TopicBus
    from avx_events.store.event_store import EventStore

Kind: TypeAlias = Literal["broker", "store"]

_TRANSPORTS: Final = "avx_events.transports"


def kind_of(url: str) -> Kind:
    """Tell what is behind ``url``, by its scheme.

    Raises:
        InvalidArgumentError: It is no URL.
        UnknownSchemeError: Nothing is installed for its scheme.
    """
    scheme, separator, _ = url.partition("://")
    if not separator or not scheme:
        raise InvalidArgumentError("url", url, expected="a URL, as 'sqlite:///events.db' or 'redis://localhost:6379'")
    brokers, stores = _schemes(_TRANSPORTS), _schemes(STORES)
    if scheme.lower() in stores:
        return "store"
    if scheme.lower() not in brokers:
        raise UnknownSchemeError(url, installed=brokers | stores)
    return "broker"


@asynccontextmanager
async def opened_store(url: str) -> AsyncGenerator["EventStore", None]:
    """Give the store at ``url``, which keeps what it does not know as ``UnknownEvent``.

    Raises:
        InvalidArgumentError: It is a broker's.
        AvxEventsError: As ``EventStore.connect``.
    """
    if kind_of(url) != "store":
        raise InvalidArgumentError("url", url, expected="the URL of a store, as 'sqlite:///events.db'")
    refuse_missing_file(url)
    from avx_events.store.event_store import EventStore  # noqa: PLC0415 - who asks for help does without it

    async with await EventStore.connect(url, unknown="keep") as store:
        yield store


@asynccontextmanager
async def opened_bus(
    url: str, *, namespace: str, partitions: int, timeout_s: float
) -> AsyncGenerator["TopicBus", None]:
    """Give a bus at the broker of ``url``, in no group.

    Raises:
        AvxEventsError: As ``TopicBus.connect``.
    """
    from avx_events.bus.topic_bus import TopicBus  # noqa: PLC0415 - likewise

    bus = await TopicBus.connect(url, namespace=namespace, partitions=partitions, timeout_s=timeout_s)
    async with bus:
        yield bus


@asynccontextmanager
async def opened_letters(url: str) -> AsyncGenerator["DeadLetterQueue", None]:
    """Give the dead letters at ``url``.

    Raises:
        AvxEventsError: As ``DeadLetterQueue.connect``.
    """
    from avx_events.bus.dead_letters import DeadLetterQueue  # noqa: PLC0415 - likewise

    refuse_missing_file(url)
    async with await DeadLetterQueue.connect(url) as queue:
        yield queue


def refuse_missing_file(url: str) -> None:
    """Refuse a SQLite file that is not there: to open it would make it.

    Raises:
        InvalidArgumentError: The URL is malformed, or there is no file.
    """
    if url.partition("://")[0].lower() == "sqlite":
        path = parse(url).path
        if path is not None and not Path(path).exists():
            raise InvalidArgumentError("url", url, expected="the URL of a file that is there")


def _schemes(group: str) -> frozenset[str]:
    return frozenset(entry.name for entry in entry_points(group=group))
