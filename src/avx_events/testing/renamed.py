"""Classes of messages at two times, for contracts: as code wrote them once, and as code has them today, renamed."""

from typing import Any, Final

from avx_events.core.event import Event, Request

OLD_TYPE: Final = "avx.contract.guest.came"
NEW_TYPE: Final = "avx.contract.guest.arrived"


# A class made again at the same place, as by a reload, takes the event types of the one before.


def guest_came() -> Any:
    """Return the class of the event as it was: revision 1, under its old name."""

    class Guest(Event, event_type=OLD_TYPE, aggregate_id="room"):
        __qualname__ = "Guest"
        room: str
        name: str

    return Guest


def guest_arrived() -> Any:
    """Return the class of the event as it is: revision 2, under its new name. It takes the other one's place."""

    class Guest(Event, event_type=NEW_TYPE, formerly=(OLD_TYPE,), aggregate_id="room", revision=2):
        __qualname__ = "Guest"
        room: str
        first: str
        last: str

    @Guest.upcast(from_revision=1)
    def split(data: dict[str, Any]) -> dict[str, Any]:
        first, _, last = data.pop("name").partition(" ")
        return {**data, "first": first, "last": last}

    return Guest


def find_guest() -> Any:
    """Return the class of a request as it was."""

    class Find(Request[int], event_type="avx.contract.guest.find"):
        __qualname__ = "Find"
        name: str

    return Find


def seek_guest() -> Any:
    """Return the class of the request as it is, under its new name. It takes the other one's place."""

    class Find(Request[int], event_type="avx.contract.guest.seek", formerly=("avx.contract.guest.find",)):
        __qualname__ = "Find"
        name: str

    return Find
