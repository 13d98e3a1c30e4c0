"""What things are called in Kafka; docs/reference/kafka.md tells others.

| name | what it is | what it holds |
|---|---|---|
| ``avx.log`` | topic | the events; a lane is a partition |
| ``avx.letters`` | compacted topic, one partition | dead letters, and who redrives one |
| ``avx.redrives`` | topic, one partition | requests to redrive dead letters |
| ``avx.requests`` | topic | requests, replies, and who responds |
| ``avx.group.handler`` | consumer group | how far a handler of a group is |
"""

from functools import lru_cache
from typing import Final
from urllib.parse import quote

TYPE_HEADER: Final = "avx_type"
TOPIC_HEADER: Final = "avx_topic"
CONTENT_TYPE_HEADER: Final = "content-type"
CLOUDEVENT: Final = b"application/cloudevents+json; charset=UTF-8"

_SEED: Final = 0x9747B28C
_M: Final = 0x5BD1E995
_32_BITS: Final = 0xFFFFFFFF
_REMEMBERED_KEYS: Final = 65_536


def murmur2(data: bytes) -> int:
    """Return the hash that Kafka's own clients choose a partition by.

    Source:
        https://github.com/apache/kafka/blob/4.0/clients/src/main/java/org/apache/kafka/common/utils/Utils.java
    """
    length = len(data)
    whole = length & ~3
    found = _SEED ^ length
    for begin in range(0, whole, 4):
        word = int.from_bytes(data[begin : begin + 4], "little") * _M & _32_BITS
        word = (word ^ word >> 24) * _M & _32_BITS
        found = found * _M & _32_BITS ^ word
    if length > whole:
        found = (found ^ int.from_bytes(data[whole:], "little")) * _M & _32_BITS
    found = (found ^ found >> 13) * _M & _32_BITS
    return found ^ found >> 15


@lru_cache(_REMEMBERED_KEYS)
def lane_of(key: bytes, lanes: int) -> int:
    """Return the partition of ``key`` among ``lanes``, as the default partitioner of Kafka's own clients does."""
    return (murmur2(key) & 0x7FFFFFFF) % lanes


class Names:
    """The names of one namespace."""

    def __init__(self, namespace: str) -> None:
        """Begin all names with ``namespace``."""
        self.log = f"{namespace}.log"
        self.letters = f"{namespace}.letters"
        self.redrives = f"{namespace}.redrives"
        self.requests = f"{namespace}.requests"
        self._namespace = namespace

    def consumer(self, group: str, handler: str) -> str:
        """Return the consumer group of a handler; only the handler may have dots, so no two are called the same."""
        return f"{self._namespace}.{quote(group, safe='').replace('.', '%2E')}.{quote(handler, safe='')}"
