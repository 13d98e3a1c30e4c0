"""The data of a message as JSON, written so that it reads back, and read with its upcasters."""

import math
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from avx_events.core.errors import DecodeError, EncodeError, UnknownEventTypeError
from avx_events.core.event import EventSchema, Payload, UnknownEvent, class_for, schema_of

# What msgspec, pydantic and the types inside a message raise for values that do not fit.
_MISFITS: Final = (
    msgspec.MsgspecError,
    ValueError,
    TypeError,
    ArithmeticError,
    RecursionError,
    LookupError,  # an upcaster that looks for a field
)


class _StructPayload:
    """msgspec structs, dataclasses and attrs classes."""

    __slots__ = ("decode", "encode")

    def __init__(self, message_class: type) -> None:
        self.encode = msgspec.json.Encoder().encode
        self.decode = msgspec.json.Decoder(message_class).decode


class _ModelPayload:
    """pydantic models, by their methods: pydantic itself is not imported."""

    __slots__ = ("_model",)

    def __init__(self, model: Any) -> None:
        self._model = model

    def encode(self, message: Any) -> bytes:
        text: str = message.model_dump_json()
        return text.encode()

    def decode(self, data: bytes) -> Any:
        return self._model.model_validate_json(data)


def encode_data(message: object) -> bytes:
    """Return the fields of ``message`` as a JSON object, checked to read back into its class.

    Raises:
        NotAnEventError: It is no message.
        EncodeError: A value does not fit its field's type, or JSON cannot carry it: NaN, infinity, a lone surrogate,
            an integer past 64 bits.
    """
    schema = schema_of(message)
    payload = schema.payload or _payload_for(schema)
    try:
        data = payload.encode(message)
        if b"null" in data:  # where JSON writers hide NaN and infinity
            _refuse_non_finite(message)
        payload.decode(data)
    except _MISFITS as exc:
        raise EncodeError(schema.event_type, _reason(exc)) from exc
    return data


def decode_data(event_type: str, data: bytes, *, revision: int = 1, keep_unknown: bool = False) -> Any:
    """Return the message of ``data``, an object in JSON written at ``revision``, upcast to its class as it is now.

    Args:
        event_type: Which class to read into.
        data: The JSON text.
        revision: The revision of the data, from 1.
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
            data = _upcast(schema, data, revision)
        return (schema.payload or _payload_for(schema)).decode(data)
    except _MISFITS as exc:
        raise DecodeError(event_type, _reason(exc)) from exc


def _payload_for(schema: EventSchema) -> Payload:
    message_class = schema.message_class
    is_model = hasattr(message_class, "model_validate_json")
    schema.payload = payload = _ModelPayload(message_class) if is_model else _StructPayload(message_class)
    return payload


def _unknown(event_type: str, data: bytes, revision: int, *, keep: bool) -> UnknownEvent:
    if not keep:
        raise UnknownEventTypeError(event_type)
    return UnknownEvent(event_type, msgspec.json.decode(data, type=dict[str, Any]), revision)


def _upcast(schema: EventSchema, data: bytes, revision: int) -> bytes:
    if revision > schema.revision:
        problem = f"revision {revision} is newer than this process knows ({schema.revision}); deploy the newer code here"
        raise DecodeError(schema.event_type, problem)
    fields: Mapping[str, Any] = msgspec.json.decode(data, type=dict[str, Any])
    for step in range(revision, schema.revision):
        upcaster = schema.upcasters.get(step)
        if upcaster is None:
            problem = f"no upcaster from revision {step}; write one with @{schema.message_class.__name__}.upcast"
            raise DecodeError(schema.event_type, problem)
        fields = upcaster(dict(fields))
    return msgspec.json.encode(fields)


def _refuse_non_finite(message: Any) -> None:
    dump = getattr(message, "model_dump", None)
    _walk(dump() if dump is not None else msgspec.to_builtins(message), path="")


def _walk(value: object, *, path: str) -> None:
    if isinstance(value, float):
        if not math.isfinite(value):
            problem = f"{path or 'a value'} is {value}, which JSON cannot carry"
            raise ValueError(problem)
    elif isinstance(value, Mapping):
        for name, held in value.items():
            _walk(held, path=f"{path}.{name}" if path else str(name))
    elif isinstance(value, list | tuple | set | frozenset):
        for held in value:
            _walk(held, path=f"{path}[]")


def _reason(exc: BaseException) -> str:
    if isinstance(exc, UnicodeEncodeError):
        return "text with a lone surrogate, which UTF-8 cannot carry"
    if isinstance(exc, RecursionError):
        return "it is nested too deeply"
    return str(exc).replace("\n", "; ")
