"""Tells statements that are done after a few lookups, however large their tables are, from those that may take long.

SQLite compiles a statement to a program, and EXPLAIN shows it. A program of the steps listed here has no loop and calls
no other (a trigger): inserting one row is such a one, or finding, changing or deleting one by a unique key. It takes
some microseconds and never waits, as the transaction has all locks already and nothing is synced before the commit, so
it may run on the event loop. A step that is not listed, as of a later SQLite, makes a statement no brief one.
"""

import sqlite3
from typing import Final

_STEPS: Final = frozenset(
    """
    Add AddImm Affinity And BitAnd BitNot BitOr Cast Close CollSeq Column Concat Copy DeferredSeek Delete Divide ElseEq
    Eq FinishSeek FkCheck Found Function Ge Goto Gt Halt HaltIfNull IdxDelete IdxGE IdxGT IdxInsert IdxLE IdxLT IdxRowid
    If IfNot Init Insert Int64 IntCopy Integer IsNull IsTrue Le Lt MakeRecord Multiply MustBeInt Ne NewRowid NoConflict
    Noop Not NotExists NotFound NotNull Null NullRow Once OpenRead OpenWrite Or PureFunc Real RealAffinity ReopenIdx
    Remainder ResultRow RowData Rowid SCopy SeekGE SeekRowid ShiftLeft ShiftRight SoftNull String String8 Subtract
    Transaction TypeCheck Variable ZeroOrNull
    """.split()  # noqa: SIM905 - for the eye
)
_FIRST_STEP: Final = 1  # where every program goes, once, after it took its locks at the end of its text
# An application that writes its values into the text has endless texts.
_MOST_KNOWN: Final = 512


class BriefStatements:
    """What is known of the statements of one connection, by their text, until the schema changes.

    Attributes:
        texts: Those known to be brief.
    """

    def __init__(self) -> None:
        self.texts: set[str] = set()
        self._is_brief: dict[str, bool] = {}
        self._schema: int = 0
        self._is_valid: bool = False

    def begin(self, connection: sqlite3.Connection) -> None:
        """Say that a write transaction has begun: others cannot change the schema any more."""
        schema = _schema(connection)
        if schema != self._schema:
            self._is_brief.clear()
        if schema != self._schema or not self._is_valid:
            self.texts = {sql for sql, is_brief in self._is_brief.items() if is_brief}
        self._schema, self._is_valid = schema, True

    def has_run(self, connection: sqlite3.Connection, sql: str, params: tuple[object, ...]) -> None:
        """Say that a statement has run that was not known to be brief: look at it, if it left the schema as it was."""
        # What is learned of a schema that may be undone would be taken for that of the next change.
        if not self._is_valid or _schema(connection) != self._schema:
            self._is_valid = False
            self.texts.clear()
        elif sql not in self._is_brief:
            if len(self._is_brief) >= _MOST_KNOWN:
                self._is_brief.clear()
                self.texts.clear()
            # Only now, as to run it has made SQLite read the schema again where another process changed it; and with
            # a number, as EXPLAIN itself would never be compiled again.
            is_brief = _is_brief(connection, f"EXPLAIN /* {self._schema} */ {sql}", params)
            self._is_brief[sql] = is_brief
            if is_brief:
                self.texts.add(sql)


def _schema(connection: sqlite3.Connection) -> int:
    version: int = connection.execute("PRAGMA schema_version").fetchone()[0]
    return version


def _is_brief(connection: sqlite3.Connection, explain: str, params: tuple[object, ...]) -> bool:
    try:
        program = connection.execute(explain, params).fetchall()
    except sqlite3.Error:  # it is an EXPLAIN itself
        return False
    return all(
        step in _STEPS and (step != "Goto" or target > address or target == _FIRST_STEP)
        for address, step, _, target, *_ in program
    )
