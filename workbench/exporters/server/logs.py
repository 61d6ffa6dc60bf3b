"""Log lines of a serving package: one JSON object each, with the field names of the Elastic Common Schema (ECS)."""

from __future__ import annotations

import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any

import msgspec

ECS_VERSION = "8.11.0"


class EcsLines(logging.Formatter):
    """One JSON object per log record.

    Args:
        about: Fields that every line has.
    """

    def __init__(self, about: dict[str, Any] | None = None) -> None:
        super().__init__()
        self._about = about or {}

    def format(self, record: logging.LogRecord) -> str:
        """Writes one record; `extra={"fields": {…}}` adds fields to it."""
        moment = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, Any] = {
            "@timestamp": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "log.level": record.levelname.lower(),
            "message": record.getMessage(),
            "ecs.version": ECS_VERSION,
            "log.logger": record.name,
            "process.pid": record.process,
            **self._about,
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            line["error.type"] = type(error).__name__
            line["error.message"] = str(error)
            line["error.stack_trace"] = "".join(traceback.format_exception(error))
        return msgspec.json.encode(line).decode()


def log_to_stderr() -> logging.StreamHandler[Any]:
    """Sends warnings of every library, and everything that the service says, to stderr as ECS lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(EcsLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # its warnings are about single malformed requests
    logging.getLogger("serve").setLevel(logging.INFO)
    return handler
