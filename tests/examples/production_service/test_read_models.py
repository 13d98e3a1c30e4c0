"""Read models: given these events, then these rows."""

from avx_events.testing import projection_scenario
from examples.production_service.orders import OrderPlaced
from examples.production_service.read_models import OrderBook, UserDirectory
from examples.production_service.users import EmailChanged, EmailClaimDropped, UserCreated

USERS = "SELECT number, user_id, email, name, version FROM users ORDER BY number"


async def test_users_are_numbered_by_the_position_of_their_first_event() -> None:
    await (
        projection_scenario(UserDirectory())
        .given(UserCreated("user-1", "jane@example.com", "Jane"), EmailChanged("user-1", "jane@example.org"))
        .when(UserCreated("user-2", "john@example.com", "John"))
        .then_rows(USERS, (1, "user-1", "jane@example.org", "Jane", 2), (3, "user-2", "john@example.com", "John", 1))
    )


async def test_every_event_of_a_user_moves_its_version() -> None:
    await (
        projection_scenario(UserDirectory())
        .given(UserCreated("user-1", "jane@example.com", "Jane"))
        .when(EmailClaimDropped("user-1", "jane@example.org"))
        .then_rows(USERS, (1, "user-1", "jane@example.com", "Jane", 2))
    )


async def test_whoever_only_dropped_a_claim_is_not_listed() -> None:
    await projection_scenario(UserDirectory()).when(EmailClaimDropped("user-1", "jane@example.org")).then_rows(USERS)


async def test_orders_are_listed_under_their_ids() -> None:
    await (
        projection_scenario(OrderBook())
        .when(OrderPlaced("order-1", "user-1", 1250))
        .then_rows("SELECT order_id, user_id, total_cents, version FROM orders", ("order-1", "user-1", 1250, 1))
    )
