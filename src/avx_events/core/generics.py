"""What a class gives its generic base: ``CreateUser`` to ``CommandHandler[CreateUser, str]``, and so on."""

import sys
from collections.abc import Mapping
from types import SimpleNamespace
from typing import TypeVar, get_args, get_origin, get_type_hints


def generic_argument(derived: type, generic: type) -> object:
    """Return the first argument that ``derived`` gives ``generic``, through however many generic bases.

    Returns:
        The argument as it is written; a ``TypeVar`` where it was left open, None where there is none.
    """
    for base in derived.__dict__.get("__orig_bases__", ()):
        origin, arguments = get_origin(base), get_args(base)
        if origin is generic:
            return arguments[0]
        if origin is None or not issubclass(origin, generic):
            continue
        inherited = generic_argument(origin, generic)
        if isinstance(inherited, TypeVar):
            parameters: tuple[object, ...] = origin.__parameters__
            return dict(zip(parameters, arguments, strict=False)).get(inherited, inherited)
        if inherited is not None:
            return inherited
    for parent in derived.__bases__:
        inherited = generic_argument(parent, generic) if issubclass(parent, generic) else None
        if inherited is not None:
            return inherited
    return None


def resolved(annotation: object, *, module_names: Mapping[str, object], names: Mapping[str, object]) -> object:
    """Return what ``annotation`` means; text is looked up in ``names``, then in ``module_names``.

    It alone is looked up: other annotations of its function or class may name what exists for type checkers only.

    Raises:
        NameError, AttributeError, SyntaxError, TypeError: It cannot be resolved.
    """
    only = SimpleNamespace(__annotations__={"it": annotation})
    return get_type_hints(only, dict(module_names), dict(names), include_extras=True)["it"]


def names_of_module(defined: type) -> Mapping[str, object]:
    """Return the names that the module of ``defined`` sees."""
    module = sys.modules.get(defined.__module__)
    return {} if module is None else vars(module)
