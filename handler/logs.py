"""Log lines: time, level, logger, event, then its fields as name=value."""

import json
import logging
import sys

OWN_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class EventFormatter(logging.Formatter):
    """Appends the fields that a log call passed as `extra`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 -- logging's name
        fields = {name: value for name, value in vars(record).items() if name not in OWN_ATTRIBUTES}
        return " ".join(
            [super().formatMessage(record), *(f"{k}={json.dumps(v, default=str)}" for k, v in fields.items())]
        )


def configure(level: str) -> None:
    """Sends log lines of `level` and above to standard error."""
    stream = logging.StreamHandler(sys.stderr)
    stream.setFormatter(EventFormatter())
    logging.basicConfig(level=level, handlers=[stream], force=True)
    for chatty in ("urllib3", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
