"""What a user's error says, bounded, and safe from errors that cannot say what they are."""

import traceback
from typing import Final

_LONGEST_TRACEBACK: Final = 16_384
_LONGEST_TEXT: Final = 2_000


def text_of(error: BaseException) -> str:
    """Return what ``str`` of an error gives, up to 2,000 characters."""
    try:
        return str(error)[:_LONGEST_TEXT]
    except Exception:  # noqa: BLE001 - an error that cannot say what it is must not hide that there was one
        return "(its text cannot be had)"


def line_of(error: BaseException) -> str:
    """Return ``"Type: text"``."""
    return f"{type(error).__name__}: {text_of(error)}"


def traceback_of(error: BaseException) -> str:
    """Return the last 16 KiB of an error's traceback, its causes included; empty where it was never raised."""
    if error.__traceback__ is None and error.__cause__ is None:
        return ""
    try:
        text = "".join(traceback.format_exception(error))
    except Exception:  # noqa: BLE001 - as in text_of
        text = "".join(traceback.format_tb(error.__traceback__))
    return text[-_LONGEST_TRACEBACK:]
