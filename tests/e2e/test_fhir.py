"""A whole node beside a FHIR server: what it reads is there, once, whatever dies meanwhile, and is served as well."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import pytest
from pydicom import dcmread

from tests.support.dcmtk import storescu
from tests.support.fhir_server import HANG_UP, FhirServer, Say
from tests.support.node import Node
from tests.support.processes import eventually
from tests.support.shared import shared_dicom

pytestmark = [pytest.mark.e2e, pytest.mark.tensorflow, pytest.mark.soak]

FILM = "cxr_wrapped/wrap_09_pneumonia.dcm"


def test_a_result_is_put_once_though_the_node_is_killed_in_between(tmp_path: Path) -> None:
    with FhirServer([HANG_UP, Say(500)]) as server:
        node = Node(
            tmp_path / "node",
            f'[fhir]\nserve = true\n[fhir.destinations.repository]\nurl = "{server.url}"\n'
            '[[routes]]\nname = "chest"\nmodels = ["cxr-pneumonia"]\ndestinations = ["repository"]\n'
            'mode = "instance"\n',
        )
        node.start()
        try:
            film = dcmread(shared_dicom() / FILM)
            film.decompress()
            film.save_as(tmp_path / "film.dcm")
            assert storescu(node.dicom_port, tmp_path / "film.dcm").returncode == 0
            first = server.sent.get(timeout=120)[1]
            # Sent, and not yet answered.
            node.kill()
            node.start()
            assert server.sent.get(timeout=60)[1] == first
            eventually(
                "it is confirmed", lambda: [d["state"] for d in node.deliveries()] == ["CONFIRMED"], timeout_s=60
            )
            assert sorted(server.held) == sorted(one["request"]["url"] for one in first["entry"])
            (listed,) = node.json("fhir", "sent")
            key = node.run("keys", "add", "repository", "--scope", "patients:read").stdout.split()[-1]
            asked = urllib.request.Request(
                f"http://127.0.0.1:{node.web_port}/fhir/R4/DiagnosticReport/{listed['report']}",
                headers={"Authorization": f"Bearer {key}", "Accept": "application/fhir+json"},
            )
            with urllib.request.urlopen(asked) as answer:
                served = json.load(answer)
            sent = server.held[f"DiagnosticReport/{listed['report']}"]
            assert {name: value for name, value in served.items() if name != "meta"} == sent
            (device,) = (one for place, one in server.held.items() if place.startswith("Device/"))
            assert device["property"][0]["type"]["text"] == "SHA-256 of the weights"
            # Nothing of it is in the log, beyond the server's own address.
            assert film.PatientID not in node.log.read_text()
        finally:
            if node.process is not None:
                node.stop()
