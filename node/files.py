"""Files as commands are given them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from db.errors import ConfigError


def find_files(paths: Sequence[Path]) -> list[Path]:
    """The files named and those in the folders named, each once, in a stable order.

    Raises ConfigError where one is not there.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(one for one in path.rglob("*") if one.is_file())
        elif path.is_file():
            found.append(path)
        else:
            raise ConfigError(f"there is no file {path}")
    return list(dict.fromkeys(found))
