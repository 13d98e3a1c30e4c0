"""What the store needs to know of an aggregate, an object made of a stream's events, to load and save it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, TypeVar

from avx_events.core.errors import InvalidArgumentError


class AggregateSchema(Protocol):
    """How instances of one aggregate class are made, changed and written down."""

    @property
    def kind(self) -> str:
        """The class by module and qualified name."""
        ...

    def fingerprint(self) -> str | None:
        """Return what differs where the class would make another state of the same events, as far as one can see.

        None where its state cannot be encoded.
        """
        ...

    def new(self, aggregate_id: str) -> Any:
        """Return an instance at version 0."""
        ...

    def restore(self, aggregate_id: str, *, state: bytes, version: int) -> Any:
        """Return an instance with ``state`` at ``version``, or None where the state does not fit the class."""
        ...

    def state_of(self, aggregate: Any) -> bytes | None:
        """Return the state encoded, or None where it would not come back as it is."""
        ...

    def replay(self, aggregate: Any, events: Iterable[Any], *, version: int) -> None:
        """Apply ``events``, which bring the instance to ``version``."""
        ...

    def fields_of(self, aggregate: Any) -> Mapping[str, Any]:
        """Return its state by the names of its fields; the values are the aggregate's own."""
        ...

    def uncommitted(self, aggregate: Any) -> Sequence[Any]:
        """Return what was recorded and not saved: events, and envelopes where a save was tried."""
        ...

    def stamped(self, aggregate: Any, envelopes: Sequence[Any]) -> None:
        """Keep ``envelopes`` in the place of the first events that are not saved, so that a retry has the same ids."""
        ...

    def saved(self, aggregate: Any, envelopes: Sequence[Any]) -> None:
        """Forget ``envelopes``, unless another save did."""
        ...


class Aggregate(Protocol):
    """An object that the store can load and save; ``AggregateRoot`` is the way to get one."""

    __avx_aggregate__: ClassVar[AggregateSchema]

    @property
    def id(self) -> str:
        """The name of its stream."""
        ...

    @property
    def version(self) -> int:
        """The version that its state is at, with the events that are not saved yet."""
        ...


AggregateT = TypeVar("AggregateT", bound=Aggregate)


def schema_of_class(aggregate: object) -> AggregateSchema:
    """Return the schema of an aggregate class.

    Raises:
        InvalidArgumentError: It is none.
    """
    schema: AggregateSchema | None = getattr(aggregate, "__avx_aggregate__", None)
    if schema is None or not isinstance(aggregate, type):
        raise InvalidArgumentError("aggregate", aggregate, expected="a class derived from AggregateRoot")
    return schema


def schema_of_instance(aggregate: object) -> AggregateSchema:
    """Return the schema of an aggregate's class.

    Raises:
        InvalidArgumentError: It is no aggregate.
    """
    schema: AggregateSchema | None = getattr(aggregate, "__avx_aggregate__", None)
    if schema is None or isinstance(aggregate, type):
        raise InvalidArgumentError("aggregate", aggregate, expected="an instance of a class derived from AggregateRoot")
    return schema
