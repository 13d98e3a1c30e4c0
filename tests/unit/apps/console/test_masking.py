"""Personal data: hidden by type and by name, at any depth, and put back where it was not edited."""

from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import pytest

from avx_events import InvalidArgumentError, ValidationError
from avx_events.apps.console.masking import MASK, Masking, unmasked
from avx_events.core.event import Personal


class Address(msgspec.Struct, rename="camel"):
    street_name: Personal[str]
    city: str


@dataclass
class Card:
    number: Annotated[str, msgspec.Meta(extra={"avx_personal": True})]
    kind: str = "visa"


class Person(msgspec.Struct):
    id: str
    email: Personal[str]
    nickname: Personal[str] | None = None
    home: Address | None = None
    homes: tuple[Address, ...] = ()
    by_name: dict[str, Address] = {}
    cards: list[Card] = []
    pair: tuple[str, Personal[int]] | None = None


def looked_at(value: Any, hint: Any = object, names: tuple[str, ...] = ()) -> Any:
    return Masking(names).masked(msgspec.to_builtins(value), hint).value


def test_what_is_marked_is_hidden_at_any_depth() -> None:
    home = Address("Main Street", "Rome")
    person = Person("1", "a@b.c", "ada", home, (home,), {"x": home}, [Card("4111")], ("left", 5))

    shown = looked_at(person, Person)

    hidden_home = {"streetName": MASK, "city": "Rome"}
    assert shown == {
        "id": "1",
        "email": MASK,
        "nickname": MASK,
        "home": hidden_home,
        "homes": [hidden_home],
        "by_name": {"x": hidden_home},
        "cards": [{"number": MASK, "kind": "visa"}],
        "pair": ["left", MASK],
    }


def test_that_there_is_no_value_is_not_hidden() -> None:
    assert looked_at(Person("1", "a@b.c"), Person)["nickname"] is None


def test_names_are_hidden_in_what_nobody_has_a_type_of() -> None:
    shown = looked_at({"user": {"E-Mail": "a@b.c", "tags": [{"email": 1}]}}, names=("email", "e-mail"))

    assert shown == {"user": {"E-Mail": MASK, "tags": [{"email": MASK}]}}


def test_what_was_hidden_is_not_in_the_text_of_an_error_either() -> None:
    masked = Masking().masked({"id": "1", "email": "ada@example.com"}, Person)

    assert masked.scrubbed("ValueError: ada@example.com bounced") == f"ValueError: {MASK} bounced"


def test_what_was_not_edited_is_as_it_was() -> None:
    original = {"email": "a@b.c", "home": {"street": "Main"}, "list": [{"email": "x@y.z"}], "total": 1}
    shown = Masking(("email", "street")).masked(original).value

    restored = unmasked(shown | {"total": 2}, shown, original)

    assert restored == original | {"total": 2}


def test_a_hidden_value_can_be_replaced_without_being_seen() -> None:
    original = {"email": "a@b.c", "name": "Ada"}
    shown = Masking(("email",)).masked(original).value

    assert unmasked({"email": "new@b.c", "name": "Ada"}, shown, original) == {"email": "new@b.c", "name": "Ada"}


def test_a_mask_in_another_place_is_refused() -> None:
    original = {"email": "a@b.c", "name": "Ada"}
    shown = Masking(("email",)).masked(original).value

    with pytest.raises(ValidationError, match="nothing was hidden"):
        unmasked({"name": MASK}, shown, original)


@pytest.mark.parametrize("names", ["email", [""], [5]])
def test_names_are_several_texts(names: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="masked_fields"):
        Masking(names)


def test_a_personal_field_is_a_plain_one_to_everything_else() -> None:
    assert msgspec.json.decode(b'{"id": "1", "email": "a@b.c"}', type=Person).email == "a@b.c"
