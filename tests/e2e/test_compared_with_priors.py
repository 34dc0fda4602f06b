"""A whole node with a model that compares, and Orthanc that has the patient's earlier study: it is fetched, read beside
the new one, and reported."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from tests.support.bundles import comparing_bundle
from tests.support.node import peer_toml, running_node
from tests.support.orthanc import Modality, Orthanc, orthanc
from tests.support.processes import free_port
from tests.support.shared import shared_dicom

pytestmark = pytest.mark.e2e

SETTINGS = """
[work]
model_dirs = ["{models}"]
[priors]
peer = "pacs"
wait_s = 30.0
[[routes]]
name = "compared"
models = ["test-comparing"]
mode = "instance"
match = {{ modality = ["CR", "DX"] }}
destinations = ["pacs"]
"""


def film(pacs: Orthanc, source: str, day: str) -> Dataset:
    """A radiograph of one patient in a study of its own, stored in the archive."""
    dataset = dcmread(shared_dicom() / "cxr_wrapped" / source)
    dataset.decompress()
    dataset.PatientID, dataset.PatientName, dataset.PatientBirthDate, dataset.PatientSex = "J1", "Doe^Jane", "", "F"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.StudyDate = generate_uid(), generate_uid(), day
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    written = BytesIO()
    dataset.save_as(written)
    pacs.upload(written.getvalue())
    return dataset


def report(pacs: Orthanc, study: str) -> Dataset:
    (found,) = pacs.instances(study, modality="SR")
    return dcmread(BytesIO(pacs.file(found)))


def test_what_is_new_since_the_last_film_is_reported_and_flagged(tmp_path: Path) -> None:
    models = comparing_bundle(tmp_path / "models" / "test-comparing").parent
    ports = free_port(), free_port()
    pacs_entry = peer_toml("pacs", "PACS", ports[0], key_objects=True)
    with running_node(tmp_path / "node", pacs_entry + SETTINGS.format(models=models)) as node:
        known = Modality("node", "RADNODE", node.dicom_port)
        with orthanc(tmp_path / "pacs", ae_title="PACS", ports=ports, modalities=(known,)) as pacs:
            first = film(pacs, "wrap_09_pneumonia.dcm", "20250101")
            second = film(pacs, "wrap_09_pneumonia.dcm", "20250601")
            for one in (first, second):
                pacs.send("node", str(pacs.study(one.StudyInstanceUID)))
                node.wait(
                    "its results are in the archive",
                    lambda n, uid=one.StudyInstanceUID: (
                        {row["state"] for row in n.deliveries() if row["study_instance_uid"] == uid} == {"CONFIRMED"}
                    ),
                )
            # Nothing was known of the patient before the first film: it is read alone, and flagged.
            said = report(pacs, first.StudyInstanceUID)
            assert "PertinentOtherEvidenceSequence" not in said
            (flags,) = pacs.instances(first.StudyInstanceUID, modality="KO")
            selected = dcmread(BytesIO(pacs.file(flags)))
            named = [
                str(item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID)
                for item in selected.ContentSequence
                if item.ValueType in ("IMAGE", "COMPOSITE")
            ]
            assert named[0] == first.SOPInstanceUID
            assert named[-1] == said.SOPInstanceUID
            # The second shows what the first did: nothing new, no flag, and the report names what it was held against.
            later = report(pacs, second.StudyInstanceUID)
            (prior,) = later.PertinentOtherEvidenceSequence
            assert prior.StudyInstanceUID == first.StudyInstanceUID
            assert pacs.instances(second.StudyInstanceUID, modality="KO") == []
        # The prior was fetched by the node, and became no image of its own.
        images = [row for row in node.instances() if row["state"] == "ANALYSED"]
        assert {row["sop_instance_uid"] for row in images} == {first.SOPInstanceUID, second.SOPInstanceUID}
