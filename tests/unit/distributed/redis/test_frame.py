"""A command that is written around one argument is the command that hiredis writes."""

from hypothesis import given
from hypothesis import strategies as st

from avx_events.distributed.redis.wire import Argument, Frame, packed

arguments = st.lists(st.text(st.characters(exclude_categories=["Cs"])) | st.binary() | st.integers(0, 9), max_size=4)


@given(arguments, st.binary(), arguments)
def test_it_is_the_command_with_the_argument_in_its_place(
    before: list[Argument], argument: bytes, after: list[Argument]
) -> None:
    frame = Frame.of(["XADD", *before], after)

    assert frame.around(argument) == packed("XADD", *before, argument, *after)
