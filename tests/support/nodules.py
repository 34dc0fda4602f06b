"""Drawn nodules in real chest CT: crops and a table like those made from LIDC-IDRI's annotations.

A test of mechanics and nothing else: what is round or ragged here was drawn so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.datasets.pixels import find_pixel_reader

SIDE = 64
_LUNG_HU = (-960.0, -700.0)
_NODULE_HU = 30.0


def draw_nodules(slices: Mapping[str, Sequence[Path]], folder: Path, each: int, seed: int = 3) -> int:
    """Write ``folder``/nodules.csv and ``folder``/crops/*.tiff, Hounsfield units in float32; how many crops.

    slices: DICOM files by patient. each: crops of a patient. Four readers rate each nodule from 1 to 5; above 3 on
    average is malignant, exactly 3 is left blank.
    """
    random, reader = np.random.default_rng(seed), find_pixel_reader()
    (folder / "crops").mkdir(parents=True)
    lines, number = ["file,patient_id,rating,malignant"], 0
    for patient, files in slices.items():
        frames = [np.asarray(reader(path).pixels, dtype=np.float32) for path in files]
        for index in range(each):
            ragged = index % 2 == 1
            crop = _implanted(_lung_crop(frames[index % len(frames)], random), random, ragged=ragged)
            ratings = np.clip(random.normal(4.0 if ragged else 2.0, 0.8, 4).round(), 1, 5)
            mean = float(ratings.mean())
            malignant = "" if mean == 3 else str(int(mean > 3))
            name = f"{patient}_{index:03d}.tiff"
            Image.fromarray(crop).save(folder / "crops" / name)
            lines.append(f"{name},{patient},{mean},{malignant}")
            number += 1
    (folder / "nodules.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return number


def _lung_crop(frame: NDArray[np.float32], random: np.random.Generator) -> NDArray[np.float32]:
    """A square whose middle is lung: air within the body is far from the picture's edge."""
    low, high = _LUNG_HU
    half = SIDE // 2
    lung = (frame > low) & (frame < high)
    lung[: 3 * half], lung[-3 * half :], lung[:, : 2 * half], lung[:, -2 * half :] = False, False, False, False
    rows, columns = np.nonzero(lung)
    chosen = int(random.integers(len(rows)))
    row, column = int(rows[chosen]), int(columns[chosen])
    return frame[row - half : row + half, column - half : column + half].copy()


def _implanted(crop: NDArray[np.float32], random: np.random.Generator, *, ragged: bool) -> NDArray[np.float32]:
    rows, columns = np.mgrid[0:SIDE, 0:SIDE] - SIDE / 2 + random.normal(0, 2, (2, 1, 1))
    radius = random.uniform(5, 11)
    outline = np.full_like(rows, radius)
    if ragged:
        angle = np.arctan2(rows, columns)
        for waves in (5, 9, 13):
            outline += radius * 0.18 * np.sin(waves * angle + random.uniform(0, 2 * np.pi))
    inside = 1 / (1 + np.exp(np.hypot(rows, columns) - outline))
    density = _NODULE_HU + random.normal(0, 40)
    return (crop * (1 - inside) + density * inside).astype(np.float32)
