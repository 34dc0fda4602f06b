"""A whole node between a RIS and a modality: an order comes in by HL7, its result goes out, whatever dies meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom import dcmread

from tests.support import hl7_peer
from tests.support.dcmtk import storescu
from tests.support.hl7_peer import SILENT, Receiver
from tests.support.node import Node
from tests.support.processes import eventually, free_port
from tests.support.shared import shared_dicom

pytestmark = [pytest.mark.e2e, pytest.mark.tensorflow, pytest.mark.soak]

FILM = "cxr_wrapped/wrap_09_pneumonia.dcm"


def test_a_result_reaches_the_ris_under_one_id_though_the_node_is_killed_in_between(tmp_path: Path) -> None:
    port = free_port()
    with Receiver([SILENT]) as ris:
        node = Node(
            tmp_path / "node",
            f"[hl7.listener]\nenabled = true\nport = {port}\n"
            f'[hl7.destinations.ris]\nhost = "127.0.0.1"\nport = {ris.port}\nassigning_authority = "HOSP"\n'
            '[[routes]]\nname = "chest"\nmodels = ["cxr-pneumonia"]\ndestinations = ["ris"]\nmode = "instance"\n',
        )
        node.start()
        try:
            with hl7_peer.sender(port) as send:
                order = (
                    "MSH|^~\\&|RIS|HOSP|RADNODE||20260301||ORM^O01^ORM_O01|1|P|2.5.1||||||UNICODE UTF-8\r"
                    "PID|1||ID-1^^^HOSP||Doe^Jane\rORC|NW|PL-1|FI-1\rOBR|1|PL-1|FI-1|||||||||||||||ACC-1\r"
                )
                assert str(send(order).segment("MSA")(1)) == "AA"
            film = dcmread(shared_dicom() / FILM)
            film.decompress()
            film.save_as(tmp_path / "film.dcm")
            assert storescu(node.dicom_port, tmp_path / "film.dcm").returncode == 0
            first = ris.messages.get(timeout=120)
            # Sent, and not yet acknowledged.
            node.kill()
            node.start()
            assert ris.messages.get(timeout=60) == first
            eventually("it is confirmed", lambda: [d["state"] for d in node.deliveries()] == ["CONFIRMED"])
            assert ris.messages.empty()
            (listed,) = node.json("hl7", "sent")
            assert (listed["answer"], listed["control_id"] in first) == ("AA", True)
            assert [row["kind"] for row in node.json("hl7", "received")] == ["ORM^O01"]
        finally:
            if node.process is not None:
                node.stop()
