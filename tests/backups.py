"""A dump of the backend's database, with the ledger in it, that is restored over whatever is there by then."""

import contextlib
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

from demo.servers import PostgresServer
from tests.stack import Stack

RestorePoint = Callable[[], Callable[[], None]]
"""Takes a dump. What it returns restores it."""


def of_sqlite(stack: Stack, folder: Path) -> Callable[[], None]:
    """SQLite's own way, which needs no one to leave."""
    file, copy = Path(stack.database_url.removeprefix("sqlite:///")), folder / "copy.db"
    _copy(file, copy)
    return lambda: _copy(copy, file)


def _copy(one: Path, other: Path) -> None:
    with contextlib.closing(sqlite3.connect(one)) as source, contextlib.closing(sqlite3.connect(other)) as target:
        source.backup(target)


def of_postgresql(stack: Stack, folder: Path, server: PostgresServer) -> Callable[[], None]:
    url, dump = stack.database_url.replace("+psycopg", "", 1), folder / "backend.dump"
    subprocess.run([server.binary("pg_dump"), "--format=custom", f"--file={dump}", url], check=True)

    def restore() -> None:
        stack.database.dispose()
        options = ["--clean", "--if-exists", "--single-transaction", f"--dbname={url}"]
        subprocess.run([server.binary("pg_restore"), *options, dump], check=True)

    return restore
