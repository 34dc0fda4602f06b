"""MedMNIST v2 (Yang et al., Sci Data 2023): one .npz with the images and labels of three official parts; 2D sets."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.datasets import options
from models.datasets.samples import Draft, Problems, Sample, SharedTargets
from models.errors import DatasetError

KEYS = {"train": "train", "val": "validation", "test": "test"}
"""The archive's name of a part to ours."""

NAMES: dict[str, tuple[str, ...]] = {
    "pneumoniamnist": ("normal", "pneumonia"),
    "breastmnist": ("malignant", "normal_or_benign"),
    "chestmnist": (
        "atelectasis",
        "cardiomegaly",
        "effusion",
        "infiltration",
        "mass",
        "nodule",
        "pneumonia",
        "pneumothorax",
        "consolidation",
        "edema",
        "emphysema",
        "fibrosis",
        "pleural_thickening",
        "hernia",
    ),
}


class Options(options.Options):
    """file: the archive; the images' folder is the one it lies in. names: of its labels, by their numbers."""

    file: Path
    names: tuple[str, ...] = ()


def load(options: Options) -> Draft:
    """Only labels are read. Raises DatasetError for an archive that is damaged, has other arrays, or is of volumes."""
    problems, parts = Problems(), _labels(options.file)
    stem = options.file.stem.partition("_")[0]
    columns = {labels.shape[1] for labels in parts.values()}
    if len(columns) != 1:
        raise DatasetError(f"{options.file.name}: the parts do not have the same number of labels")
    exclusive = columns == {1}
    highest = max((int(labels.max()) for labels in parts.values() if labels.size), default=0)
    count = highest + 1 if exclusive else columns.pop()
    names = options.names or NAMES.get(stem) or tuple(str(number) for number in range(count))
    if len(names) != count or min(int(labels.min()) for labels in parts.values() if labels.size) < 0:
        raise DatasetError(f"{options.file.name} has {count} labels, but {len(names)} names ({', '.join(names)})")
    shared, samples = SharedTargets(names), list[Sample]()
    for key, labels in parts.items():
        for index, row in enumerate(labels.tolist()):
            positive = names[row[0]] if exclusive else None
            found = (positive,) if positive else (name for name, value in zip(names, row, strict=True) if value)
            # Nobody knows who the patients are: each image is its own.
            samples.append(
                Sample(
                    file=f"{options.file.name}#{key}/{index}",
                    patient=f"{key}-{index}",
                    source=options.source or stem,
                    targets=shared.of_positive(frozenset(found)),
                    split=KEYS[key],
                )
            )
    problems.note(options.file.name, "the set names no patients; each image counts as a patient of its own")
    return Draft(stem, names, exclusive, samples, problems, len(samples))


def _labels(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with zipfile.ZipFile(path) as archive, np.load(path, allow_pickle=False) as stored:
            found = {}
            for key in KEYS:
                labels, images = stored[f"{key}_labels"], _shape(archive, f"{key}_images.npy")
                if labels.ndim != 2 or labels.shape[0] != images[0] or labels.dtype.kind not in "iu":
                    raise DatasetError(f"{path.name}: labels {labels.shape} do not fit images {images}")
                if len(images) != 3 and images[3:] != (3,):
                    raise DatasetError(f"{path.name}: images {images} are not of two dimensions")
                found[key] = labels
    except FileNotFoundError as error:
        raise DatasetError(f"there is no file {path.name}") from error
    except KeyError as error:
        raise DatasetError(f"{path.name} lacks an array of a MedMNIST set ({error.args[0]})") from error
    except (OSError, ValueError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise DatasetError(f"{path.name} is no readable .npz archive") from error
    return found


def _shape(archive: zipfile.ZipFile, member: str) -> tuple[int, ...]:
    """From the array's header alone: the images stay packed."""
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        return tuple(reader(stream)[0])
