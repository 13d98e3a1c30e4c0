"""Defaults of the fields of a class that is made from its body: mutable ones are each instance's own."""

import copy
import functools
from collections.abc import Mapping
from typing import Any, Final

import msgspec

# Defaults that instances may share, and those that msgspec knows how to make. Others are copied for each instance.
_FIELD: Final[object] = msgspec.field()
_AS_THEY_ARE: Final[tuple[type, ...]] = (str, bytes, int, float, bool, type(None), type(_FIELD))


def with_own_defaults(namespace: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body of a class with a copy of each mutable default for each of its instances."""
    changed = dict(namespace)
    for field, annotation in namespace.get("__annotations__", {}).items():
        default = namespace.get(field)
        if not isinstance(default, _AS_THEY_ARE) and "ClassVar" not in str(annotation):
            changed[field] = msgspec.field(default_factory=functools.partial(copy.deepcopy, default))
    return changed
