"""Series of CT slices that a small network can learn, and a bundle of slices whose weights are random but lively."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from tests.support.bundles import SIDE, document, hollow_bundle, write_manifest

SLICES = 4
LUNG_WINDOW = {"step": "window", "mode": "fixed", "center": -600.0, "width": 1500.0}


def ct_slice(patient: str, place: int, *, bright: bool = False, series: str = "1", **changes: object) -> Dataset:
    """An axial slice of 48 x 40 pixels, 5 mm above the one before; a bright one has 1000 HU more in its middle."""
    random = np.random.default_rng([*patient.encode(), place])
    pixels = random.integers(-900, -700, (48, 40))
    if bright:
        pixels[12:36, 10:30] += 1000
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    study = f"2.25.{int.from_bytes(patient.encode(), 'big')}"
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = CTImageStorage
    made.StudyInstanceUID, made.SeriesInstanceUID = study, f"{study}.{series}"
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = f"{study}.{series}.{place + 1}"
    made.PatientID, made.PatientName, made.StudyDate, made.StudyTime = patient, "Test^Series", "20260301", "101112"
    made.StudyID = made.AccessionNumber = made.PatientSex = made.PatientBirthDate = made.ReferringPhysicianName = ""
    made.Modality, made.BodyPartExamined, made.ImageType = "CT", "CHEST", ["ORIGINAL", "PRIMARY", "AXIAL"]
    made.SeriesNumber, made.InstanceNumber = 1, place + 1
    made.ImagePositionPatient, made.ImageOrientationPatient = [0, 0, 5 * place], [1, 0, 0, 0, 1, 0]
    made.PixelSpacing, made.SliceThickness = [8, 8], 5
    made.Rows, made.Columns, made.SamplesPerPixel, made.PhotometricInterpretation = 48, 40, 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 16, 15, 1
    made.RescaleSlope, made.RescaleIntercept = 1, 0
    made.PixelData = pixels.astype("<i2").tobytes()
    for keyword, value in changes.items():
        setattr(made, keyword, value)
    return made


def write_slice(folder: Path, made: Dataset) -> Path:
    """The file, named so that names sort otherwise than places do."""
    path = folder / f"{made.PatientID}-{made.SeriesInstanceUID[-1]}-{int(made.InstanceNumber) * 7 % 101:03d}.dcm"
    made.save_as(path, enforce_file_format=True)
    return path


def draw_series(folder: Path, patients: int = 12, slices: int = 6) -> Path:
    """Series of as many ill as well patients, and their table; an ill one has a bright slice, never the first."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["PatientID,covid"]
    for number in range(patients):
        ill = number % 2 == 1
        for place in range(slices):
            write_slice(folder, ct_slice(f"p{number:02d}", place, bright=ill and place in {2, 3, 4}))
        lines.append(f"p{number:02d},{int(ill)}")
    (folder / "patients.csv").write_text("\n".join(lines) + "\n")
    return folder


def plan_change(slices: int = SLICES) -> dict[str, Any]:
    """What makes `tests.support.plans.PLAN` one of series."""
    return {
        "data": {
            "kind": "dicom-folder",
            "images": ".",
            "options": {
                "folder": ".",
                "file": "patients.csv",
                "join": "patient",
                "label_columns": {"covid": "covid"},
                "modalities": ["CT"],
            },
        },
        "input": {"side": 32, "slices": slices, "window": {k: v for k, v in LUNG_WINDOW.items() if k != "step"}},
        "augment": {"mixup": 0.0, "cutmix": 0.0, "horizontal_flip": False},
    }


def lively_series_bundle(folder: Path, slices: int = SLICES, **changes: Any) -> Path:
    """A bundle whose network runs and whose attention prefers some slices. Imports TensorFlow."""
    import keras  # noqa: PLC0415 - slow; only for tests that run a network

    from models import backbones  # noqa: PLC0415
    from models.training.series import build_series  # noqa: PLC0415
    from tests.support.networks import enliven  # noqa: PLC0415

    hollow_bundle(folder)
    keras.utils.set_random_seed(11)
    model = build_series("efficientnet_lite0", (SIDE, SIDE, 3), slices, 2, dropout=0.0)
    random = np.random.default_rng(3)
    inputs = random.uniform(-1, 1, (3, SIDE, SIDE, 3)).astype(np.float16).astype(np.float32)
    body = model.get_layer("body")
    enliven(body, [inputs], 5)
    for variable in model.get_layer("attention").variables:
        variable.assign(3 * np.asarray(variable.value))
    backbones.save_weights(model, folder / "weights.npz")
    backbones.load_weights(model, folder / "weights.npz")
    series = np.stack([np.arange(slices) % 3, (np.arange(slices) > 1).astype(int)])
    logits = model(inputs[series], training=False)[-1].numpy()
    np.savez(folder / "golden.npz", inputs=inputs, series=series, logits=logits)
    return write_manifest(folder, series_document(folder, slices) | changes)


def series_document(folder: Path, slices: int = SLICES) -> dict[str, Any]:
    """The manifest of a bundle that reads chest CT."""
    made = document(folder)
    made["architecture"] |= {"slices": slices, "pooling": "attention"}
    made["series"] = {"min_slices": slices}
    made["admission"] |= {
        "sop_classes": ["1.2.840.10008.5.1.4.1.1.2"],
        "modalities": ["CT"],
        "views": [],
        "view_missing_pattern": "",
        "reject_pattern": r"\b(scout|localizer)\b",
        "photometric": ["MONOCHROME2"],
        "min_rows": 16,
        "min_columns": 16,
        "min_age_years": None,
    }
    made["preprocessing"][0] = dict(LUNG_WINDOW)
    # Whatever the random network says, the first label is present.
    made["operating_points"][0] |= {"threshold": 0.0, "undetermined_low": None, "undetermined_high": None}
    return json.loads(json.dumps(made))
