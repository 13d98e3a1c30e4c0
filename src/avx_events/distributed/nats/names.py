"""What things are called in NATS; docs/reference/nats.md tells others.

| name | what | what it holds |
|---|---|---|
| ``avx`` | stream | the log |
| ``avx.log.16.3`` | subject | lane 3 of the log's 16; see ``lane_of`` |
| ``avx-type``, ``avx-topic`` | headers | the event's type and topic, to skip it unread; the body says both, too |
| ``Nats-Msg-Id`` | header | the event's id, and its topic where that is not its type: what is sent twice is kept once |
| ``avx-groups`` | bucket | where groups are, and who their members are |
| ``billing.handler.position.3`` | key in it | how far a handler is in lane 3, and who holds it: ``position.Position`` |
| ``billing.handler.member.0f3a`` | key in it | a member that is alive, and its lanes: ``membership.Beat`` |
| ``avx-letters`` | stream | dead letters, on ``avx.letters.`` and the letter's id |
| ``avx-parts`` | stream | parts of large ones, on ``avx.parts.`` with the letter's id, a random piece, and a number |
| ``avx-parts`` | header | of a large letter: what its parts' subjects begin with, and how many there are |
| ``avx-claims`` | bucket | key: id of a dead letter; value: who redrives it, ``dead_letters.Claim`` |
| ``avx.redrives.billing.handler`` | subject | requests to redrive the handler's dead letters |
| ``avx.requests.get=2Euser`` | subject | requests of type ``get.user``; those who respond are queue ``responders`` |
| ``avx-timeout-ms`` | header | of a request: how long its reply is waited for |

A bucket is a key-value bucket as every client of NATS knows it. Each dot-separated piece of a key or subject that is
not one of the words above is written as ``token`` does.
"""

import re
from binascii import crc32
from typing import Final
from urllib.parse import unquote

TYPE_HEADER: Final = "avx-type"
TOPIC_HEADER: Final = "avx-topic"
ID_HEADER: Final = "Nats-Msg-Id"
TIMEOUT_HEADER: Final = "avx-timeout-ms"
PARTS_HEADER: Final = "avx-parts"
EXPECTED_HEADER: Final = "Nats-Expected-Last-Subject-Sequence"

_UNSAFE: Final = re.compile(rb"[^A-Za-z0-9_-]")


def lane_of(key: str, lanes: int) -> int:
    """Return the lane of ``key``: CRC-32 of its UTF-8 bytes, modulo the number of lanes.

    Source:
        ISO 3309 CRC-32, as zlib and most languages' libraries have it, so that a foreign publisher can do the same.
    """
    return crc32(key.encode()) % lanes


def token(text: str) -> str:
    """Return ``text`` as one piece of a subject.

    Of its UTF-8, every byte but ``[A-Za-z0-9_-]`` becomes ``=`` and two hex digits; the empty text is ``=``.
    """
    if text.isascii() and text.replace("-", "a").replace("_", "a").isalnum():
        return text
    return _UNSAFE.sub(lambda found: b"=%02X" % found[0][0], text.encode()).decode() or "="


def text_of(piece: str) -> str:
    """Return what ``token`` wrote as ``piece``."""
    return "" if piece == "=" else unquote(piece.replace("=", "%"))


class Names:
    """The names of one namespace."""

    def __init__(self, namespace: str, *, lanes: int) -> None:
        """Begin all names with ``namespace``, whose log has so many lanes."""
        self.log = namespace
        self.all_lanes = f"{namespace}.log.{lanes}.*"
        self.lanes = [f"{namespace}.log.{lanes}.{lane}" for lane in range(lanes)]
        self.groups = f"{namespace}-groups"
        self.letters = f"{namespace}-letters"
        self.parts = f"{namespace}-parts"
        self.claims = f"{namespace}-claims"
        self._namespace = namespace
        self._lanes: Final = re.compile(rf"{re.escape(namespace)}\.log\.([1-9][0-9]*)\.\*")

    def lanes_in(self, subjects: list[str]) -> int | None:
        """Return how many lanes a log of these subjects has; None where it is none of ours."""
        found = self._lanes.fullmatch(subjects[0]) if len(subjects) == 1 else None
        return None if found is None else int(found[1])

    def consumer(self, group: str, handler: str) -> str:
        """Return what the subjects of a handler's keys begin with."""
        return f"$KV.{self.groups}.{token(group)}.{token(handler)}"

    def requests(self, event_type: str) -> str:
        """Return the subject of requests of a type."""
        return f"{self._namespace}.requests.{token(event_type)}"

    def redrives(self, group: str, handler: str) -> str:
        """Return the subject of requests to redrive a handler's dead letters."""
        return f"{self._namespace}.redrives.{token(group)}.{token(handler)}"

    def letter(self, letter_id: str) -> str:
        """Return the subject of a dead letter; ``*`` stands for all of them."""
        return f"{self._namespace}.letters.{_token_or_all(letter_id)}"

    def parts_of(self, letter_id: str) -> str:
        """Return what the subjects of a large letter's parts begin with; ``*`` stands for all of them."""
        return f"{self._namespace}.parts.{_token_or_all(letter_id)}"

    def claim(self, letter_id: str) -> str:
        """Return the subject of a claim."""
        return f"$KV.{self.claims}.{token(letter_id)}"


def bucket_stream(bucket: str) -> str:
    """Return the stream that a key-value bucket is kept in, by NATS's own convention."""
    return f"KV_{bucket}"


def _token_or_all(text: str) -> str:
    return text if text == "*" else token(text)
