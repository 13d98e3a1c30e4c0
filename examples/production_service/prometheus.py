"""The text format that Prometheus scrapes, written by hand.

Source:
    https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import Final, Literal, TypeAlias

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

Labels: TypeAlias = Mapping[str, str]
Sample: TypeAlias = tuple[str, Labels, float]
"""What follows the family's name, labels, and a value."""

_BOUNDS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


def family(name: str, kind: Literal["counter", "gauge", "histogram"], what: str, samples: Iterable[Sample]) -> str:
    """Return one family of metrics; ``what`` explains it in one line."""
    lines = [f"# HELP {name} {what}", f"# TYPE {name} {kind}"]
    lines += [f"{name}{suffix}{_labels(labels)} {value:.16g}" for suffix, labels, value in samples]
    return "\n".join([*lines, ""])


def counter(name: str, what: str, value: float) -> str:
    """Return a family of one counter without labels."""
    return family(name, "counter", what, [("", {}, value)])


def gauge(name: str, what: str, value: float) -> str:
    """Return a family of one gauge without labels."""
    return family(name, "gauge", what, [("", {}, value)])


class Durations:
    """A histogram of seconds."""

    def __init__(self) -> None:
        """Begin empty."""
        self._buckets: Final = [0] * (len(_BOUNDS_S) + 1)  # the last one is for what is above all bounds
        self._sum_s = 0.0

    def add(self, seconds: float) -> None:
        """Count one more."""
        self._buckets[bisect_left(_BOUNDS_S, seconds)] += 1
        self._sum_s += seconds

    def samples(self, labels: Labels) -> Iterable[Sample]:
        """Return its samples, each with ``labels``."""
        counts = list(accumulate(self._buckets))
        for bound_s, count in zip([*(f"{bound_s:g}" for bound_s in _BOUNDS_S), "+Inf"], counts, strict=True):
            yield "_bucket", {**labels, "le": bound_s}, count
        yield "_sum", labels, self._sum_s
        yield "_count", labels, counts[-1]


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
