"""What a message class says that it is answered with, as JSON."""

from typing import Any, Final, TypeVar

import msgspec

from avx_events.core.codec import decode_data, encode_data, reason_of
from avx_events.core.errors import DecodeError, EncodeError, HandlerDefinitionError, UnknownEventTypeError
from avx_events.core.event import ANSWERED_BY_ONE, Event, schema_of
from avx_events.core.generics import generic_argument, names_of_module, resolved

_UNFIT: Final = (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError)


class _KeptEvent(msgspec.Struct):
    type: str
    revision: int
    data: msgspec.Raw


_read_kept: Final = msgspec.json.Decoder(_KeptEvent).decode


class ResultType:
    """Writes and reads what one class of commands, queries or requests is answered with."""

    __slots__ = ("_event_class", "_event_type", "_read")

    def __init__(self, message_class: type, generic: type) -> None:
        """Find out what ``message_class`` gives ``generic``; anything where it says nothing.

        Raises:
            HandlerDefinitionError: The type cannot be resolved, or cannot be read from JSON.
        """
        argument = generic_argument(message_class, generic)
        if argument is None or isinstance(argument, TypeVar):
            argument = Any
        try:
            found = resolved(argument, module_names=names_of_module(message_class), names={})
            self._read = msgspec.json.Decoder(found).decode
        except (NameError, AttributeError, SyntaxError, TypeError) as exc:
            problem = f"its result type {argument!r} cannot be written as JSON and read again: {exc}"
            raise HandlerDefinitionError(message_class.__qualname__, problem) from exc
        self._event_type = schema_of(message_class).event_type
        self._event_class: type | None = _event_class(found)

    def encode(self, result: object) -> bytes:
        """Return ``result`` as JSON that reads back.

        Raises:
            EncodeError: It does not fit the type, or JSON cannot carry it.
        """
        try:
            document = msgspec.json.encode(result)
            self._read(document)
        except _UNFIT as exc:
            raise EncodeError(self._event_type, f"its result does not fit: {reason_of(exc)}") from exc
        return document

    def decode(self, document: bytes) -> Any:
        """Return the result of ``document``.

        Raises:
            DecodeError: It does not fit the type.
        """
        try:
            return self._read(document)
        except _UNFIT as exc:
            raise DecodeError(self._event_type, f"its result does not fit: {reason_of(exc)}") from exc

    def keep(self, result: object) -> bytes:
        """Return ``result`` as JSON for code that comes later: an event with its type and revision, all else as it is.

        Raises:
            EncodeError: It does not fit the type, or JSON cannot carry it.
        """
        if self._event_class is None:
            return self.encode(result)
        if not isinstance(result, self._event_class):
            raise EncodeError(self._event_type, self._misfit(result))
        schema = schema_of(result)
        return msgspec.json.encode(_KeptEvent(schema.event_type, schema.revision, msgspec.Raw(encode_data(result))))

    def kept(self, document: bytes) -> Any:
        """Return what was kept, an event as its class is now: renamed and upcast as one that was stored.

        Raises:
            DecodeError: It does not fit the type, or is an event of a type that no class has.
        """
        if self._event_class is None:
            return self.decode(document)
        try:
            kept = _read_kept(document)
            event = decode_data(kept.type, bytes(kept.data), revision=kept.revision)
        except (UnknownEventTypeError, *_UNFIT) as exc:
            raise DecodeError(self._event_type, f"its result does not fit: {reason_of(exc)}") from exc
        if not isinstance(event, self._event_class):
            raise DecodeError(self._event_type, self._misfit(event))
        return event

    def _misfit(self, result: object) -> str:
        wanted = "event" if self._event_class is None else self._event_class.__name__
        return f"its result does not fit: Expected `{wanted}`, got `{type(result).__name__}`"


def _event_class(found: object) -> type | None:
    if not isinstance(found, type) or issubclass(found, ANSWERED_BY_ONE):
        return None
    return found if found is Event or "__avx_schema__" in found.__dict__ else None
