"""Where the command line prints to: terminals of all kinds, pipes, full disks, what is closed, and other encodings."""

import asyncio
import json
import os
import pty
import re
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE
from pathlib import Path

import pytest

from avx_events.core.event import Event
from avx_events.core.metadata import context
from avx_events.store.event_store import EventStore
from tests.live.test_cli_signals import letters_at, read_all
from tests.unit.apps.cli.shop import Paid

pytestmark = pytest.mark.timeout(60)

LIMIT_S = 20.0
AVX = (sys.executable, "-m", "avx_events")
SHOP = "tests.live.cli_shop"
NASTY = "\x1b]0;title\x07\x1b[31m\u202e\x9b2J[red]x[/]:smile:\n\u2028ä\U0001f600"
STREAM = "no-[bold]\x1b[2J\u202e"
# What terminals obey, and what turns the order of signs around: nothing of it may come through.
OBEYED = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


class Nasty(Event, event_type="live.cli.nasty", aggregate_id="text"):
    text: str


@pytest.fixture
async def url(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/events.db"
    async with await EventStore.connect(url, max_event_bytes=100_000_000) as store:
        with context(user_id=NASTY):
            await store.append(STREAM, [Nasty(NASTY)])
    return url


def environment(**changes: str | None) -> dict[str, str]:
    """Return the environment without what says how to print, and with ``changes``; None takes one out."""
    said = {"NO_COLOR", "FORCE_COLOR", "COLUMNS", "TERM", "PYTHONIOENCODING", "LC_ALL"}
    kept: dict[str, str | None] = {name: value for name, value in os.environ.items() if name not in said}
    return {name: value for name, value in (kept | changes).items() if value is not None}


async def piped(*arguments: str, **changes: str | None) -> tuple[int | None, bytes, bytes]:
    process = await asyncio.create_subprocess_exec(
        *AVX, *arguments, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, env=environment(**changes)
    )
    async with asyncio.timeout(LIMIT_S):
        out, err = await process.communicate()
    return process.returncode, out, err


async def in_shell(command: str, **changes: str | None) -> tuple[int | None, bytes, bytes]:
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", command.replace("avx-events", " ".join(AVX)), stdout=PIPE, stderr=PIPE, env=environment(**changes)
    )
    async with asyncio.timeout(LIMIT_S):
        out, err = await process.communicate()
    return process.returncode, out, err


async def on_terminal(*arguments: str, **changes: str | None) -> tuple[int, bytes]:
    """Run a command with a terminal for everything, and return its exit code and what was on the screen."""
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *AVX,
        *arguments,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment(**({"TERM": "xterm-256color"} | changes)),
    )
    os.close(theirs)
    async with asyncio.timeout(LIMIT_S):
        printed = await asyncio.to_thread(read_all, ours)
        os.close(ours)
        return await process.wait(), printed.replace(b"\r\n", b"\n")


# Colours and width


async def test_a_terminal_has_colours(url: str) -> None:
    assert b"\x1b[1m" in (await on_terminal("streams", url))[1]


@pytest.mark.parametrize("changes", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=str)
async def test_a_terminal_without_colours_has_none(url: str, changes: dict[str, str]) -> None:
    code, printed = await on_terminal("streams", url, **changes)

    assert code == 0
    assert b"LAST POSITION" in printed
    assert b"\x1b" not in printed


async def test_a_pipe_has_colours_only_if_they_are_forced(url: str) -> None:
    assert b"\x1b" not in (await piped("streams", url, TERM="xterm-256color"))[1]
    assert b"\x1b" in (await piped("streams", url, FORCE_COLOR="1", TERM="xterm-256color"))[1]
    assert b"\x1b" not in (await piped("streams", url, FORCE_COLOR="1", NO_COLOR="1", TERM="xterm-256color"))[1]


@pytest.mark.parametrize("columns", ["0", "1", "20", "40", "none"])
async def test_a_narrow_terminal_breaks_lines_and_loses_nothing(url: str, columns: str) -> None:
    async with await EventStore.connect(url) as store:
        await store.append("alphabet", Nasty(""))

    code, printed = await on_terminal("streams", url, "alphabet", COLUMNS=columns, NO_COLOR="1")

    lines = printed.decode().splitlines()
    names = "".join(line.split(" ")[0] for line in lines)
    assert (code, names) == (0, "NAMEalphabet")
    if columns in {"20", "40"}:
        assert max(map(len, lines)) <= int(columns)


# What comes from outside


@pytest.mark.parametrize(
    "arguments",
    [
        ("streams", "{url}"),
        ("show", "{url}", STREAM),
        ("tail", "{url}", "--from", "start", "--count", "1"),
        ("show", "{url}", "\x1b[2J\u202e"),
    ],
    ids=["streams", "show", "tail", "error"],
)
@pytest.mark.parametrize("flags", [(), ("--json",)], ids=["text", "json"])
async def test_no_event_drives_the_terminal(url: str, arguments: tuple[str, ...], flags: tuple[str, ...]) -> None:
    given = [argument.replace("{url}", url) for argument in arguments]

    _, printed = await on_terminal(*given, *flags, NO_COLOR="1", COLUMNS="1000")

    text = printed.decode()
    assert OBEYED.findall(text) == []
    assert "[bold]" in text or arguments[0] == "tail" or "\\u202e" in text
    if flags and arguments[0] == "tail":
        document = json.loads(text)
        assert (document["data"]["text"], document["user_id"]) == (NASTY, NASTY)


@pytest.mark.parametrize(
    "changes",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    ],
    ids=lambda changes: next(iter(changes.items())),
)
async def test_an_encoding_without_a_sign_has_it_escaped(url: str, changes: dict[str, str]) -> None:
    lines = await piped("tail", url, "--from", "start", "--count", "1", **changes)
    documents = await piped("tail", url, "--from", "start", "--count", "1", "--json", **changes)
    table = await piped("streams", url, **changes)

    assert [code for code, _, _ in (lines, documents, table)] == [0, 0, 0]
    assert b"\\U0001f600" in lines[1]
    assert json.loads(documents[1].decode("ascii"))["data"]["text"] == NASTY


async def test_an_event_of_5_megabytes_is_printed_as_it_is(url: str) -> None:
    text = "ä" * 2_500_000
    async with await EventStore.connect(url, max_event_bytes=100_000_000) as store:
        await store.append("large", [Nasty(text)])

    _, out, err = await piped("tail", url, "--from", "1", "--count", "1", "--json")
    code, shown, _ = await piped("show", url, "large")

    assert err == b""
    assert json.loads(out)["data"]["text"] == text
    assert (code, len(shown) < 1_000) == (0, True)


async def test_an_error_of_5_megabytes_is_shortened_in_a_table_and_whole_by_itself(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/letters.db"
    await letters_at(url, 1, error="ValueError: " + "\x9b2J" * 1_250_000)

    code, printed = await on_terminal("dead-letters", "list", url, "--each", NO_COLOR="1")
    _, shown, _ = await piped("dead-letters", "show", url, "letter-0000", "--json")

    assert code == 0
    assert len(printed) < 100_000
    assert OBEYED.findall(printed.decode()) == []
    assert len(json.loads(shown)["error"]) > 3_000_000


async def test_integers_that_others_wrote_are_shown_as_they_are(tmp_path: Path, url: str) -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", GREAT, f"{tmp_path}/events.db")
    assert await process.wait() == 0

    code, out, err = await piped("tail", url, "--from", "start", "--count", "1", "--json")

    assert (code, err) == (0, b"")
    assert json.loads(out)["data"] == {"text": 10**30}


GREAT = """
import sqlite3, sys
with sqlite3.connect(sys.argv[1]) as connection:
    connection.execute("UPDATE avx_events SET data = ?", (b'{"text":%d}' % 10**30,))
"""


# What is closed, full or gone


@pytest.mark.parametrize("command", ["avx-events streams {url}", "avx-events show {url} --json '{stream}'"])
async def test_a_full_disk_is_one_line(url: str, command: str) -> None:
    code, _, err = await in_shell(command.format(url=url, stream=STREAM) + " >/dev/full")

    assert (code, err) == (1, b"avx-events: stdout: No space left on device\n")


async def test_a_stdout_that_is_closed_is_one_line_and_nothing_is_done(url: str) -> None:
    code, _, err = await in_shell(f"avx-events streams {url} >&-")

    assert (code, err) == (1, b"avx-events: stdout: Bad file descriptor\n")


async def test_a_stderr_that_is_closed_or_broken_changes_no_exit_code(url: str) -> None:
    assert (await in_shell(f"avx-events streams {url} 2>&-"))[0] == 0
    assert (await in_shell("avx-events streams never 2>&-"))[0] == 1
    assert (await in_shell("avx-events streams never 2>/dev/full"))[0] == 1
    assert (await in_shell("avx-events nothing 2>&1 >/dev/null | head -n 0; exit ${PIPESTATUS[0]}"))[0] == 2


async def test_a_stdin_that_is_closed_says_what_to_do(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/letters.db"
    await letters_at(url)

    code, out, err = await in_shell(f"avx-events dead-letters purge {url} <&-")

    assert (code, out) == (1, b"")
    assert b"nobody can be asked here; give --yes" in err
    assert err.count(b"\n") == 1


async def test_a_table_in_a_pipe_that_nobody_reads_is_quiet(url: str) -> None:
    async with await EventStore.connect(url) as store:
        for number in range(1_000):
            await store.append(f"{'a stream of a long name ' * 10}{number}", [Nasty("")])

    code, out, err = await in_shell(f"set -o pipefail; avx-events streams {url} | head -n 1")

    assert (code, err, out.count(b"\n")) == (0, b"", 1)


async def test_help_in_a_pipe_that_nobody_reads_is_quiet() -> None:
    code, out, err = await in_shell("set -o pipefail; avx-events --help | head -n 1")

    assert (code, err) == (0, b"")
    assert out.startswith(b"Usage")


async def test_code_of_the_application_that_prints_to_a_broken_pipe_is_quiet(url: str) -> None:
    async with await EventStore.connect(url) as store:
        await store.append("many", [Nasty(str(number)) for number in range(5_000)])

    code, out, err = await in_shell(f"set -o pipefail; avx-events replay {url} --into {SHOP}:tell | head -n 1")

    assert (code, err, out.count(b"\n")) == (0, b"", 1)


# Progress


@pytest.mark.parametrize("term", ["xterm-256color", "dumb"])
async def test_progress_is_on_a_terminal_at_stderr_and_what_is_printed_stays_at_stdout(
    tmp_path: Path, term: str
) -> None:
    url = f"sqlite:///{tmp_path}/letters.db"
    await letters_at(url)

    code, out, screen = await with_a_terminal_at_stderr(
        *("dead-letters", "redrive", url, "--app", f"{SHOP}:app", "--yes", "--json"), TERM=term, AVX_CLI_LETTERS=url
    )

    assert code == 0
    assert {json.loads(line)["outcome"] for line in out.splitlines()} == {"redriven"}
    assert (b"redriving" in screen, b"/300" in screen) == ((term != "dumb"),) * 2
    assert b"\x1b[?25h" in screen or term == "dumb", "the cursor is hidden"


@pytest.mark.parametrize("target", [f"{SHOP}:tell", "tests.unit.apps.cli.shop:Totals"])
async def test_a_replay_shows_how_far_it_is(tmp_path: Path, target: str) -> None:
    url = f"sqlite:///{tmp_path}/events.db"
    async with await EventStore.connect(url) as store:
        for number in range(40):
            await store.append("orders", Paid(str(number), 1))

    code, _, screen = await with_a_terminal_at_stderr(
        "replay", url, "--into", target, "--after", "10", "--json", TERM="xterm-256color"
    )

    assert code == 0
    assert (b"replaying" in screen, b"/30" in screen) == (True, True)


async def with_a_terminal_at_stderr(*arguments: str, **settings: str) -> tuple[int | None, bytes, bytes]:
    """Run a command; return its exit code, what it printed, and what is on the terminal."""
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *AVX, *arguments, stdout=PIPE, stderr=theirs, env=environment(**settings)
    )
    os.close(theirs)
    async with asyncio.timeout(LIMIT_S):
        screen, (out, _) = await asyncio.gather(  # noqa: TID251 - both end with the process
            asyncio.to_thread(read_all, ours), process.communicate()
        )
    os.close(ours)
    return process.returncode, out, screen


async def test_progress_is_not_in_a_pipe(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/letters.db"
    await letters_at(url)

    code, out, err = await piped(
        "dead-letters", "redrive", url, "--app", f"{SHOP}:app", "--yes", TERM="xterm-256color", AVX_CLI_LETTERS=url
    )

    assert (code, out, err) == (0, b"300 redriven\n", b"")


async def test_the_cursor_is_there_after_ctrl_c_in_the_middle_of_progress(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/letters.db"
    await letters_at(url)
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *AVX,
        *("dead-letters", "redrive", url, "--app", f"{SHOP}:app", "--yes"),
        stdout=theirs,
        stderr=theirs,
        env=environment(TERM="xterm-256color", AVX_CLI_LETTERS=url),
    )
    os.close(theirs)
    screen = b""
    async with asyncio.timeout(LIMIT_S):
        while b"redriving" not in screen:
            screen += await asyncio.to_thread(os.read, ours, 65_536)
        process.send_signal(signal.SIGTERM)
        screen += await asyncio.to_thread(read_all, ours)
        assert await process.wait() == 143
    os.close(ours)

    assert screen.rfind(b"\x1b[?25h") > screen.rfind(b"\x1b[?25l")


# Completion


def files_with(part: bytes, folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and part in path.read_bytes()]


async def test_completion_is_installed_for_the_shell_that_is_used(tmp_path: Path) -> None:
    code, out, err = await piped("--install-completion", HOME=str(tmp_path), SHELL="/bin/bash")

    assert (code, err) == (0, b"")
    (script,) = files_with(b"dead-letters", tmp_path)
    assert str(script).encode() in out
    shell = await asyncio.create_subprocess_exec("bash", "-n", str(script))
    assert await shell.wait() == 0
