"""What things are called in Redis; docs/reference/redis.md tells others.

| key | type | what it holds |
|---|---|---|
| ``avx:meta`` | hash | ``partitions``: how many lanes the log has; ``version``: of this layout |
| ``avx:log:3`` | stream | lane 3 of the log; a consumer group for each handler, called ``group:handler`` |
| ``avx:consumer:group:handler:members`` | sorted set | members by the millisecond at which they count as dead |
| ``avx:consumer:group:handler:owners`` | hash | lane → member that holds it |
| ``avx:consumer:group:handler:attempts`` | hash | ``lane:entry id`` → attempts begun, of what failed or came again |
| ``avx:consumer:group:handler:redrives`` | sorted set | redrive requests, by the microsecond of asking |
| ``avx:inbox:…`` | channel | where a bus is sent replies; with ``:asked`` behind it, requests |
| ``avx:responders:user.get`` | sorted set | channels of those who respond, by the millisecond at which they are gone |
| ``avx:letters``, and others that begin with it | hashes, a sorted set | dead letters; see ``dead_letters.py`` |
"""

from binascii import crc32
from typing import Final

LAYOUT_VERSION: Final = "1"

TYPE_FIELD: Final = b"type"
TOPIC_FIELD: Final = b"topic"
EVENT_FIELD: Final = b"event"
DATA_FIELD: Final = b"data"
ATTRIBUTE_PREFIX: Final = "ce_"


def lane_of(key: str, lanes: int) -> int:
    """Return the lane of ``key``: CRC-32 of its UTF-8 bytes, modulo the number of lanes.

    Source:
        ISO 3309 CRC-32, as zlib and most languages' libraries have it, so that a foreign publisher can do the same.
    """
    return crc32(key.encode()) % lanes


class Names:
    """The keys of one namespace."""

    def __init__(self, namespace: str) -> None:
        """Begin all names with ``namespace``."""
        self.meta = f"{namespace}:meta"
        self.letters = f"{namespace}:letters"
        self._log = f"{namespace}:log:"
        self._consumer = f"{namespace}:consumer:"
        self._inbox = f"{namespace}:inbox:"
        self._responders = f"{namespace}:responders:"

    def lane(self, number: int) -> str:
        """Return the stream of a lane."""
        return f"{self._log}{number}"

    def inbox(self, owner: str) -> str:
        """Return the channel where a bus is sent requests and replies."""
        return f"{self._inbox}{owner}"

    def responders(self, event_type: str) -> str:
        """Return the sorted set of inboxes of those who respond to a type."""
        return f"{self._responders}{event_type}"

    def members(self, consumer: str) -> str:
        """Return the sorted set of a consumer's members."""
        return f"{self._consumer}{consumer}:members"

    def owners(self, consumer: str) -> str:
        """Return the hash of who holds which lane."""
        return f"{self._consumer}{consumer}:owners"

    def attempts(self, consumer: str) -> str:
        """Return the hash of attempts."""
        return f"{self._consumer}{consumer}:attempts"

    def redrives(self, consumer: str) -> str:
        """Return the sorted set of requests to redrive a consumer's dead letters."""
        return f"{self._consumer}{consumer}:redrives"


def consumer_of(group: str, handler: str) -> str:
    """Return what a handler's consumer group is called."""
    return f"{group}:{handler}"
