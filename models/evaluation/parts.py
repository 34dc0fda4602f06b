"""Which part of a split is judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from models.datasets.paths import relative
from models.datasets.samples import PARTS, SampleSet
from models.datasets.tables import open_table, open_text
from models.errors import DatasetError

TEST = "test"


def read_parts(path: Path) -> Mapping[str, str]:
    """File to part, from a CSV with the columns file and split, or from a list of files, which are then all "test".

    Raises DatasetError for another part, or a file that is in two.
    """
    with open_text(path) as stream:
        header = [name.strip() for name in stream.readline().split(",")]
    listed: list[tuple[str, str, int]] = []
    if {"file", "split"} <= set(header):
        with open_table(path) as table:
            file_at, split_at = table.header.index("file"), table.header.index("split")
            listed = [(row[file_at].strip(), row[split_at].strip(), table.line()) for row in table.rows]
    else:
        with open_text(path) as stream:
            listed = [(line.strip(), TEST, number) for number, line in enumerate(stream, 1) if line.strip()]
    found: dict[str, str] = {}
    for file, part, line in listed:
        where = f"{path.name}, line {line}"
        if part not in PARTS:
            raise DatasetError(f"{where}: the split is none of {', '.join(PARTS)}")
        if found.setdefault(relative(file, where), part) != part:
            raise DatasetError(f"{where}: the file is in two parts of the split")
    return found


def choose_part(found: SampleSet, parts: Mapping[str, str] | None, wanted: str | None) -> SampleSet:
    """The samples of the wanted part: of the split given, else of the set's own; all where there is no split.

    Raises DatasetError when nothing is left, or a part is wanted where there is no split.
    """
    part_of = {s.file: s.split for s in found.samples} if parts is None else parts
    if wanted is None and not any(part_of.values()):
        return found
    chosen = wanted or TEST
    kept = tuple(sample for sample in found.samples if part_of.get(sample.file) == chosen)
    if not kept:
        raise DatasetError(f"{found.name}: no image is in the part {chosen!r} of the split")
    return replace(found, samples=kept)
