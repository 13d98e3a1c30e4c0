"""What is asked of JetStream, and what it answers."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from avx_events.core.errors import AvxEventsError, TransportRefusedError, TransportUnavailableError
from avx_events.distributed.nats.frames import Message, headers_in
from avx_events.distributed.nats.names import EXPECTED_HEADER, bucket_stream
from avx_events.distributed.nats.pipe import Pipe

if TYPE_CHECKING:
    import asyncio

AnswerT = TypeVar("AnswerT")

STREAM_NOT_FOUND: Final = 10059
_NAME_IN_USE: Final = 10058
_NO_MESSAGE: Final = 10037
_WRONG_LAST: Final = 10071
_TOO_LARGE: Final = 10054
_NOT_NOW: Final = 500  # and above: the server's trouble, not ours

_NS: Final = 1_000_000_000
_OPERATION_HEADER: Final = "KV-Operation"
MAY_BE_REFUSED: Final = b'"error"'
"""What stands in the answer to a publish that was not taken: without it, there is nothing to read there."""


class JetStreamError(Exception):
    """JetStream answered that it did not do what was asked.

    Attributes:
        status: As HTTP's.
        code: JetStream's own.
        description: What it says.
    """

    def __init__(self, status: int, code: int, description: str) -> None:
        """Keep all three."""
        super().__init__(f"{description} ({code})")
        self.status, self.code, self.description = status, code, description


class ConflictError(Exception):
    """What was to be replaced is not what it was any more."""


class TooLargeError(Exception):
    """The stream takes no message of that size."""


class _Problem(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _Answer(msgspec.Struct):
    error: _Problem | None = None


class _Published(msgspec.Struct):
    seq: int = 0
    error: _Problem | None = None


class StreamConfig(msgspec.Struct):
    """How a stream is kept, as far as we look into it; times are in nanoseconds, and 0 or -1 is no limit."""

    subjects: list[str] = []
    max_age: int = 0
    max_msgs: int = -1
    max_bytes: int = -1
    storage: str = "file"
    num_replicas: int = 1
    retention: str = "limits"
    discard: str = "old"
    duplicate_window: int = 0


class StreamState(msgspec.Struct):
    """What a stream has; numbers count from 1."""

    messages: int = 0
    first_seq: int = 0
    last_seq: int = 0
    subjects: dict[str, int] = {}


class StreamInfo(msgspec.Struct):
    """A stream.

    Attributes:
        created: When it was made, which tells it from one of the same name before it.
        total: How many subjects there are, of which ``state`` may name some only.
    """

    config: StreamConfig
    created: str
    state: StreamState
    total: int = 0


class Stored(msgspec.Struct):
    """A message as it is kept.

    Attributes:
        subject: Where it was published.
        seq: Its number in the stream.
        time: When the server took it, as an RFC 3339 text.
        data: Its body.
        headers: And what stands above it.
    """

    subject: str
    seq: int
    time: str
    data: bytes = b""
    hdrs: bytes = b""

    @property
    def headers(self) -> dict[str, str]:
        """Return its headers."""
        return headers_in(self.hdrs)

    @property
    def is_deleted(self) -> bool:
        """Whether it says that the key of a bucket is gone."""
        return _OPERATION_HEADER in self.headers


class AccountLimits(msgspec.Struct):
    """What an account may keep, in bytes; -1 is no limit."""

    max_storage: int = -1


class Account(msgspec.Struct):
    """What an account may do, and how many bytes it keeps in files."""

    storage: int = 0
    limits: AccountLimits = msgspec.field(default_factory=AccountLimits)


class _Consumer(msgspec.Struct):
    num_pending: int = 0


class _Kept(msgspec.Struct):
    message: Stored


class _Purged(msgspec.Struct):
    purged: int = 0


class JetStream:
    """JetStream's requests, over a pipe."""

    def __init__(self, pipe: Pipe, server: str) -> None:
        """``server`` is what errors call it."""
        self._pipe = pipe
        self._server = server

    async def account(self) -> Account:
        """Return what the account of this user may keep.

        Raises:
            TransportUnavailableError: JetStream does not answer.
            TransportRefusedError: This user may not know.
        """
        try:
            return await self._call("INFO", {}, Account)
        except JetStreamError as exc:
            raise self.problem(exc) from exc

    # Streams

    async def stream(self, name: str, *, subjects: str | None = None) -> StreamInfo | None:
        """Return a stream, with how many messages each of its ``subjects`` has; None where there is none."""
        found: dict[str, int] = {}
        while True:
            asked = {} if subjects is None else {"subjects_filter": subjects, "offset": len(found)}
            try:
                info = await self._call(f"STREAM.INFO.{name}", asked, StreamInfo)
            except JetStreamError as exc:
                if exc.code == STREAM_NOT_FOUND:
                    return None
                raise self.problem(exc) from exc
            page = info.state.subjects
            found |= page
            info.state.subjects = found
            if not page or len(found) >= info.total:
                return info

    async def make_stream(self, name: str, subjects: Sequence[str], **options: Any) -> None:
        """Have a stream; one of that name that is there already stays as it is.

        Raises:
            TransportUnavailableError: JetStream does not answer.
            TransportRefusedError: It makes none.
        """
        config = {"name": name, "subjects": subjects, "storage": "file", "num_replicas": 1, **options}
        try:
            await self._call(f"STREAM.CREATE.{name}", config, _Answer)
        except JetStreamError as exc:
            if exc.code != _NAME_IN_USE:
                raise self.problem(exc) from exc

    async def make_bucket(self, bucket: str) -> None:
        """Have a key-value bucket that keeps one value of a key.

        Raises:
            TransportUnavailableError: JetStream does not answer.
            TransportRefusedError: It makes none.
        """
        await self.make_stream(
            bucket_stream(bucket),
            [f"$KV.{bucket}.>"],
            max_msgs_per_subject=1,
            discard="new",
            deny_delete=True,
            allow_rollup_hdrs=True,
            allow_direct=True,
        )

    async def purge(self, stream: str, subject: str, *, up_to: int | None = None) -> int:
        """Forget the messages of ``subject``, only those before number ``up_to``; return how many went."""
        asked: dict[str, Any] = {"filter": subject}
        if up_to is not None:
            asked["seq"] = up_to
        try:
            return (await self._call(f"STREAM.PURGE.{stream}", asked, _Purged)).purged
        except JetStreamError as exc:
            if exc.code == STREAM_NOT_FOUND:
                return 0
            raise self.problem(exc) from exc

    # Messages

    def write(
        self, subject: str, body: bytes, *, headers: dict[str, str] | None = None, expected: int | None = None
    ) -> "asyncio.Future[int]":
        """Publish to a stream; the future gives the number, or fails with ``ConflictError``.

        Args:
            subject: Of the stream.
            body: What.
            headers: And with it.
            expected: The number of the subject's last message, 0 where there must be none; None is any.
        """
        if expected is not None:
            headers = {**(headers or {}), EXPECTED_HEADER: str(expected)}
        return self._pipe.ask(subject, body, self._number_of, headers=headers)

    def delete_key(self, subject: str) -> "asyncio.Future[int]":
        """Tell those who watch a bucket that a key is gone."""
        return self.write(subject, b"", headers={_OPERATION_HEADER: "DEL"})

    def last_of(self, stream: str, subject: str) -> "asyncio.Future[Stored | None]":
        """Return the last message of a subject, or None, by a future."""
        return self._message(stream, {"last_by_subj": subject})

    def message(self, stream: str, number: int) -> "asyncio.Future[Stored | None]":
        """Return the message of that number, or None, by a future."""
        return self._message(stream, {"seq": number})

    def first_of(self, stream: str, subject: str, *, begin: int) -> "asyncio.Future[Stored | None]":
        """Return the first message of a subject from number ``begin`` on, or None, by a future."""
        return self._message(stream, {"seq": begin, "next_by_subj": subject})

    # Consumers

    def make_consumer(
        self, stream: str, name: str, subject: str, *, begin: int, inactive_s: float
    ) -> "asyncio.Future[int]":
        """Have an ephemeral consumer that gives the messages of ``subject`` from number ``begin`` on, when pulled.

        The future gives how many these are now, or fails with ``JetStreamError``: there is no such stream, or it takes
        no consumer.
        """
        config = {
            "name": name,
            "filter_subject": subject,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": begin,
            "ack_policy": "none",
            "inactive_threshold": int(inactive_s * _NS),
            "mem_storage": True,
            "num_replicas": 1,
        }
        asked = {"stream_name": stream, "config": config}
        create = f"$JS.API.CONSUMER.CREATE.{stream}.{name}.{subject}"
        return self._pipe.ask(create, msgspec.json.encode(asked), _pending)

    def delete_consumer(self, stream: str, name: str) -> "asyncio.Future[Any]":
        """Have a consumer no more; one that is gone already is no error."""
        return self._pipe.ask(f"$JS.API.CONSUMER.DELETE.{stream}.{name}", b"", _ignored)

    def problem(self, error: JetStreamError) -> AvxEventsError:
        """Return what an answer means for whoever asked: it was not done."""
        if error.status >= _NOT_NOW or error.code == STREAM_NOT_FOUND:
            return TransportUnavailableError(self._server, str(error))
        remedy = "see what else uses these names in JetStream, or use another namespace"
        return TransportRefusedError(self._server, str(error), remedy=remedy)

    def _message(self, stream: str, asked: dict[str, Any]) -> "asyncio.Future[Stored | None]":
        return self._pipe.ask(f"$JS.API.STREAM.MSG.GET.{stream}", msgspec.json.encode(asked), self._kept)

    def _kept(self, message: Message, _: int) -> Stored | None:
        problem = _decode_answer(message.data).error
        if problem is None:
            return msgspec.json.decode(message.data, type=_Kept).message
        if problem.err_code in {_NO_MESSAGE, STREAM_NOT_FOUND}:
            return None
        raise self.problem(JetStreamError(problem.code, problem.err_code, problem.description))

    async def _call(self, what: str, asked: dict[str, Any], answer: type[AnswerT]) -> AnswerT:
        data: bytes = await self._pipe.ask(f"$JS.API.{what}", msgspec.json.encode(asked), _data)
        if (problem := _decode_answer(data).error) is not None:
            raise JetStreamError(problem.code, problem.err_code, problem.description)
        return msgspec.json.decode(data, type=answer)

    def _number_of(self, message: Message, _: int) -> int:
        published = _decode_published(message.data)
        if published.error is not None:
            raise refused(published.error, self)
        return published.seq


def accepted(message: Message, jetstream: JetStream) -> None:
    """Raise what the answer to a publish says, if it says that it was not taken."""
    problem = _decode_published(message.data).error
    if problem is not None:
        raise refused(problem, jetstream)


def refused(problem: _Problem, jetstream: JetStream) -> Exception:
    """Return what a publish that was not taken fails with."""
    if problem.err_code == _WRONG_LAST:
        return ConflictError(problem.description)
    if problem.err_code == _TOO_LARGE:
        return TooLargeError(problem.description)
    return jetstream.problem(JetStreamError(max(problem.code, _NOT_NOW), problem.err_code, problem.description))


def header_value(text: str) -> str | None:
    """Return ``text`` as it stands in a header; None where it cannot stand there."""
    return text if text.isascii() and text.isprintable() and text == text.strip() else None


def _data(message: Message, _: int) -> bytes:
    return message.data


def _pending(message: Message, _: int) -> int:
    if (problem := _decode_answer(message.data).error) is not None:
        raise JetStreamError(problem.code, problem.err_code, problem.description)
    return msgspec.json.decode(message.data, type=_Consumer).num_pending


def _ignored(message: Message, _: int) -> None:
    del message


_decode_answer = msgspec.json.Decoder(_Answer).decode
_decode_published = msgspec.json.Decoder(_Published).decode
