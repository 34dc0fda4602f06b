"""A wall clock for child processes that a test sets while they run; the steady clock goes on as it does.

libfaketime would do the same, but Python's `time.sleep` fails under it (Debian 12, with the steady clock left alone).
"""

from __future__ import annotations

import struct
import subprocess
from datetime import timedelta
from pathlib import Path

from tests.support.processes import program

_SOURCE = Path(__file__).with_name("wall_clock.c")


class WallClock:
    """`env` is what a process needs to go by it."""

    def __init__(self, folder: Path) -> None:
        self._file, library = folder / "clock", folder / "wall_clock.so"
        command = [program("cc", "gcc"), "-O2", "-shared", "-fPIC", "-o", str(library), str(_SOURCE)]
        subprocess.run(command, check=True, capture_output=True)
        self._file.write_bytes(struct.pack("=q", 0))
        self.env = {"LD_PRELOAD": str(library), "TEST_CLOCK_FILE": str(self._file)}

    def set(self, ahead: timedelta) -> None:
        """So many whole seconds ahead of the real time, or behind it. In place: the processes have the file mapped."""
        with self._file.open("r+b") as file:
            file.write(struct.pack("=q", round(ahead.total_seconds())))
