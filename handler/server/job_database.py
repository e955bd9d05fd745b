"""The SQLite file of the job store."""

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

from handler.errors import StorageUnavailable

VERSION = 1
SCHEMA = """
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    status TEXT NOT NULL,
    request TEXT NOT NULL,
    keep_s REAL NOT NULL,
    created_s REAL NOT NULL,
    ends_s REAL NOT NULL,
    started_s REAL,
    finished_s REAL,
    attempts INTEGER NOT NULL DEFAULT 0,
    retries INTEGER NOT NULL DEFAULT 0,
    has_webhook INTEGER NOT NULL,
    webhook_due INTEGER NOT NULL DEFAULT 0,
    outcome TEXT
) STRICT;
CREATE INDEX jobs_by_status ON jobs (status, number);
"""


class JobDatabase:
    """One connection to the file. Safe to use from several threads, which wait for each other."""

    def __init__(self, path: Path) -> None:
        """Opens the file, or creates it.

        Raises:
            StorageUnavailable: it is not a job file of this version, or SQLite cannot use it.
        """
        self._lock = threading.Lock()
        with _as_storage_errors():
            self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._connection.row_factory = sqlite3.Row
            os.chmod(path, 0o600)  # requests may contain the keys of a bucket  # noqa: PTH101
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
        with self.transaction() as db:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                for statement in SCHEMA.split(";\n"):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {VERSION}")
            elif version != VERSION:
                raise StorageUnavailable(f"the job file has version {version}, expected {VERSION}")

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Yields the connection, and commits at the end of the block, or rolls back if it raises.

        Raises:
            StorageUnavailable: SQLite failed; nothing in the block was done.
        """
        with self._lock, _as_storage_errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
                raise


@contextlib.contextmanager
def _as_storage_errors() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as exc:
        raise StorageUnavailable(f"the job file cannot be used: {exc}") from exc
