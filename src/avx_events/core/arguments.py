"""Checks of plain arguments, said in one way everywhere."""

import math
import sys
from typing import TypeGuard

from avx_events.core.errors import InvalidArgumentError


def is_whole(value: object) -> TypeGuard[int]:
    """Tell whether ``value`` is a whole number; True and False are none here."""
    return isinstance(value, int) and not isinstance(value, bool)


def whole(name: str, value: object, *, least: int, most: float = math.inf) -> int:
    """Return ``value`` if it is a whole number of at least ``least``, and not past ``most``, what can be kept of it.

    Raises:
        InvalidArgumentError: It is not; True and False are no numbers here.
    """
    if not is_whole(value) or not least <= value <= most:
        bounds = f"{least} or more" if most == math.inf else f"{least} to {most}"
        raise InvalidArgumentError(name, value, expected=f"a whole number, {bounds}")
    return value


def seconds(name: str, value: object) -> float:
    """Return ``value`` if it is a finite number of seconds above 0.

    Raises:
        InvalidArgumentError: It is not.
    """
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= sys.float_info.max:
        raise InvalidArgumentError(name, value, expected="a finite number of seconds, more than 0")
    return value


def seconds_in_text(name: str, written: str, *, most: float) -> float:
    """Return the seconds that ``written`` says, as an option of a URL does, if they are above 0 and not past ``most``.

    Raises:
        InvalidArgumentError: It does not, or it is not.
    """
    expected = f"a number of seconds, more than 0 and at most {most:g}"
    try:
        value = float(written)
    except ValueError as exc:
        raise InvalidArgumentError(name, written, expected=expected) from exc
    if not 0 < value <= most:
        raise InvalidArgumentError(name, written, expected=expected)
    return value


def text(name: str, value: object) -> str:
    """Return ``value`` if it is text with something in it.

    Raises:
        InvalidArgumentError: It is not.
    """
    if not isinstance(value, str) or not value.strip():
        raise InvalidArgumentError(name, value, expected="text, not empty")
    return value


def optional(name: str, value: object, kind: type) -> None:
    """Raise where ``value`` is neither None nor a ``kind``.

    Raises:
        InvalidArgumentError: It is neither.
    """
    if value is not None and not isinstance(value, kind):
        raise InvalidArgumentError(name, value, expected=f"a {kind.__name__}, or None")
