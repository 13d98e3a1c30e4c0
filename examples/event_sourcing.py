"""State that is made of events: aggregates, time travel, two writers at once, the log, snapshots, old events, a test.

    python examples/event_sourcing.py

A bank keeps what happened to an account; the balance follows from it. The store is in memory here. To keep it in a
file, open it with ``await EventStore.connect("sqlite:///bank.db")``; nothing else changes.
"""

import asyncio
from typing import Any

from avx_events import AggregateRoot, ConcurrencyError, Event, EventStore
from avx_events.testing import read_back, scenario


class AccountEvent(Event, aggregate_id="account"):
    account: str


class AccountOpened(AccountEvent, revision=2):
    owner: str
    currency: str  # new in revision 2


class Deposited(AccountEvent):
    cents: int


class Withdrawn(AccountEvent):
    cents: int


@AccountOpened.upcast(from_revision=1)
def add_currency(data: dict[str, Any]) -> dict[str, Any]:
    return {**data, "currency": "EUR"}  # which went without saying, in revision 1


class Account(AggregateRoot):
    owner: str = ""
    cents: int = 0

    def open(self, owner: str) -> None:
        self.record(AccountOpened(self.id, owner, "EUR"))

    def deposit(self, cents: int) -> None:
        self.record(Deposited(self.id, cents))

    def withdraw(self, cents: int) -> None:  # decisions look at the state, and record what happened
        if cents > self.cents:
            raise ValueError(f"{cents} cents are more than the {self.cents} that are there")
        self.record(Withdrawn(self.id, cents))

    def apply(self, event: AccountOpened | Deposited | Withdrawn) -> None:  # new events and old ones make the state
        match event:
            case AccountOpened(owner=owner):
                self.owner = owner
            case Deposited(cents=cents):
                self.cents += cents
            case Withdrawn(cents=cents):
                self.cents -= cents


async def main() -> None:
    async with EventStore(snapshot_every=100) as store:
        print("An account is opened and used, and saved with all that happened:")
        account = Account("account-1")
        account.open("Ada")
        await store.save(account)
        account.deposit(10_000)
        account.withdraw(3_000)
        saved = await store.save(account)
        for stored in await store.get_events("account-1"):
            print(f"  {stored.version} {stored.event}")

        print("\nWhat it is, what it was at version 2, and when it was opened:")
        opened_at = (await store.get_events("account-1"))[0].recorded_at
        print(f"  {await store.load(Account, 'account-1')}")
        print(f"  {await store.load(Account, 'account-1', at_version=2)}")
        print(f"  {await store.load(Account, 'account-1', as_of=opened_at)}")

        print("\nTwo people load it and withdraw. The second to save is told, looks again, and takes what is left:")
        here, there = await store.load(Account, "account-1"), await store.load(Account, "account-1")
        here.withdraw(6_000)
        there.withdraw(6_000)
        await store.save(here)
        try:
            await store.save(there)
        except ConcurrencyError as exc:
            print(f"  ConcurrencyError: {exc}")
            there = await store.load(Account, "account-1")
            there.withdraw(there.cents)
            await store.save(there)
        print(f"  {there}")

        print("\nThe log of all accounts, for a reader who has seen it up to position 3:")
        opened = await store.append("account-2", AccountOpened("account-2", "Bob", "EUR"), expected_version=0)
        async for stored in store.subscribe(after=saved.position):
            print(f"  {stored.position} {stored.stream} {stored.event}")
            if stored.position == opened.position:
                break  # else it would wait for what comes next, until the store is closed
        withdrawn = [stored.event.cents async for stored in store.read_all() if isinstance(stored.event, Withdrawn)]
        print(f"  withdrawn from all accounts: {sum(withdrawn)} cents")

        print("\nA long history is read once, and then from a snapshot:")
        await store.append("account-2", [Deposited("account-2", 1) for _ in range(250)])
        for _ in range(2):
            print(f"  {await store.load(Account, 'account-2')}, snapshots used: {store.statistics()['snapshots_used']}")

    print("\nAn event that was stored years ago is read as if it were written today:")
    old = read_back("account.opened", {"account": "account-3", "owner": "Eve"}, revision=1)
    print(f"  {old}")

    # The rules, tested: given what happened, when this is done, then that happens.
    given = scenario(Account).given(old, Deposited("account-3", 500))
    given.when(lambda account: account.withdraw(200)).then(Withdrawn("account-3", 200)).then_state(cents=300)
    given.when(lambda account: account.withdraw(501)).then_raises(ValueError, match="more than the 500")
    print("\nThe tests of the rules have passed.")


if __name__ == "__main__":
    asyncio.run(main())
