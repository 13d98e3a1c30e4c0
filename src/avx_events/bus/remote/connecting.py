"""Opens the transport of a URL."""

from typing import Final, cast

from avx_events.bus.remote.ports import ENTRY_POINT_GROUP, Transport, TransportFactory, TransportOptions
from avx_events.core.clock import Clock
from avx_events.core.schemes import serving

_EXAMPLE: Final = "redis://localhost:6379"


async def transport_at(
    url: str, options: TransportOptions, *, schemes: tuple[str, ...] | None = None, clock: Clock
) -> Transport:
    """Return a transport that has reached the broker at ``url``, found by its scheme, which is one of ``schemes``.

    Raises:
        InvalidArgumentError: It is no URL, or an option is wrong.
        UnknownSchemeError: Nothing is installed for its scheme.
        MissingExtraError: The client library is not installed.
        TransportUnavailableError: The broker does not answer.
        TransportRefusedError: It answers, and refuses.
        PartitionsMismatchError: Others use another number of lanes.
    """
    factory = cast("TransportFactory", serving(url, ENTRY_POINT_GROUP, only=schemes, example=_EXAMPLE))
    return await factory(url, options, clock=clock)
