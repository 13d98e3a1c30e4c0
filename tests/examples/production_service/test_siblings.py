"""One process answers a scrape for all of them, but for those that cannot be asked."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from examples.production_service import siblings
from examples.production_service.siblings import Siblings


def telling(value: int) -> Callable[[], Awaitable[bytes]]:
    async def tell() -> bytes:
        return b"# HELP done Done.\n# TYPE done gauge\ndone %d\n" % value

    return tell


async def test_whichever_is_asked_answers_for_all(tmp_path: Path) -> None:
    async with Siblings(tmp_path, 1, telling(10)) as first, Siblings(tmp_path, 2, telling(20)) as second:
        answers = await first.text(), await second.text()

    assert answers[0] == answers[1]
    assert answers[0].decode().splitlines()[2:4] == ['done{worker="1"} 10', 'done{worker="2"} 20']
    assert answers[0].decode().endswith("\navx_service_workers 2\n")


async def test_one_that_takes_the_place_of_another_has_its_number(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(tmp_path / "2"))  # what a process that was killed leaves behind
    async with Siblings(tmp_path, 1, telling(10)) as first:
        without = await first.text()
        async with Siblings(tmp_path, 2, telling(20)):
            again = await first.text()

    assert (b'worker="2"' in without, b"avx_service_workers 1\n" in without) == (False, True)
    assert b'done{worker="2"} 20\n' in again


async def test_one_that_is_silent_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(siblings, "ASK_TIMEOUT_S", 0.05)
    has_been_asked, may_answer = asyncio.Event(), asyncio.Event()

    async def hang() -> bytes:
        has_been_asked.set()
        await may_answer.wait()
        return b""

    async with Siblings(tmp_path, 1, telling(10)) as first, Siblings(tmp_path, 2, hang):
        answer = await first.text()
        may_answer.set()

    assert has_been_asked.is_set()
    assert b"avx_service_workers 1\n" in answer
    assert b'worker="2"' not in answer
