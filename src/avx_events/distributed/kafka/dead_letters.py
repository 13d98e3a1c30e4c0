"""Dead letters in a compacted topic: whoever asks reads it to its end first, and has all letters in memory.

| key | value | what it says |
|---|---|---|
| ``letter:`` and an id | the letter's document | the letter is kept, or replaced |
| | none | it is gone |
| ``claim:`` and an id | holder, and for how many seconds | from its writing on, that one redrives it, if none does |
| | none | its holder does not any more |

The header ``avx_by`` says whose claim a letter or the end of a claim ends: of no other than the holders that begin so.
What holds is decided by the order of the records and by the broker's clock, so all readers come to the same answer.
Kafka compacts no record that is younger than the topic's ``min.compaction.lag.ms``, which is far longer than a claim.
"""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import UTC, datetime
from itertools import count
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit

import msgspec

from avx_events.bus.claim_leases import LEASE_S, ClaimLeases
from avx_events.bus.dead_letter_codec import decode_or_describe, encode, portable
from avx_events.bus.dead_letters import DeadLetter, LetterFilter
from avx_events.bus.remote.ports import TransportOptions
from avx_events.bus.remote.redrives import encode_redrive
from avx_events.core.clock import SYSTEM_CLOCK, Clock
from avx_events.core.errors import (
    AvxEventsError,
    ClosedError,
    InvalidArgumentError,
    PublishUnknownError,
    WrongLoopError,
)
from avx_events.distributed.kafka import requests
from avx_events.distributed.kafka.cluster import Cluster
from avx_events.distributed.kafka.codes import Code, check
from avx_events.distributed.kafka.names import Names
from avx_events.distributed.kafka.publisher import Publisher
from avx_events.distributed.kafka.redrives import Redrives
from avx_events.distributed.kafka.requests import Record
from avx_events.distributed.kafka.wire import Servers

log = logging.getLogger("avx_events")

BY_HEADER: Final = "avx_by"
SETTINGS: Final[dict[str, object]] = {
    "cleanup.policy": "compact",
    "min.compaction.lag.ms": 600_000,
    "message.timestamp.type": "LogAppendTime",
    "max.message.bytes": 8 << 20,
}

_LONGEST_LEASE_S: Final = 300.0
"""A claim that holds was renewed so lately that it is not compacted away for one behind it that does not hold."""

_PARTITION: Final = 0
_LETTER: Final = b"letter:"
_CLAIM: Final = b"claim:"
_MOST_BYTES: Final = 16 << 20
_EVENT_TYPE: Final = "avx.dead.letter"
_GIVES_UP_WITHIN_S: Final = 2.0
_DECODED_AT_ONCE: Final = 100
_OPTIONS: Final = {"namespace", "timeout_s"}


class Claim(msgspec.Struct, frozen=True):
    """Who redrives a letter, and for how many seconds from the time of writing on."""

    holder: str
    seconds: float


_write_claim = msgspec.json.Encoder().encode
_read_claim = msgspec.json.Decoder(Claim).decode


async def connect(url: str, *, clock: Clock = SYSTEM_CLOCK) -> "KafkaDeadLetters":
    """Open the dead letters of a namespace, on connections of their own: for a bus in memory, or a look from outside.

    Args:
        url: As for a bus, with two of its options as the query, where they are not ``avx`` and 10 seconds:
            ``kafka://localhost:9092?namespace=billing&timeout_s=5``. All else of the query is aiokafka's.
        clock: Says when claims are renewed. When one is over the broker says.

    Raises:
        InvalidArgumentError: The URL is none of Kafka's, or an option none that a bus could have.
        TransportUnavailableError: The cluster does not answer.
        TransportRefusedError: It asks for other credentials.
    """
    place, options = _split(url)
    cluster = Cluster(Servers(place, {}), timeout_s=options.timeout_s, clock=clock)
    publisher = Publisher(cluster, clock=clock)

    async def hang_up() -> None:
        await publisher.close()
        await cluster.close()

    names = Names(options.namespace)
    redrives = Redrives(cluster, publisher, names.redrives)
    letters = KafkaDeadLetters(cluster, publisher, names, redrives, clock=clock, hang_up=hang_up)
    try:
        await letters.count()
    except BaseException:
        await letters.close()
        raise
    return letters


class Letters:
    """What the records of the topic say, one after the other."""

    def __init__(self) -> None:
        """Begin before the first."""
        self.documents: dict[str, bytes] = {}
        self.written_ms: dict[str, int] = {}
        self.now_ms = 0
        self._claims: dict[str, tuple[str, float]] = {}  # holder, and until when in the broker's milliseconds

    def apply(self, record: Record) -> None:
        """Take over what ``record`` says; what is none of ours says nothing."""
        self.now_ms = max(self.now_ms, record.timestamp_ms)
        key = record.key or b""
        if key.startswith(_LETTER):
            self._apply_letter(key.removeprefix(_LETTER).decode(errors="replace"), record)
        elif key.startswith(_CLAIM):
            self._apply_claim(key.removeprefix(_CLAIM).decode(errors="replace"), record)

    def holder(self, letter_id: str) -> str | None:
        """Return who redrives a letter, as of the record that was last taken over."""
        holder, until = self._claims.get(letter_id, (None, 0.0))
        return holder if until > self.now_ms else None

    def letter(self, letter_id: str) -> DeadLetter | None:
        """Return a letter, or None; one that cannot be read says so."""
        document = self.documents.get(letter_id)
        if document is None:
            return None
        dead_at = datetime.fromtimestamp(self.written_ms[letter_id] / 1000, UTC)
        return decode_or_describe(document, id=letter_id, handler="", error_type="", dead_at=dead_at)

    def _apply_letter(self, letter_id: str, record: Record) -> None:
        if record.value is None:
            self.documents.pop(letter_id, None)
            self.written_ms.pop(letter_id, None)
            self._claims.pop(letter_id, None)
        else:
            self.documents[letter_id] = record.value
            self.written_ms[letter_id] = record.timestamp_ms
            self._end_claim(letter_id, record)

    def _apply_claim(self, letter_id: str, record: Record) -> None:
        if record.value is None:
            self._end_claim(letter_id, record)
            return
        try:
            claim = _read_claim(record.value)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return
        if letter_id in self.documents and self.holder(letter_id) in (None, claim.holder):
            self._claims[letter_id] = (claim.holder, record.timestamp_ms + claim.seconds * 1000)

    def _end_claim(self, letter_id: str, record: Record) -> None:
        by = (dict(record.headers).get(BY_HEADER) or b"").decode(errors="replace")
        if letter_id in self._claims and self._claims[letter_id][0].startswith(by):
            del self._claims[letter_id]


class KafkaDeadLetters:
    """The dead letters of one namespace, as a ``DeadLetterStore``."""

    def __init__(
        self,
        cluster: Cluster,
        publisher: Publisher,
        names: Names,
        redrives: Redrives,
        *,
        clock: Clock,
        lease_s: float = LEASE_S,
        hang_up: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Claim nothing yet, and read nothing; for the running loop.

        Args:
            cluster: Where the topic is.
            publisher: Sends what is written.
            names: Of the namespace.
            redrives: What members are asked through.
            clock: Says when claims are renewed.
            lease_s: How long the claim of a process that died lasts, in seconds.
            hang_up: Called last when the letters are closed; None where the connections are somebody else's.
        """
        self._loop = asyncio.get_running_loop()
        self._cluster = cluster
        self._publisher = publisher
        self._names = names
        self._redrives = redrives
        self._topic = names.letters
        cluster.plan_topic(self._topic, partitions=1, settings=SETTINGS)
        self._has_topic = False
        self._letters = Letters()
        self._offset = 0
        self._reading = asyncio.Lock()
        self._owner = f"{secrets.token_hex(16)}."
        self._numbers = count(1)
        self._claims: dict[str, str] = {}  # of this store, by the name of the letter
        self._lease_s = min(lease_s, _LONGEST_LEASE_S)
        self._leases = ClaimLeases(self._renew, clock=clock, lease_s=self._lease_s)
        self._hang_up = hang_up
        self._is_closed = False

    async def put(self, letter: DeadLetter) -> None:
        """Keep ``letter``, or replace the one with its id; see ``DeadLetterStore.put``."""
        self._check("keep a dead letter")
        name = portable(letter.id)
        try:
            await self._append(_LETTER, name, encode(letter), by=self._owner)
        except BaseException:  # it is tried again, most likely, and nobody else may redrive the letter meanwhile
            self._leases.hold_for_another_attempt(letter.id)
            raise
        self._claims.pop(name, None)
        self._leases.drop(letter.id)

    async def get(self, letter_id: str) -> DeadLetter | None:
        """Return the letter, or None."""
        self._check("read a dead letter")
        return (await self._caught_up()).letter(portable(letter_id))

    async def claim(self, letter_id: str) -> bool:
        """Mark the letter as being redriven; see ``DeadLetterStore.claim``."""
        self._check("claim a dead letter")
        name, holder = portable(letter_id), f"{self._owner}{next(self._numbers)}"
        if name not in (await self._caught_up()).documents:
            return False
        try:
            await self._append(_CLAIM, name, self._claim_of(holder))
            is_claimed = (await self._caught_up()).holder(name) == holder
        except BaseException:  # nobody is told whether it was claimed
            _forget(self._submit(_CLAIM, name, None, by=holder))
            raise
        if is_claimed and self._is_closed:
            _forget(self._submit(_CLAIM, name, None, by=holder))
        elif is_claimed:
            self._claims[name] = holder
            self._leases.hold(letter_id)
        return is_claimed

    async def release(self, letter_id: str) -> None:
        """Undo a claim of this store's own."""
        self._check("release a dead letter")
        self._leases.drop(letter_id)
        name = portable(letter_id)
        holder = self._claims.pop(name, None)
        if holder is not None:
            await self._append(_CLAIM, name, None, by=holder)

    async def ask_for_redrive(self, letter: DeadLetter) -> None:
        """Have the members asked; see ``BrokerDeadLetterStore.ask_for_redrive``."""
        self._check("ask for a redrive")
        await self._redrives.ask(self._names.consumer(letter.group, letter.handler), encode_redrive(letter))

    async def select(
        self, letter_filter: LetterFilter, *, after: str | None = None, limit: int | None = None
    ) -> list[DeadLetter]:
        """Return up to ``limit`` letters that match, oldest first."""
        self._check("list dead letters")
        return [letter for _, letter in await self._matching(letter_filter, after=after, limit=limit)]

    async def discard(self, letter_id: str) -> bool:
        """Forget the letter; False where there is none."""
        self._check("remove a dead letter")
        self._leases.drop(letter_id)  # also where that fails: its work is done
        name = portable(letter_id)
        if name not in (await self._caught_up()).documents:
            return False
        self._claims.pop(name, None)
        await self._append(_LETTER, name, None)
        _forget(self._submit(_CLAIM, name, None, by=self._owner))  # so that Kafka need not keep what it said
        return True

    async def purge(self, letter_filter: LetterFilter) -> int:
        """Forget the letters that match, and return how many went."""
        self._check("remove dead letters")
        names = [name for name, _ in await self._matching(letter_filter)]
        going: list[asyncio.Future[None]] = []
        for name in names:
            await self._publisher.room()
            going += [self._submit(_LETTER, name, None), self._submit(_CLAIM, name, None, by=self._owner)]
            self._claims.pop(name, None)
        for one in going:
            _forget(one)  # of several that fail the first is told
        for one in going:
            await one
        return len(names)

    async def count(self) -> int:
        """Return how many letters there are."""
        self._check("count dead letters")
        return len((await self._caught_up()).documents)

    async def close(self) -> None:
        """Give up the claims, then the connections, if these are the letters' own. Harmless when repeated.

        Raises:
            WrongLoopError: It is called on another loop while its own runs.
        """
        if self._loop.is_running() and asyncio.get_running_loop() is not self._loop:
            raise WrongLoopError("the dead letter queue", "close")
        self._is_closed = True
        try:
            await self._leases.close()
            await self._give_up_claims()
        finally:
            if self._hang_up is not None:
                await self._hang_up()

    async def _matching(
        self, letter_filter: LetterFilter, *, after: str | None = None, limit: int | None = None
    ) -> list[tuple[str, DeadLetter]]:
        letters = await self._caught_up()
        wanted, begin = _portable_filter(letter_filter), "" if after is None else portable(after)
        names = sorted(name for name in letters.documents if after is None or name > begin)
        found: list[tuple[str, DeadLetter]] = []
        for number, name in enumerate(names, start=1):
            if number % _DECODED_AT_ONCE == 0:
                await asyncio.sleep(0)
            letter = letters.letter(name)
            if letter is not None and wanted.matches(letter):
                found.append((name, letter))
                if len(found) == limit:
                    break
        return found

    # Claims

    async def _give_up_claims(self) -> None:
        claims, self._claims = self._claims, {}
        try:
            async with asyncio.timeout(_GIVES_UP_WITHIN_S):
                for given_up in [self._submit(_CLAIM, name, None, by=holder) for name, holder in claims.items()]:
                    await given_up
        except (AvxEventsError, TimeoutError) as exc:
            log.warning("%d dead letters cannot be redriven for %g s: %s", len(claims), self._lease_s, exc)

    async def _renew(self, letter_ids: Sequence[str]) -> Collection[str]:
        names = {portable(letter_id): letter_id for letter_id in letter_ids}
        held = {name: self._claims[name] for name in names if name in self._claims}
        for name, holder in held.items():
            await self._append(_CLAIM, name, self._claim_of(holder))
        letters = await self._caught_up()
        return [
            names[name]
            for name, holder in held.items()
            if name in letters.documents and letters.holder(name) not in (None, holder)
        ]

    def _claim_of(self, holder: str) -> bytes:
        return _write_claim(Claim(holder, self._lease_s))

    # The topic

    async def _append(self, what: bytes, name: str, value: bytes | None, *, by: str = "") -> None:
        if not self._has_topic:
            await self._cluster.have_topic(self._topic)
            self._has_topic = True
        # What may have been written is written again: nothing here does harm twice.
        for is_last in (False, True):
            try:
                await self._submit(what, name, value, by=by)
            except PublishUnknownError:
                if is_last:
                    raise
            else:
                return

    def _submit(self, what: bytes, name: str, value: bytes | None, *, by: str = "") -> "asyncio.Future[None]":
        headers = [(BY_HEADER, by.encode())] if by else []
        return self._publisher.submit(
            self._topic, _PARTITION, event_type=_EVENT_TYPE, key=what + name.encode(), value=value, headers=headers
        )

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

    def _check(self, action: str) -> None:
        if self._is_closed:
            raise ClosedError("the dead letter queue", action)
        if asyncio.get_running_loop() is not self._loop:
            raise WrongLoopError("the dead letter queue", action)


def _portable_filter(letter_filter: LetterFilter) -> LetterFilter:
    texts = {name: getattr(letter_filter, name) for name in ("handler", "event_type", "error_type")}
    changes = {name: portable(text) for name, text in texts.items() if text is not None}
    return msgspec.structs.replace(letter_filter, **changes)


def _split(url: str) -> tuple[str, TransportOptions]:
    try:
        parts = urlsplit(url)
    except ValueError as exc:
        expected = f"a Kafka URL, as 'kafka://localhost:9092' ({exc})"
        raise InvalidArgumentError("url", url, expected=expected) from exc
    query = parse_qsl(parts.query, keep_blank_values=True)
    given: dict[str, Any] = {name: value for name, value in query if name in _OPTIONS}
    if "timeout_s" in given:
        try:
            given["timeout_s"] = float(given["timeout_s"])
        except ValueError as exc:
            expected = "a finite number of seconds, more than 0"
            raise InvalidArgumentError("timeout_s", given["timeout_s"], expected=expected) from exc
    place = parts._replace(query=urlencode([one for one in query if one[0] not in _OPTIONS])).geturl()
    return place, TransportOptions(**given)


def _forget(future: "asyncio.Future[None]") -> None:
    """Let ``future`` end as it likes."""
    future.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
