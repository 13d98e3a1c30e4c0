"""What the commands print, and with which code they end; in this process."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cyclopts import App

from avx_events.apps.cli import main
from avx_events.apps.cli.asking import edited
from avx_events.apps.cli.asyncapi import breaking_changes
from avx_events.apps.cli.commands import PLACES, command_modules
from avx_events.apps.cli.commands.projections import pause, rebuild, resume
from avx_events.bus.dead_letters import DeadLetterQueue
from avx_events.core.errors import ProjectionLagError
from avx_events.core.event import Event
from avx_events.core.metadata import context
from avx_events.patterns.projection import Projector
from avx_events.store.event_store import EventStore
from tests.unit.apps.cli import shop
from tests.unit.apps.cli.outputs import Command

HERE = "tests.unit.apps.cli.shop"


class Placed(Event, event_type="cli.test.placed", aggregate_id="order_id"):
    order_id: str
    total: int


@pytest.fixture
def url(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/events.db"

    async def fill() -> None:
        async with await EventStore.connect(url) as store:
            with context(user_id="ann"):
                await store.append("order-1", [Placed("1", 3), Placed("1", 4)])
            await store.append("user-\x1b[31m", Placed("2", 5))

    asyncio.run(fill())
    return url


@pytest.fixture
def letters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    url = f"sqlite:///{tmp_path}/letters.db"
    monkeypatch.setattr(shop, "LETTERS", url)

    async def fail() -> None:
        async with shop.app() as bus, bus:
            for order_id, amount in (("1", -1), ("2", -2), ("3", 3)):
                await bus.publish(shop.Paid(order_id, amount))
            await bus.settled()

    asyncio.run(fail())
    return url


async def letter_ids(url: str) -> list[str]:
    async with await DeadLetterQueue.connect(url) as queue:
        return [letter.id for letter in await queue.list()]


# Streams


def test_streams_are_a_table_for_people_and_lines_of_json_for_programs(command: Command, url: str) -> None:
    table = command("streams", url)
    lines = command("streams", url, "order-", "--json")

    assert table.code == 0
    assert table.out.splitlines()[0].split() == ["NAME", "VERSION", "LAST", "POSITION", "LAST", "RECORDED", "AT"]
    assert "order-1  " in table.out
    assert [(row["name"], row["version"], row["last_position"]) for row in lines.documents] == [("order-1", 2, 2)]


def test_what_a_terminal_would_obey_is_not_printed(command: Command, url: str) -> None:
    assert "\x1b" not in command("streams", url).out
    assert "user-\\x1b[31m" in command("streams", url).out


def test_the_history_of_a_stream_says_who_and_what_changed(command: Command, url: str) -> None:
    lines = command("show", url, "order-1")
    first, second = command("show", url, "order-1", "--aggregate", f"{HERE}:Order", "--json").documents

    assert "ann" in lines.out.splitlines()[0]
    assert (first["user_id"], first["state"], second["state"]) == ("ann", {"total": 3}, {"total": 7})
    assert second["changes"] == {"total": {"before": 3, "after": 7}}
    assert len(command("show", url, "order-1", "--at-version", "1").out.splitlines()) == 1


def test_a_stream_that_is_not_there_is_a_failure(command: Command, url: str) -> None:
    missing = command("show", url, "order-9")

    assert (missing.code, missing.out) == (1, "")
    assert "'order-9'" in missing.err
    assert "avx-events streams" in missing.err


def test_less_than_was_asked_for_is_shown_and_said(command: Command, url: str) -> None:
    beyond = command("show", url, "order-1", "--at-version", "9")
    before = command("show", url, "order-1", "--as-of", "2001-01-01T00:00:00Z")

    assert (beyond.code, len(beyond.out.splitlines()), beyond.err) == (0, 2, "stream order-1 is at version 2\n")
    assert (before.code, before.out) == (0, "")
    assert before.err.startswith("stream order-1 began at 20")
    assert command("show", url, "order-1", "--at-version", "2").err == ""


# Tail


def test_a_log_is_followed_from_its_start_by_pattern_and_type(command: Command, url: str) -> None:
    seen = command("tail", url, "cli.**", "--types", "cli.test.placed", "--from", "start", "--count", "3", "--json")
    later = command("tail", url, "--from", "2", "--count", "1", "--json")

    assert [row["data"]["total"] for row in seen.documents] == [3, 4, 5]
    assert [row["position"] for row in later.documents] == [3]


def test_a_place_to_begin_that_is_none_is_a_failure(command: Command, url: str) -> None:
    for begin in ("yesterday", "-1"):
        refused = command("tail", url, f"--from={begin}")

        assert refused.code == 1
        assert "--from must be" in refused.err


# Dead letters


def test_dead_letters_of_one_handler_and_error_stand_together(command: Command, letters: str) -> None:
    (group,) = command("dead-letters", "list", letters, "--json").documents
    each = command("dead-letters", "list", letters, "--each", "--json").documents

    assert (group["handler"], group["error_type"], group["letters"]) == ("book", "ValueError", 2)
    assert [letter["id"] for letter in each] == asyncio.run(letter_ids(letters))
    assert "no dead letters" in command("dead-letters", "list", letters, "--handler", "other").err


def test_all_that_a_letter_says_is_shown(command: Command, letters: str) -> None:
    letter_id = asyncio.run(letter_ids(letters))[0]

    document = json.loads(command("dead-letters", "show", letters, letter_id, "--json").out)

    assert document["event"]["data"] == {"order_id": "1", "amount": -1}
    assert "negative" in document["error"]
    assert "Traceback" in command("dead-letters", "show", letters, letter_id).out
    assert command("dead-letters", "show", letters, "none").code == 1


def test_a_letter_that_is_mended_is_redriven_and_gone(command: Command, letters: str) -> None:
    first, second = asyncio.run(letter_ids(letters))
    app = f"{HERE}:app"

    again = command("dead-letters", "redrive", letters, "--app", app, "--yes", "--json")
    misfit = command("dead-letters", "edit", letters, first, "--data", '{"order_id": "1", "amount": "x"}')
    mended = command("dead-letters", "edit", letters, first, "--data", '{"order_id":"1","amount":5}', "--app", app)

    assert (again.code, [row["outcome"] for row in again.documents]) == (1, ["failed again"] * 2)
    assert (misfit.code, "amount" in misfit.err) == (1, True)
    assert (mended.code, mended.out) == (0, "redriven\n")
    assert asyncio.run(letter_ids(letters)) == [second]


def test_a_letter_that_is_edited_keeps_its_id_and_metadata(
    command: Command, letters: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    letter_id = asyncio.run(letter_ids(letters))[0]
    before = json.loads(command("dead-letters", "show", letters, letter_id, "--json").out)
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", "sed -i s/-1/7/")

    done = command("dead-letters", "edit", letters, letter_id)

    after = json.loads(command("dead-letters", "show", letters, letter_id, "--json").out)
    assert done.code == 0
    assert after["event"]["data"] == {"order_id": "1", "amount": 7}
    assert after["event"] | {"data": None} == before["event"] | {"data": None}


def test_the_key_of_a_letter_is_that_of_its_mended_data(command: Command, letters: str) -> None:
    letter_id = asyncio.run(letter_ids(letters))[0]
    shop_is_imported = command("describe", f"{HERE}:app", "--json").code
    command("dead-letters", "edit", letters, letter_id, "--data", '{"order_id": "other", "amount": 1}')
    after = json.loads(command("dead-letters", "show", letters, letter_id, "--json").out)

    assert shop_is_imported == 0
    assert (after["event"]["aggregate_id"], after["event"]["data"]["order_id"]) == ("other", "other")


def test_a_letter_that_is_gone_is_said_to_be_and_the_others_are_redriven(command: Command, letters: str) -> None:
    letter_id = asyncio.run(letter_ids(letters))[0]
    data = '{"order_id": "1", "amount": 5}'
    command("dead-letters", "edit", letters, letter_id, "--data", data)
    redriven = command("dead-letters", "redrive", letters, "none", letter_id, "--app", f"{HERE}:app", "--yes", "--json")

    assert [row["outcome"] for row in redriven.documents] == ["not there", "redriven"]
    assert (redriven.code, "none" in redriven.err) == (1, True)


def test_an_application_with_other_letters_is_refused(
    command: Command, letters: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    letter_id = asyncio.run(letter_ids(letters))[0]
    monkeypatch.setattr(shop, "LETTERS", f"sqlite:///{tmp_path}/others.db")
    refused = command("dead-letters", "redrive", letters, letter_id, "--app", f"{HERE}:app", "--yes")

    assert refused.code == 1
    assert "--app must be one whose dead letters are those of the URL" in refused.err
    assert letter_id in asyncio.run(letter_ids(letters))


async def test_the_loop_goes_on_while_somebody_edits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    is_open, is_done = tmp_path / "open", tmp_path / "done"
    os.mkfifo(is_open)
    os.mkfifo(is_done)
    editor = tmp_path / "editor"
    editor.write_text(f"#!/bin/sh\necho > {is_open}\ncat {is_done} > $1\n")
    editor.chmod(0o755)
    monkeypatch.setenv("VISUAL", str(editor))

    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        editing = tasks.create_task(edited("before"))
        await asyncio.to_thread(is_open.read_text)
        assert not editing.done()
        await asyncio.to_thread(is_done.write_text, "after")

    assert editing.result() == "after"


def test_what_is_destroyed_is_asked_for(command: Command, letters: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/null").open(encoding="utf-8") as nobody:
        monkeypatch.setattr(sys, "stdin", nobody)
        refused = command("dead-letters", "purge", letters)

    assert (refused.code, "--yes" in refused.err) == (1, True)
    assert len(asyncio.run(letter_ids(letters))) == 2
    assert command("dead-letters", "purge", letters, "--yes").out == "removed 2\n"
    assert asyncio.run(letter_ids(letters)) == []


def test_a_redrive_without_the_application_says_what_to_do(command: Command, letters: str) -> None:
    refused = command("dead-letters", "redrive", letters, "--yes")

    assert refused.code == 1
    assert "--app" in refused.err


# Applications


def test_an_application_is_described_and_an_event_explained(command: Command) -> None:
    described = json.loads(command("describe", f"{HERE}:app", "--json").out)
    explained = json.loads(command("explain", "cli.shop.paid", "--app", f"{HERE}:app", "--json").out)

    assert [handler["name"] for handler in described["handlers"]] == ["book"]
    assert (explained["key"], explained["topic"]) == ("order_id", "cli.shop.paid")
    assert explained["handlers"][0] | {"attempts": 1, "concurrency": 2} == explained["handlers"][0]
    assert command("explain", "never", "--app", f"{HERE}:app").code == 1


def test_a_change_that_breaks_others_is_found(command: Command, tmp_path: Path) -> None:
    saved = command("asyncapi", f"{HERE}:app").out
    (tmp_path / "same.json").write_text(saved, "utf-8")
    (tmp_path / "other.json").write_text(saved.replace('"amount"', '"sum"'), "utf-8")

    same = command("asyncapi", f"{HERE}:app", "--check", str(tmp_path / "same.json"))
    other = command("asyncapi", f"{HERE}:app", "--check", str(tmp_path / "other.json"))

    assert (same.code, same.out) == (0, "")
    assert other.code == 1
    assert "cli.shop.paid.sum: the field is gone" in other.out
    assert command("asyncapi", f"{HERE}:app", "--check", str(tmp_path / "none.json")).code == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1]",
        "\ud800",
        "{}",
        '{"asyncapi": "3.0.0", "components": [], "operations": 3}',
        '{"asyncapi": "3.0.0", "components": null, "operations": null}',
        '{"asyncapi": "3.0.0", "components": {"messages": {"cli.shop.paid": 1}, "schemas": 3}}',
        '{"asyncapi": "3.0.0", "components": {"messages": {"cli.shop.paid": {"payload": {"$ref": 5}}}}}',
        '{"asyncapi": "3.0.0", "components": {"messages": {"cli.shop.paid": {"payload": {"enum": 3, "required": 1}}}}}',
    ],
)
def test_a_document_of_another_shape_gives_an_answer(command: Command, tmp_path: Path, text: str) -> None:
    (tmp_path / "saved.json").write_bytes(text.encode("utf-8", "surrogatepass"))

    checked = command("asyncapi", f"{HERE}:app", "--check", str(tmp_path / "saved.json"))

    assert checked.code in {0, 1}
    assert len((checked.out + checked.err).splitlines()) <= 1


def test_each_kind_of_breaking_change_has_its_sentence() -> None:
    def document(schema: dict[str, Any]) -> dict[str, Any]:
        payload = {"$ref": "#/components/schemas/A"}
        return {"components": {"messages": {"a": {"payload": payload}}, "schemas": {"A": schema}}}

    def fields(*required: str, **properties: Any) -> dict[str, Any]:
        return document({"type": "object", "properties": properties, "required": list(required)})

    number, text = {"type": "integer"}, {"type": "string"}
    assert breaking_changes(fields(x=number), fields(x=number, y=text)) == []
    assert breaking_changes(fields(x=number), fields(x=text)) == ["a.x: integer has become string"]
    assert breaking_changes(fields(x=number), fields("x", x=number)) == ["a.x: the field must be there now"]
    assert breaking_changes(fields(x={"enum": [1, 2]}), fields(x={"enum": [1]})) == ["a.x: 2 cannot be any more"]
    assert breaking_changes(fields(x=number), {}) == ["a: there is no such message any more"]


# Projections and replays


def test_projections_are_listed_and_one_that_is_not_there_is_named(command: Command, url: str) -> None:
    assert "no projections" in command("projections", "list", url).err

    asyncio.run(shop.project(url))
    (row,) = command("projections", "list", url, "--json").documents
    missing = command("projections", "status", url, "other")

    assert (row["name"], row["stage"], row["position"], row["lag_events"]) == ("cli-totals", "live", 3, 0)
    assert command("projections", "status", url, "cli-totals").code == 0
    assert (missing.code, "cli-totals" in missing.err) == (1, True)


def test_a_projection_that_is_paused_stands_across_restarts_until_it_is_resumed(command: Command, url: str) -> None:
    asyncio.run(shop.project(url))
    paused = command("projections", "pause", url, "cli-totals")

    async def append_and_look() -> tuple[int, str]:
        async with await EventStore.connect(url) as store, Projector(store, shop.Totals()) as projector:
            result = await store.append("order-3", Placed("3", 1))
            with pytest.raises(ProjectionLagError):
                await projector.caught_up(result.position, timeout_s=0.2)
            status = (await projector.status())["cli-totals"]
            return status.position, status.state

    assert (paused.code, paused.out) == (0, "paused cli-totals\n")
    assert asyncio.run(append_and_look()) == (3, "paused")
    assert command("projections", "list", url, "--json").documents[0]["paused"] is True
    assert command("projections", "resume", url, "cli-totals").code == 0
    asyncio.run(shop.project(url))
    assert command("projections", "list", url, "--json").documents[0]["position"] == 4
    assert command("projections", "pause", url, "other").code == 1


def test_a_projection_is_built_again_by_the_next_process_that_runs_it(command: Command, url: str) -> None:
    asyncio.run(shop.project(url))
    unasked = command("projections", "rebuild", url, "cli-totals")
    asked = command("projections", "rebuild", url, "cli-totals", "--yes")
    waiting = command("projections", "rebuild", url, "cli-totals", "--yes", "--wait", "--timeout-s", "0.2")
    listed = command("projections", "list", url, "--json").documents
    asyncio.run(shop.project(url))
    (built,) = command("projections", "list", url, "--json").documents

    assert (unasked.code, "--yes" in unasked.err) == (1, True)
    assert (asked.code, asked.out) == (0, "cli-totals is to be rebuilt\n")
    assert (waiting.code, "waiting for a process that runs cli-totals" in waiting.err) == (1, True)
    assert "not rebuilt after 0.2 s: nobody has begun" in waiting.err
    assert [(row["version"], row["stage"], row["position"]) for row in listed] == [(0, "live", 3)]
    assert (built["version"], built["stage"], built["position"]) == (1, "live", 3)
    assert command("projections", "rebuild", url, "other", "--yes").code == 1
    assert command("projections", "rebuild", url, "cli-totals", "--yes", "--timeout-s", "-1").code == 1


async def test_who_waits_for_a_rebuild_hears_when_it_is_done(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    async with await EventStore.connect(url) as store, Projector(store, shop.Totals()) as projector:
        await projector.caught_up()
        async with store.transaction() as connection:
            await connection.execute("DELETE FROM cli_totals")

        assert await rebuild(url, "cli-totals", wait=True, timeout_s=20, yes=True) == 0
        assert await store.fetch_one("SELECT count(*) FROM cli_totals") == (3,)
    assert capsys.readouterr().out == "rebuilt cli-totals\n"


def test_a_replay_reports_what_it_did_and_touches_nothing(command: Command, url: str) -> None:
    shop.seen.clear()
    of_function = json.loads(command("replay", url, "--into", f"{HERE}:look", "--after", "1", "--json").out)
    of_projection = json.loads(command("replay", url, "--into", f"{HERE}:Totals", "--json").out)

    assert (of_function["events"], of_function["first_position"]) == (2, 2)
    assert [event.total for event in shop.seen] == [4, 5]
    assert of_projection["events"] == 3
    assert "no projections" in command("projections", "list", url).err


# The program


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nothing"], 2, "Unknown command"),
        (["streams"], 2, "requires an argument"),
        (["show", "sqlite://", "order-1", "order 2"], 2, "Too many arguments: 'order 2'. Try 'avx-events show --help'"),
        (["streams", "x://", "--limit", "q"], 2, "--limit"),
        (["streams", "no url"], 1, "a URL"),
        (["streams", "never://x"], 1, "no engine"),
        (["streams", "redis://localhost:1"], 1, "the URL of a store"),
        (["streams", "sqlite:///not-there.db"], 1, "a file that is there"),
        (["tail", "redis://127.0.0.1:1", "--timeout-s", "1"], 1, "not available"),
        (["publish", "redis://127.0.0.1:1", "a.b", "{}", "--timeout-s", "1"], 1, "not available"),
        (["publish", "redis://127.0.0.1:1", "a.b", "[]"], 1, "a JSON object"),
        (["publish", "redis://127.0.0.1:1", "a.b", '{"number": NaN}'], 1, "a JSON object"),
        (["publish", "sqlite:///x.db", "a.b", "{}"], 1, "appended by the code that decides it"),
        (["show", "sqlite:///x.db", "\udcff"], 1, "text in UTF-8"),
        (["publish", "redis://127.0.0.1:1", "a b", "{}"], 1, "space"),
        (["publish", "redis://127.0.0.1:1", "a", "{}", "--header", "x"], 1, "name=value"),
        (["describe", "no-colon"], 1, "module:name"),
        (["describe", "never.there:app"], 1, "that can be imported"),
        (["describe", f"{HERE}:never"], 1, "never"),
        (["describe", f"{HERE}:look"], 1, "a bus or projector"),
    ],
)
def test_what_people_do_wrong_is_one_line_and_an_exit_code(
    command: Command, arguments: list[str], code: int, said: str
) -> None:
    failed = command(*arguments)

    assert (failed.code, failed.out) == (code, "")
    assert len(failed.err.splitlines()) == 1
    assert said in failed.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("streams", "redis://ann:hush@localhost"),
        ("streams", "never://ann:hush@localhost"),
        ("tail", "redis://:hush@localhost:0?option=1"),
        ("console", "redis://ann:hush@localhost", "nats://ann:h%20ush@localhost"),
        ("publish", "postgresql://localhost/shop?user=ann&password=hush", "a.b", "{}"),
        ("show", "sqlite:///never.db?token=hush", "order-1"),
    ],
)
def test_no_password_is_told(command: Command, arguments: tuple[str, ...]) -> None:
    failed = command(*arguments)

    assert failed.code == 1
    assert "hush" not in failed.out + failed.err
    assert "***" in failed.err


def test_what_was_not_understood_says_where_help_is(command: Command) -> None:
    assert command("dead-letters", "list").err.endswith("Try 'avx-events dead-letters list --help'.\n")
    assert command("nothing").err.endswith("Try 'avx-events --help'.\n")


def test_every_command_says_what_it_does(command: Command) -> None:
    assert command("--version").out.strip()
    listed = command("--help").out
    for name in ("tail", "publish", "streams", "show", "dead-letters", "projections", "replay", "describe"):
        assert name in listed
    assert len(list(command_modules())) >= 6


def test_a_command_loads_its_own_module_and_each_has_its_place() -> None:
    places: dict[str, str] = {}
    for module in command_modules():
        app = App()
        module.add_to(app)
        places |= {name: module.__name__.rpartition(".")[2] for name in app if not name.startswith("-")}

    assert places == PLACES
    assert [module.__name__.rpartition(".")[2] for module in command_modules("show")] == ["streams"]
    assert len(list(command_modules("unheard of"))) == len(set(PLACES.values()))


LOADED_BY = """
import sys
from avx_events.apps.cli.program import run
run(sys.argv[1:])
print(*sys.modules, file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("arguments", "left"),
    [
        (("tail", "--help"), {"avx_events.bus", "avx_events.patterns", "avx_events.store.event_store"}),
        (
            ("streams", "{url}", "--json"),
            {"avx_events.bus", "avx_events.patterns", "rich.table", "cyclopts.completion"},
        ),
    ],
    ids=["help", "streams"],
)
def test_a_command_loads_what_it_needs(url: str, arguments: tuple[str, ...], left: set[str]) -> None:
    given = [argument.replace("{url}", url) for argument in arguments]

    done = subprocess.run(  # noqa: S603 - our program
        [sys.executable, "-c", LOADED_BY, *given], capture_output=True, text=True, check=True, timeout=30
    )

    assert set(done.stderr.split()) & left == set()


def test_without_the_extra_there_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "avx_events.apps.cli.program")
    monkeypatch.setitem(sys.modules, "cyclopts", None)

    with pytest.raises(SystemExit) as ended:
        main()

    assert ended.value.code == 1
    assert capsys.readouterr().err == "avx-events needs the cli extra: pip install 'avx-events[cli]'\n"


def test_a_document_is_json_that_msgspec_reads(command: Command, url: str) -> None:
    for line in command("show", url, "order-1", "--json").out.splitlines():
        assert msgspec.json.decode(line)["event_type"] == "cli.test.placed"


async def test_a_projector_that_runs_obeys_a_pause_and_goes_on_when_it_is_over(url: str) -> None:
    async with await EventStore.connect(url) as store, Projector(store, shop.Totals()) as projector:
        await projector.caught_up()
        await pause(url, "cli-totals")
        result = await store.append("order-3", Placed("3", 1))
        with pytest.raises(ProjectionLagError):
            await projector.caught_up(result.position, timeout_s=0.2)

        await resume(url, "cli-totals")
        await projector.caught_up(result.position, timeout_s=10)

        assert await store.fetch_one("SELECT count(*) FROM cli_totals") == (4,)
