"""Real images and label files, which lie beside the project and not in it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_BESIDE = Path(__file__).resolve().parents[3] / "shared" / "data"


def shared_data() -> Path:
    """The folder of real data: `RADNODE_SHARED_DATA`, else ../shared/data beside the project."""
    folder = Path(os.environ.get("RADNODE_SHARED_DATA") or _BESIDE)
    if not folder.is_dir():
        pytest.fail(f"no real data at {folder}; set RADNODE_SHARED_DATA to its folder", pytrace=False)
    return folder


def shared_dicom() -> Path:
    """The folder of DICOM files."""
    return shared_data() / "dicom"
