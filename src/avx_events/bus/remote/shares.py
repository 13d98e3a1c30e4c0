"""Which lanes of a consumer a member should hold: a decision, made by every member for itself."""

from collections.abc import Collection, Mapping

import msgspec


class Plan(msgspec.Struct, frozen=True):
    """What a member should change.

    Attributes:
        take: Lanes that nobody who is alive holds, as many as it lacks.
        give: Lanes that it holds past its share.
        rest: Lanes that nobody who is alive holds, for others to take.
    """

    take: tuple[int, ...] = ()
    give: tuple[int, ...] = ()
    rest: tuple[int, ...] = ()


def plan(
    member: str, held: Collection[int], leaving: Collection[int], others: Mapping[str, Collection[int]], *, lanes: int
) -> Plan:
    """Return what ``member`` should take and give.

    All members come to shares that add up to all lanes, once all know of each other.

    Args:
        member: Who this is.
        held: The lanes that it holds.
        leaving: Those that it is about to give.
        others: The lanes of every other member that is alive.
        lanes: How many there are.
    """
    place = sorted([member, *others]).index(member)
    count = len(others) + 1
    share = lanes // count + (place < lanes % count)
    taken = set(held).union(leaving, *others.values())
    begin = place * lanes // count  # those who come at once begin at different places
    free = [lane % lanes for lane in range(begin, begin + lanes) if lane % lanes not in taken]
    lacking = max(share - len(held), 0)
    return Plan(take=tuple(free[:lacking]), give=tuple(sorted(held)[share:]), rest=tuple(free[lacking:]))
