"""One picture, made in a process of its own: whatever a hostile image does to a decoder, it does it here.

``python -m node.web.picture_process WRITER ARGUMENT…`` reads the DICOM file that is its standard input, which it was
given open, and writes PNG to standard output, or says why not in the last line of standard error and exits 3. Before,
it tells there in lines of their own what the kernel keeps it from. Arguments are numbers, or a dash for none.
"""

from __future__ import annotations

import sys
from importlib.metadata import entry_points

from db.errors import UnreadableError
from node.confinement import Confinement
from node.dataset_source import open_no_more_files

GROUP = "radnode.picture_writers"
EXIT_UNREADABLE = 3
NO_SOCKETS, NO_FILES = "held: no sockets", "held: no files"
_MOST_MEMORY_BYTES = 1 << 30
"""Beyond its rest; the largest image that is read (`workers.pixels.limits`) and its picture take less."""
_MOST_SECONDS = 30.0
_MOST_FILE_BYTES = 1 << 30


def main(arguments: list[str]) -> int:
    """Exit status 0, 3 for a picture that cannot be made."""
    writer, *rest = arguments
    (entry,) = entry_points(group=GROUP, name=writer)
    write = entry.load()
    open_no_more_files()
    confinement = Confinement(_MOST_MEMORY_BYTES, _MOST_FILE_BYTES)
    for line, held in ((NO_SOCKETS, confinement.no_sockets), (NO_FILES, confinement.no_files)):
        if held:
            _tell(line)
    confinement.allow_time(_MOST_SECONDS)
    try:
        png = write(sys.stdin.buffer, *(_number(text) for text in rest))
    except UnreadableError as error:
        _tell(str(error).replace("\n", " ")[:300])
        return EXIT_UNREADABLE
    sys.stdout.buffer.write(png)
    return 0


def _tell(line: str) -> None:
    """What libraries write before may lack the end of its line."""
    sys.stderr.write(f"\n{line}\n")
    sys.stderr.flush()


def _number(text: str) -> float | int | None:
    if text == "-":
        return None
    return int(text) if text.lstrip("-").isdigit() else float(text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
