"""Putting a bundle's folder together."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.contracts import FloatArray
from models.manifest import MANIFEST, Manifest, digest_of

EVALUATION, REPORT = "evaluation.json", "report.html"

ROLES = {
    "weights.npz": "weights",
    "golden.npz": "golden",
    "ood.npz": "ood",
    "MODEL_CARD.md": "card",
    "NOTICE": "notice",
    EVALUATION: "report",
    REPORT: "report",
}


def write_golden(
    path: Path,
    inputs: FloatArray,
    logits: FloatArray,
    *,
    raw: NDArray[np.uint8],
    raw_input: FloatArray,
    series: NDArray[np.int64] | None = None,
) -> None:
    """The bundle's own test vectors.

    inputs: (n, rows, columns, channels), stored as float16; logits: float32 (n, labels), of the inputs *as stored*.
    series: int (n, slices), for models of slices: which of the inputs (k, rows, columns, channels) each series is of.
    raw: uint8 (rows, columns), a picture; raw_input: what preprocessing makes of it, stored as float16.
    """
    arrays: dict[str, Any] = {
        "inputs": inputs.astype(np.float16),
        "logits": logits.astype(np.float32),
        "raw": raw,
        "raw_input": raw_input.astype(np.float16),
    }
    if series is not None:
        arrays["series"] = series.astype(np.int32)
    np.savez_compressed(path, **arrays)


def write_manifest(folder: Path, document: Mapping[str, Any]) -> Manifest:
    """Write `model.json` with the digests of the files there. Raises pydantic's ValidationError if it is wrong."""
    present: Sequence[str] = [name for name in ROLES if (folder / name).is_file()]
    files = [{"path": name, "role": ROLES[name], "sha256": digest_of(folder / name)} for name in present]
    whole = {**document, "files": files}
    manifest = Manifest.model_validate_json(json.dumps(whole))
    (folder / MANIFEST).write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
    return manifest
