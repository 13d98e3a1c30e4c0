"""What a command printed, and how it is run in this process."""

import json
from collections.abc import Callable
from typing import Any, TypeAlias


class Output:
    """What a command printed, and its exit code."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def documents(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


Command: TypeAlias = Callable[..., Output]
