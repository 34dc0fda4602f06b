"""Logging: structured events on standard error, and nothing of a patient in them.

Of an exception an event tells classes and places, never the message: whoever raised it may have put a value into it.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
import traceback
from collections.abc import Iterator, MutableMapping
from typing import Any, TextIO

import structlog
from structlog.typing import Processor

from node.settings import Settings
from node.uids import valid_uid

# Keys that no event may carry, whatever a caller passes.
_FORBIDDEN = frozenset(
    {
        "accession_number",
        "birth_date",
        "dataset",
        "ds",
        "header",
        "patient",
        "patient_age",
        "patient_birth_date",
        "patient_id",
        "patient_name",
        "patient_sex",
        "patients_name",
    }
)
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_UID_LISTS = frozenset({"sop_classes"})
# They log peers' strings and whole data sets; what matters of them is logged by the node itself.
_TALKATIVE = ("pynetdicom", "pydicom", "py.warnings", "highdicom", "PIL")
_MOST_FRAMES = 30
# They tell at length of every start; what goes wrong is still heard.
_CHATTY = ("alembic", "celery", "kombu", "uvicorn", "uvicorn.error")


def drop_phi(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Remove values of patients, by key; what was dropped is said, so that the mistake is found."""
    dropped = sorted(key for key in event if key.lower() in _FORBIDDEN)
    for key in dropped:
        del event[key]
    if dropped:
        event["dropped"] = dropped
    return event


def withhold_non_uids(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """What a peer puts in a UID's place may be anything, a patient's name too: only a UID is logged as one."""
    for key, value in event.items():
        if key.endswith("_uid") and isinstance(value, str) and value and not valid_uid(value):
            event[key] = "not a UID"
        elif key in _UID_LISTS and isinstance(value, list | tuple):
            event[key] = [one if valid_uid(str(one)) else "not a UID" for one in value]
    return event


def on_one_line(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Text that holds a line break or an escape sequence could pass for another event, or act on a terminal."""
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", value)
        elif isinstance(value, list | tuple):
            event[key] = [
                _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", one) if isinstance(one, str) else one for one in value
            ]
    return event


def tell_exception(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Put an exception's classes and frames, and those of its causes, in the place of ``exc_info``."""
    error = _exception(event.pop("exc_info", None))
    if error is None:
        return event
    event["exception"] = "\ncaused by ".join(_told(one) for one in _chain(error))
    record = event.get("_record")
    if record is not None and not event.get("_from_structlog"):
        # A library's text about an exception repeats its message; the template it was made from does not.
        event["event"] = str(record.msg)
    return event


def _exception(info: Any) -> BaseException | None:
    if isinstance(info, BaseException):
        return info
    if isinstance(info, tuple):
        return info[1] if isinstance(info[1], BaseException) else None
    return sys.exc_info()[1] if info else None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception, what it was raised from, and so on; a ring of causes ends."""
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        following = following.__cause__ or (None if following.__suppress_context__ else following.__context__)


def _told(error: BaseException) -> str:
    frames = [
        f"  {frame.f_code.co_filename}:{line} in {frame.f_code.co_name}"
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    name = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
    return "\n".join([name, *frames[-_MOST_FRAMES:]])


class _StandardError(logging.StreamHandler[TextIO]):
    """Writes to what standard error is at that moment."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


def configure(settings: Settings) -> None:
    """Set up structlog and the standard library's logging for this process."""
    _configure(settings.log_level, settings.log_format)


def configure_command() -> None:
    """For a command, before it has read any settings: as text beside its output, whose form is its own affair."""
    _configure("INFO", "text")


def _configure(level: str, log_format: str) -> None:
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        drop_phi,
        withhold_non_uids,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    handler = _StandardError()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                on_one_line,
                # After it: places stand on lines of their own.
                tell_exception,
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _renderer(log_format),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    # pydicom's warnings quote values.
    logging.captureWarnings(True)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)


def _renderer(log_format: str) -> Processor:
    if log_format == "json" or (log_format == "auto" and not sys.stderr.isatty()):
        return structlog.processors.JSONRenderer()
    # The plain formatter prints what `tell_exception` has written, as it is.
    return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)


def tell_thread_failed(failure: threading.ExceptHookArgs) -> None:
    """For `threading.excepthook`: Python's own would print the exception's text, which may quote a peer."""
    structlog.get_logger(__name__).error("thread_failed", exc_info=failure.exc_value)
