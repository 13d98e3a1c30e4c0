"""Dead letters in a compacted topic: whoever asks reads it to its end first, and has all letters in memory.

| key | value | what it says |
|---|---|---|
| ``letter:`` and an id | the letter's document | the letter is kept, or replaced; nobody redrives it |
| | none | it is gone |
| ``claim:`` and an id | holder, and for how many seconds | from its writing on, that one redrives it, if none does |
| | none | nobody does |

What holds is decided by the order of the records and by the broker's clock, so all readers come to the same answer.
Kafka compacts no record that is younger than the topic's ``min.compaction.lag.ms``, which is far longer than a claim.
"""

import asyncio
import logging
from typing import Final
from uuid import uuid4

import msgspec

from avx_events.bus import dead_letter_codec as codec
from avx_events.bus.dead_letters import DeadLetter, LetterFilter
from avx_events.core.errors import AvxEventsError, DecodeError, PublishUnknownError
from avx_events.core.tasks import TaskScope
from avx_events.distributed.kafka import requests
from avx_events.distributed.kafka.cluster import Cluster
from avx_events.distributed.kafka.codes import Code, check
from avx_events.distributed.kafka.publisher import Publisher
from avx_events.distributed.kafka.requests import Record
from avx_events.distributed.kafka.wire import WireError

log = logging.getLogger("avx_events")

CLAIM_S: Final = 30.0
SETTINGS: Final[dict[str, object]] = {
    "cleanup.policy": "compact",
    "min.compaction.lag.ms": 600_000,
    "message.timestamp.type": "LogAppendTime",
    "max.message.bytes": 8 << 20,
}

_PARTITION: Final = 0
_LETTER: Final = b"letter:"
_CLAIM: Final = b"claim:"
_RENEWALS_IN_A_CLAIM: Final = 3
_MOST_BYTES: Final = 16 << 20
_EVENT_TYPE: Final = "avx.dead.letter"
_GIVES_UP_WITHIN_S: Final = 2.0


class Claim(msgspec.Struct, frozen=True):
    """Who redrives a letter, and for how many seconds from the time of writing on."""

    holder: str
    seconds: float


_write_claim = msgspec.json.Encoder().encode
_read_claim = msgspec.json.Decoder(Claim).decode


class Letters:
    """What the records of the topic say, one after the other."""

    def __init__(self) -> None:
        """Begin before the first."""
        self.documents: dict[str, bytes] = {}
        self._claims: dict[str, tuple[str, float]] = {}  # holder, and until when in the broker's milliseconds
        self.now_ms = 0.0

    def apply(self, record: Record) -> None:
        """Take over what ``record`` says; what is none of ours says nothing."""
        self.now_ms = max(self.now_ms, record.timestamp_ms)
        key = record.key or b""
        if key.startswith(_LETTER):
            self._apply_letter(key.removeprefix(_LETTER).decode(errors="replace"), record.value)
        elif key.startswith(_CLAIM):
            self._apply_claim(key.removeprefix(_CLAIM).decode(errors="replace"), record)

    def holder(self, letter_id: str) -> str | None:
        """Return who redrives a letter, as of the record that was last taken over."""
        holder, until = self._claims.get(letter_id, (None, 0.0))
        return holder if until > self.now_ms else None

    def _apply_letter(self, letter_id: str, document: bytes | None) -> None:
        self._claims.pop(letter_id, None)
        if document is None:
            self.documents.pop(letter_id, None)
        else:
            self.documents[letter_id] = document

    def _apply_claim(self, letter_id: str, record: Record) -> None:
        if record.value is None:
            self._claims.pop(letter_id, None)
            return
        try:
            claim = _read_claim(record.value)
        except msgspec.MsgspecError:
            return
        if letter_id in self.documents and self.holder(letter_id) in (None, claim.holder):
            self._claims[letter_id] = (claim.holder, record.timestamp_ms + claim.seconds * 1000)


class KafkaDeadLetters:
    """The dead letters of one namespace; a claim lasts as long as its process gives signs of life."""

    def __init__(self, cluster: Cluster, publisher: Publisher, topic: str) -> None:
        """Claim nothing yet, and read nothing."""
        self._cluster = cluster
        self._publisher = publisher
        self._topic = topic
        cluster.plan_topic(topic, partitions=1, settings=SETTINGS)
        self._has_topic = False
        self._letters = Letters()
        self._offset = 0
        self._reading = asyncio.Lock()
        self._holder = uuid4().hex
        self._claimed: set[str] = set()
        self._tasks = TaskScope()

    async def put(self, letter: DeadLetter) -> None:
        """Keep ``letter``, or replace the one with its id; its claim ends."""
        self._claimed.discard(letter.id)
        await self._append(_LETTER + letter.id.encode(), codec.encode(letter))

    async def get(self, letter_id: str) -> DeadLetter | None:
        """Return the letter, or None."""
        document = (await self._caught_up()).documents.get(letter_id)
        return None if document is None else _read(document)

    async def claim(self, letter_id: str) -> bool:
        """Mark the letter as being redriven; False where it is, or is not there."""
        letters = await self._caught_up()
        if letter_id in self._claimed or letter_id not in letters.documents:
            return False
        await self._append(_CLAIM + letter_id.encode(), _write_claim(Claim(self._holder, CLAIM_S)))
        is_ours = (await self._caught_up()).holder(letter_id) == self._holder
        if is_ours:
            self._claimed.add(letter_id)
            if not self._tasks:
                self._tasks.spawn(self._renew(), name="avx-events kafka: renew claims")
        return is_ours

    async def release(self, letter_id: str) -> None:
        """Undo a claim of this process."""
        if letter_id in self._claimed:
            self._claimed.discard(letter_id)
            await self._append(_CLAIM + letter_id.encode(), None)

    async def select(
        self, letter_filter: LetterFilter, *, after: str | None = None, limit: int | None = None
    ) -> list[DeadLetter]:
        """Return up to ``limit`` letters that match, oldest first."""
        documents = (await self._caught_up()).documents
        found: list[DeadLetter] = []
        for letter_id in sorted(documents):
            if after is not None and letter_id <= after:
                continue
            letter = _read(documents[letter_id])
            if letter is not None and letter_filter.matches(letter):
                found.append(letter)
                if len(found) == limit:
                    break
        return found

    async def discard(self, letter_id: str) -> bool:
        """Forget the letter; False where there is none."""
        self._claimed.discard(letter_id)
        if letter_id not in (await self._caught_up()).documents:
            return False
        await self._forget(letter_id)
        return True

    async def purge(self, letter_filter: LetterFilter) -> int:
        """Forget the letters that match, and return how many went."""
        letters = await self.select(letter_filter)
        for letter in letters:
            self._claimed.discard(letter.id)
            await self._forget(letter.id)
        return len(letters)

    async def count(self) -> int:
        """Return how many letters there are."""
        return len((await self._caught_up()).documents)

    async def close(self) -> None:
        """Give up the claims. The connections are the bus's."""
        await self._tasks.cancel()
        try:
            async with asyncio.timeout(_GIVES_UP_WITHIN_S):
                for letter_id in list(self._claimed):
                    await self.release(letter_id)
        except (AvxEventsError, TimeoutError) as exc:
            log.warning("%d dead letters cannot be redriven for %g s: %s", len(self._claimed), CLAIM_S, exc)

    async def _forget(self, letter_id: str) -> None:
        await self._append(_LETTER + letter_id.encode(), None)
        await self._append(_CLAIM + letter_id.encode(), None)

    async def _append(self, key: bytes, value: bytes | None) -> None:
        await self._make_topic()
        # What may have been written is written again: nothing here does harm twice.
        for is_last in (False, True):
            try:
                await self._publisher.submit(
                    self._topic, _PARTITION, event_type=_EVENT_TYPE, key=key, value=value, headers=()
                )
            except PublishUnknownError:
                if is_last:
                    raise
            else:
                return

    async def _make_topic(self) -> None:
        if not self._has_topic:
            await self._cluster.have_topic(self._topic)
            self._has_topic = True

    async def _caught_up(self) -> Letters:
        """Return what the topic says by now."""
        if not self._has_topic:
            self._has_topic = await self._cluster.has_topic(self._topic)
            if not self._has_topic:
                return self._letters
        async with self._reading:
            while await self._cluster.until_done(self._read_on):
                pass
        return self._letters

    async def _read_on(self) -> bool:
        """Read what is there; False where that was all."""
        leader = self._cluster.leaders(self._topic).get(_PARTITION, -1)
        request = requests.fetch(self._topic, {_PARTITION: self._offset}, wait_s=0, most_bytes=_MOST_BYTES)
        found = requests.fetched(await self._cluster.ask(leader, request))[_PARTITION]
        if found.code == Code.OFFSET_OUT_OF_RANGE:  # it was made anew, or cut
            log.error("dead letters in %s were removed by others", self._topic)
            self._letters, self._offset = Letters(), found.start if found.start > self._offset else 0
            return True
        check(found.code)
        before = self._offset
        for following, records in requests.records_in(found.data):
            for record in records:
                if record.offset >= self._offset:
                    self._letters.apply(record)
            self._offset = max(self._offset, following)
        return before < self._offset < found.end

    async def _renew(self) -> None:
        while self._claimed:
            await asyncio.sleep(CLAIM_S / _RENEWALS_IN_A_CLAIM)
            for letter_id in list(self._claimed):
                try:
                    await self._append(_CLAIM + letter_id.encode(), _write_claim(Claim(self._holder, CLAIM_S)))
                except (AvxEventsError, WireError) as exc:
                    log.warning("the claim of dead letter %s is not renewed: %s", letter_id, exc)


def _read(document: bytes) -> DeadLetter | None:
    try:
        return codec.decode(document)
    except DecodeError as exc:
        log.error("a dead letter cannot be read: %s", exc)  # noqa: TRY400 - another wrote it
        return None
