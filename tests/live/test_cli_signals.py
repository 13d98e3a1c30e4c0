"""Ctrl-C and SIGTERM at any moment of a command: it ends, without a traceback, and leaves nothing half done."""

import asyncio
import fcntl
import os
import pty
import random
import re
import signal
import sys
import termios
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Generator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest

from avx_events.bus.dead_letters import DeadLetter, DeadLetterQueue
from avx_events.core.clock import SYSTEM_CLOCK
from avx_events.core.metadata import stamp
from avx_events.store.event_store import EventStore
from tests.live.cli_shop import Slow

pytestmark = pytest.mark.timeout(60)

LIMIT_S = 12.0
LETTERS = 300
LATEST_S = 0.7
SHOP = "tests.live.cli_shop"
# The interpreter's own start is not ours; from then on every moment counts, that of the imports too.
PROGRAM = """
import os, signal
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.write({mark}, b"!")
import _avx_events_cli
_avx_events_cli.main()
"""
# What shells call 130 and 143: the process says so itself, or ended by the signal before it could.
CODES = {signal.SIGINT: {130, -signal.SIGINT}, signal.SIGTERM: {143, -signal.SIGTERM}}
LOUD = re.compile("Traceback|Exception ignored|never retrieved|never awaited|Fatal")
SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(scope="module")
def store_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    url = f"sqlite:///{tmp_path_factory.mktemp('cli')}/events.db"

    async def fill() -> None:
        async with await EventStore.connect(url) as store:
            await store.append("slow", [Slow(number) for number in range(2_000)])

    asyncio.run(fill())
    return url


async def letters_at(url: str, count: int = LETTERS, *, error: str = "RuntimeError") -> None:
    now = datetime.now(UTC)
    async with await DeadLetterQueue.connect(url) as queue:
        for number in range(count):
            await queue.add(
                DeadLetter(
                    id=f"letter-{number:04}",
                    handler="mend",
                    reason="failed",
                    error=error,
                    error_type="RuntimeError",
                    attempts=1,
                    first_failed_at=now,
                    dead_at=now,
                    envelope=stamp(Slow(number), clock=SYSTEM_CLOCK),
                )
            )


@contextmanager
def output_to(*, is_terminal: bool) -> Generator[tuple[int, int]]:
    """Give an end that is read and one that a process writes to."""
    ours, theirs = pty.openpty() if is_terminal else os.pipe()
    try:
        yield ours, theirs
    finally:
        os.close(ours)


async def interrupted(
    number: signal.Signals, after_s: float, *arguments: str, is_terminal: bool = False, **environment: str
) -> tuple[int, str]:
    """Run a command, send the signal after so many seconds, and return its exit code and what it printed."""
    marked, mark = os.pipe()
    with output_to(is_terminal=is_terminal) as (ours, theirs):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", PROGRAM.format(mark=mark), *arguments),
            stdin=PIPE,  # which stays open
            stdout=theirs,
            stderr=theirs,
            pass_fds=(mark,),
            env={**os.environ, "PYTHONFAULTHANDLER": "1", **environment},
        )
        os.close(mark)
        os.close(theirs)
        reading = asyncio.create_task(asyncio.to_thread(read_all, ours))  # noqa: TID251 - ends with the process
        with suppress(TimeoutError):
            async with asyncio.timeout(LIMIT_S):
                assert await asyncio.to_thread(os.read, marked, 1) == b"!"
                await asyncio.sleep(after_s)  # the moment is what is tested
                process.send_signal(number)
                await process.wait()
        if process.returncode is None:
            process.send_signal(signal.SIGABRT)  # it prints where it hangs
        code = await process.wait()
        printed = await reading
        os.close(marked)
    return code, printed.decode("utf-8", "replace")


def read_all(fd: int) -> bytes:
    printed = b""
    try:
        while found := os.read(fd, 65_536):
            printed += found
    except OSError:  # how a terminal says that it has ended
        pass
    return printed


async def check(seed: str, *arguments: str, latest_s: float = LATEST_S, **environment: str) -> None:
    """Interrupt a command at random moments, by each signal and with both kinds of output."""
    chance = random.Random(seed)
    for number in SIGNALS:
        for is_terminal in (False, True):
            after_s = chance.uniform(0, latest_s)
            code, printed = await interrupted(number, after_s, *arguments, is_terminal=is_terminal, **environment)

            about = f"{number.name} after {after_s:.3f} s, terminal: {is_terminal}: {code}\n{printed[-2000:]}"
            assert code in CODES[number], about
            assert not LOUD.search(printed), about


@pytest.mark.parametrize(
    "arguments",
    [
        ("tail", "{url}", "--from", "start", "--json"),
        ("replay", "{url}", "--into", f"{SHOP}:look"),
        ("replay", "{url}", "--into", f"{SHOP}:never_return"),
        ("asyncapi", "tests.live.cli_hanging:app"),
        ("console", "{url}", "--port", "0"),
        ("demo", "--port", "0", "--each-s", "0.01"),
        ("publish", "redis://127.0.0.1:1", "a.b", "--timeout-s", "4"),
    ],
    ids=lambda arguments: f"{arguments[0]} {arguments[-1].rpartition(':')[2]}",
)
async def test_a_command_that_is_interrupted_ends_quietly(store_url: str, arguments: tuple[str, ...]) -> None:
    given = [argument.replace("{url}", store_url) for argument in arguments]

    await check(" ".join(arguments), *given)


@pytest.mark.live
async def test_who_publishes_from_a_pipe_is_interrupted_while_nothing_comes(redis_url: str) -> None:
    await check("publish", "publish", redis_url, "live.cli.slow", "--namespace", f"cli{uuid4().hex}")


@pytest.mark.live
@pytest.mark.parametrize("broker", ["redis", "nats", "kafka"])
async def test_who_watches_a_broker_is_interrupted_quietly(broker: str, request: pytest.FixtureRequest) -> None:
    url: str = request.getfixturevalue(f"{broker}_url")

    await check(f"tail {broker}", "tail", url, "--namespace", f"cli{uuid4().hex}", latest_s=1.2)


async def test_a_redrive_that_is_interrupted_leaves_no_letter_claimed(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/letters.db"
    await letters_at(url)

    await check(
        "redrive", "dead-letters", "redrive", url, "--app", f"{SHOP}:app", "--yes", latest_s=1.2, AVX_CLI_LETTERS=url
    )

    async with await DeadLetterQueue.connect(url) as queue:
        left = [letter.id for letter in await queue.list(limit=LETTERS)]
        claimed = [letter_id for letter_id in left if await queue.claim(letter_id) is None]
    assert left
    assert claimed == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_the_exit_code_says_which_signal_it_was(store_url: str, number: signal.Signals, code: int) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "avx_events", "tail", store_url, "--from", "start"), stdout=PIPE, stderr=PIPE
    )
    assert process.stdout is not None
    async with asyncio.timeout(LIMIT_S):
        assert await process.stdout.readline()
        process.send_signal(number)
        _, err = await process.communicate()

    assert (process.returncode, err) == (code, b"")


async def test_ctrl_c_at_the_question_leaves_everything_there(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/letters.db"
    await letters_at(url)
    ours, theirs = pty.openpty()

    def take_terminal() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "avx_events", "dead-letters", "purge", url),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=take_terminal,
    )
    os.close(theirs)
    with os.fdopen(ours, "r+b", buffering=0) as terminal:
        async with asyncio.timeout(LIMIT_S):
            asked = b""
            while b"[y/N] " not in asked:
                asked += await asyncio.to_thread(terminal.read, 1)
            terminal.write(b"\x03")
            assert await process.wait() == 130
        assert b"Traceback" not in await asyncio.to_thread(read_all, terminal.fileno())

    async with await DeadLetterQueue.connect(url) as queue:
        assert await queue.count() == LETTERS


async def test_what_ignores_ctrl_c_from_its_start_goes_on(store_url: str) -> None:
    """As nohup and scripts have it for what they start in the background."""
    process = await asyncio.create_subprocess_exec(
        "bash",
        "-c",
        f"trap '' INT; exec {sys.executable} -m avx_events tail {store_url} --from start",
        stdout=PIPE,
        stderr=PIPE,
        stdin=DEVNULL,
    )
    assert process.stdout is not None
    async with asyncio.timeout(LIMIT_S):
        await process.stdout.readline()
        process.send_signal(signal.SIGINT)
        for _ in range(1_999):  # it goes on with what there is
            assert await process.stdout.readline()
        process.terminate()
        assert await process.wait() == 143


async def test_a_letter_whose_editor_is_still_open_is_free_after_sigterm(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/letters.db"
    await letters_at(url)
    is_open = tmp_path / "open"
    editor = tmp_path / "editor"
    os.mkfifo(is_open)
    editor.write_text(f"#!/bin/sh\necho open > {is_open}\nexec sleep 60\n")
    editor.chmod(0o755)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "avx_events", "dead-letters", "edit", url, "letter-0001"),
        stdout=PIPE,
        stderr=PIPE,
        env={**os.environ, "VISUAL": str(editor)},
    )
    async with asyncio.timeout(LIMIT_S):
        await asyncio.to_thread(is_open.read_text)
        process.terminate()
        out, err = await process.communicate()

    assert (process.returncode, out, err) == (143, b"", b"")
    async with await DeadLetterQueue.connect(url) as queue:
        assert await queue.claim("letter-0001") is not None
