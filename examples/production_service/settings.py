"""Settings, from the environment: two of them, checked before anything starts.

| | | if not set |
|---|---|---|
| ``AVX__HTTP__BIND_ADDR`` | ``HOST:PORT``; ``:PORT`` is that port of 127.0.0.1, not of all addresses | 127.0.0.1:8080 |
| ``AVX_EVENTS__STORE_URL`` | where the events are | sqlite:///avx-events.db |
"""

import re
from collections.abc import Mapping
from typing import Final

import msgspec

BIND_ADDR: Final = "AVX__HTTP__BIND_ADDR"
STORE_URL: Final = "AVX_EVENTS__STORE_URL"

_GREATEST_PORT: Final = 65_535
_ADDRESS: Final = re.compile(r"(?P<host>[^\s:/\[\]]*|\[[0-9A-Fa-f:.]+\]):(?P<port>[0-9]{1,5})", re.ASCII)


class SettingError(Exception):
    """A setting cannot be used; the text, one line, is for the person who set it."""

    def __init__(self, name: str, problem: str) -> None:
        """Name the setting, and say what is wrong with it."""
        super().__init__(f"{name} {problem}")
        self.name, self.problem = name, problem


class Settings(msgspec.Struct, frozen=True):
    """What the service is started with.

    Attributes:
        host: The address to listen on, without brackets.
        port: The port to listen on; 0 for one that is free.
        store_url: Where the events are; the store itself says what is wrong with it.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    store_url: str = "sqlite:///avx-events.db"


def settings_from(environment: Mapping[str, str]) -> Settings:
    """Return the settings in ``environment``; what is not set has its default.

    Raises:
        SettingError: The address to listen on is malformed.
    """
    defaults = Settings()
    host, port = defaults.host, defaults.port
    address = environment.get(BIND_ADDR)
    if address is not None:
        host, port = _split(address)
    return Settings(host or defaults.host, port, environment.get(STORE_URL, defaults.store_url))


def _split(address: str) -> tuple[str, int]:
    found = _ADDRESS.fullmatch(address)
    # Bytes of the environment that are no text are there as halves of surrogate pairs, which nobody can print.
    if found is None or not address.isprintable() or int(found["port"]) > _GREATEST_PORT:
        expected = (
            f"HOST:PORT with a port from 0 to {_GREATEST_PORT}, as 127.0.0.1:8080, :8080 for the same, or [::1]:0"
        )
        raise SettingError(BIND_ADDR, f"must be {expected}, not {address!r}")
    return found["host"].strip("[]"), int(found["port"])
