"""Personal data: found in messages and states, hidden from whoever looks, and put back where it was not edited."""

from collections.abc import Iterable, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Final, Union, cast, get_args, get_origin, get_type_hints
from weakref import WeakKeyDictionary

import msgspec

from avx_events.core.arguments import text
from avx_events.core.errors import InvalidArgumentError, ValidationError
from avx_events.core.event import PERSONAL

MASK: Final = "••••••"
"""What stands in the place of a value that is hidden."""

# A hidden value that is shorter would be found in half of all words.
_SHORTEST_SCRUBBED: Final = 3


class Masked(msgspec.Struct, frozen=True):
    """A value without what is personal.

    Attributes:
        value: Objects, arrays and plain values, as in JSON.
        hidden: The texts that were hidden.
    """

    value: Any
    hidden: tuple[str, ...]

    def scrubbed(self, written: str) -> str:
        """Return ``written``, as the text of an error, without what was hidden."""
        for secret in self.hidden:
            written = written.replace(secret, MASK)
        return written


class Masking:
    """Hides what is marked as personal by its type, and all that has one of some names."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        """Hide fields called one of ``names``, in whatever case and depth, whether their type is known or not.

        Raises:
            InvalidArgumentError: A name is no text, or one text is given instead of several.
        """
        if isinstance(names, str):
            raise InvalidArgumentError("masked_fields", names, expected="several names, as ('email', 'name')")
        self._names: Final = frozenset(text("masked_fields", name).casefold() for name in names)

    def masked(self, value: object, hint: object = object) -> Masked:
        """Return ``value``, as JSON has it, without what is personal.

        Args:
            value: Objects, arrays and plain values.
            hint: The class or type that it is one of; ``object`` where that is not known.
        """
        hidden: list[str] = []
        shown = self._look(value, hint, hidden)
        return Masked(shown, tuple(sorted(hidden, key=len, reverse=True)))

    def _look(self, value: Any, hint: Any, hidden: list[str]) -> Any:
        if _is_personal(hint) and value is not None:
            _remember(value, hidden)
            return MASK
        for part in _parts(hint):
            value = self._look_inside(value, part, hidden)
        return value

    def _look_inside(self, value: Any, hint: Any, hidden: list[str]) -> Any:
        if isinstance(value, Mapping):
            fields = cast("Mapping[str, Any]", value)
            return {name: self._look_at_field(name, held, hint, hidden) for name, held in fields.items()}
        if isinstance(value, list | tuple):
            items = cast("Sequence[Any]", value)
            return [self._look(held, _item_hint(hint, place), hidden) for place, held in enumerate(items)]
        return value

    def _look_at_field(self, name: str, value: Any, hint: Any, hidden: list[str]) -> Any:
        if str(name).casefold() in self._names and value is not None:
            _remember(value, hidden)
            return MASK
        return self._look(value, _field_hint(hint, name), hidden)


def unmasked(edited: Any, shown: Any, original: Any) -> Any:
    """Return ``edited`` with what was hidden in ``shown``, and was not edited, as it is in ``original``.

    Raises:
        ValidationError: A mask stands where nothing was hidden: what belongs there is not known.
    """
    if edited == MASK:
        if shown != MASK:
            problem = f"{MASK} stands where nothing was hidden; write the value, or leave hidden fields in their place"
            raise ValidationError(problem)
        return original
    if isinstance(edited, Mapping):
        fields = cast("Mapping[str, Any]", edited)
        return {name: unmasked(held, _at(shown, name), _at(original, name)) for name, held in fields.items()}
    if isinstance(edited, list):
        items = cast("Sequence[Any]", edited)
        return [unmasked(held, _at(shown, place), _at(original, place)) for place, held in enumerate(items)]
    return edited


def _at(container: Any, place: str | int) -> Any:
    try:
        return container[place]
    except (LookupError, TypeError):
        return None


def _remember(value: Any, hidden: list[str]) -> None:
    if isinstance(value, str):
        if len(value) >= _SHORTEST_SCRUBBED and value != MASK:
            hidden.append(value)
    elif isinstance(value, Mapping):
        for held in cast("Mapping[str, Any]", value).values():
            _remember(held, hidden)
    elif isinstance(value, list | tuple):
        for held in cast("Sequence[Any]", value):
            _remember(held, hidden)


def _is_personal(hint: Any) -> bool:
    if get_origin(hint) is Annotated:
        return any(_marks(note) for note in hint.__metadata__) or _is_personal(hint.__origin__)
    return get_origin(hint) in {Union, UnionType} and any(_is_personal(part) for part in get_args(hint))


def _marks(note: object) -> bool:
    return isinstance(note, msgspec.Meta) and bool((note.extra or {}).get(PERSONAL))


def _parts(hint: Any) -> list[Any]:
    """Return what a value of ``hint`` may be, without annotations."""
    if get_origin(hint) is Annotated:
        return _parts(hint.__origin__)
    if get_origin(hint) in {Union, UnionType}:
        return [part for member in get_args(hint) for part in _parts(member)]
    return [hint]


def _field_hint(hint: Any, name: str) -> Any:
    kind: Any = get_origin(hint) or hint
    arguments = get_args(hint)
    if not isinstance(kind, type):
        return object
    if len(arguments) == 2 and issubclass(cast("type[object]", kind), Mapping):  # noqa: PLR2004 - key and value
        return arguments[1]
    return _fields_of(cast("type[object]", kind)).get(name, object)


def _item_hint(hint: Any, place: int) -> Any:
    arguments = get_args(hint)
    if get_origin(hint) is tuple and not (len(arguments) == 2 and arguments[1] is ...):  # noqa: PLR2004 - tuple[T, ...]
        return arguments[place] if place < len(arguments) else object
    return arguments[0] if arguments else object


# Weak, so that a class made inside a test or a reload goes with its last user.
_fields: "WeakKeyDictionary[type, Mapping[str, Any]]" = WeakKeyDictionary()


def _fields_of(kind: type) -> Mapping[str, Any]:
    """Return the types of the fields of a class, by the names that they have in JSON."""
    found = _fields.get(kind)
    if found is None:
        found = _fields[kind] = _look_up_fields(kind)
    return found


def _look_up_fields(kind: type) -> Mapping[str, Any]:
    try:
        hints = get_type_hints(kind, include_extras=True)
    except (NameError, TypeError):  # an annotation that does not resolve: its class cannot be read or written either
        return {}
    if issubclass(kind, msgspec.Struct):
        names = zip(kind.__struct_fields__, kind.__struct_encode_fields__, strict=True)
        return {written: hints[name] for name, written in names if name in hints}
    return hints
