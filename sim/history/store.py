"""The store as a file: opened, checked, made anew, asked. Knows SQLite; must not know what the rows mean."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sim.history.schema import APPLICATION, TABLES, VERSION, statements

STORE = "history.sqlite"
WAIT_S = 120.0
"""How long to wait for another process that writes."""

_STEPS = 20_000
"""Steps of SQLite's machine between two looks for an interrupt."""
_ALLOWED = {
    sqlite3.SQLITE_SELECT,
    sqlite3.SQLITE_READ,
    sqlite3.SQLITE_FUNCTION,
    sqlite3.SQLITE_RECURSIVE,
}


@contextmanager
def writing(path: Path, rebuildable: bool) -> Iterator[sqlite3.Connection]:
    """Open a store for one writing transaction: all of it is kept, or nothing. Others wait meanwhile.

    Args:
        path: The file; made if there is none.
        rebuildable: Whether the logs are at hand, so that a store of an older version may be emptied.

    Raises:
        ValueError: If the file is no store, or of a version that cannot be used.
        OSError: If it cannot be written.
    """
    with _translated(path):
        connection = sqlite3.connect(path, timeout=WAIT_S, isolation_level=None)
        try:
            connection.execute("BEGIN IMMEDIATE")
            _prepare(connection, path, rebuildable)
            yield connection
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            connection.close()


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a store to read from; nothing but SELECT is possible.

    Raises:
        ValueError: If the file is no store of this version.
        OSError: If there is none.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; `kvevolve history RUN` builds it")
    with _translated(path):
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=WAIT_S)
        try:
            _check(connection, path)
            connection.set_authorizer(lambda action, *_: sqlite3.SQLITE_OK if action in _ALLOWED else _deny())
            connection.set_progress_handler(lambda: 0, _STEPS)  # Python looks for an interrupt then
            yield connection
        finally:
            connection.close()


def _deny() -> int:
    return sqlite3.SQLITE_DENY


def empty(connection: sqlite3.Connection) -> None:
    """Make all tables anew."""
    names = [str(name) for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    for name in names:
        quoted = name.replace('"', '""')
        connection.execute(f'DROP TABLE "{quoted}"')
    for statement in statements():
        connection.execute(statement)


@dataclass(frozen=True)
class Answer:
    """Rows of a query and the names of their columns."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]


def query(path: Path, sql: str) -> Answer:
    """Return what one SELECT gives.

    Raises:
        ValueError: If SQLite refuses it, with its reason and the tables there are.
    """
    with opened(path) as connection:
        try:
            cursor = connection.execute(sql)
            rows = cursor.fetchall()
        except (sqlite3.Error, sqlite3.Warning) as error:
            if "interrupted" in str(error):
                raise KeyboardInterrupt from None
            raise ValueError(
                f"--sql: {error}; fix: give one SELECT over the tables {', '.join(TABLES)} (sim/history/schema.py)"
            ) from None
        if cursor.description is None:
            raise ValueError("--sql: this asks for nothing; fix: give one SELECT")
        return Answer(tuple(str(column[0]) for column in cursor.description), rows)


def _prepare(connection: sqlite3.Connection, path: Path, rebuildable: bool) -> None:
    if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        empty(connection)
        return
    application, version = _marks(connection)
    if rebuildable and application == APPLICATION and version < VERSION:
        empty(connection)
        return
    _check(connection, path)


def _check(connection: sqlite3.Connection, path: Path) -> None:
    application, version = _marks(connection)
    if application != APPLICATION:
        raise ValueError(f"{path} is no store of kvevolve; fix: move it away, or name another with --store")
    if version > VERSION:
        raise ValueError(
            f"{path} has version {version}, and this kvevolve knows {VERSION}; fix: update kvevolve, or delete the file"
        )
    if version < VERSION:
        raise ValueError(
            f"{path} has the older version {version} (now {VERSION}), and the logs it was built from are not there;"
            " fix: put them back beside it, or read it with the kvevolve that wrote it"
        )


def _marks(connection: sqlite3.Connection) -> tuple[int, int]:
    return tuple(int(connection.execute(f"PRAGMA {name}").fetchone()[0]) for name in ("application_id", "user_version"))  # type: ignore[return-value]


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Turn errors of SQLite into those that the command line shows."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if "unable to open" in str(error) or "readonly" in str(error):
            raise OSError(
                f"{path} cannot be written or read ({error}); fix: --store FILE in a folder of yours"
            ) from None
        if "locked" in str(error):
            raise OSError(f"{path} has been written by another process for {WAIT_S:.0f} s; fix: try again") from None
        raise OSError(f"{path}: {error}") from None
    except sqlite3.DatabaseError as error:
        raise ValueError(f"{path} is damaged or no store ({error}); fix: delete it, the logs give it anew") from None
