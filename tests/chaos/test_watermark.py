"""The disk runs low. Observed: 0xA700 while it does, and service again without a restart."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.support.dcmtk import echoscu, storescu
from tests.support.listening import chest_file, running

pytestmark = pytest.mark.e2e

GIB = 1024**3


def test_below_the_watermark_nothing_is_taken_until_there_is_room(tmp_path: Path) -> None:
    """A file of 4 GiB crosses a mark that lies 2 GiB below what is free; it takes no time to write."""
    mark = shutil.disk_usage(tmp_path).free - 2 * GIB
    ballast = tmp_path / "ballast"
    image = chest_file(tmp_path)
    (tmp_path / "node").mkdir()
    with running(tmp_path / "node", f"[limits]\nmin_free_bytes = {mark}\n") as listener:
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, 4 * GIB)
        refused = storescu(listener.port, image)
        assert "Received Store Response (Refused: OutOfResources)" in refused.stdout
        assert echoscu(listener.port).returncode == 0
        assert listener.instances() == []
        assert listener.incoming() == []
        ballast.unlink()
        assert storescu(listener.port, image).returncode == 0
        (kept,) = listener.instances()
    assert (listener.settings.data_dir / kept.path).exists()
