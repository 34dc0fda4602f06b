"""Where the images of a label file really lie: names are written on one machine and looked up on another."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from models.datasets.samples import Problems, Sample
from models.errors import DatasetError

PICTURES = ("png", "jpg", "jpeg", "tif", "tiff")
ELSEWHERE = "images lie under another path than the table says, and were found by the rest of it"


class Located:
    """One walk through ``folder`` instead of a look-up per image, which takes minutes on a network share.

    Raises DatasetError where there is no such folder.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise DatasetError(f"there is no images' folder {folder.name}")
        self._there = set(_walk(folder))
        self._any_case = _unique((name.casefold(), name) for name in self._there)
        self._by_name = _unique((name.rpartition("/")[2].casefold(), name) for name in self._there)

    def find(self, name: str) -> str | None:
        """The path of an image below the folder; None where it is missing, or could be several.

        As it stands; in another case; without some of its leading folders (a table written beside the images' folder,
        or above it); a bare name further down, as in sets that come in several folders which no table names; and all
        that for a picture that was turned into another format.
        """
        file, hash_, inside = name.partition("#")
        if file in self._there:
            return name
        stem, _, suffix = file.rpartition(".")
        others = [f"{stem}.{other}" for other in PICTURES] if suffix.casefold() in PICTURES else []
        found = next((path for one in (file, *others) if (path := self._elsewhere(one)) is not None), None)
        return None if found is None else found + hash_ + inside

    def _elsewhere(self, file: str) -> str | None:
        parts = file.casefold().split("/")
        tails = ("/".join(parts[start:]) for start in range(len(parts)))
        found = next((self._any_case[tail] for tail in tails if tail in self._any_case), None)
        if found is None and len(parts) == 1:
            found = self._by_name.get(parts[0])
        return found

    def moved(self, sample: Sample, problems: Problems) -> tuple[Sample, list[str]]:
        """The sample under the paths that are there, and what is missing (the sample is then as it was)."""
        found = {name: self.find(name) for name in sample.every_file}
        missing = [name for name, path in found.items() if path is None]
        if missing or all(name == path for name, path in found.items()):
            return sample, missing
        problems.note("images", ELSEWHERE)
        files = tuple(found[name] or name for name in sample.files)
        return replace(sample, file=found.get(sample.file) or files[0], files=files), []


def _unique(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    listed = list(pairs)
    count = Counter(key for key, _ in listed)
    return {key: name for key, name in listed if count[key] == 1}


def _walk(folder: Path) -> Iterable[str]:
    for where, _, names in os.walk(folder):
        prefix = Path(where).relative_to(folder).as_posix()
        yield from names if prefix == "." else (f"{prefix}/{name}" for name in names)
