"""One picture, made in a process of its own: whatever a hostile image does to a decoder, it does it here.

``python -m node.web.picture_process WRITER PATH ARGUMENT…`` writes PNG to standard output, or one line that says why
not to standard error and exits 3. Arguments are numbers, or a dash for none.
"""

from __future__ import annotations

import resource
import sys
from importlib.metadata import entry_points
from pathlib import Path

from db.errors import UnreadableError

GROUP = "radnode.picture_writers"
EXIT_UNREADABLE = 3
# What decoding the largest image that a model may read takes, and no more.
_MOST_BYTES = 6 * 1024**3
_MOST_CPU_S = 30


def main(arguments: list[str]) -> int:
    """Exit status 0, 3 for a picture that cannot be made."""
    writer, path, *rest = arguments
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_BYTES, _MOST_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (_MOST_CPU_S, _MOST_CPU_S))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # It writes to its standard output, which is a pipe, and to no file.
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    (entry,) = entry_points(group=GROUP, name=writer)
    try:
        png = entry.load()(Path(path), *(_number(text) for text in rest))
    except UnreadableError as error:
        sys.stderr.write(str(error).replace("\n", " ")[:300])
        return EXIT_UNREADABLE
    sys.stdout.buffer.write(png)
    return 0


def _number(text: str) -> float | int | None:
    if text == "-":
        return None
    return int(text) if text.lstrip("-").isdigit() else float(text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
