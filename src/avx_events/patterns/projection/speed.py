"""How fast a position moves, over the last seconds."""

from collections import deque
from typing import Final

_STEP_S: Final = 0.5
_WINDOW_S: Final = 10.0


class Speed:
    """Remembers where a position was, twice a second for the last ten seconds."""

    def __init__(self) -> None:
        self._passed: deque[tuple[float, int]] = deque()

    def passes(self, position: int, *, at_s: float) -> None:
        """Say that ``position`` is reached at ``at_s`` on a monotonic clock."""
        self._forget_before(at_s - _WINDOW_S)
        if not self._passed or at_s - self._passed[-1][0] >= _STEP_S:
            self._passed.append((at_s, position))

    def per_second(self, position: int, *, now_s: float) -> float:
        """Return how many positions a second it has moved to be at ``position`` at ``now_s``; 0.0 where it stands."""
        self._forget_before(now_s - _WINDOW_S)
        if not self._passed:
            return 0.0
        began_s, began_at = self._passed[0]
        return max(position - began_at, 0) / (now_s - began_s) if now_s > began_s else 0.0

    def _forget_before(self, instant_s: float) -> None:
        while self._passed and self._passed[0][0] < instant_s:
            self._passed.popleft()
