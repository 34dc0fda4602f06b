"""`<folder>/<class>/image` or `<folder>/<train|val|test>/<class>/image`: the folder's name is the label."""

from __future__ import annotations

import os
import re
from pathlib import Path

from pydantic import field_validator

from models.datasets import options
from models.datasets.loaders.classes import NO_TARGETS, Classed, draft_of
from models.datasets.paths import relative
from models.datasets.samples import Draft, Problems, Sample
from models.errors import DatasetError

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".dcm")
PART_FOLDERS = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}


class Options(options.Options):
    """folder: the images' folder.

    patient_pattern: a regular expression whose first group, found in the file's name, is the patient, such as
        ``(person\\d+)_``; "" makes each image a patient of its own.
    """

    folder: Path
    patient_pattern: str = ""

    @field_validator("patient_pattern")
    @classmethod
    def _has_a_group(cls, pattern: str) -> str:
        try:
            groups = re.compile(pattern).groups
        except re.error as error:
            raise ValueError(f"is no regular expression ({error})") from error
        if pattern and groups < 1:
            raise ValueError("needs a group that is the patient")
        return pattern


def load(options: Options) -> Draft:
    """Raises DatasetError when the folder is missing or has no folders of classes with images."""
    if not options.folder.is_dir():
        raise DatasetError(f"there is no folder {options.folder.name}")
    problems, rows = Problems(), []
    pattern = re.compile(options.patient_pattern) if options.patient_pattern else None
    for file in _images(options.folder, problems):
        folders, name = file.split("/")[:-1], file.rpartition("/")[2]
        part = PART_FOLDERS.get(folders[0], "") if len(folders) > 1 else ""
        label = folders[1] if part else folders[0]
        match = pattern.search(name) if pattern else None
        if pattern and (match is None or not match.group(1)):
            problems.note(label, "files' names show no patient; each of these images counts as a patient of its own")
        patient = match.group(1) if match and match.group(1) else file
        sample = Sample(file, patient, options.source or options.folder.name, NO_TARGETS, split=part)
        rows.append(Classed(sample, frozenset((label,))))
    if not rows:
        raise DatasetError(f"{options.folder.name} has no folders of classes with images ({', '.join(ENDINGS)})")
    if pattern is None:
        problems.note(options.folder.name, "no patient_pattern; each image counts as a patient of its own", len(rows))
    return draft_of(options.folder.name, rows, problems, len(rows), exclusive=True)


def _images(folder: Path, problems: Problems) -> list[str]:
    found = []
    for where, _, names in sorted(os.walk(folder)):
        below = Path(where).relative_to(folder).as_posix()
        for name in sorted(names):
            if below == "." or not name.lower().endswith(ENDINGS):
                problems.note(below, "files that are no images of a class were left aside")
            else:
                found.append(relative(f"{below}/{name}", folder.name))
    return found
