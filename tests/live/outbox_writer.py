"""Places orders in a table of its own, each with its event in the outbox, on a plain connection of sqlite3.

Every seventh transaction is undone. Before number STOP_AT is committed it says so, and waits to be killed.

Usage: outbox_writer.py PATH FIRST COUNT STOP_AT
"""

import sqlite3
import sys
from contextlib import closing

from avx_events import Outbox
from tests.live.relay_worker import Moved, say

KEYS = 12


def main(path: str, first: int, count: int, stop_at: int) -> None:
    outbox = Outbox()
    with closing(sqlite3.connect(path, timeout=30)) as database:
        for number in range(first, first + count):
            key = f"key-{number % KEYS}"
            database.execute("INSERT INTO moves VALUES (?, ?)", (key, number))
            outbox.add_nowait(Moved(key, number), database)
            if number == stop_at:
                say(f"added {number}")
                sys.stdin.read()
            if number % 7 == 0:
                database.rollback()
            else:
                database.commit()
    say("done")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
