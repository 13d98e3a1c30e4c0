"""What a message class says that it is answered with, as JSON."""

from typing import Any, Final, TypeVar

import msgspec

from avx_events.core.codec import reason_of
from avx_events.core.errors import DecodeError, EncodeError, HandlerDefinitionError
from avx_events.core.event import schema_of
from avx_events.core.generics import generic_argument, names_of_module, resolved

_UNFIT: Final = (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError)


class ResultType:
    """Writes and reads what one class of commands, queries or requests is answered with."""

    __slots__ = ("_event_type", "_read")

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
