"""A listener process of a test's own, with its record, and images to send to it."""

from __future__ import annotations

import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from sqlalchemy import select

from db.session import Record
from db.tables import Instance, Refusal
from node.settings import Peer, Settings, load
from tests.support.processes import free_port
from tests.support.raw_association import ECHO, RELEASE_RQ, associated, echo_command, message, with_length

ROOT = Path(__file__).parents[2]
CR = "1.2.840.10008.5.1.4.1.1.1"


@dataclass(frozen=True)
class Usage:
    """Threads, open files and sockets, and resident memory of a process."""

    threads: int
    files: int
    resident_bytes: int


@dataclass
class Listener:
    settings: Settings
    record: Record
    process: subprocess.Popen[str]
    log: Path

    @property
    def port(self) -> int:
        return self.settings.dicom_port

    @property
    def peer(self) -> Peer:
        return Peer(ae_title=self.settings.ae_title, host="127.0.0.1", port=self.port)

    def storescu(self, *arguments: str, called: str = "RADNODE") -> subprocess.CompletedProcess[str]:
        command = ["storescu", "-v", "-aec", called, "-aet", "MODALITY", "127.0.0.1", str(self.port), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    def instances(self) -> list[Instance]:
        with self.record.read() as session:
            return list(session.scalars(select(Instance)))

    def refusals(self) -> list[Refusal]:
        with self.record.read() as session:
            return list(session.scalars(select(Refusal)))

    def usage(self) -> Usage:
        """What the process holds now."""
        process = psutil.Process(self.process.pid)
        with process.oneshot():
            return Usage(process.num_threads(), process.num_fds(), process.memory_info().rss)

    def echoes(self, within_s: float = 2.0) -> bool:
        """Whether C-ECHO is answered in time."""
        began = time.monotonic()
        with associated(self.port, timeout_s=within_s) as raw:
            raw.send(message(ECHO, with_length(echo_command())))
            answer = raw.read()
            raw.send(RELEASE_RQ)
        return answer is not None and answer.status == 0 and time.monotonic() - began < within_s

    def incoming(self) -> list[Path]:
        return [path for path in (self.settings.data_dir / "incoming").rglob("*") if path.is_file()]


@contextmanager
def running(folder: Path, more: str = "", *, port: int | None = None) -> Iterator[Listener]:
    """A listener that takes connections, stopped at the end. more: tables of its settings."""
    config = folder / "radnode.toml"
    config.write_text(
        f'data_dir = "{folder / "data"}"\ndicom_port = {port or free_port()}\n'
        f"{more}\n" + ("" if "[limits]" in more else "[limits]\nmin_free_bytes = 0\n")
    )
    settings = load(config)
    log = folder / "listener.log"
    with log.open("ab") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.listener_process", str(config)],
            cwd=ROOT,
            env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    record = Record(settings.record_url)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield Listener(settings, record, process, log)
    finally:
        process.terminate()
        assert process.wait(15) == 0
        assert process.stdout is not None
        process.stdout.close()
        record.close()


def chest_file(folder: Path, name: str = "chest.dcm", **changes: Any) -> Path:
    image = Dataset()
    image.SOPClassUID = CR
    image.SOPInstanceUID = generate_uid(entropy_srcs=[name])
    image.StudyInstanceUID = generate_uid(entropy_srcs=["study"])
    image.SeriesInstanceUID = generate_uid(entropy_srcs=["series"])
    image.Modality = "CR"
    image.PatientID = "ID-4711"
    image.PatientName = "Doe^Jane"
    image.Rows = image.Columns = 64
    image.SamplesPerPixel = 1
    image.PhotometricInterpretation = "MONOCHROME2"
    image.BitsAllocated = image.BitsStored = 8
    image.HighBit = 7
    image.PixelRepresentation = 0
    image.PixelData = bytes(64 * 64)
    for keyword, value in changes.items():
        setattr(image, keyword, value)
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    path = folder / name
    image.save_as(path, enforce_file_format=True)
    return path


def dataset_bytes(path: Path) -> bytes:
    data = path.read_bytes()
    return data[144 + struct.unpack_from("<L", data, 140)[0] :]
