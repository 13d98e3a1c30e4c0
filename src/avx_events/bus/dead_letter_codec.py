"""Dead letters as JSON, for whatever keeps them outside of this process: a database, a broker.

| field | what it carries |
|---|---|
| ``id`` · ``handler`` · ``group`` · ``reason`` | text, as in ``DeadLetter`` |
| ``error`` · ``error_type`` · ``traceback`` | likewise |
| ``attempts`` · ``redrives`` | whole numbers |
| ``first_failed_at`` · ``dead_at`` | RFC 3339, in UTC |
| ``envelope`` | the event and its metadata, as a CloudEvents document; see ``core/cloudevents`` |
| ``raw`` | bytes, in base64 |

``group``, ``traceback``, ``redrives``, ``envelope`` and ``raw`` are left out where they are empty. Unknown fields are
passed over.

Every letter of a bus can be written. An event that JSON cannot carry (NaN, a lone surrogate, no event at all) leaves
its letter without an envelope: ``raw`` is a JSON object then with the event's ``type``, the ``problem``, and the
``repr`` of the envelope. Such a letter cannot be redriven, but everything that it says can be read.

Every letter that was written can be read. An event type that no class has here gives an ``UnknownEvent``; an event that
does not fit its class any more leaves the letter without an envelope, and ``raw`` is its CloudEvents document. Once the
class fits again, or has an upcaster, the same bytes give the envelope. So do the bytes of an event that could not be
decoded when it came, as one of a revision that the code of that day did not know; ``raw`` stays beside it. A
``StoredEvent`` comes back as a plain envelope: its place in the log is not written.
"""

import sys
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import msgspec

from avx_events.bus.dead_letters import DeadLetter, Reason
from avx_events.core import cloudevents
from avx_events.core.codec import reason_of
from avx_events.core.errors import AvxEventsError, DecodeError, EncodeError
from avx_events.core.metadata import EventEnvelope

SOURCE: Final = "/avx-events/dead-letters"
"""The ``source`` of the CloudEvents documents; an envelope does not keep the one it came with."""

_LETTER: Final = "dead letter"
_NO_LIMIT: Final = sys.maxsize  # a letter is kept, however large its event is
_MISFITS: Final = (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError)

_Count = Annotated[int, msgspec.Meta(ge=0)]
_Instant = Annotated[datetime, msgspec.Meta(tz=True)]


class _Document(msgspec.Struct, omit_defaults=True):
    id: str
    handler: str
    reason: Reason
    error: str
    error_type: str
    attempts: _Count
    first_failed_at: _Instant
    dead_at: _Instant
    traceback: str = ""
    redrives: _Count = 0
    envelope: msgspec.Raw = msgspec.Raw(b"null")
    raw: bytes | None = None
    group: str = ""


class _Described(msgspec.Struct):
    type: str
    problem: str
    repr: str


_write = msgspec.json.Encoder().encode
_read = msgspec.json.Decoder(_Document).decode


def encode(letter: DeadLetter) -> bytes:
    """Return ``letter`` as JSON that ``decode`` reads back as an equal one, but for what JSON cannot carry (see above).

    Raises:
        EncodeError: A value is none that a bus would give it: an instant without a time zone or at the end of time, a
            negative count.
    """
    document, raw = msgspec.Raw(b"null"), letter.raw
    if letter.envelope is not None:
        try:
            document = _envelope_document(letter.envelope)
        except (AvxEventsError, *_MISFITS) as exc:
            raw = _description(letter.envelope, problem=str(exc))
    try:
        return _checked(_document_of(letter, document, raw))
    except _MISFITS as exc:
        raise EncodeError(_LETTER, reason_of(exc)) from exc


def decode(data: bytes) -> DeadLetter:
    """Return the letter of a document; its event as its class is now, upcast where it was written at an older revision.

    Args:
        data: The document. It may come from anywhere: it raises nothing but what is below.

    Raises:
        DecodeError: It is no document of a dead letter. What is wrong with its event alone raises nothing.
    """
    try:
        found = _read(data)
    except _MISFITS as exc:
        raise DecodeError(_LETTER, reason_of(exc)) from exc
    envelope, raw = _event_of(found)
    return DeadLetter(
        id=found.id,
        handler=found.handler,
        reason=found.reason,
        error=found.error,
        error_type=found.error_type,
        attempts=found.attempts,
        first_failed_at=found.first_failed_at,
        dead_at=found.dead_at,
        envelope=envelope,
        raw=raw,
        traceback=found.traceback,
        redrives=found.redrives,
        group=found.group,
    )


def decode_or_describe(data: bytes, *, id: str, handler: str, error_type: str, dead_at: datetime) -> DeadLetter:  # noqa: A002 - the letter's name
    """Return the letter of a document, or one that keeps the document as ``raw`` and says that it cannot be read here.

    What another program or a later version wrote so does not keep the rest of a list from being read.

    Args:
        data: The document.
        id: As the store knows the letter, and likewise the rest.
        handler: Whose letter it is.
        error_type: Of its last error.
        dead_at: When it became a dead letter, aware.
    """
    try:
        return decode(data)
    except DecodeError as exc:
        return DeadLetter(
            id=id,
            handler=handler,
            reason="undecodable",
            error=f"{error_type}: its letter cannot be read here ({exc})",
            error_type=error_type,
            attempts=0,
            first_failed_at=dead_at,
            dead_at=dead_at,
            raw=data,
        )


def portable(text: str) -> str:
    r"""Return ``text``, a lone surrogate in it as ``\udc80``: UTF-8 cannot carry it, and errors on files have some."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()
    return text


def _envelope_document(envelope: EventEnvelope[Any]) -> msgspec.Raw:
    document = msgspec.Raw(cloudevents.encode(envelope, source=SOURCE, max_bytes=_NO_LIMIT))
    msgspec.json.decode(_write([[document]]))  # it may be nested as deeply as can be read, and a letter is deeper
    return document


def _description(envelope: EventEnvelope[Any], *, problem: str) -> bytes:
    try:
        text = repr(envelope)
    except Exception as exc:  # noqa: BLE001 - an event that cannot say what it is must not take its letter with it
        text = f"{type(envelope.event).__qualname__}, whose repr raised {type(exc).__name__}: {envelope.metadata!r}"
    return _write(_Described(portable(envelope.metadata.event_type), portable(problem), portable(text)))


def _document_of(letter: DeadLetter, document: msgspec.Raw, raw: bytes | None) -> _Document:
    return _Document(
        portable(letter.id),
        portable(letter.handler),
        letter.reason,
        portable(letter.error),
        portable(letter.error_type),
        letter.attempts,
        _utc(letter.first_failed_at),
        _utc(letter.dead_at),
        portable(letter.traceback),
        letter.redrives,
        document,
        raw,
        portable(letter.group),
    )


def _utc(instant: datetime) -> datetime:
    if instant.tzinfo is None:
        problem = f"{instant!r} has no time zone"
        raise ValueError(problem)
    return instant.astimezone(UTC)


def _checked(document: _Document) -> bytes:
    data = _write(document)
    _read(data)
    return data


def _event_of(found: _Document) -> tuple[EventEnvelope[Any] | None, bytes | None]:
    document = bytes(found.envelope)
    if document == b"null":
        return None if found.raw is None else _decoded_today(found.raw), found.raw
    try:
        return cloudevents.decode(document, keep_unknown=True, max_bytes=_NO_LIMIT), found.raw
    except AvxEventsError:
        return None, document


def _decoded_today(raw: bytes) -> EventEnvelope[Any] | None:
    try:
        return cloudevents.decode(raw, max_bytes=_NO_LIMIT)
    except AvxEventsError:
        return None
