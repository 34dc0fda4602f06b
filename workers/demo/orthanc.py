"""Debian's Orthanc as the demo's PACS: started by us on free ports, with a configuration and a storage of its own."""

from __future__ import annotations

import base64
import http.client
import json
import os
import secrets
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workers.demo.pacs import Address, DemoError
from workers.demo.process import Process

START_TIMEOUT_S = 20.0
_REQUEST_TIMEOUT_S = 30.0
# Debian keeps it where the PATH of an ordinary user does not look.
_SYSTEM_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/usr/local/bin")


def find_orthanc() -> Path | None:
    """Where Orthanc is installed, None where it is not."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *_SYSTEM_FOLDERS])
    found = shutil.which("Orthanc", path=path)
    return Path(found) if found else None


class OrthancPacs:
    """An Orthanc that knows the node as its only modality. `folder` takes its configuration, storage and log."""

    def __init__(self, program: Path, folder: Path, address: Address, http_port: int, node: Address) -> None:
        self.folder = folder
        self._address = address
        self._http_port = http_port
        self.node = node
        self._password = secrets.token_urlsafe(16)
        self._version = ""
        self._held: list[str] = []
        self._process = Process("Orthanc", [str(program), str(folder / "orthanc.json")], folder / "orthanc.log")

    @property
    def told_as(self) -> str:
        return f"Orthanc {self._version}".strip()

    @property
    def address(self) -> Address:
        return self._address

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        configuration = self.folder / "orthanc.json"
        configuration.touch(mode=0o600)
        configuration.write_text(json.dumps(self._configuration(), indent=2), encoding="utf-8")
        self._process.start()
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            try:
                self._version = str(json.loads(self._call("GET", "/system"))["Version"])
            except OSError:
                if self._process.wait(0.1) is not None:
                    break
                continue
            return
        raise DemoError(f"Orthanc did not start. The end of its log:\n{self._process.log_tail()}")

    def load(self, files: Sequence[Path]) -> None:
        for file in files:
            self._held.append(str(json.loads(self._call("POST", "/instances", file.read_bytes()))["ID"]))

    def route(self) -> None:
        request = {"Resources": self._held, "Synchronous": True}
        answer = json.loads(self._call("POST", "/modalities/radnode/store", json.dumps(request).encode()))
        if answer.get("FailedInstancesCount", 0):
            raise DemoError(f"Orthanc could not send {answer['FailedInstancesCount']} images to the node")

    def fetch(self, sop_instance_uid: str) -> bytes:
        found = json.loads(self._call("POST", "/tools/lookup", sop_instance_uid.encode()))
        ids = [str(entry["ID"]) for entry in found if entry.get("Type") == "Instance"]
        if not ids:
            raise DemoError(f"Orthanc holds no object {sop_instance_uid}")
        return self._call("GET", f"/instances/{ids[0]}/file")

    def stop(self) -> None:
        self._process.stop(10.0)

    def _configuration(self) -> dict[str, Any]:
        return {
            "Name": "radnode demo PACS",
            "StorageDirectory": str(self.folder / "storage"),
            "IndexDirectory": str(self.folder / "storage"),
            "HttpPort": self._http_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": True,
            "RegisteredUsers": {"demo": self._password},
            "Plugins": [],
            "DicomAet": self._address.ae_title,
            "DicomPort": self._address.port,
            "DicomCheckCalledAet": True,
            "DicomCheckModalityHost": True,
            "DicomAlwaysAllowEcho": False,
            "DicomAlwaysAllowStore": False,
            "DicomModalities": {"radnode": [self.node.ae_title, self.node.host, self.node.port]},
            "StableAge": 1,
        }

    def _call(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """One request to Orthanc's REST interface. Raises OSError while it does not listen, DemoError for an error."""
        token = base64.b64encode(f"demo:{self._password}".encode()).decode()
        connection = http.client.HTTPConnection("127.0.0.1", self._http_port, timeout=_REQUEST_TIMEOUT_S)
        try:
            connection.request(method, path, body, {"Authorization": f"Basic {token}"})
            answer = connection.getresponse()
            content = answer.read()
        except http.client.HTTPException as error:
            raise DemoError(f"Orthanc broke off at {method} {path} ({type(error).__name__})") from error
        finally:
            connection.close()
        if answer.status != http.client.OK:
            raise DemoError(f"Orthanc answered {method} {path} with {answer.status} {answer.reason}")
        return content
