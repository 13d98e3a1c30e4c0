"""Aggregates: objects whose state is what their events make of it."""

import functools
import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

import msgspec

from avx_events.core.errors import AggregateDefinitionError, NotAnEventError
from avx_events.core.event import ANSWERED_BY_ONE, schema_of
from avx_events.core.metadata import EventEnvelope
from avx_events.patterns.aggregate_state import encode_state, fingerprint_of, is_same
from avx_events.patterns.own_defaults import with_own_defaults
from avx_events.store.stored_event import check_stream, is_envelope

# Classes are no events, and the store refuses the rest.
_NOT_RECORDED: Final = (type, *ANSWERED_BY_ONE)
_RESERVED: Final = ("id", "version", "uncommitted", "record", "__init__")


class _History(msgspec.Struct):
    """What an aggregate is beside its state."""

    aggregate_id: str
    version: int
    uncommitted: list[Any]


class _Schema:
    """How the store handles the instances of one aggregate class; see ``AggregateSchema``."""

    def __init__(self, aggregate_class: "type[AggregateRoot]", *, revision: int) -> None:
        self._class = aggregate_class
        self._revision = revision
        self.kind: Final = f"{aggregate_class.__module__}.{aggregate_class.__qualname__}"

    @functools.cached_property
    def _decoder(self) -> msgspec.msgpack.Decoder[Any]:
        return msgspec.msgpack.Decoder(self._class)

    @functools.cached_property
    def _fingerprint(self) -> str | None:
        # Made on first use, when annotations resolve.
        try:
            return fingerprint_of(self._class, initial=self._class("new"), revision=self._revision)
        except (TypeError, ValueError, NameError, AttributeError, OverflowError, RecursionError):
            return None

    def fingerprint(self) -> str | None:
        """Return what differs where the class would make another state of the same events; see ``AggregateSchema``."""
        return self._fingerprint

    def new(self, aggregate_id: str) -> "AggregateRoot":
        """Return an instance at version 0."""
        return self._class(aggregate_id)

    def restore(self, aggregate_id: str, *, state: bytes, version: int) -> "AggregateRoot | None":
        """Return an instance with ``state`` at ``version``, or None where the state does not fit the class."""
        try:
            aggregate: AggregateRoot = self._decoder.decode(state)
        except (msgspec.MsgspecError, TypeError, ValueError):
            return None
        aggregate.__avx_history__ = _History(aggregate_id, version, [])
        return aggregate

    def state_of(self, aggregate: "AggregateRoot") -> bytes | None:
        """Return the state encoded, or None where it would not come back as it is."""
        try:
            state = encode_state(aggregate)
            copied: object = self._decoder.decode(state)
        except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError):
            return None
        return state if is_same(aggregate, copied) else None

    def replay(self, aggregate: "AggregateRoot", events: Iterable[Any], *, version: int) -> None:
        """Apply ``events``, which bring the instance to ``version``."""
        apply = aggregate.apply
        for event in events:
            apply(event)
        aggregate.__avx_history__.version = version

    def fields_of(self, aggregate: "AggregateRoot") -> Mapping[str, Any]:
        """Return its state by the names of its fields."""
        return _state(aggregate)

    def uncommitted(self, aggregate: "AggregateRoot") -> Sequence[Any]:
        """Return what was recorded and not saved."""
        return tuple(aggregate.__avx_history__.uncommitted)

    def stamped(self, aggregate: "AggregateRoot", envelopes: Sequence[EventEnvelope[Any]]) -> None:
        """Keep ``envelopes`` in the place of the first events that are not saved."""
        aggregate.__avx_history__.uncommitted[: len(envelopes)] = envelopes

    def saved(self, aggregate: "AggregateRoot", envelopes: Sequence[EventEnvelope[Any]]) -> None:
        """Forget ``envelopes``, unless another save did."""
        first = aggregate.__avx_history__.uncommitted[:1]
        if first and first[0] is envelopes[0]:
            del aggregate.__avx_history__.uncommitted[: len(envelopes)]


class _AggregateMeta(msgspec.StructMeta):
    """Makes aggregate classes: msgspec structs with state as fields, made from their id alone."""

    def __new__(  # noqa: PYI034 - Self has no meaning in a metaclass
        mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any], *, revision: object = 1, **options: Any
    ) -> "_AggregateMeta":
        if namespace.get("__module__") == __name__:
            return super().__new__(mcs, name, bases, namespace, **options)
        _check_body(name, namespace, options)
        if not isinstance(revision, int) or isinstance(revision, bool) or revision < 1:
            raise AggregateDefinitionError(name, f"revision must be a whole number, 1 or more, not {revision!r}")
        try:
            made: Any = super().__new__(mcs, name, bases, with_own_defaults(namespace))
        except (TypeError, ValueError) as exc:
            raise AggregateDefinitionError(name, f"{exc}") from exc
        _check_made(name, made)
        made.__avx_aggregate__ = _Schema(made, revision=revision)
        return made  # type: ignore[no-any-return]

    def __call__(cls, aggregate_id: str, /) -> Any:  # noqa: N805 - self is a class here
        """Return a new aggregate at version 0."""
        aggregate = super().__call__()
        aggregate.__avx_history__ = _History(check_stream(aggregate_id), 0, [])
        return aggregate


def _check_body(name: str, namespace: dict[str, Any], options: dict[str, Any]) -> None:
    if options:
        raise AggregateDefinitionError(name, f"takes no class keyword but revision=, not {', '.join(options)}")
    for reserved in _RESERVED:
        if reserved in namespace or reserved in namespace.get("__annotations__", ()):
            raise AggregateDefinitionError(name, f"{reserved!r} is given by AggregateRoot; choose another name")


def _check_made(name: str, made: Any) -> None:
    defaults: tuple[object, ...] = made.__struct_defaults__
    fields: tuple[str, ...] = made.__struct_fields__
    if len(defaults) < len(fields):
        missing = ", ".join(repr(field) for field in fields[: len(fields) - len(defaults)])
        raise AggregateDefinitionError(name, f"every field needs a default, its value before any event: {missing}")
    if made.apply is AggregateRoot.apply or not inspect.isfunction(made.apply):
        raise AggregateDefinitionError(name, "needs a method apply(self, event), which changes the fields")
    if inspect.iscoroutinefunction(made.apply):
        raise AggregateDefinitionError(name, "apply must be a plain function: state comes from the events alone")


class _Identity:
    # Beside the fields, so that they are no part of the state.
    __slots__ = ("__avx_history__",)


if TYPE_CHECKING:
    from avx_events.store.aggregates import AggregateSchema

    class _Aggregate:
        __avx_history__: _History
        __avx_aggregate__: ClassVar[AggregateSchema]

        def __init__(self, aggregate_id: str, /) -> None: ...
        def __init_subclass__(cls, *, revision: int = 1) -> None: ...

else:

    class _Aggregate(_Identity, msgspec.Struct, metaclass=_AggregateMeta):
        pass


class AggregateRoot(_Aggregate):
    """An object that changes by events only. Derive yours, with a default for each field, and write ``apply``.

    ``User("user-9")`` is a new one; ``await store.load(User, "user-9")`` gives one that is there. The fields are its
    state, and what a snapshot keeps; a mutable default is each instance's own. Other attributes cannot be set. State
    may come from nothing but the events: ``apply`` looks at no clock and calls nobody.

    Class keywords:
        revision: From 1. Snapshots of another revision are not used. Changed fields, constants of the class and methods
            are noticed without it; raise it when a function or constant elsewhere, which ``apply`` uses, gives another
            state than before.

    Raises:
        AggregateDefinitionError: When the class is made: a field has no default or a name that is taken, ``apply`` is
            missing.
        InvalidArgumentError: When an instance is made: the id cannot be the name of a stream.
    """

    @property
    def id(self) -> str:
        """The name of its stream."""
        return self.__avx_history__.aggregate_id

    @property
    def version(self) -> int:
        """The version that its state is at: 0 for a new one, and one more with each event, saved or not."""
        return self.__avx_history__.version

    @property
    def uncommitted(self) -> tuple[Any, ...]:
        """The events that were recorded and are not saved, in order."""
        return tuple(_event_in(message) for message in self.__avx_history__.uncommitted)

    def record(self, event: Any) -> None:
        """Apply ``event`` and remember it for ``store.save``.

        Raises:
            NotAnEventError: It is no event, or a request, command or query.
        """
        if isinstance(event, _NOT_RECORDED):
            raise NotAnEventError(event)
        schema_of(event)
        self.apply(event)
        self.__avx_history__.uncommitted.append(event)
        self.__avx_history__.version += 1

    def apply(self, event: Any, /) -> None:
        """Change the fields as ``event`` says; yours to write. It is called for each event, new or old."""
        raise NotImplementedError

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, AggregateRoot):
            return NotImplemented
        # An event is the same whether its save was tried or not.
        return _whole(self, self.uncommitted) == _whole(other, other.uncommitted)

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __repr__(self) -> str:
        fields = "".join(f", {field}={getattr(self, field)!r}" for field in _fields(self))
        return f"{type(self).__name__}({self.id!r}, version={self.version}{fields})"

    def __copy__(self) -> Self:
        copied: Self = _rebuild(*_whole(self, self.__avx_history__.uncommitted))
        return copied

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, _whole(self, self.__avx_history__.uncommitted)


def _fields(aggregate: Any) -> tuple[str, ...]:
    fields: tuple[str, ...] = aggregate.__struct_fields__
    return fields


def _state(aggregate: Any) -> dict[str, Any]:
    return {field: getattr(aggregate, field) for field in _fields(aggregate)}


def _event_in(message: Any) -> Any:
    return message.event if is_envelope(message) else message


def _rebuild(
    aggregate_class: type[Any], aggregate_id: str, version: int, uncommitted: list[Any], state: dict[str, Any]
) -> Any:
    aggregate = aggregate_class(aggregate_id)
    for field, value in state.items():
        setattr(aggregate, field, value)
    aggregate.__avx_history__ = _History(aggregate_id, version, uncommitted)
    return aggregate


def _whole(aggregate: AggregateRoot, uncommitted: Sequence[Any]) -> tuple[Any, ...]:
    return type(aggregate), aggregate.id, aggregate.version, [*uncommitted], _state(aggregate)
