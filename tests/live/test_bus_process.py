"""How a process with a bus ends: by itself, soon, without a warning, and with everything handled that was taken."""

import asyncio
import signal
import sys
from pathlib import Path

from tests.live.bus_worker import EVENTS

WORKER = Path(__file__).with_name("bus_worker.py")


async def start(deed: str) -> asyncio.subprocess.Process:
    """Run a worker with all checks of Python's own; a warning is an error."""
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        sys.executable, "-X", "dev", "-W", "error", WORKER, deed, stdout=pipe, stderr=pipe
    )


async def end_of(process: asyncio.subprocess.Process) -> tuple[list[str], str]:
    """Return the lines that it printed and what it complained of, when it has ended."""
    try:
        async with asyncio.timeout(20):
            printed, complaints = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    return printed.decode().splitlines(), complaints.decode()


async def test_a_bus_that_is_left_open_does_not_hold_the_process() -> None:
    process = await start("leave-open")
    printed, complaints = await end_of(process)

    assert (printed, process.returncode) == (["left"], 0)
    assert complaints.splitlines() == [line for line in complaints.splitlines() if line.startswith("event bus does")]


async def test_a_thread_that_waits_for_a_bus_that_was_left_open_is_told_so() -> None:
    process = await start("blocked-thread")
    printed, complaints = await end_of(process)

    assert (printed, complaints, process.returncode) == (["ClosedError"], "", 0)


async def test_what_was_taken_is_handled_when_the_process_is_interrupted() -> None:
    process = await start("interrupted")
    assert process.stdout is not None
    assert await process.stdout.readline() == b"published\n"
    process.send_signal(signal.SIGINT)
    printed, complaints = await end_of(process)

    assert sorted(printed) == sorted(f"handled {number}" for number in range(EVENTS))
    assert complaints.splitlines()[-1] == "KeyboardInterrupt"
    assert process.returncode == -signal.SIGINT
