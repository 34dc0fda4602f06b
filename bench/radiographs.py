"""Radiographs of full size for the benchmarks, made from a small one: speed depends on size, not on content."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from pydicom import dcmread
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

ROWS, COLUMNS = 2500, 2048
SOURCE = Path(__file__).parents[1] / "workers/demo/data/child-pneumonia.dcm"


def make_radiographs(source: Path, folder: Path, count: int, *, rows: int = ROWS, columns: int = COLUMNS) -> list[Path]:
    """`count` CR images, 16 bits allocated, 12 stored, each in a study of its own; of full size they have 10 MB."""
    folder.mkdir(parents=True, exist_ok=True)
    dataset = dcmread(source)
    small = Image.fromarray(dataset.pixel_array.astype(np.uint8))
    large = np.asarray(small.resize((columns, rows), Image.Resampling.BICUBIC), dtype=np.uint16) * 16
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    dataset.Modality = "CR"
    dataset.Rows, dataset.Columns = large.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    for keyword in ("WindowCenter", "WindowWidth"):
        if keyword in dataset:
            delattr(dataset, keyword)
    dataset.PixelData = large.tobytes()
    dataset["PixelData"].VR = "OW"
    paths = []
    for number in range(count):
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        path = folder / f"{number:04d}.dcm"
        dataset.save_as(path)
        paths.append(path)
    return paths
