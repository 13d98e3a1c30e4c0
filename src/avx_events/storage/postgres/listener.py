"""Tells other processes of appends, and hears of theirs, by ``NOTIFY``: a wake-up only, never the only way to know."""

import asyncio
import logging
from functools import partial
from typing import Final

from avx_events.core.tasks import Changes
from avx_events.storage.postgres.failures import FAILURES
from avx_events.storage.postgres.sessions import Connection, Sessions
from avx_events.store.append_signal import AppendSignal

log = logging.getLogger("avx_events")

# The channel is the store's own: a database may have several. A name is at most 63 bytes long.
_CHANNEL: Final = "SELECT 'avx_events_' || 'avx_events'::regclass::oid"
_TELL: Final = "SELECT pg_notify($1, $2)"
# Every commit that notifies waits for every other one of the server, so appends are told of apart from their commit,
# and not each: a follower elsewhere is some milliseconds behind at most.
_BETWEEN_S: Final = 0.01
_BEFORE_NEXT_S: Final = 0.5


class Listener:
    """One connection, opened again when it is lost; meanwhile those who follow the log look by themselves."""

    def __init__(self, sessions: Sessions, signal: AppendSignal, *, timeout_s: float) -> None:
        """Wake ``signal`` up."""
        self._sessions: Final = sessions
        self._signal: Final = signal
        self._timeout_s: Final = timeout_s
        self._changes: Final = Changes()
        self._told = 0
        self.wake_ups = 0

    def tell(self, position: int) -> None:
        """Let other processes know soon that there is a record at ``position``."""
        self._told = max(self._told, position)
        self._changes.tell()

    async def run(self) -> None:
        """Listen until cancelled."""
        while True:
            try:
                connection = await self._sessions.connect(timeout_s=self._timeout_s)
                try:
                    await self._serve(connection)
                finally:
                    connection.terminate()
            except FAILURES as exc:
                log.debug("nobody tells of appends by other processes for now: %s", exc)
            await asyncio.sleep(_BEFORE_NEXT_S)

    async def _serve(self, connection: Connection) -> None:
        connection.add_termination_listener(lambda _: self._changes.tell())
        channel: str = await connection.fetchval(_CHANNEL, timeout=self._timeout_s)
        # Asked now: what was heard last is told of when the connection may be lost already.
        await connection.add_listener(channel, partial(self._heard, connection.get_server_pid()))
        self._signal.announce(0)  # what was appended while nobody listened
        told = 0
        while not connection.is_closed():
            if self._told > told:
                told = self._told
                await connection.execute(_TELL, channel, f"{told}", timeout=self._timeout_s)
                await asyncio.sleep(_BETWEEN_S)
            else:
                await self._changes.wait()

    def _heard(self, own_pid: int, _: object, pid: int, __: str, payload: object) -> None:
        if pid != own_pid and isinstance(payload, str) and payload.isdecimal():
            self.wake_ups += 1
            self._signal.announce(int(payload))
