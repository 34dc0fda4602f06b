"""The chain's last digest, written from time to time to a file beside the database, or far from it."""

from __future__ import annotations

import json
import os
from pathlib import Path

from db.audit_chain import Head
from db.errors import ConfigError, StorageFull
from db.types import utcnow
from node.settings import Settings


def anchor_file(settings: Settings) -> Path:
    return settings.audit.anchor_file or settings.data_dir / "audit-anchors.jsonl"


def add(path: Path, head: Head) -> None:
    """Append a line, durably. Raises StorageFull."""
    line = json.dumps({"at": utcnow().isoformat(), "position": head.position, "digest": head.digest})
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # One write of one line to a file opened for appending: two keepers do not mix theirs.
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab", buffering=0) as file:
            file.write(f"{line}\n".encode())
            os.fsync(file.fileno())
    except OSError as error:
        raise StorageFull(f"the audit's anchor file {path} cannot be written ({error.strerror})") from error


def read(path: Path) -> list[Head]:
    """All anchors; none where there is no such file. Raises ConfigError for one that is no list of anchors.

    A last line that a power cut left unfinished is passed over.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the audit's anchor file {path} cannot be read ({type(error).__name__})") from error
    return [_head(path, number, line) for number, line in enumerate(lines[:-1], start=1)]


def _head(path: Path, number: int, line: str) -> Head:
    try:
        told = json.loads(line)
        return Head(int(told["position"]), str(told["digest"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"line {number} of the audit's anchor file {path} is no anchor; was it changed?") from error
