"""Who gets which partitions of a group: as even as can be, and with as few moves as can be.

The leader of a group decides for all. A partition that another member has is never given away before that member says
that it does not have it any more: it is left out of everybody's share, its owner finishes what runs, and joins again
without it. Meanwhile all other partitions go on.

Source:
    https://cwiki.apache.org/confluence/display/KAFKA/KIP-429 (incremental cooperative rebalancing)
"""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

PROTOCOL: Final = "avx-cooperative-1"


class Claim(msgspec.Struct, frozen=True):
    """What a member says that it has.

    Attributes:
        generation: Of the group when it got them last.
        partitions: Those it has, or still works on.
    """

    generation: int = -1
    partitions: tuple[int, ...] = ()


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Claim).decode


def write_claim(claim: Claim) -> bytes:
    """Return a claim as it goes into the group's protocol."""
    return _encode(claim)


def read_claim(data: bytes) -> Claim:
    """Return a claim; one that cannot be read claims nothing."""
    try:
        return _decode(data)
    except msgspec.MsgspecError:
        return Claim()


def shares(partitions: Iterable[int], claims: Mapping[str, Claim]) -> dict[str, frozenset[int]]:
    """Return what each member has from now on.

    Args:
        partitions: All of them.
        claims: What each member has now.

    Returns:
        Partitions by member. One that has to move first is in nobody's share.
    """
    owned = _owned(frozenset(partitions), claims)
    quotas = _quotas(sum(1 for _ in set(partitions)), owned)
    kept = {member: frozenset(sorted(have)[: quotas[member]]) for member, have in owned.items()}
    free = sorted(frozenset(partitions).difference(*owned.values()), reverse=True)
    found: dict[str, frozenset[int]] = {}
    for member in sorted(kept, key=lambda member: (len(kept[member]), member)):
        missing = quotas[member] - len(kept[member])
        found[member] = kept[member].union(free.pop() for _ in range(min(missing, len(free))))
    return found


def _owned(partitions: frozenset[int], claims: Mapping[str, Claim]) -> dict[str, set[int]]:
    """Return what each member has; of two that claim the same, the one that got it last."""
    owner: dict[int, str] = {}
    for member in sorted(claims, key=lambda member: (claims[member].generation, member)):
        owner |= dict.fromkeys(partitions.intersection(claims[member].partitions), member)
    owned: dict[str, set[int]] = {member: set() for member in claims}
    for partition, member in owner.items():
        owned[member].add(partition)
    return owned


def _quotas(count: int, owned: Mapping[str, set[int]]) -> dict[str, int]:
    """Return how many each member is to have; one more goes to those who have most already."""
    each, more = divmod(count, len(owned)) if owned else (0, 0)
    ranked = sorted(owned, key=lambda member: (-len(owned[member]), member))
    return {member: each + (number < more) for number, member in enumerate(ranked)}
