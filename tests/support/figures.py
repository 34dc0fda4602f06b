"""Where the figures of docs/reliability.md come from: tests note what they have measured."""

from __future__ import annotations

import json
import os
from pathlib import Path

_VARIABLE = "RADNODE_FIGURES"


def note_figure(what: str, **values: float | str) -> None:
    """Append one line of JSON to the file that `RADNODE_FIGURES` names; without it nothing is kept."""
    if named := os.environ.get(_VARIABLE):
        rounded = {key: round(value, 2) if isinstance(value, float) else value for key, value in values.items()}
        with Path(named).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"what": what, **rounded}) + "\n")
