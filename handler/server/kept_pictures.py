"""Finished pictures of jobs that have not ended, so that an interrupted job continues with the next one."""

import json
import logging
from dataclasses import asdict
from typing import Any

from handler.errors import StorageUnavailable
from handler.job.delivery import Finished, Kept
from handler.job.picture import PictureFacts
from handler.job.seeds import Values
from handler.server.job_database import JobDatabase
from handler.server.job_record import Status
from handler.server.job_store import UNFINISHED
from handler.server.picture_store import PictureStore

log = logging.getLogger(__name__)


class KeptPictures:
    """Those of one job. Safe to use from several threads."""

    def __init__(self, database: JobDatabase, pictures: PictureStore, job_id: str) -> None:
        self._database = database
        self._pictures = pictures
        self._job_id = job_id

    def kept(self) -> Kept:
        """Returns the pictures that an interrupted attempt kept, without those that have expired since."""
        try:
            with self._database.transaction() as db:
                rows = db.execute("SELECT * FROM kept_pictures WHERE job_id = ?", (self._job_id,)).fetchall()
        except StorageUnavailable as exc:
            log.error("kept pictures cannot be read", extra={"reason": exc.message})  # noqa: TRY400
            rows = []
        found = {row["image"]: self._read(json.loads(row["facts"])) for row in rows}
        pictures = {image: finished for image, finished in found.items() if finished is not None}
        if pictures:
            log.info("continuing after kept pictures", extra={"pictures": len(pictures)})
        return Kept(json.loads(rows[0]["first"]) if rows else None, pictures)

    def keep(self, image: int, finished: Finished, first: Values) -> None:
        """Keeps a picture, unless the job has been cancelled or the disk is full; arguments as in Keeper.

        A job that finishes pictures is not the one that kills the worker, so its attempts count from one again.
        """
        name = finished.facts.filename
        try:
            if finished.encoded is not None:
                self._pictures.put(name, finished.encoded)
            is_kept = self._note(image, finished.facts, first)
        except StorageUnavailable as exc:
            log.warning("picture not kept", extra={"reason": exc.message})
            is_kept = False
        if not is_kept:
            self._pictures.delete(name)

    def _note(self, image: int, facts: PictureFacts, first: Values) -> bool:
        """Returns whether the job still needs the picture, and has it now."""
        with self._database.transaction() as db:
            db.execute("UPDATE jobs SET attempts = 1 WHERE id = ? AND status = ?", (self._job_id, Status.IN_PROGRESS))
            inserted = db.execute(
                "INSERT OR REPLACE INTO kept_pictures SELECT id, ?, ?, ? FROM jobs WHERE id = ? AND status IN (?, ?)",
                (image, json.dumps(first), json.dumps(asdict(facts)), self._job_id, *UNFINISHED),
            )
        return inserted.rowcount > 0

    def _read(self, facts: dict[str, Any]) -> Finished | None:
        picture = PictureFacts(**facts)
        encoded = self._pictures.read(picture.filename) if picture.url is None else None
        return None if encoded is None and picture.url is None else Finished(picture, encoded)


def filenames(database: JobDatabase) -> set[str]:
    """Returns the names of all kept pictures; raises StorageUnavailable if SQLite fails."""
    with database.transaction() as db:
        return {
            row["name"] for row in db.execute("SELECT json_extract(facts, '$.filename') AS name FROM kept_pictures")
        }


def delete_unneeded(database: JobDatabase, pictures: PictureStore) -> None:
    """Deletes the kept pictures of jobs that ended without a result; those of completed jobs are results now.

    Raises:
        StorageUnavailable: SQLite fails; the next call tries again.
    """
    with database.transaction() as db:
        rows = db.execute(
            "SELECT json_extract(facts, '$.filename') AS name FROM kept_pictures"
            " WHERE NOT EXISTS (SELECT 1 FROM jobs WHERE id = job_id AND status IN (?, ?, ?))",
            (*UNFINISHED, Status.COMPLETED),
        )
        for row in rows:
            pictures.delete(row["name"])
        db.execute(
            "DELETE FROM kept_pictures WHERE NOT EXISTS (SELECT 1 FROM jobs WHERE id = job_id AND status IN (?, ?))",
            UNFINISHED,
        )
