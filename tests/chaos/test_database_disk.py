"""PostgreSQL's disk is full. Observed: 0xA700 while it is, then service by itself; nothing acknowledged is lost."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.uid import generate_uid

from db import schema
from db.session import Record
from tests.support.figures import note_figure
from tests.support.listening import chest_file, dataset_bytes, running
from tests.support.postgres import postgres_server
from tests.support.processes import eventually
from tests.support.raw_association import associated, store

pytestmark = [pytest.mark.e2e, pytest.mark.soak]

_DISK = "size=160m"


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A disk in memory on which temporary folders are made from now on; `tmp_path` was made before, elsewhere."""
    # Short: PostgreSQL's socket lies on it.
    with tempfile.TemporaryDirectory(prefix="disk-") as folder:
        if subprocess.run(["mount", "-t", "tmpfs", "-o", _DISK, "tmpfs", folder], check=False).returncode:
            pytest.skip("a disk of 160 MB cannot be mounted here; it takes root, and a container's permission")
        Path(folder).chmod(0o777)
        monkeypatch.setattr(tempfile, "tempdir", folder)
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", folder], check=True)


def test_a_database_without_room_has_nothing_acknowledged_that_it_has_not(small_disk: Path, tmp_path: Path) -> None:
    with postgres_server() as server:
        url = server.url(server.new_database())
        record = Record(url)
        schema.upgrade(record)
        record.close()
        with running(tmp_path, f'database_url = "{url}"\n') as listener:

            def send() -> int | None:
                uid = generate_uid()
                image = dataset_bytes(chest_file(tmp_path, SOPInstanceUID=uid))
                with associated(listener.port, timeout_s=60) as raw:
                    return store(raw, uid, image)

            assert send() == 0
            ballast = small_disk / "ballast"
            room = os.statvfs(small_disk)
            with ballast.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_frsize)
            statuses: list[int | None] = [0]
            while statuses[-1] == 0 and len(statuses) < 4000:
                statuses.append(send())
            assert statuses[-1] == 0xA700
            refused = [send() for _ in range(20)]
            assert set(refused) <= {0, 0xA700}
            assert listener.echoes(within_s=5)
            ballast.unlink()
            eventually("it takes images again", lambda: send() == 0, timeout_s=60, poll_s=0.5)
            acknowledged = statuses.count(0) + refused.count(0) + 1
            # One whose answer was a failure may be recorded all the same: its sender sends it again.
            assert acknowledged <= len(listener.instances()) <= acknowledged + len(refused) + 1
    note_figure("database without room", taken_until_full=statuses.count(0), then_refused=refused.count(0xA700))
