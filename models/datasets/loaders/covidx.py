"""COVIDx (COVID-Net project), versions 7 to 9 (A and B), CXR-2, CXR-3 and CXR-4: lists of "patient file class source".

The cells are separated by single blanks, and some patients and files have blanks in their names.
"""

from __future__ import annotations

import re
from pathlib import Path

from models.datasets import options
from models.datasets.loaders.classes import NO_TARGETS, Classed, draft_of
from models.datasets.paths import relative, shown
from models.datasets.samples import Draft, Problems, Sample
from models.datasets.tables import open_text
from models.errors import DatasetError

CLASSES = frozenset(("normal", "pneumonia", "COVID-19", "positive", "negative"))
FOLDERS = {"train": "train", "validation": "val", "test": "test"}
# Longest patient first: a blank in a file's name is rarer than one in a patient's.
_PATIENT_AND_FILE = re.compile(
    r"(?P<patient>\S.*) (?P<file>\S+\.(?:png|jpe?g|dcm|bmp|tiff?))", re.IGNORECASE | re.ASCII
)
_TWICE = re.compile(r"(?P<patient>\S.*) (?P<file>(?P=patient)\.\w{3,4})", re.ASCII)
_LONGEST_LINE = 2048


class Options(options.Options):
    """train, validation, test: the lists that there are.

    folders: files lie in `train/`, `val/` and `test/` below the images' folder, as the data set's scripts put them.
    """

    train: Path | None = None
    validation: Path | None = None
    test: Path | None = None
    folders: bool = True


def load(options: Options) -> Draft:
    """Raises DatasetError for a class that no version has, and when no list is given."""
    lists = {part: path for part in FOLDERS if (path := getattr(options, part)) is not None}
    if not lists:
        raise DatasetError("covidx needs one of the options train, validation, test")
    problems, rows, seen = Problems(), [], 0
    for part, path in lists.items():
        folder = f"{FOLDERS[part]}/" if options.folders else ""
        with open_text(path) as stream:
            for number, line in enumerate(stream, 1):
                if not line.strip():
                    continue
                seen += 1
                where = f"{path.name}, line {number}"
                if cells := _cells(line.strip(), where, problems):
                    patient, file, label, source = cells
                    name = relative(folder + file, where)
                    sample = Sample(name, patient, options.source or source, NO_TARGETS, split=part)
                    rows.append(Classed(sample, frozenset((label,))))
    return draft_of("covidx", rows, problems, seen, exclusive=True)


def _cells(line: str, where: str, problems: Problems) -> tuple[str, str, str, str] | None:
    plain = line.split(" ")
    if len(plain) == 4 and all(plain):
        patient, file, label, source = plain
    else:
        front, _, ending = line.rpartition(" ")
        front, _, label = front.rpartition(" ")
        source = ending
        match = (_TWICE.fullmatch(front) or _PATIENT_AND_FILE.fullmatch(front)) if len(line) <= _LONGEST_LINE else None
        if match is None:
            problems.leave_out(where, "the line is not 'patient file class source'")
            return None
        patient, file = match["patient"], match["file"]
        problems.note(where, "a patient or file has blanks in its name; patient and file were told apart by the ending")
    if label not in CLASSES:
        raise DatasetError(f"{where}: {shown(label)} is none of the classes {', '.join(sorted(CLASSES))}")
    return patient, file, label, source
