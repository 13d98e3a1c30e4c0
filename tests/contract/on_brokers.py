"""How contracts get their buses from a broker: as listeners, as members of a group, for requests."""

from collections.abc import Mapping
from typing import Any, ClassVar

from avx_events import EventBus, RequestReplyBus, TopicBus


class OnBroker:
    """Where the broker is, which a class of a broker says, and with which options its buses connect."""

    url: str
    options: ClassVar[Mapping[str, Any]] = {}


class Requesters(OnBroker):
    """Buses for requests."""

    async def connect_requests(self, namespace: str, **options: Any) -> RequestReplyBus:
        return await RequestReplyBus.connect(self.url, namespace=namespace, **options)


class Listeners(OnBroker):
    """Buses without a group."""

    async def connect(self, namespace: str, **options: Any) -> EventBus:
        return await EventBus.connect(self.url, namespace=namespace, **self.options, **options)

    async def connect_topics(self, namespace: str, **options: Any) -> TopicBus:
        return await TopicBus.connect(self.url, namespace=namespace, **self.options, **options)


class Members(OnBroker):
    """Buses of a group."""

    async def connect(self, namespace: str, *, group: str = "contract", **options: Any) -> EventBus:
        return await EventBus.connect(self.url, namespace=namespace, group=group, **self.options, **options)

    async def connect_topics(self, namespace: str, **options: Any) -> TopicBus:
        return await TopicBus.connect(self.url, namespace=namespace, group="contract", **self.options, **options)
