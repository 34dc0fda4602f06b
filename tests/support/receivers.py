"""Three receivers of DICOM under the same attack: this node, Debian's Orthanc, DCMTK's storescp."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pydicom.misc import is_dicom
from sqlalchemy import select

from db.tables import Instance
from tests.support.dcmtk import echoscu
from tests.support.node import Node
from tests.support.orthanc import Orthanc
from tests.support.processes import eventually, free_port, listens, program


def dataset_digest(file: Path | bytes) -> str:
    """SHA-256 of a DICOM file's data set, without what every receiver writes before it."""
    data = file.read_bytes() if isinstance(file, Path) else file
    # The data set follows the preamble, "DICM", and the file meta group, whose length is its first value.
    start = 144 + int.from_bytes(data[140:144], "little")
    return hashlib.sha256(data[start:]).hexdigest()


class Receiver(ABC):
    """Runs in a process group of its own, with its data in `folder`."""

    name: str

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def start(self) -> None:
        """Start it; over as soon as it answers C-ECHO."""
        with (self.folder / f"{self.name}.log").open("ab") as output:
            self.process = subprocess.Popen(
                self.argv(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "TCP_NODELAY": "1"},
            )
        eventually(f"{self.name} answers C-ECHO", self.answers, timeout_s=60)

    def answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"{self.name} ended with {self.process.returncode}"
        # A connection first, which costs next to nothing while nobody listens.
        return listens(self.port) and echoscu(self.port).returncode == 0

    def kill(self) -> None:
        """kill -9 of the whole process group."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)

    def stop(self) -> None:
        assert self.process is not None
        self.process.terminate()
        self.process.wait(60)

    @abstractmethod
    def argv(self) -> list[str]: ...

    @abstractmethod
    def held(self) -> dict[str, str]:
        """What it would show to a reader: SOP Instance UID to the digest of the data set it would give."""

    @abstractmethod
    def files(self) -> Iterator[Path]:
        """Whatever lies under a final name."""

    def torn(self, sent: set[str]) -> int:
        """Files under a final name that hold none of the data sets that were sent."""
        return sum(1 for path in self.files() if not is_dicom(path) or dataset_digest(path) not in sent)


class RadnodeReceiver(Receiver):
    name = "radnode"

    def __init__(self, folder: Path, extra_toml: str = "") -> None:
        super().__init__(folder)
        self.node = Node(folder / "node", extra_toml, dicom_port=self.port)

    def argv(self) -> list[str]:
        return [sys.executable, "-m", "node.cli.main", "serve", "--config", str(self.node.config)]

    def held(self) -> dict[str, str]:
        with self.node.record() as record, record.read() as session:
            rows = session.execute(select(Instance.sop_instance_uid, Instance.path)).all()
        return {uid: dataset_digest(self.node.data_dir / path) for uid, path in rows}

    def files(self) -> Iterator[Path]:
        return (path for path in (self.node.data_dir / "instances").rglob("*") if path.is_file())


class OrthancReceiver(Receiver):
    name = "orthanc"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.server = Orthanc("ORTHANC", self.port, free_port(), folder)
        self.config = folder / "orthanc.json"
        self.config.write_text(
            json.dumps(
                {
                    "StorageDirectory": str(folder / "storage"),
                    "IndexDirectory": str(folder / "storage"),
                    "DicomPort": self.port,
                    "DicomCheckCalledAet": False,
                    "DicomAlwaysAllowEcho": True,
                    "DicomAlwaysAllowStore": True,
                    "HttpPort": self.server.http_port,
                    "RemoteAccessAllowed": False,
                    "AuthenticationEnabled": False,
                    "Plugins": [],
                }
            )
        )

    def argv(self) -> list[str]:
        return [program("Orthanc", "orthanc"), str(self.config)]

    def held(self) -> dict[str, str]:
        found = {}
        for one in self.server.json("GET", "/instances"):
            data = self.server.file(one)
            found[str(self.server.tags(one)["SOPInstanceUID"])] = dataset_digest(data)
        return found

    def files(self) -> Iterator[Path]:
        # Two levels of two hexadecimal digits each, then a UUID; beside the DICOM files lie excerpts of them.
        return (p for p in (self.folder / "storage").glob("??/??/*") if is_dicom(p) or p.read_bytes()[:1] != b"{")


class StorescpReceiver(Receiver):
    name = "storescp"

    def argv(self) -> list[str]:
        folder = self.folder / "received"
        folder.mkdir(exist_ok=True)
        return [program("storescp", "dcmtk"), "--fork", "+xa", "+B", "-od", str(folder), str(self.port)]

    def held(self) -> dict[str, str]:
        found = {}
        for path in self.files():
            try:
                uid = str(dcmread(path, stop_before_pixels=True, specific_tags=["SOPInstanceUID"]).SOPInstanceUID)
            except (InvalidDicomError, AttributeError, EOFError):
                continue
            found[uid] = dataset_digest(path)
        return found

    def files(self) -> Iterator[Path]:
        return (path for path in (self.folder / "received").glob("*") if path.is_file())


RECEIVERS: dict[str, type[Receiver]] = {one.name: one for one in (RadnodeReceiver, OrthancReceiver, StorescpReceiver)}
