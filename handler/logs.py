"""Log lines: time, level, logger, event, then fields, as name=value or as one JSON object a line."""

import contextlib
import contextvars
import json
import logging
import sys
import threading
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Literal

OWN_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

_job_id: contextvars.ContextVar[str] = contextvars.ContextVar("job_id")

log = logging.getLogger(__name__)


class EventFormatter(logging.Formatter):
    """Appends the fields that a log call passed as `extra`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 -- logging's name
        fields = [f"{name}={json.dumps(value, default=str)}" for name, value in _fields(record).items()]
        return " ".join([super().formatMessage(record), *fields])


class JsonFormatter(logging.Formatter):
    """Writes a JSON object with time, level, logger and event, the fields, and the traceback as `exception`."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": self.formatTime(record),
            "level": record.levelname,
            "logger": record.name,
            "event": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure(level: str, line_format: Literal["text", "json"] = "text") -> None:
    """Sends log lines of `level` and above to standard error, also warnings and exceptions that nothing catches."""
    stream = logging.StreamHandler(sys.stderr)
    stream.setFormatter(JsonFormatter() if line_format == "json" else EventFormatter())
    stream.addFilter(_add_job_id)
    logging.basicConfig(level=level, handlers=[stream], force=True)
    for chatty in ("urllib3", "asyncio", "httpx"):  # httpx logs the URLs of webhooks, which may contain secrets
        logging.getLogger(chatty).setLevel(logging.WARNING)
    if line_format == "json":
        logging.captureWarnings(capture=True)
        sys.excepthook = _log_exception
        threading.excepthook = lambda args: _log_exception(args.exc_type, args.exc_value, args.exc_traceback)


@contextlib.contextmanager
def of_job(job_id: str) -> Iterator[None]:
    """Adds the job's id to each line that is logged in the block."""
    token = _job_id.set(job_id)
    try:
        yield
    finally:
        _job_id.reset(token)


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in OWN_ATTRIBUTES}


def _add_job_id(record: logging.LogRecord) -> bool:
    if not hasattr(record, "job_id") and (job_id := _job_id.get(None)) is not None:
        record.job_id = job_id
    return True


def _log_exception(kind: type[BaseException], exc: BaseException | None, traceback: TracebackType | None) -> None:
    if not issubclass(kind, SystemExit | KeyboardInterrupt):
        log.critical("program failed", exc_info=(kind, exc or kind(), traceback))
