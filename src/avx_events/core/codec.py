"""The data of a message as JSON, written so that it reads back, and read with its upcasters.

What validators, ``__post_init__`` and upcasters raise cannot be listed: all of it becomes our own error.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter
from typing import Any, Final, cast, get_type_hints

import msgspec

from avx_events.core.errors import AvxEventsError, DecodeError, EncodeError, NotAnEventError, UnknownEventTypeError
from avx_events.core.event import EventSchema, Payload, UnknownEvent, class_for, current_type, schema_of

# Characters; a validator may repeat its whole input.
_LONGEST_REASON: Final = 500

# JSON readers elsewhere round or refuse more than this.
_LEAST_INTEGER: Final = -(2**63)
_GREATEST_INTEGER: Final = 2**64 - 1
# The shortest run of digits that may be past them, and a table that makes any run of digits one of zeros: looking for
# it in translated bytes takes a fifth of what a regular expression does.
_LONG_RUN: Final = b"0" * 19
_DIGITS_AS_ZEROS: Final = bytes(ord("0") if ord("0") <= byte <= ord("9") else byte for byte in range(256))


_TEXT: Final = (str, bool)  # not sets: an annotation need not have a hash
_NUMBERS: Final = (int, float)

_encode_fields = msgspec.json.Encoder().encode
_check_json = msgspec.json.Decoder(msgspec.Raw).decode


class _Model:
    """A pydantic model, by its methods: pydantic itself is not imported."""

    __slots__ = ("_model",)

    def __init__(self, model: Any) -> None:
        self._model = model

    def encode(self, message: Any) -> bytes:
        text: str = message.model_dump_json(warnings="error")
        data = text.encode()
        _check_json(data)  # a model may be told to write NaN as it is
        return data

    def decode(self, data: bytes) -> Any:
        return self._model.model_validate_json(data)


class _PlainPayload(Payload):
    """Of a class whose fields are all text, truth or one number: what JSON cannot carry is seen without its text.

    NaN and infinity are written as null, which reads back into none of them.
    """

    __slots__ = ("numbers_of",)

    def __init__(
        self,
        encode: Callable[[Any], bytes],
        decode: Callable[[bytes], Any],
        numbers_of: Callable[[Any], Iterable[Any]] | None,
    ) -> None:
        """``numbers_of`` gives the numbers of a message; None where its class has none."""
        super().__init__(encode, decode)
        self.numbers_of = numbers_of


def encode_data(message: object) -> bytes:
    """Return the fields of ``message`` as a JSON object, checked to read back into its class.

    An ``UnknownEvent`` gives the fields that it kept.

    Raises:
        NotAnEventError: It is no message, or a class instead of an instance.
        EncodeError: A value does not fit its field's type, or JSON cannot carry it: NaN, infinity, a lone surrogate,
            an integer past 64 bits.
    """
    if isinstance(message, UnknownEvent):
        return _encode_unknown(message)
    if isinstance(message, type):
        raise NotAnEventError(message)
    return encode_fields(message, schema_of(message))


def encode_fields(message: object, schema: EventSchema) -> bytes:
    """Return what ``encode_data`` does, where ``schema``, that of the message's class, is known already.

    Raises:
        EncodeError: As ``encode_data``.
    """
    try:
        payload = schema.payload or _payload_for(schema)
        data = payload.encode(message)
        if type(payload) is _PlainPayload:
            _check_plain(payload, message, data)
        else:
            _refuse_unportable(message, data)
            payload.decode(data)
    except (AvxEventsError, MemoryError):
        raise
    except Exception as exc:
        raise EncodeError(schema.event_type, reason_of(exc)) from exc
    return data


def decode_data(event_type: str, data: bytes, *, revision: int = 1, keep_unknown: bool = False) -> Any:
    """Return the message of ``data``, an object in JSON written at ``revision``, upcast to its class as it is now.

    Args:
        event_type: The class's event type, or one that it had formerly.
        data: The JSON text.
        revision: The revision of the data, from 1. It is that of the class, whatever its name was then.
        keep_unknown: Give an ``UnknownEvent`` for a type that no class has, instead of an error.

    Raises:
        UnknownEventTypeError: No class has the type.
        DecodeError: The data does not fit the class, or is of a newer revision, or of one without an upcaster.
    """
    message_class = class_for(event_type)
    try:
        if message_class is None:
            return _unknown(event_type, data, revision, keep=keep_unknown)
        schema = schema_of(message_class)
        if revision != schema.revision:
            data = _upcast(schema, event_type, data, revision)
        return (schema.payload or _payload_for(schema)).decode(data)
    except (AvxEventsError, MemoryError):
        raise
    except Exception as exc:
        raise _misfit(event_type, reason_of(exc)) from exc


def _misfit(event_type: str, problem: str) -> DecodeError:
    """Return the error for data recorded as ``event_type``: it names the type of today, too, where that is another."""
    current = current_type(event_type)
    return DecodeError(current, problem if current == event_type else f"recorded as {event_type!r}: {problem}")


def _payload_for(schema: EventSchema) -> Payload:
    message_class = schema.message_class
    if hasattr(message_class, "model_validate_json"):
        model = _Model(message_class)
        payload = Payload(model.encode, model.decode)
    else:
        payload = _struct_payload(message_class)
    schema.payload = payload
    return payload


def _struct_payload(message_class: type) -> Payload:
    encode = msgspec.json.Encoder().encode
    decode: Callable[[bytes], Any] = msgspec.json.Decoder(message_class).decode
    if not issubclass(message_class, msgspec.Struct):
        return Payload(encode, decode)
    hints = get_type_hints(message_class)
    others = [name for name in message_class.__struct_fields__ if hints[name] not in _TEXT]
    if any(hints[name] not in _NUMBERS for name in others):
        return Payload(encode, decode)
    return _PlainPayload(encode, decode, _reader_of(others) if others else None)


def _reader_of(fields: list[str]) -> Callable[[Any], Iterable[Any]]:
    # Of a single name, attrgetter gives the value itself.
    return attrgetter(*fields) if len(fields) > 1 else attrgetter(fields[0], fields[0])


def _check_plain(payload: _PlainPayload, message: object, data: bytes) -> None:
    try:
        payload.decode(data)
    except Exception:
        if payload.numbers_of is not None:
            _refuse_unportable(message, data)  # which says it better than that null is no number
        raise
    if payload.numbers_of is not None:
        for value in payload.numbers_of(message):
            if value.__class__ is not float and not _LEAST_INTEGER <= value <= _GREATEST_INTEGER:
                _refuse_unportable(message, data)


def _unknown(event_type: str, data: bytes, revision: int, *, keep: bool) -> UnknownEvent:
    if not keep:
        raise UnknownEventTypeError(event_type)
    return UnknownEvent(event_type, msgspec.json.decode(data, type=dict[str, Any]), revision)


def _upcast(schema: EventSchema, event_type: str, data: bytes, revision: int) -> bytes:
    if revision > schema.revision:
        problem = f"revision {revision} is newer than {schema.revision}, this process's own; deploy the newer code here"
        raise _misfit(event_type, problem)
    fields: Mapping[str, Any] = msgspec.json.decode(data, type=dict[str, Any])
    for step in range(revision, schema.revision):
        upcaster = schema.upcasters.get(step)
        if upcaster is None:
            problem = f"no upcaster from revision {step}; write one with @{schema.message_class.__name__}.upcast"
            raise _misfit(event_type, problem)
        fields = upcaster(dict(fields))
    return msgspec.json.encode(fields)


def _encode_unknown(message: UnknownEvent) -> bytes:
    try:
        data = _encode_fields(message.data)
        _refuse_unportable(message.data, data)
    except (AvxEventsError, MemoryError):
        raise
    except Exception as exc:
        raise EncodeError(message.event_type, reason_of(exc)) from exc
    return data


def _refuse_unportable(message: object, data: bytes) -> None:
    # find() takes half of what 'in' does, on every message of every store.
    if data.find(b"null") >= 0:  # where JSON writers hide NaN and infinity
        dump = getattr(message, "model_dump", None)
        _walk(dump() if dump is not None else msgspec.to_builtins(message, enc_hook=_opaque), path="")
    if data.translate(_DIGITS_AS_ZEROS).find(_LONG_RUN) >= 0:
        _walk(msgspec.json.decode(data), path="")


def _opaque(_: object) -> None:
    """Stand for a ``msgspec.Raw``: JSON already, so it has no NaN in it."""


def _walk(value: object, *, path: str) -> None:
    if isinstance(value, float):
        if not math.isfinite(value):
            problem = f"{path or 'a value'} is {value}, which JSON cannot carry"
            raise ValueError(problem)
    elif isinstance(value, int):
        if not _LEAST_INTEGER <= value <= _GREATEST_INTEGER:
            problem = (
                f"{path or 'a value'} is an integer past 64 bits, which JSON readers elsewhere round; make it text"
            )
            raise ValueError(problem)
    elif isinstance(value, Mapping):
        for name, held in cast("Mapping[object, object]", value).items():
            _walk(held, path=f"{path}.{name}" if path else str(name))
    elif isinstance(value, list | tuple | set | frozenset):
        for held in cast("Iterable[object]", value):
            _walk(held, path=f"{path}[]")


def reason_of(exc: Exception) -> str:
    """Return why a value or a document does not fit, as one line for the message of our own error."""
    if isinstance(exc, UnicodeEncodeError):
        return "text with a lone surrogate, which UTF-8 cannot carry"
    if isinstance(exc, RecursionError):
        return "it is nested too deeply"
    text = str(exc).replace("\n", "; ")[:_LONGEST_REASON]
    # These say what does not fit; others only make sense with their name, as KeyError does.
    return text if isinstance(exc, ValueError | TypeError) else f"{type(exc).__name__}: {text}"
