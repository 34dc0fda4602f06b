"""The files of a day's studies: a radiograph made from a real one, CT and MR drawn, each study with UIDs of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.uid import MRImageStorage

from bench.day.hospital import Kind, Study
from bench.radiographs import SOURCE, make_radiographs
from tests.support.series import ct_slice


@dataclass(frozen=True)
class Sizes:
    """slices: of a CT. side: rows and columns of a slice. cr_rows: of a radiograph, whose width is 0.82 of it. An MR
    has a fifth of a CT's slices."""

    slices: int = 30
    side: int = 128
    cr_rows: int = 1250

    def bytes_of(self, kind: Kind) -> int:
        """Of the pixels of one study of that kind."""
        if kind in (Kind.CR, Kind.PRIOR):
            return 2 * self.cr_rows * self.cr_columns
        return 2 * self.side**2 * self.images_of(kind)

    def images_of(self, kind: Kind) -> int:
        return {Kind.CT: self.slices, Kind.MR: max(1, self.slices // 5)}.get(kind, 1)

    @property
    def cr_columns(self) -> int:
        return round(self.cr_rows * 0.82)


def write_day(studies: list[Study], folder: Path, sizes: Sizes) -> dict[int, Path]:
    """A folder of files for each study, by its number."""
    single = [study for study in studies if study.kind in (Kind.CR, Kind.PRIOR)]
    images = make_radiographs(SOURCE, folder / "cr", len(single), rows=sizes.cr_rows, columns=sizes.cr_columns)
    folders = {study.number: folder / f"{study.number:05d}" for study in studies}
    for one in folders.values():
        one.mkdir()
    for study, image in zip(single, images, strict=True):
        image.rename(folders[study.number] / "image.dcm")
    for study in studies:
        if study.kind in (Kind.CT, Kind.MR):
            _write_slices(study, folders[study.number], sizes)
    return folders


def _write_slices(study: Study, folder: Path, sizes: Sizes) -> None:
    random = np.random.default_rng(abs(study.number))
    pixels = random.integers(-900, 200, (sizes.side, sizes.side)).astype("<i2").tobytes()
    for place in range(sizes.images_of(study.kind)):
        image = ct_slice(
            f"D{study.number:05d}", place, Rows=sizes.side, Columns=sizes.side, PixelSpacing=[3, 3], PixelData=pixels
        )
        if study.kind is Kind.MR:
            image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = MRImageStorage
            image.Modality = "MR"
        image.save_as(folder / f"{place:04}.dcm", enforce_file_format=True)
