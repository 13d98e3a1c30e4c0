"""The table of guarantees in README.md is what the contract tests derive from: what is promised is what is tested.

A cell is ``yes`` where all buses of the engine keep the contract, ``in a group`` or ``without a group`` where only
those do, and ``-`` where none does.
"""

import inspect
from collections.abc import Iterator
from importlib import import_module
from typing import Final

import avx_events.testing
from avx_events.testing import RequestReplyContract, TopicContract
from avx_events.testing.bus_contract import BusContract
from tests.docs.pages import ROOT

README: Final = (ROOT / "README.md").read_text("utf-8")

# How the test classes of an engine begin, by the heading of its column.
ENGINES: Final = {
    "memory": "TestMemory",
    "Redis": "TestRedis",
    "NATS": "TestNats",
    "Kafka": "TestKafka",
    "a store's log": "TestLogBus",
}


def table() -> tuple[list[str], dict[str, dict[str, str]]]:
    """Return the headings of the engines, and the cells of each contract by them."""
    _, _, rest = README.partition("<!-- guarantees -->\n")
    heading, _, *rows = [row.strip("| ").split(" | ") for row in rest.partition("\n<!--")[0].splitlines()]
    engines = heading[2:]
    return engines, {row[0].strip("`"): dict(zip(engines, row[2:], strict=True)) for row in rows}


def contracts() -> dict[str, type]:
    """Return the contracts of buses that the package ships."""
    shipped = [getattr(avx_events.testing, name) for name in avx_events.testing.__all__]
    kinds = (BusContract, TopicContract, RequestReplyContract)
    return {value.__name__: value for value in shipped if inspect.isclass(value) and issubclass(value, kinds)}


def suites() -> Iterator[type]:
    """Find the classes of ``tests/contract`` that hold a bus against a contract."""
    shipped = tuple(contracts().values())
    for path in sorted(ROOT.glob("tests/contract/test_*.py")):
        module = import_module(f"tests.contract.{path.stem}")
        for name, value in inspect.getmembers(module, inspect.isclass):
            if name.startswith("Test") and value.__module__ == module.__name__ and issubclass(value, shipped):
                yield value


def promise(contract: type, prefix: str) -> str:
    """Return what the test classes whose names begin with ``prefix`` say of ``contract``."""
    engine = [found for found in suites() if found.__name__.startswith(prefix)]
    keeping = [found.__name__.removeprefix(prefix) for found in engine if issubclass(found, contract)]
    if not keeping:
        return "-"
    return {"Broadcast": "without a group", "Group": "in a group"}.get("".join(keeping), "yes")


def test_the_table_says_what_the_class_lines_say() -> None:
    engines, cells = table()

    promised = {
        name: {engine: promise(contract, ENGINES[engine]) for engine in engines}
        for name, contract in contracts().items()
    }
    assert cells == promised


def test_every_engine_that_is_tested_has_a_column() -> None:
    engines, _ = table()

    assert list(ENGINES) == engines
    assert [found.__name__ for found in suites() if not found.__name__.startswith(tuple(ENGINES.values()))] == []
