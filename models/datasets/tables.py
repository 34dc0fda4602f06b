"""Label tables, streamed: CSV in UTF-8, plain or in a .gz or one-file .zip, with their columns found by name."""

from __future__ import annotations

import csv
import gzip
import io
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from models.datasets.paths import shown
from models.datasets.samples import Problems
from models.errors import DatasetError

MOST_BYTES = 1 << 30
"""Unpacked. The label files of the largest public sets have some 50 MB; more is a mistake or a compression bomb."""


@dataclass(frozen=True)
class Row:
    """One line. ``values`` in the order asked for, stripped; "" for an optional column that the table lacks."""

    line: int
    values: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """An open table. ``header``: its columns as written."""

    name: str
    header: tuple[str, ...]
    rows: Iterator[list[str]]
    line: _Lines

    def select(self, problems: Problems, required: Sequence[str], optional: Sequence[str] = ()) -> Iterator[Row]:
        """Every row's cells in the named columns, as a stream.

        A row with another number of cells than the header goes to ``problems``.
        Raises DatasetError when a required column is missing, or there twice.
        """
        at = [self._index(column, needed=True) for column in required]
        at += [self._index(column, needed=False) for column in optional]
        missing = [column for column, index in zip(required, at, strict=False) if index is None]
        if missing:
            has = ", ".join(shown(column) for column in self.header if column)
            raise DatasetError(f"{self.name} lacks the columns {', '.join(missing)}; it has {has or 'none'}")
        return self._rows(problems, at)

    def has(self, column: str) -> bool:
        """Whether there is such a column; case and surrounding blanks do not matter."""
        return self._index(column, needed=False) is not None

    def _index(self, column: str, *, needed: bool) -> int | None:
        wanted = column.strip().casefold()
        found = [index for index, name in enumerate(self.header) if name.casefold() == wanted]
        if needed and len(found) > 1:
            raise DatasetError(f"{self.name} has the column {shown(column)} more than once")
        return found[0] if found else None

    def _rows(self, problems: Problems, at: Sequence[int | None]) -> Iterator[Row]:
        cells = len(self.header)
        for raw in self.rows:
            if len(raw) != cells:
                if any(cell.strip() for cell in raw):
                    what = f"the line has {len(raw)} cells where the header has {cells}"
                    problems.leave_out(f"{self.name}, line {self.line()}", what)
                continue
            yield Row(self.line(), tuple(["" if index is None else raw[index].strip() for index in at]))


class _Lines:
    def __init__(self, reader: _Reader) -> None:
        self._reader = reader

    def __call__(self) -> int:
        return self._reader.line_num


class _Reader:
    """csv.reader with its errors as ours."""

    def __init__(self, name: str, stream: IO[str], delimiter: str) -> None:
        self._name = name
        self._reader = csv.reader(stream, delimiter=delimiter)

    @property
    def line_num(self) -> int:
        return self._reader.line_num

    def __iter__(self) -> Iterator[list[str]]:
        with _as_dataset_errors(self._name, f" (line {self.line_num + 1})"):
            yield from self._reader


@contextmanager
def open_table(path: Path, delimiter: str = ",") -> Iterator[Table]:
    """Raises DatasetError: missing, empty, too long, not UTF-8, or no CSV."""
    with open_text(path) as stream:
        reader = _Reader(path.name, stream, delimiter)
        rows = iter(reader)
        header = next(rows, None)
        if header is None:
            raise DatasetError(f"{path.name} is empty")
        yield Table(path.name, tuple(cell.strip() for cell in header), rows, _Lines(reader))


@contextmanager
def open_text(path: Path) -> Iterator[IO[str]]:
    """A text file in UTF-8, unpacked on the way. Raises DatasetError, also for what is found while reading."""
    with _as_dataset_errors(path.name), _opened(path) as raw:
        limited = io.BufferedReader(_Limited(path.name, raw), 1 << 16)
        yield io.TextIOWrapper(limited, encoding="utf-8-sig", newline="")


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    if path.suffix == ".gz":
        with path.open("rb") as packed, gzip.open(packed) as stream:
            yield cast(IO[bytes], stream)
    elif path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            members = [info for info in archive.infolist() if not info.is_dir()]
            if len(members) != 1:
                raise DatasetError(f"{path.name} holds {len(members)} files; expected one table")
            with archive.open(members[0]) as member:
                yield member
    else:
        with path.open("rb") as plain:
            yield plain


@contextmanager
def _as_dataset_errors(name: str, near: str = "") -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        raise DatasetError(f"{name} is not in UTF-8; save it as CSV UTF-8") from error
    except csv.Error as error:
        raise DatasetError(f"{name} is no readable CSV file{near}: {error}") from error
    except FileNotFoundError as error:
        raise DatasetError(f"there is no file {name}") from error
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise DatasetError(f"{name} cannot be read ({type(error).__name__})") from error


class _Limited(io.RawIOBase):
    """At most MOST_BYTES of a stream, then DatasetError."""

    def __init__(self, name: str, stream: IO[bytes]) -> None:
        super().__init__()
        self._name, self._stream, self._left = name, stream, MOST_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        piece = self._stream.read(len(buffer))
        self._left -= len(piece)
        if self._left < 0:
            raise DatasetError(f"{self._name} has more than {MOST_BYTES >> 20} MiB; that is no label file")
        buffer[: len(piece)] = piece
        return len(piece)
