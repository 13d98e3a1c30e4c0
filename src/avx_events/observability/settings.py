"""Settings of a service: from ``avx.toml`` and the environment, which comes first; typed, and checked at the start.

| in ``avx.toml`` | in the environment | if not set |
|---|---|---|
| ``stack``, ``layer``, ``cluster``, ``mesh`` | ``AVX__STACK`` and so on | empty: what the logs say of where this runs |
| ``env`` | ``AVX__ENV`` | ``development`` |
| ``http.bind_addr`` | ``AVX__HTTP__BIND_ADDR`` | ``127.0.0.1:8080`` |
| ``events.store_url`` | ``AVX_EVENTS__STORE_URL`` | ``sqlite:///avx-events.db`` |
| ``events.bus_url`` | ``AVX_EVENTS__BUS_URL`` | none: a bus in memory |
| ``events.group`` | ``AVX_EVENTS__GROUP`` | ``avx-events`` |
| ``events.namespace`` | ``AVX_EVENTS__NAMESPACE`` | ``avx`` |
| ``events.console_token`` | ``AVX_EVENTS__CONSOLE_TOKEN`` | none: the console is on loopback only |
| ``events.workers`` | ``AVX_EVENTS__WORKERS`` | 1 |
| ``events.drain_timeout_s`` | ``AVX_EVENTS__DRAIN_TIMEOUT_S`` | 10 |
| ``events.snapshot_s`` | ``AVX_EVENTS__SNAPSHOT_S`` | 60 |
| ``events.log_level`` | ``AVX_EVENTS__LOG_LEVEL`` | ``info`` |

``AVX__EVENTS__STORE_URL`` is the same as ``AVX_EVENTS__STORE_URL``. A name that is none, in either place, is an error:
a misspelt setting would otherwise be the default, silently.
"""

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, Self, cast, get_type_hints

import msgspec

from avx_events.core.errors import PermanentError
from avx_events.core.urls import without_password

FILE: Final = "avx.toml"
"""Looked for in the working folder."""

_PREFIXES: Final = {"AVX__": (), "AVX_EVENTS__": ("events",)}
_SECRET: Final = re.compile(r"token|password|secret")
_GREATEST_PORT: Final = 65_535
_ADDRESS: Final = re.compile(r"(?P<host>[^\s:/\[\]]*|\[[0-9A-Fa-f:.]+\]):(?P<port>[0-9]{1,5})", re.ASCII)

LogLevel = Literal["debug", "info", "warning", "error"]


class SettingError(PermanentError):
    """A setting cannot be used; the text, one line, is for the person who set it."""

    def __init__(self, name: str, problem: str, *, source: str) -> None:
        """Name the setting, what is wrong with it, and where it came from."""
        super().__init__(f"{name} (from {source}) {problem}")
        self.name, self.problem, self.source = name, problem, source


class HttpSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where a service listens.

    Attributes:
        bind_addr: ``HOST:PORT``; ``:PORT`` is that port of 127.0.0.1, not of all addresses; port 0 is one that is free.
    """

    bind_addr: str = "127.0.0.1:8080"

    def __post_init__(self) -> None:
        """Refuse what is no address.

        Raises:
            ValueError: It is none.
        """
        found = _ADDRESS.fullmatch(self.bind_addr)
        # Bytes of the environment that are no text are there as halves of surrogate pairs, which nobody can print.
        if found is None or not self.bind_addr.isprintable() or int(found["port"]) > _GREATEST_PORT:
            expected = f"HOST:PORT with a port from 0 to {_GREATEST_PORT}, as 127.0.0.1:8080, :8080 or [::1]:0"
            problem = f"must be {expected}"
            raise ValueError(problem)

    @property
    def host(self) -> str:
        """The address to listen on, without brackets."""
        return self.bind_addr.rpartition(":")[0].strip("[]") or "127.0.0.1"

    @property
    def port(self) -> int:
        """The port to listen on."""
        return int(self.bind_addr.rpartition(":")[2])


class EventsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a service does with events.

    Attributes:
        store_url: Where they are kept; the store itself says what is wrong with it.
        bus_url: The broker; None for a bus in memory.
        group: Which service this is, where there is a broker.
        namespace: The prefix of every name in the broker.
        console_token: What the console asks for; None for one that is on loopback only.
        workers: Processes, 1 or more.
        drain_timeout_s: How many seconds a stop waits for handlers, above 0.
        snapshot_s: How many seconds lie between two reports of what a service has done, above 0.
        log_level: The least that is logged.
    """

    store_url: str = "sqlite:///avx-events.db"
    bus_url: str | None = None
    group: Annotated[str, msgspec.Meta(min_length=1)] = "avx-events"
    namespace: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,100}$")] = "avx"
    console_token: Annotated[str, msgspec.Meta(min_length=16)] | None = None
    workers: Annotated[int, msgspec.Meta(ge=1, le=256)] = 1
    drain_timeout_s: Annotated[float, msgspec.Meta(gt=0, le=86_400)] = 10.0
    snapshot_s: Annotated[float, msgspec.Meta(gt=0, le=86_400)] = 60.0
    log_level: LogLevel = "info"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a service is started with.

    Attributes:
        stack: Which product this is.
        layer: Which layer of it.
        env: Which environment, as ``production``.
        cluster: Which cluster.
        mesh: Which mesh.
        http: Where it listens.
        events: What it does with events.
    """

    stack: str = ""
    layer: str = ""
    env: str = "development"
    cluster: str = ""
    mesh: str = ""
    http: HttpSettings = HttpSettings()
    events: EventsSettings = EventsSettings()

    @classmethod
    def load(cls, environment: Mapping[str, str] | None = None, *, file: str | Path | None = None) -> Self:
        """Return the settings of ``environment`` and of a file.

        Args:
            environment: Names and values; that of the process if not given.
            file: A TOML file, which must be there; ``avx.toml`` of the working folder, if there is one, if not given.

        Raises:
            SettingError: A name is none, or a value cannot be used; or the file is no TOML, or not readable.
        """
        given = os.environ if environment is None else environment
        found = dict(chain(_of_file(file), _of_environment(given)))
        tree: dict[str, Any] = {}
        for path, value in found.items():
            branch = tree
            for name in path[:-1]:
                branch = branch.setdefault(name, {})
            branch[path[-1]] = _checked(path, value)
        return msgspec.convert(tree, cls)


class _Value(NamedTuple):
    """What a setting was set to.

    Attributes:
        name: What it is called where it was set.
        value: What it was set to.
        source: Where.
        is_text: Whether all that can be set there is text.
    """

    name: str
    value: object
    source: str
    is_text: bool


def _of_environment(environment: Mapping[str, str]) -> Iterator[tuple[tuple[str, ...], _Value]]:
    for name, value in environment.items():
        for prefix, section in _PREFIXES.items():
            if name.startswith(prefix):
                path = (*section, *name.removeprefix(prefix).lower().split("__"))
                yield path, _Value(name, value, "the environment", is_text=True)


def _of_file(file: str | Path | None) -> Iterator[tuple[tuple[str, ...], _Value]]:
    path = Path(FILE if file is None else file)
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as exc:
        if file is None:
            return
        raise SettingError("the settings file", "is not there", source=f"{path}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise SettingError("the settings file", f"is no TOML: {exc}", source=f"{path}") from exc
    except OSError as exc:
        raise SettingError("the settings file", f"cannot be read: {exc.strerror}", source=f"{path}") from exc
    yield from _leaves(document, (), source=f"{path}")


def _leaves(
    table: Mapping[str, object], above: tuple[str, ...], *, source: str
) -> Iterator[tuple[tuple[str, ...], _Value]]:
    for name, value in table.items():
        path = (*above, name)
        if isinstance(value, dict):
            yield from _leaves(cast("dict[str, object]", value), path, source=source)
        else:
            yield path, _Value(".".join(path), value, source, is_text=False)


def _types_of(struct: type, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], tuple[type, Any]]]:
    for name, kind in get_type_hints(struct, include_extras=True).items():
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            yield from _types_of(kind, (*above, name))
        else:
            yield (*above, name), (struct, kind)


def _checked(path: tuple[str, ...], found: _Value) -> object:
    known = _known.get(path)
    if known is None:
        raise SettingError(found.name, f"is no setting; {_likely(path, found)}", source=found.source)
    struct, kind = known
    try:
        value: object = msgspec.convert(found.value, kind, strict=not found.is_text)
        msgspec.convert({path[-1]: value}, struct)
    except msgspec.ValidationError as exc:
        problem = f"cannot be {_shown(path, found.value)}: {exc}".replace(f" - at `$.{path[-1]}`", "")
        raise SettingError(found.name, problem, source=found.source) from exc
    return value


def _likely(path: tuple[str, ...], found: _Value) -> str:
    names = {(".".join(known) if not found.is_text else _in_environment(known)) for known in _known}
    wanted = ".".join(path) if not found.is_text else found.name
    near = get_close_matches(wanted, names, n=1)
    return f"is it {near[0]}?" if near else f"there are {', '.join(sorted(names))}"


def _in_environment(path: tuple[str, ...]) -> str:
    if path[0] == "events":
        return "AVX_EVENTS__" + "__".join(path[1:]).upper()
    return "AVX__" + "__".join(path).upper()


def _shown(path: tuple[str, ...], value: object) -> str:
    if _SECRET.search(path[-1]):
        return "what it is (which is a secret)"
    return repr(without_password(value) if isinstance(value, str) else value)


_known: Final = dict(_types_of(Settings))
