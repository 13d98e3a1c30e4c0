"""The proxy of the fault tests does to connections what its methods say."""

import asyncio
import contextlib
import gc
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.servers.ports import free_port
from tests.servers.proxy import Proxy


@pytest.fixture
def server() -> Iterator[socket.socket]:
    """Listen, as a server that a test speaks for."""
    with socket.create_server(("127.0.0.1", free_port())) as listener:
        listener.settimeout(10)
        yield listener


@pytest.fixture
def proxy(server: socket.socket) -> Iterator[Proxy]:
    with Proxy(server.getsockname()[1]) as proxy:
        yield proxy


class Ends:
    """The two ends of a connection through a proxy, through which a byte has gone."""

    def __init__(self, proxy: Proxy, server: socket.socket) -> None:
        self.client = socket.create_connection(("127.0.0.1", proxy.port), 10)
        self.server, _ = server.accept()
        self.server.settimeout(10)
        self.client.sendall(b"!")
        assert self.server.recv(1) == b"!"

    def close(self) -> None:
        self.client.close()
        self.server.close()


@pytest.fixture
def ends(proxy: Proxy, server: socket.socket) -> Iterator[Ends]:
    with contextlib.closing(Ends(proxy, server)) as ends:
        yield ends


def is_silent(end: socket.socket) -> bool:
    end.settimeout(0.1)
    try:
        end.recv(100)
    except TimeoutError:
        return True
    finally:
        end.settimeout(10)
    return False


def knock(port: int) -> None:
    """Connect, and wait for what the other side says."""
    with socket.create_connection(("127.0.0.1", port), 10) as client:
        client.recv(1)


def knock_until_refused(port: int) -> None:
    """Connect again and again, as a client that has lost its server."""
    with contextlib.suppress(ConnectionRefusedError):
        while True:
            with contextlib.suppress(ConnectionResetError):
                knock(port)


def test_bytes_go_both_ways(ends: Ends) -> None:
    ends.client.sendall(b"question")
    assert ends.server.recv(100) == b"question"

    ends.server.sendall(b"answer")
    assert ends.client.recv(100) == b"answer"


def test_what_is_large_arrives_whole(ends: Ends) -> None:
    sent = bytes(range(256)) * 10_000

    with ThreadPoolExecutor(1) as pool, ends.server.makefile("rb") as received:
        pool.submit(ends.client.sendall, sent)

        assert received.read(len(sent)) == sent


def test_the_end_of_one_side_is_told_to_the_other(ends: Ends) -> None:
    ends.client.sendall(b"last")
    ends.client.shutdown(socket.SHUT_WR)
    assert (ends.server.recv(100), ends.server.recv(100)) == (b"last", b"")

    ends.server.sendall(b"answer")
    assert ends.client.recv(100) == b"answer"


def test_a_cut_ends_connections_and_refuses_new_ones_until_it_is_mended(proxy: Proxy, server: socket.socket) -> None:
    with contextlib.closing(Ends(proxy, server)) as ends:
        proxy.cut()

        assert proxy.connections == 0
        for end in (ends.client, ends.server):
            with pytest.raises(ConnectionResetError):
                end.recv(100)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", proxy.port))

    proxy.mend()
    with contextlib.closing(Ends(proxy, server)) as ends:
        ends.client.sendall(b"again")
        assert ends.server.recv(100) == b"again"


def test_what_is_held_arrives_when_it_is_mended(proxy: Proxy, ends: Ends) -> None:
    proxy.hold()
    ends.client.sendall(b"held")
    assert is_silent(ends.server)

    proxy.mend()

    assert ends.server.recv(100) == b"held"


def test_what_is_dropped_never_arrives(proxy: Proxy, ends: Ends) -> None:
    proxy.drop_silently()
    ends.client.sendall(b"dropped")
    assert is_silent(ends.server)

    proxy.mend()

    with pytest.raises(ConnectionResetError):
        ends.server.recv(100)


def test_a_connection_that_lost_nothing_outlives_a_black_hole(proxy: Proxy, ends: Ends) -> None:
    proxy.drop_silently()
    proxy.mend()

    ends.client.sendall(b"here")
    assert ends.server.recv(100) == b"here"


def test_what_is_delayed_arrives_that_much_later_and_in_order(proxy: Proxy, ends: Ends) -> None:
    proxy.delay(0.2)
    began = time.monotonic()
    for number in range(50):
        ends.client.sendall(bytes([number]))

    received = b""
    while len(received) < 50:
        received += ends.server.recv(100)

    assert received == bytes(range(50))
    assert 0.2 <= time.monotonic() - began < 5


def test_a_half_close_leaves_the_other_half_open(proxy: Proxy, ends: Ends) -> None:
    proxy.half_close("client")
    assert ends.client.recv(100) == b""

    ends.client.sendall(b"still here")
    assert ends.server.recv(100) == b"still here"


def test_a_half_close_loses_what_is_said_after_it(proxy: Proxy, ends: Ends) -> None:
    proxy.half_close("server")

    ends.client.sendall(b"lost")

    assert ends.server.recv(100) == b""


def test_a_server_that_is_away_is_a_connection_that_is_reset() -> None:
    with Proxy(free_port()) as proxy, pytest.raises(ConnectionResetError):
        knock(proxy.port)


def test_nothing_is_left_of_a_proxy_that_is_over(server: socket.socket) -> None:
    with Proxy(server.getsockname()[1]) as proxy:
        ends = Ends(proxy, server)

    with contextlib.closing(ends), pytest.raises(ConnectionResetError):
        ends.client.recv(100)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", proxy.port))


def test_nothing_is_left_of_the_connections_that_are_made_while_it_is_cut() -> None:
    with Proxy(free_port()) as proxy, ThreadPoolExecutor(2) as pool:
        for _ in range(50):
            clients = [pool.submit(knock_until_refused, proxy.port) for _ in range(2)]
            while not proxy.connections:
                pass
            proxy.cut()
            assert [client.result(10) for client in clients] == [None, None]
            proxy.mend()

    gc.collect()  # a socket that was not closed is a warning now, and a failure


async def test_a_test_on_a_loop_uses_it_too(proxy: Proxy, server: socket.socket) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    peer, _ = await asyncio.to_thread(server.accept)
    with peer:
        proxy.cut()

        async with asyncio.timeout(10):
            with pytest.raises(ConnectionResetError):
                await reader.read(100)
    writer.close()
