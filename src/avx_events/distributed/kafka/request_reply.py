"""Requests and replies over Kafka: in a topic that all buses of a namespace read from its end on.

| record | partition | key | what it is |
|---|---|---|---|
| sign of life | 0 | | who responds to what, each second |
| question | 0 | the responder's address | a request, for one of those who are there |
| reply | the requester's | the requester's address | what was answered |

Signs of life and questions stand in one order, which all read. A question counts if its responder was there by then:
who has asked reads it as well, and asks the next one if it was not. So nobody is asked twice, and no question is lost
on those who leave; who leaves reads on until it finds its own leave, and passes on what it does not answer itself.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from itertools import count
from typing import Final
from uuid import uuid4

import msgspec

from avx_events.bus.remote.asking import in_time
from avx_events.bus.remote.ports import Address, OnFailed, Question
from avx_events.bus.remote.replies import id_of, refusal, unanswered
from avx_events.core.clock import Clock
from avx_events.core.errors import (
    AvxEventsError,
    EventTooLargeError,
    NoResponderError,
    PublishUnknownError,
    TransportUnavailableError,
)
from avx_events.core.tasks import Changes, TaskScope
from avx_events.distributed.kafka import requests
from avx_events.distributed.kafka.cluster import Cluster
from avx_events.distributed.kafka.names import CLOUDEVENT, CONTENT_TYPE_HEADER, TYPE_HEADER
from avx_events.distributed.kafka.publisher import Publisher
from avx_events.distributed.kafka.reader import Reader
from avx_events.distributed.kafka.requests import Headers, Record
from avx_events.distributed.kafka.responders import LIFE_S, BrokersTime, Responders, SignOfLife

log = logging.getLogger("avx_events")

KIND_HEADER: Final = "avx_kind"
SIGN_OF_LIFE: Final = b"sign-of-life"
QUESTION: Final = b"question"
REPLY: Final = b"reply"
FROM_HEADER: Final = "avx_from"
NUMBER_HEADER: Final = "avx_number"
REPLY_TO_HEADER: Final = "avx_reply_to"
EXPIRES_HEADER: Final = "avx_expires_ms"

PARTITIONS: Final = 8
SETTINGS: Final[dict[str, object]] = {
    "cleanup.policy": "delete",
    "retention.ms": 60_000,
    "segment.ms": 60_000,
    "message.timestamp.type": "LogAppendTime",
    "max.message.bytes": (1 << 20) + (64 << 10),
}

_QUESTIONS: Final = 0
_BEAT_S: Final = LIFE_S / 5
_MOST_AT_ONCE: Final = 1000
_PASSES_ON_WITHIN_S: Final = 1.0
_SIGN_TYPE: Final = "avx.sign.of.life"
_REPLY_TYPE: Final = "avx.reply"


class _Written(msgspec.Struct, frozen=True):
    """A record of ours, as it was read again: when it was written, and whether its addressee was there."""

    timestamp_ms: int
    is_heard: bool


class _Asked(msgspec.Struct, frozen=True):
    """A question on its way: what it is, whom it is from, and until when it is waited for in the broker's time."""

    event_type: str
    document: bytes
    reply_to: Address
    expires_ms: float


_write_sign = msgspec.json.Encoder().encode
_read_sign = msgspec.json.Decoder(SignOfLife).decode


class KafkaRequests:
    """One request-reply bus on one cluster."""

    def __init__(
        self,
        cluster: Cluster,
        publisher: Publisher,
        topic: str,
        *,
        clock: Clock,
        on_close: Callable[[], Awaitable[None]],
    ) -> None:
        """Read nothing yet; ``open`` does.

        Args:
            cluster: Where the topic is.
            publisher: Sends what this bus writes.
            topic: The topic.
            clock: Time.
            on_close: Awaited at the end.
        """
        self.name = cluster.name
        self._cluster = cluster
        self._publisher = publisher
        self._topic = topic
        self._clock = clock
        self._on_close = on_close
        cluster.plan_topic(topic, partitions=PARTITIONS, settings=SETTINGS)
        self._address: Address = ""
        self._reader = Reader(cluster, topic, on_gap=self._leap, what="avx-events kafka: requests")
        self._responders = Responders()
        self._time = BrokersTime(clock)
        self._on_reply: Callable[[bytes], None] | None = None
        self._on_question: dict[str, Callable[[Question], None]] = {}
        self._numbers = count(1)
        self._unread: dict[int, asyncio.Future[_Written]] = {}
        self._changes = Changes()
        self._sending: set[asyncio.Future[None]] = set()
        self._passing = TaskScope()
        self._tasks = TaskScope()

    async def open(self, on_reply: Callable[[bytes], None]) -> None:
        """Read the topic from its end on, and who has said before that it is there; see ``RequestTransport``."""
        await self._cluster.have_topic(self._topic)
        partitions = self._cluster.leaders(self._topic).keys()
        replies = random.choice(sorted(partitions - {_QUESTIONS}) or [_QUESTIONS])  # noqa: S311 - spreads load
        self._address = f"{replies}.{uuid4().hex}"
        self._on_reply = on_reply
        ends = await self._cluster.offsets(self._topic, {_QUESTIONS, replies}, requests.LATEST)
        self._reader.hold(ends)
        self._tasks.spawn(self._read(), name="avx-events kafka: read requests")
        await self._say()
        since_ms = int(self._responders.now_ms - LIFE_S * 1000)
        begin = (await self._cluster.offsets(self._topic, [_QUESTIONS], since_ms))[_QUESTIONS]
        if begin != requests.NO_OFFSET:
            self._reader.hold({_QUESTIONS: min(begin, ends[_QUESTIONS])})
        self._tasks.spawn(self._beat(), name="avx-events kafka: respond")

    async def respond(self, event_type: str, on_question: Callable[[Question], None] | None) -> None:
        """Be asked, or not any more; see ``RequestTransport``."""
        if on_question is not None:
            self._on_question[event_type] = on_question
        elif self._on_question.pop(event_type, None) is None:
            return
        await self._say()

    def ask(self, event_type: str, document: bytes, *, event_id: str, timeout_s: float, on_failed: OnFailed) -> None:
        """Give a request to somebody who is there when it is written; see ``RequestTransport``."""
        del event_id
        asked = _Asked(event_type, document, self._address, self._time.now_ms() + timeout_s * 1000)
        self._tasks.spawn(in_time(partial(self._ask, asked), timeout_s, on_failed), name="avx-events kafka: ask")

    def reply(self, to: Address, document: bytes) -> None:
        """Send a reply; see ``RequestTransport``. One to this bus itself, which may be closing, goes nowhere."""
        if to == self._address and self._on_reply is not None:
            self._on_reply(document)
            return
        partition = _partition_of(to)
        if partition not in self._cluster.leaders(self._topic):
            log.warning("a reply was not sent: %r is no address", to)
            return
        headers = [(CONTENT_TYPE_HEADER, b"application/json"), (KIND_HEADER, REPLY)]
        sending = self._publisher.submit(
            self._topic, partition, event_type=_REPLY_TYPE, key=to.encode(), value=document, headers=headers
        )
        self._sending.add(sending)

        def sent(sending: "asyncio.Future[None]") -> None:
            self._sending.discard(sending)
            error = None if sending.cancelled() else sending.exception()
            if isinstance(error, EventTooLargeError):
                self.reply(to, refusal(document, error))
            elif error is not None:
                log.warning("a reply was not sent: %s", error)

        sending.add_done_callback(sent)

    async def close(self) -> None:
        """Send what was replied and what is passed on, and leave no connection."""
        await self._passing.finish(grace_s=_PASSES_ON_WITHIN_S)
        while self._sending:
            await asyncio.wait(set(self._sending))
        await self._tasks.cancel()
        await self._reader.close()
        await self._on_close()

    # Writing

    async def _ask(self, asked: _Asked) -> None:
        is_heard = False
        while not is_heard:
            await self._publisher.room()
            to = self._responders.next(asked.event_type) or await self._look_for(asked.event_type)
            headers = [
                (CONTENT_TYPE_HEADER, CLOUDEVENT),
                (TYPE_HEADER, asked.event_type.encode()),
                (REPLY_TO_HEADER, asked.reply_to.encode()),
                (EXPIRES_HEADER, b"%d" % asked.expires_ms),
            ]
            try:
                written = await self._write(
                    QUESTION, asked.event_type, key=to.encode(), value=asked.document, headers=headers
                )
            except (PublishUnknownError, TimeoutError):  # to ask again might have it done twice: the reply tells
                return
            is_heard = written.is_heard

    async def _look_for(self, event_type: str) -> Address:
        """Return who responds to a type when all is read that was said before, or raise that nobody does."""
        await self._say()
        with suppress(TimeoutError):
            async with asyncio.timeout(LIFE_S):
                while not self._responders.next(event_type) and self._responders.may_come_back(event_type):
                    await self._changes.wait()
        found = self._responders.next(event_type)
        if found is None:
            raise NoResponderError(event_type)
        return found

    async def _say(self) -> None:
        """Give a sign of life, and return when it is read, and so is all that was written before.

        Raises:
            TransportUnavailableError: The cluster is away.
            TransportRefusedError: It refuses.
        """
        sign = _write_sign(SignOfLife(tuple(self._on_question)))
        try:
            await self._write(SIGN_OF_LIFE, _SIGN_TYPE, key=None, value=sign, headers=())
        except (PublishUnknownError, TimeoutError) as exc:
            problem = str(exc) or f"what was written was not read within {self._cluster.timeout_s:g} s"
            raise TransportUnavailableError(self.name, problem) from exc

    async def _write(
        self, kind: bytes, event_type: str, *, key: bytes | None, value: bytes, headers: Headers
    ) -> _Written:
        """Write a record beside the questions, which is done before anything is waited for, and read it again."""
        number = next(self._numbers)
        read: asyncio.Future[_Written] = asyncio.get_running_loop().create_future()
        self._unread[number] = read
        by = [(KIND_HEADER, kind), (FROM_HEADER, self._address.encode()), (NUMBER_HEADER, b"%d" % number)]
        sent_at = self._clock.monotonic()
        try:
            await self._publisher.submit(
                self._topic, _QUESTIONS, event_type=event_type, key=key, value=value, headers=[*by, *headers]
            )
            accepted_at = self._clock.monotonic()
            async with asyncio.timeout(self._cluster.timeout_s):
                written = await read
        finally:
            del self._unread[number]
        self._time.learn(written.timestamp_ms, sent_at=sent_at, accepted_at=accepted_at)
        return written

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(_BEAT_S)
            if not self._on_question and self._time.is_fresh:
                continue
            try:
                await self._say()
            except AvxEventsError as exc:
                log.warning("%s was given no sign of life: %s", self.name, exc)

    # Reading

    async def _read(self) -> None:
        while True:
            await self._reader.wait()
            records = self._reader.there(_MOST_AT_ONCE)
            self._reader.take(len(records))
            for partition, record in records:
                self._take(partition, record)
            if records:
                self._changes.tell()
                await asyncio.sleep(0)  # a long backlog lets others have their turn

    def _take(self, partition: int, record: Record) -> None:
        headers = {name: value or b"" for name, value in record.headers}
        kind = headers.get(KIND_HEADER)
        if partition == _QUESTIONS:
            self._responders.pass_to(record.timestamp_ms)
        try:
            if kind == REPLY:
                self._take_reply(record)
            elif partition == _QUESTIONS and kind == SIGN_OF_LIFE:
                self._take_sign(record, headers)
            elif partition == _QUESTIONS and kind == QUESTION:
                self._take_question(record, headers)
        except (KeyError, ValueError, RecursionError, msgspec.MsgspecError) as exc:
            log.warning("%s has a record of requests that cannot be read: %r", self.name, exc)

    def _take_reply(self, record: Record) -> None:
        if record.key == self._address.encode() and self._on_reply is not None:
            self._on_reply(record.value or b"")

    def _take_sign(self, record: Record, headers: dict[str, bytes]) -> None:
        by, number = headers[FROM_HEADER].decode(), int(headers[NUMBER_HEADER])
        self._responders.hear(by, number, _read_sign(record.value or b""))
        self._have_read(by, number, _Written(record.timestamp_ms, is_heard=True))

    def _take_question(self, record: Record, headers: dict[str, bytes]) -> None:
        to, event_type = (record.key or b"").decode(), headers[TYPE_HEADER].decode()
        is_heard = self._responders.is_there(to, event_type)
        if FROM_HEADER in headers:
            by, number = headers[FROM_HEADER].decode(), int(headers[NUMBER_HEADER])
            self._have_read(by, number, _Written(record.timestamp_ms, is_heard))
        if is_heard and to == self._address:
            reply_to, expires_ms = headers[REPLY_TO_HEADER].decode(), int(headers[EXPIRES_HEADER])
            self._be_asked(_Asked(event_type, record.value or b"", reply_to, expires_ms))

    def _have_read(self, by: Address, number: int, written: _Written) -> None:
        read = self._unread.get(number) if by == self._address else None
        if read is not None and not read.done():
            read.set_result(written)

    def _be_asked(self, asked: _Asked) -> None:
        left_s = (asked.expires_ms - self._time.now_ms()) / 1000
        if left_s <= 0:
            log.debug("a request of %s came too late", asked.event_type)
            return
        on_question = self._on_question.get(asked.event_type)
        if on_question is None:
            self._passing.spawn(self._pass_on(asked), name="avx-events kafka: pass a request on")
        else:
            on_question(Question(asked.document, asked.reply_to, left_s))

    async def _pass_on(self, asked: _Asked) -> None:
        """Give a request that came while this bus was leaving to another, or say that nobody answers it."""
        try:
            await self._ask(asked)
        except NoResponderError:
            self.reply(asked.reply_to, unanswered(id_of(asked.document)))
        except AvxEventsError as exc:
            log.warning("a request of %s was not passed on: %s", asked.event_type, exc)

    def _leap(self, partition: int, lost: int, first: int) -> None:
        log.warning("%s reads partition %d of %s at %d, not %d", self.name, partition, self._topic, first, lost)


def _partition_of(address: Address) -> int | None:
    number = address.partition(".")[0]
    return int(number) if number.isdecimal() else None
