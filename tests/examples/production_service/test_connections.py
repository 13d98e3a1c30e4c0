"""Connections of clients that do not do their part: each has its time, and none takes the room of others."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from examples.production_service.http.connections import Limits
from examples.production_service.http.server import Server, address_of, listen
from tests.waiting import until

MUCH: Final = b" " * 32 * 2**20
HALF_HEAD: Final = b"GET / HTTP/1.1\r\nHost: x\r\n"
HALF_BODY: Final = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"


async def greet(_: Request) -> Response:
    return PlainTextResponse("hello")


async def echo_size(request: Request) -> Response:
    return PlainTextResponse(str(len(await request.body())))


async def say_much(_: Request) -> Response:
    return Response(MUCH)


APP: Final = Starlette(
    routes=[Route("/", greet), Route("/", echo_size, methods=["POST"]), Route("/much", say_much)],
)


class Site:
    """A server that listens, and the clients that were connected to it."""

    def __init__(self, server: Server, base_url: str) -> None:
        self.server = server
        self.base_url = base_url
        self._writers: list[asyncio.StreamWriter] = []

    async def send(self, sent: bytes) -> asyncio.StreamReader:
        """Connect, send so much, and return where the answer comes, which is taken as slowly as it is read."""
        reader, writer = await asyncio.open_connection(
            httpx.URL(self.base_url).host, httpx.URL(self.base_url).port, limit=1_024
        )
        self._writers.append(writer)
        writer.write(sent)
        return reader

    def send_more(self, sent: bytes) -> None:
        """Send more on the newest connection."""
        self._writers[-1].write(sent)

    async def status(self) -> int:
        """Ask for a greeting on a connection of its own, and return the status of the answer."""
        async with httpx.AsyncClient(base_url=self.base_url, timeout=10) as client:
            return (await client.get("/")).status_code

    def hang_up(self) -> None:
        """End all connections."""
        for writer in self._writers:
            writer.close()


@asynccontextmanager
async def site(limits: Limits) -> AsyncGenerator[Site, None]:
    """Serve ``APP`` within ``limits``."""
    listener = listen("127.0.0.1", 0)
    server = Server(APP, limits=limits)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(server.serve(sockets=[listener]))
        opened = Site(server, f"http://{address_of(listener)}")
        try:
            await until(lambda: server.started)
            yield opened
        finally:
            opened.hang_up()
            server.stop()


async def is_cut(reader: asyncio.StreamReader) -> bool:
    """Return whether the connection ends within seconds, with no byte of an answer."""
    try:
        async with asyncio.timeout(10):
            return await reader.read() == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("sent", [b"", b"G", HALF_HEAD, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + HALF_HEAD])
async def test_a_client_that_sends_no_whole_head_is_cut(sent: bytes) -> None:
    async with site(Limits(head_timeout_s=0.1)) as opened:
        reader = await opened.send(sent)
        if len(sent) > len(HALF_HEAD):  # a whole request before
            await reader.readuntil(b"hello")

        assert await is_cut(reader)


async def test_a_client_that_sends_its_head_bit_by_bit_has_no_longer_time() -> None:
    async with site(Limits(head_timeout_s=0.1)) as opened:
        reader = await opened.send(HALF_HEAD)
        async with asyncio.timeout(10):
            while not reader.at_eof() and reader.exception() is None:
                opened.send_more(b"X: y\r\n")
                await asyncio.sleep(0.01)  # it never pauses for as long as the time that a head has

        assert await is_cut(reader)


async def test_a_client_that_does_not_take_its_answer_is_cut() -> None:
    async with site(Limits(answer_timeout_s=0.1)) as opened:
        reader = await opened.send(b"GET /much HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        await until(lambda: not opened.server.server_state.connections)

        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(len(MUCH))


async def test_a_client_that_takes_its_answer_slowly_gets_all_of_it() -> None:
    async with site(Limits(head_timeout_s=0.1)) as opened:
        reader = await opened.send(b"GET /much HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        taken = 0
        for _ in range(16):
            await asyncio.sleep(0.1)  # it is slow, not absent
            taken += len(await reader.readexactly(len(MUCH) // 16))

        assert taken == len(MUCH)


@pytest.mark.parametrize("sent", [b"", HALF_HEAD, HALF_BODY])
async def test_clients_that_keep_the_server_waiting_take_no_room(sent: bytes) -> None:
    async with site(Limits(connections=10)) as opened:
        readers = [await opened.send(sent) for _ in range(30)]
        statuses = [await opened.status() for _ in range(20)]

        assert statuses == [200] * 20
        assert await is_cut(readers[0])


async def test_of_those_who_wait_the_newest_stay() -> None:
    async with site(Limits(connections=3)) as opened:
        first, second, third = [await opened.send(HALF_HEAD) for _ in range(3)]
        assert await is_cut(first)
        opened.send_more(b"\r\n")

        assert (await third.readuntil(b"hello")).startswith(b"HTTP/1.1 200")
        assert not second.at_eof()
