"""Orthanc as the hospital's PACS: a server on free loopback ports, and as much of its REST interface as tests need."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.processes import eventually, free_port, program, running

_REST_TIMEOUT_S = 60.0
# Sends what arrives to one modality, like a hospital's routing rule; what that modality sent is not sent back to it.
_ROUTE_SCRIPT = """
function OnStoredInstance(instanceId, tags, metadata, origin)
  if origin['RemoteAet'] ~= '{aet}' then
    SendToModality(instanceId, '{name}')
  end
end
"""


@dataclass(frozen=True)
class Modality:
    """A DICOM peer as Orthanc knows it. `name` is Orthanc's own word for it."""

    name: str
    ae_title: str
    port: int
    host: str = "127.0.0.1"

    def as_config(self) -> dict[str, Any]:
        return {"AET": self.ae_title, "Host": self.host, "Port": self.port, "AllowStorageCommitment": True}


@dataclass(frozen=True)
class Orthanc:
    """A running server. Resource ids are Orthanc's hashes, not DICOM UIDs."""

    ae_title: str
    dicom_port: int
    http_port: int
    folder: Path

    def request(self, method: str, path: str, body: bytes | dict[str, Any] | None = None) -> bytes:
        """One REST call. Raises urllib.error.HTTPError for any status beyond 2xx."""
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        call = urllib.request.Request(f"http://127.0.0.1:{self.http_port}{path}", data=data, method=method)
        with urllib.request.urlopen(call, timeout=_REST_TIMEOUT_S) as answer:
            return bytes(answer.read())

    def json(self, method: str, path: str, body: bytes | dict[str, Any] | None = None) -> Any:
        return json.loads(self.request(method, path, body))

    def upload(self, file: Path | bytes) -> str:
        """Store a DICOM file; returns the instance's id."""
        content = file.read_bytes() if isinstance(file, Path) else file
        return str(self.json("POST", "/instances", content)["ID"])

    def count(self) -> int:
        """How many instances it holds."""
        return int(self.json("GET", "/statistics")["CountInstances"])

    def find(self, level: str, **query: str) -> list[str]:
        """Ids of the patients, studies, series or instances that match the given DICOM keywords."""
        return [str(found) for found in self.json("POST", "/tools/find", {"Level": level, "Query": query})]

    def study(self, study_instance_uid: str) -> str | None:
        """The id of a study, or None."""
        found = self.find("Study", StudyInstanceUID=study_instance_uid)
        return found[0] if found else None

    def instances(self, study_instance_uid: str, *, modality: str = "") -> list[str]:
        """Ids of a study's instances, of one modality ("SR", "OT") or of all."""
        query = {"StudyInstanceUID": study_instance_uid} | ({"Modality": modality} if modality else {})
        return self.find("Instance", **query)

    def wait_for_instances(self, study_instance_uid: str, count: int, *, timeout_s: float = 60.0) -> list[str]:
        """A study's instances as soon as there are at least `count`."""

        def enough() -> list[str]:
            found = self.instances(study_instance_uid)
            return found if len(found) >= count else []

        return eventually(f"{count} instances of a study in Orthanc", enough, timeout_s=timeout_s, poll_s=0.1)

    def tags(self, instance_id: str) -> dict[str, Any]:
        """An instance's attributes by DICOM keyword."""
        found: dict[str, Any] = self.json("GET", f"/instances/{instance_id}/simplified-tags")
        return found

    def file(self, instance_id: str) -> bytes:
        """An instance as the DICOM file Orthanc would give to a viewer."""
        return self.request("GET", f"/instances/{instance_id}/file")

    def delete(self, instance_id: str) -> None:
        """Lose an instance."""
        self.request("DELETE", f"/instances/{instance_id}")

    def add_modality(self, modality: Modality) -> None:
        """Make a peer known while the server runs."""
        self.request("PUT", f"/modalities/{modality.name}", modality.as_config())

    def echo(self, name: str) -> bool:
        """C-ECHO to a modality."""
        try:
            self.request("POST", f"/modalities/{name}/echo", {})
        except urllib.error.HTTPError:
            return False
        return True

    def send(self, name: str, *resource_ids: str, commitment: bool = False) -> dict[str, Any]:
        """C-STORE to a modality, over when the last image is answered. Raises HTTPError when one was not taken."""
        order = {"Resources": list(resource_ids), "Synchronous": True, "StorageCommitment": commitment}
        answer: dict[str, Any] = self.json("POST", f"/modalities/{name}/store", order)
        return answer


@contextmanager
def orthanc(
    folder: Path,
    *,
    modalities: tuple[Modality, ...] = (),
    ae_title: str = "ORTHANC",
    route_to: Modality | None = None,
    ports: tuple[int, int] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Iterator[Orthanc]:
    """Run a server with its data in `folder`.

    route_to: the modality that everything which arrives is sent on to. ports: (DICOM, HTTP), where a test brings a
    server back after an outage. options: more of Orthanc's own settings.
    """
    dicom_port, http_port = ports or (free_port(), free_port())
    folder.mkdir(parents=True, exist_ok=True)
    known = modalities if route_to is None else (*modalities, route_to)
    config: dict[str, Any] = {
        "Name": ae_title,
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "DicomAet": ae_title,
        "DicomPort": dicom_port,
        "DicomCheckCalledAet": False,
        "DicomAlwaysAllowEcho": True,
        "DicomAlwaysAllowStore": True,
        "DicomAlwaysAllowFind": True,
        "DicomModalities": {modality.name: modality.as_config() for modality in known},
        "DicomScpTimeout": 30,
        "DicomScuTimeout": 10,
        "HttpPort": http_port,
        # Without remote access it binds loopback alone, so it needs no password.
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "StorageCommitmentReportsSize": 100,
        "UnknownSopClassAccepted": True,
        "OverwriteInstances": False,
        "LuaScripts": [],
        "Plugins": [],
    }
    if route_to is not None:
        script = folder / "route.lua"
        script.write_text(_ROUTE_SCRIPT.format(aet=route_to.ae_title, name=route_to.name))
        config["LuaScripts"] = [str(script)]
    path = folder / "orthanc.json"
    path.write_text(json.dumps({**config, **(options or {})}))
    server = Orthanc(ae_title, dicom_port, http_port, folder)
    # Its Nagle delays every small message by some 40 ms otherwise.
    environment = {"TCP_NODELAY": "1", "PATH": "/usr/sbin:/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
    argv = [program("Orthanc", "orthanc"), str(path)]
    with running(argv, lambda: _answers(server), log=folder / "orthanc.log", env=environment):
        yield server


def _answers(server: Orthanc) -> bool:
    try:
        server.request("GET", "/system")
    except (urllib.error.URLError, ConnectionError):
        return False
    return True
