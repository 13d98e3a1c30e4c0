"""What the application's own code raises is shown in its own frames, and ends with one line and exit code 1."""

import asyncio
import sys
from pathlib import Path

import pytest

from avx_events.core.event import Event
from avx_events.store.event_store import EventStore
from tests.unit.apps.cli.outputs import Command

BROKEN = "tests.unit.apps.cli.broken"


class Kept(Event, event_type="cli.application.kept"):
    pass


@pytest.fixture
def url(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/events.db"

    async def fill() -> None:
        async with await EventStore.connect(url) as store:
            await store.append("kept", [Kept(), Kept()])

    asyncio.run(fill())
    return url


@pytest.mark.parametrize(
    ("arguments", "place", "frame"),
    [
        (("describe",), "bus", "in bus"),
        (("describe",), "bus_later", "in bus_later"),
        (("asyncapi",), "opened", "in opened"),
        (("describe",), "closed", "in closed"),
        (("replay", "{url}", "--into"), "look", "in look"),
        (("replay", "{url}", "--into"), "look_later", "in look_later"),
        (("replay", "{url}", "--into"), "View", "in see"),
        (("show", "{url}", "kept", "--aggregate"), "Order", "in apply"),
    ],
)
def test_its_own_frames_are_shown_and_none_of_ours(
    command: Command, url: str, arguments: tuple[str, ...], place: str, frame: str
) -> None:
    failed = command(*(argument.replace("{url}", url) for argument in arguments), f"{BROKEN}:{place}")

    lines = failed.err.splitlines()
    assert (failed.code, failed.out) == (1, "")
    assert [line.split('"')[1].rpartition("/")[2] for line in lines if line.startswith("  File ")][-1] == "broken.py"
    assert frame in failed.err
    assert "avx_events/apps" not in failed.err
    assert "asyncio" not in failed.err
    assert lines[-1].startswith(f"avx-events: {BROKEN}:{place} failed: LookupError: no bus")


def test_a_replay_says_at_which_event_it_was(command: Command, url: str) -> None:
    failed = command("replay", url, "--into", f"{BROKEN}:look", "--after", "1")

    assert "while the event in stream 'kept' at version 2, position 2 was replayed" in failed.err


def test_its_text_does_not_drive_the_terminal(command: Command, url: str) -> None:
    failed = command("replay", url, "--into", f"{BROKEN}:look")

    assert "\x1b" not in failed.err
    assert failed.err.splitlines()[-1].endswith(r"LookupError: no bus\x1b[2J at all")


def test_what_it_was_raised_from_is_shown_too(command: Command, url: str) -> None:
    failed = command("replay", url, "--into", f"{BROKEN}:look_later")

    assert "ValueError: invalid literal" in failed.err
    assert "direct cause" in failed.err


def test_an_error_of_the_library_that_it_made_is_shown_where_it_made_it(command: Command, url: str) -> None:
    failed = command("replay", url, "--into", f"{BROKEN}:publish")

    assert failed.code == 1
    assert "in publish" in failed.err
    assert "a message of the past is being replayed" in failed.err.splitlines()[-1]


def test_an_error_of_the_library_that_it_did_not_make_is_one_line(command: Command, url: str) -> None:
    failed = command("replay", url, "--into", f"{BROKEN}:opened")  # which takes no event

    assert (failed.code, len(failed.err.splitlines())) == (1, 1)


def test_a_server_that_it_does_not_reach_is_one_line(command: Command) -> None:
    failed = command("describe", f"{BROKEN}:away")

    assert (failed.code, len(failed.err.splitlines())) == (1, 1)
    assert "redis://127.0.0.1:1 is not available" in failed.err


def test_code_that_wants_to_end_the_process_fails(command: Command) -> None:
    failed = command("describe", f"{BROKEN}:ends")

    assert failed.code == 1
    assert failed.err.splitlines()[-1] == f"avx-events: {BROKEN}:ends failed: SystemExit: no bus"


def test_a_module_that_fails_to_be_imported_says_where(command: Command, tmp_path: Path) -> None:
    failed = command("describe", f"{BROKEN}_import:app")

    assert failed.code == 1
    assert 'broken_import.py", line 3, in <module>' in failed.err
    assert "importlib" not in failed.err


def test_a_syntax_error_is_shown_with_its_line(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cli_no_python.py").write_text("def bus(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])  # to which the folder is added

    failed = command("describe", "cli_no_python:bus")

    assert failed.code == 1
    assert "def bus(:" in failed.err
    assert "Traceback" not in failed.err
