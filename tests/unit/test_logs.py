"""What a process's log tells of a failure: classes and places, and nothing that an exception's message may hold."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from db.session import Record

ROOT = Path(__file__).parents[2]
_PROCESS = """
import logging, sys
import structlog
from node import logs
from node.settings import Settings

log = structlog.get_logger("node.example")
log.info("before anything is set up") if sys.argv[1] == "unset" else None
logs.configure_command()
if sys.argv[1] == "command":
    log.debug("quiet")
    log.info("loud")
    sys.exit()
logs.configure(Settings(log_format=sys.argv[1]))

def inner():
    raise ValueError("Doe^Jane was here")

def outer():
    try:
        inner()
    except ValueError as error:
        raise RuntimeError("ID-4711") from error

try:
    outer()
except RuntimeError as error:
    log.exception("ours")
    logging.getLogger("library").exception("theirs %s", error)
    logging.getLogger("library").error("as a tuple", exc_info=sys.exc_info())
    log.error("given", exc_info=error)
log.error("none", patient_name="Doe^Jane")
"""


def process(how: str) -> tuple[str, str]:
    """(standard output, standard error) of a process that logs."""
    done = subprocess.run(
        [sys.executable, "-c", _PROCESS, how], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_an_exception_is_told_by_classes_and_frames() -> None:
    out, err = process("json")
    assert out == ""
    assert "Jane" not in err
    assert "4711" not in err
    events = [json.loads(line) for line in err.splitlines()]
    assert [event["event"] for event in events] == ["ours", "theirs %s", "as a tuple", "given", "none"]
    for event in events[:4]:
        lines = event["exception"].splitlines()
        assert lines[0] == "RuntimeError"
        assert any(line.endswith(" in outer") for line in lines)
        assert "caused by ValueError" in lines
        assert lines[-1].endswith(" in inner")
        assert "exc_info" not in event
    assert "exception" not in events[4]
    assert events[4]["dropped"] == ["patient_name"]


def test_text_for_a_terminal_holds_no_message_either() -> None:
    _, err = process("text")
    assert err.count("caused by ValueError") == 4
    assert "Jane" not in err
    assert "4711" not in err


def test_a_command_keeps_standard_output_for_what_it_was_asked() -> None:
    out, err = process("command")
    assert out == ""
    assert "loud" in err
    assert "quiet" not in err


@pytest.mark.parametrize("url", ["sqlite:///{folder}/record.db", "postgresql://nobody@127.0.0.1:1/none"])
def test_a_databases_error_quotes_no_value(url: str, tmp_path: Path) -> None:
    record = Record(url.format(folder=tmp_path))
    try:
        assert record.engine.hide_parameters
    finally:
        record.close()
