"""Names out of label files are somebody else's text: none of them leaves the images' folder, none garbles a message."""

from __future__ import annotations

import re
import stat
from pathlib import Path, PurePosixPath

from models.errors import DatasetError

LONGEST_NAME = 1024
LONGEST_SHOWN = 60
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*", re.ASCII)
_DRIVE = re.compile(r"[A-Za-z]:")


def shown(text: str) -> str:
    """Foreign text for a message: quoted, printable, of bounded length."""
    cut = text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 1] + "…"
    return "'" + "".join(letter if letter.isprintable() else "?" for letter in cut) + "'"


def relative(text: str, where: str) -> str:
    """A file's name as a label file gives it, as a path below the images' folder with forward slashes.

    Raises DatasetError for an absolute path, a drive letter, a `..`, control characters, or more than LONGEST_NAME.
    """
    if _PLAIN.fullmatch(text) and len(text) <= LONGEST_NAME:
        return text
    path = PurePosixPath(text.replace("\\", "/"))
    if not path.parts:
        raise DatasetError(f"{where}: the file's name is empty")
    if path.is_absolute() or ".." in path.parts or _DRIVE.match(text):
        raise DatasetError(f"{where}: {shown(text)} lies outside the images' folder")
    if len(text) > LONGEST_NAME or any(ord(letter) < 32 or ord(letter) == 127 for letter in text):
        raise DatasetError(f"{where}: {shown(text)} is no name for a file")
    return path.as_posix()


def inside(folder: Path, name: str) -> Path:
    """The regular file `name` below `folder`, links followed.

    Raises DatasetError when it is missing, no regular file, or a link leads out of the folder.
    """
    root = folder.resolve()
    try:
        path = (root / relative(name, "the data set")).resolve(strict=True)
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise DatasetError(f"{shown(name)} is missing from the images' folder") from error
    except (OSError, RuntimeError) as error:
        raise DatasetError(f"{shown(name)} cannot be opened") from error
    if not path.is_relative_to(root):
        raise DatasetError(f"{shown(name)} is a link that leads out of the images' folder")
    if not stat.S_ISREG(mode):
        raise DatasetError(f"{shown(name)} is no regular file")
    return path
