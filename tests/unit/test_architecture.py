"""What the import linter cannot say about the package."""

import inspect
import subprocess
import sys
from pathlib import Path

import avx_events

# msgspec loads typing_extensions where it is installed.
CORE = {"avx_events", "msgspec", "typing_extensions"}

# Names that say what a file is for the machine, and not what is in it.
EMPTY_NAMES = {"base", "common", "data", "helpers", "info", "manager", "utils"}

LOADED_WITH_THE_PACKAGE = """
import sys
before = set(sys.modules)
import avx_events
loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
print(*sorted(loaded - (sys.stdlib_module_names - {"sqlite3"})))
"""


def test_importing_the_package_loads_no_client_library() -> None:
    program = [sys.executable, "-c", LOADED_WITH_THE_PACKAGE]

    done = subprocess.run(program, capture_output=True, text=True, check=True, timeout=30)  # noqa: S603 - our program

    assert set(done.stdout.split()) <= CORE


def test_every_everyday_name_is_there_once() -> None:
    names = avx_events.__all__

    assert [name for name in names if not hasattr(avx_events, name)] == []
    assert len(names) == len(set(names))


def test_every_everyday_class_and_function_has_a_docstring() -> None:
    values = [getattr(avx_events, name) for name in avx_events.__all__]

    explained = [value for value in values if inspect.isclass(value) or inspect.isroutine(value)]

    assert [value for value in explained if not value.__doc__] == []


def test_file_names_say_what_is_inside() -> None:
    modules = Path(avx_events.__file__).parent.rglob("*.py")

    assert [module for module in modules if module.stem in EMPTY_NAMES] == []
