"""How far a handler is behind in a partition, by what it has committed and what the partition still has."""

import pytest

from avx_events.distributed.kafka.inspection import Log, count_behind, place_of
from avx_events.distributed.kafka.progress import Noted, write

LOG = Log(first={0: 10}, end={0: 30})


@pytest.mark.parametrize(
    ("commit", "events"),
    [
        (None, 20),  # a partition that is new to it
        ((-1, ""), 20),
        ((30, ""), 0),
        ((25, ""), 5),
        ((25, "somebody else's"), 5),
        ((3, ""), 20),  # deleted up to the first
        ((40, ""), 20),  # made anew: it begins with the first
        ((20, write(Noted(20, 28, frozenset({21, 22, 25})))), 7),
    ],
)
def test_what_is_done_out_of_order_does_not_count(commit: tuple[int, str] | None, events: int) -> None:
    assert count_behind(place_of(commit, LOG, 0), LOG.end[0]) == events
