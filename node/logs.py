"""Logging: structured events on standard error, and nothing of a patient in them."""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog
from structlog.typing import Processor

from node.settings import Settings

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
# They log peers' strings and whole data sets; what matters of them is logged by the node itself.
_TALKATIVE = ("pynetdicom", "pydicom", "py.warnings", "highdicom", "PIL")
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


def configure(settings: Settings) -> None:
    """Set up structlog and the standard library's logging for this process."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        drop_phi,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.processors.format_exc_info,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _renderer(settings)],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level)
    # pydicom's warnings quote values.
    logging.captureWarnings(True)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)


def _renderer(settings: Settings) -> Processor:
    if settings.log_format == "json" or (settings.log_format == "auto" and not sys.stderr.isatty()):
        return structlog.processors.JSONRenderer()
    return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
