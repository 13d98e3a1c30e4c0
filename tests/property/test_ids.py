"""Ids stay unique, sorted and well formed whatever the clock says."""

from uuid import RFC_4122, UUID

from hypothesis import given
from hypothesis import strategies as st

from avx_events.core.ids import IdBlock

# To the year 10889, where 48 bits of milliseconds end; before the epoch too.
moments = st.integers(-(10**18), ((1 << 48) - 1_000) * 1_000_000)
near = st.integers(0, 3_000_000).map((1_795_478_400 * 10**9).__add__)


@given(st.lists(moments | near, min_size=1, max_size=200))
def test_ids_are_unique_sorted_and_of_version_7_under_any_clock(clock: list[int]) -> None:
    block = IdBlock()

    ids = [block.take(now_ns) for now_ns in clock]

    assert ids == sorted(set(ids))
    assert all(UUID(event_id).version == 7 and UUID(event_id).variant == RFC_4122 for event_id in ids)


@given(st.lists(near, min_size=1, max_size=50))
def test_blocks_at_the_same_instant_share_no_id(clock: list[int]) -> None:
    one, other = IdBlock(), IdBlock()

    assert not {one.take(now) for now in clock} & {other.take(now) for now in clock}


@given(moments, st.integers(1, 5))
def test_a_spent_block_begins_another(now_ns: int, taken: int) -> None:
    block = IdBlock()
    before = [block.take(now_ns) for _ in range(taken)]

    block.spend()

    following = block.take(now_ns)
    assert following > before[-1]
    assert following[:-4] != before[-1][:-4]
