"""What the tests of the command line have in common."""

import pytest

from avx_events.apps.cli.program import run
from tests.unit.apps.cli.outputs import Command, Output


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    def run_it(*arguments: str) -> Output:
        code = run(arguments)
        printed = capsys.readouterr()
        return Output(code, printed.out, printed.err)

    return run_it
