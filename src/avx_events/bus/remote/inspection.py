"""What a broker or database says of itself: how far each handler of a group is, and what could be lost there.

Looking changes nothing: no group, stream, topic, file or table is made by it. What an adapter can tell is behind
``Inspection``, and adapters are found by URL scheme through entry points of ``avx_events.inspectors``.
"""

from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, Self, TypeAlias, cast, final

import msgspec

from avx_events.bus.remote.ports import TransportOptions
from avx_events.core.clock import SYSTEM_CLOCK
from avx_events.core.errors import ClosedError
from avx_events.core.schemes import serving

if TYPE_CHECKING:
    from avx_events.core.clock import Clock

ENTRY_POINT_GROUP: Final = "avx_events.inspectors"

_EXAMPLE: Final = "redis://localhost:6379"

Level: TypeAlias = Literal["ok", "note", "risk"]
"""How bad a finding is.

| level | what it says |
|---|---|
| ``ok`` | nothing is lost because of it |
| ``note`` | little may be lost, and only with a machine or its power; or it is not known, or good to know |
| ``risk`` | what was accepted may be lost, or what is expected does not work |
"""


class MemberStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A process that runs a handler of a group, as the broker knows it.

    Attributes:
        name: What the broker calls it: a random id.
        lanes: The lanes that it holds, ascending; none where it is dead, or where there are more members than lanes.
        in_flight: How many events were given to it and are not acknowledged; None where the broker cannot tell.
        idle_s: How many seconds ago it gave its last sign of life or, on Redis, has read; None where the broker cannot
            tell. A member that lives does either every few seconds, whether there are events or not.
    """

    name: str
    lanes: tuple[int, ...]
    in_flight: int | None
    idle_s: float | None


class GroupStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How far one handler of a group is: each is a consumer of its own.

    Attributes:
        group: The group.
        handler: The handler's name.
        members: Who runs it, by name; those that died may be among them until others have their work.
        lag_events: How many events the broker keeps that this handler has not acknowledged: those that were given to no
            member yet, and those in flight or waiting for a retry. Events of types that it does not want count until it
            has passed them by; what was deleted before it was handled counts no more. None where the broker cannot
            tell.
        lag_seconds: How many seconds ago the oldest of these was accepted, by the broker's clock where it has one that
            can be asked; 0 where there is none. None where the broker cannot tell.
        in_flight: How many of ``lag_events`` were given to a member; None where the broker cannot tell.
    """

    group: str
    handler: str
    members: tuple[MemberStatus, ...]
    lag_events: int | None
    lag_seconds: float | None
    in_flight: int | None


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One setting as it is on the server, or one fact, and what follows from it for events.

    Attributes:
        level: How bad it is.
        subject: What it is about: ``server``, or a stream, topic, file or table by name.
        setting: The setting, as the server calls it.
        value: What it is set to; ``?`` where the server does not say.
        says: What may be lost because of it, or why nothing is, in one or two sentences.
    """

    level: Level
    subject: str
    setting: str
    value: str
    says: str


class Inspection(Protocol):
    """What one adapter can tell of its broker or database; it only reads."""

    @property
    def name(self) -> str:
        """Return what errors call the server: scheme and place, never a password."""
        ...

    async def groups(self) -> Sequence[GroupStatus]:
        """Return the handlers of all groups, ordered by group and handler.

        Raises:
            TransportUnavailableError: The broker is away.
            TransportRefusedError: It does not let this user look.
            UnsupportedError: It is a database, which has no groups of a broker.
        """
        ...

    async def findings(self) -> Sequence[Finding]:
        """Return what was found out, in an order that makes sense to a reader.

        Raises:
            TransportUnavailableError: The broker is away.
            TransportRefusedError: It does not let this user look.
            StoreUnavailableError: The database is away.
        """
        ...

    async def close(self) -> None:
        """Leave no connection. Harmless when repeated."""
        ...


class InspectionFactory(Protocol):
    """What an entry point of ``avx_events.inspectors`` names: looks at the server of a URL."""

    def __call__(self, url: str, options: TransportOptions, *, clock: "Clock") -> Awaitable[Inspection]:
        """Return what has reached its server; of ``options`` it uses ``namespace``, ``timeout_s`` and ``client``.

        Raises:
            InvalidArgumentError: The URL or an option is wrong.
            MissingExtraError: The client library is not installed.
            TransportUnavailableError: The broker does not answer.
            TransportRefusedError: It asks for other credentials.
            StoreUnavailableError: The database cannot be reached or opened.
            StoreRefusedError: It asks for other credentials.
        """
        ...


@final
class Inspector:
    """Looks at a broker or database, and changes nothing there; ``await Inspector.connect("redis://localhost:6379")``.

    ``groups()`` says who runs the handlers of each group and how far they are, ``findings()`` which settings of the
    server may cost events. Both ask the server each time.
    """

    __slots__ = ("_inspection", "_is_closed")

    def __init__(self, inspection: Inspection) -> None:
        """Look through ``inspection``, which is this one's to close; ``connect`` finds the one of a URL."""
        self._inspection = inspection
        self._is_closed = False

    @classmethod
    async def connect(
        cls, url: str, *, namespace: str = "avx", timeout_s: float = 5.0, clock: "Clock" = SYSTEM_CLOCK, **client: Any
    ) -> Self:
        """Look at what is at ``url``: a broker as buses know it, or a database as stores know it.

        Args:
            url: Where it is: ``redis://``, ``nats://``, ``kafka://``, ``postgresql://``, ``sqlite:///``, and what else
                is installed.
            namespace: The prefix of every name in the broker; a database has none.
            timeout_s: How many seconds the server may be away before a call fails.
            clock: Time.
            client: Options of the broker's client library: credentials, TLS.

        Raises:
            InvalidArgumentError: The URL is none, or an option is outside its range.
            UnknownSchemeError: Nothing is installed for its scheme.
            MissingExtraError: The client library is not installed.
            TransportUnavailableError: The broker does not answer within ``timeout_s``.
            TransportRefusedError: It answers, and refuses: a password or TLS is missing.
            StoreUnavailableError: The database cannot be reached or opened.
            StoreRefusedError: It wants other credentials or TLS, or is not there.
        """
        options = TransportOptions(namespace=namespace, timeout_s=timeout_s, partitions=None, client=client)
        factory = cast("InspectionFactory", serving(url, ENTRY_POINT_GROUP, example=_EXAMPLE))
        return cls(await factory(url, options, clock=clock))

    @property
    def name(self) -> str:
        """What is looked at: scheme and place, never a password."""
        return self._inspection.name

    async def groups(self) -> Sequence[GroupStatus]:
        """Return the handlers of all groups, ordered by group and handler; none where the namespace is not there.

        Raises:
            TransportUnavailableError: The broker is away.
            TransportRefusedError: It does not let this user look.
            UnsupportedError: It is a database, which has no groups of a broker.
            ClosedError: The inspector is closed.
        """
        self._check_open("tell of groups")
        return await self._inspection.groups()

    async def findings(self) -> Sequence[Finding]:
        """Return the settings that decide what can be lost, as they are on the server now.

        A setting that this user may not see is a finding that says so.

        Raises:
            TransportUnavailableError: The broker is away.
            TransportRefusedError: It does not let this user look.
            StoreUnavailableError: The database is away, or locked for too long.
            StoreSchemaError: It has tables of our names that are not ours.
            ClosedError: The inspector is closed.
        """
        self._check_open("tell of settings")
        return await self._inspection.findings()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Leave no connection. Harmless when repeated."""
        self._is_closed = True
        await self._inspection.close()

    def _check_open(self, action: str) -> None:
        if self._is_closed:
            raise ClosedError("the inspector", action)
