"""Requests and replies over NATS itself: nothing is kept, and the server says when nobody listens.

Those who respond to a type share its subject. A reply goes to the subject that its request names, whose last piece is
the request's event id.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Final
from uuid import uuid4

from avx_events.bus.remote.asking import in_time
from avx_events.bus.remote.ports import Address, OnFailed, Question
from avx_events.bus.remote.replies import refusal, unanswered
from avx_events.core.errors import EventTooLargeError, TransportUnavailableError
from avx_events.core.tasks import TaskScope, wake
from avx_events.distributed.nats.frames import Message
from avx_events.distributed.nats.messages import structured
from avx_events.distributed.nats.names import TIMEOUT_HEADER, Names, text_of, token
from avx_events.distributed.nats.wire import Wire, WireError

log = logging.getLogger("avx_events")

_RESPONDERS: Final = "responders"
_HEADER_BYTES: Final = 200
_LONGEST_WAIT_S: Final = 86_400.0


class NatsRequests:
    """One request-reply bus on one NATS."""

    def __init__(self, wire: Wire, names: Names, *, on_close: Callable[[], Awaitable[None]]) -> None:
        """Listen to nothing yet; ``open`` does.

        Args:
            wire: The connection.
            names: Of the namespace.
            on_close: Awaited at the end.
        """
        self.name = wire.name
        self._wire = wire
        self._names = names
        self._on_close = on_close
        self._subjects: dict[str, str] = {}
        self._tasks = TaskScope()
        self._leaving: set[asyncio.Future[None]] = set()
        self._inbox = f"_INBOX.{uuid4().hex}."

    async def open(self, on_reply: Callable[[bytes], None]) -> None:
        """Listen to replies; see ``RequestTransport``."""
        self._wire.listen(f"{self._inbox}*", partial(self._take_reply, on_reply))

    async def respond(self, event_type: str, on_question: Callable[[Question], None] | None) -> None:
        """Be asked, or not any more; see ``RequestTransport``."""
        subject = self._names.requests(event_type)
        if on_question is None:
            leaving: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._leaving.add(leaving)
            try:
                await self._wire.ignore(subject)
            finally:
                self._leaving.discard(leaving)
                wake(leaving)
        else:
            await self._wire.connected()
            self._wire.listen(subject, partial(_take_question, on_question), sharing=_RESPONDERS)
            try:
                await self._wire.echo()  # from now on the server knows it
            except (WireError, TimeoutError) as exc:
                raise TransportUnavailableError(self.name, str(exc) or "it does not answer") from exc

    def ask(
        self,
        event_type: str,
        document: bytes,
        *,
        event_id: str,
        timeout_s: float,
        on_failed: OnFailed,
    ) -> None:
        """Send a request; that nobody listened comes as its reply. See ``RequestTransport``."""
        most = self._wire.max_payload - _HEADER_BYTES
        if len(document) > most:
            raise EventTooLargeError(event_type, size_bytes=len(document), max_bytes=most)
        subject = self._subjects.get(event_type)
        if subject is None:
            subject = self._subjects[event_type] = self._names.requests(event_type)
        send = partial(
            self._wire.send,
            subject,
            document,
            reply=self._inbox + token(event_id),
            headers={TIMEOUT_HEADER: str(int(timeout_s * 1000))},
        )
        if self._wire.is_connected:
            send()
        else:
            waiting = in_time(partial(self._send_when_connected, send), timeout_s, on_failed)
            self._tasks.spawn(waiting, name="avx-events nats: ask when there is a connection")

    def reply(self, to: Address, document: bytes) -> None:
        """Send a reply; see ``RequestTransport``."""
        if len(document) > self._wire.max_payload:
            problem = EventTooLargeError("the reply", size_bytes=len(document), max_bytes=self._wire.max_payload)
            document = refusal(document, problem)
        self._wire.post(to, document)

    async def close(self) -> None:
        """Reply to what was still asked, and leave no connection."""
        await self._tasks.cancel()
        while self._leaving:
            await asyncio.wait(set(self._leaving))
        with suppress(WireError, TimeoutError):
            await self._wire.echo()  # this bus may wait for a reply of its own
        await self._on_close()

    async def _send_when_connected(self, send: Callable[[], None]) -> None:
        await self._wire.connected()
        try:
            send()
        except WireError as exc:
            raise TransportUnavailableError(self.name, str(exc)) from exc

    def _take_reply(self, on_reply: Callable[[bytes], None], message: Message) -> None:
        if message.is_for_nobody:
            event_id = text_of(message.subject[len(self._inbox) :])
            on_reply(unanswered(event_id))
        else:
            on_reply(message.data)


def _take_question(on_question: Callable[[Question], None], message: Message) -> None:
    if not message.reply:
        log.warning("a request on %s has no place for its reply", message.subject)
        return
    headers = message.headers or {}
    try:
        timeout_s = int(headers[TIMEOUT_HEADER]) / 1000
    except (KeyError, ValueError):  # a stranger's
        timeout_s = _LONGEST_WAIT_S
    on_question(Question(structured(message.data, headers), message.reply, timeout_s))
