"""The SQLite file of the job store."""

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

from handler.errors import StorageUnavailable

VERSION = 3  # of the table, and of the requests and outcomes in it
APPLICATION_ID = 0x6C64616C  # tells our files from those of other programs; version 1 had none
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
KEPT_PICTURES = """
CREATE TABLE IF NOT EXISTS kept_pictures (
    job_id TEXT NOT NULL,
    image INTEGER NOT NULL,
    first TEXT NOT NULL,
    facts TEXT NOT NULL,
    PRIMARY KEY (job_id, image)
) STRICT
"""


COLUMNS = [line.split()[0] for line in SCHEMA.splitlines() if line.startswith("    ")]


class JobDatabase:
    """One connection to the file. Safe to use from several threads, which wait for each other."""

    def __init__(self, path: Path) -> None:
        """Opens the file, or creates it.

        Raises:
            StorageUnavailable: it is not a job file of this version, or SQLite cannot use it.
        """
        self._lock = threading.Lock()
        with _as_storage_errors():
            if not path.exists():
                _create(path)
            elif path.stat().st_size == 0:
                raise StorageUnavailable("jobs.sqlite3 is empty, so it was damaged; delete it to start anew")
            self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._connection.row_factory = sqlite3.Row
            self._check()
            os.chmod(path, 0o600)  # requests may contain the keys of a bucket  # noqa: PTH101
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
        with self.transaction() as db:
            db.execute("CREATE INDEX IF NOT EXISTS jobs_with_webhooks ON jobs (number) WHERE webhook_due")
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {VERSION}")
            db.execute(KEPT_PICTURES)  # files of versions 1 and 2 have no such table

    def _check(self) -> None:
        """Raises StorageUnavailable if the file is another program's, or a newer version's."""
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        application = self._connection.execute("PRAGMA application_id").fetchone()[0]
        columns = [row["name"] for row in self._connection.execute("PRAGMA table_info(jobs)")]
        if application != APPLICATION_ID and not (application == 0 and version == 1 and columns == COLUMNS):
            raise StorageUnavailable("jobs.sqlite3 belongs to another program")
        if version > VERSION:
            raise StorageUnavailable(f"the job file has version {version}, this program reads up to {VERSION}")

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    @contextlib.contextmanager
    def transaction(self, is_durable: bool = True) -> Iterator[sqlite3.Connection]:
        """Yields the connection, and commits at the end of the block, or rolls back if it raises.

        Args:
            is_durable: whether the block's changes survive a power cut; they always survive the end of this program.

        Raises:
            StorageUnavailable: SQLite failed; nothing in the block was done.
        """
        with self._lock, _as_storage_errors():
            if not is_durable:
                self._connection.execute("PRAGMA synchronous = NORMAL")
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
                raise
            finally:
                if not is_durable:
                    self._connection.execute("PRAGMA synchronous = FULL")


def _create(path: Path) -> None:
    """Creates the file completely or not at all, so that an empty one is never ours."""
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)
    with contextlib.closing(sqlite3.connect(part)) as connection:
        connection.executescript(f"{SCHEMA} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION};")
    part.replace(path)


@contextlib.contextmanager
def _as_storage_errors() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as exc:
        raise StorageUnavailable(f"the job file cannot be used: {exc}") from exc
