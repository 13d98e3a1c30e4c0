"""What a page shows is told from what it does not show, and from what fails."""

from pathlib import Path

import pytest

from tests.live.page_walk import Step, section, steps, walk_in

ONE, TWO = "01a21756-c669-7643-a811-0dcb8ad50000", "01a2175a-59d5-7b24-a74b-1bf0fdb80000"
HERE, ELSEWHERE = "6f1d2c7e-0000-4000-8000-00000000000a", "6f1d2c7e-0000-4000-8000-00000000000b"

PAGE = f"""# Title

```console
$ pwd
```

## First

```console
$ echo {ONE} \\
    again
{ONE} again
$ ID={ONE}    # a comment
```

## Second

```python
$ no command
```
"""


def test_the_commands_of_a_section_are_those_in_its_console_blocks() -> None:
    assert steps(section(PAGE, "")) == [Step("pwd", "")]
    assert steps(section(PAGE, "First")) == [
        Step(f"echo {ONE} \\\n    again", f"{ONE} again\n"),
        Step(f"ID={ONE}    # a comment", ""),
    ]
    assert steps(section(PAGE, "Second")) == []


async def test_an_id_on_the_page_stands_for_the_one_that_was_printed(tmp_path: Path) -> None:
    async with walk_in(tmp_path, {"127.0.0.1:8080": "127.0.0.1:9"}) as walk:
        await walk.follow(Step(f"echo user-{HERE} {HERE}", f"user-{ONE} {ONE}\n"))
        await walk.follow(Step(f"ID={ONE}", ""))
        await walk.follow(Step('test "$ID" = ' + HERE, ""))
        await walk.follow(Step("echo 127.0.0.1:8080", "127.0.0.1:8080\n"))

        assert walk.here(f"127.0.0.1:8080 {ONE} {TWO}") == f"127.0.0.1:9 {HERE} {TWO}"


@pytest.mark.parametrize("shown", ["one\n…\n", "…\nfour\n", "one\n…\nfour\n", "…e\ntwo\n…\n"])
async def test_what_the_page_leaves_out_may_be_anything(tmp_path: Path, shown: str) -> None:
    async with walk_in(tmp_path, {}) as walk:
        await walk.follow(Step("printf 'one\\ntwo  \\nthree\\nfour'", shown))


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("echo one", "two\n"),
        ("echo one", ""),
        ("true", "one\n"),
        ("echo one; false", "one\n"),
        (f"echo {HERE} {ELSEWHERE}", f"{ONE} {ONE}\n"),
        (f"echo {HERE}", f"user-{ONE}\n"),
        ("echo now", "2026-11-26 10:11:32Z\n"),
        ("printf 'one\\ntwo'", "one…\n"),
    ],
)
async def test_what_is_printed_otherwise_fails(tmp_path: Path, command: str, shown: str) -> None:
    async with walk_in(tmp_path, {}) as walk:
        with pytest.raises(pytest.fail.Exception, match="shown:"):
            await walk.follow(Step(command, shown))
