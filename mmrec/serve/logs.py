"""Logs as JSON, a line each on stderr: what happened and how long it took, never who asked for what."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

LOGGER = logging.getLogger("mmrec.serve")


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON; of an exception its type and place, and its message at debug level alone."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[0] is not None:
            kind, error, trace = record.exc_info
            line["exception"] = kind.__name__
            line["at"] = _place(trace)
            if LOGGER.isEnabledFor(logging.DEBUG):  # messages of exceptions may hold what a user sent
                line["traceback"] = "".join(traceback.format_exception(kind, error, trace))
        return json.dumps(line, ensure_ascii=False, default=str)


def _place(trace: TracebackType | None) -> list[str]:
    frames = traceback.extract_tb(trace)[-5:]
    return [f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in frames]


def log(
    event: str, level: int = logging.INFO, *, exception: BaseException | None = None, **fields: Any
) -> None:
    """Write a line."""
    LOGGER.log(level, event, extra={"fields": fields}, exc_info=exception)


def set_up(level: str = "info") -> None:
    """Send the lines of this service, of uvicorn and of warnings to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.captureWarnings(True)
    for name, least in (("mmrec.serve", level.upper()), ("uvicorn", "WARNING"), ("py.warnings", "WARNING")):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(least)
