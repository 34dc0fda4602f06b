"""A run of the whole node, failures included, with a patient whose every string is searched for afterwards.

None may be in a log line, a metric, a reason, a message on the broker, a file's name, or a row or message of the audit.
"""

from __future__ import annotations

import base64
import re
import socket
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from pydicom import dcmread
from pydicom.uid import generate_uid
from sqlalchemy import select

from db import audit, audit_chain
from db.audit import Wanted
from db.tables import Delivery, Instance, Job, Outbox, Refusal, Study
from node.audit import service
from node.audit.message import xml
from node.settings import load
from tests.support.dcmtk import storescu
from tests.support.node import Node, part, peer_toml
from tests.support.orthanc import orthanc
from tests.support.processes import eventually, free_port
from tests.support.redis_server import redis_server
from tests.support.shared import shared_dicom

pytestmark = pytest.mark.e2e

# Every string of the patient holds one of these; nothing else in the world does.
TOKENS = ("qzxvor", "19340817", "1934-08-17")
PATIENT = {
    "PatientName": "Qzxvorplak^Wimbel^^Dr",
    "PatientID": "QZXVOR-4711",
    "PatientBirthDate": "19340817",
    "OtherPatientIDs": "QZXVOR-OTHER",
    "PatientComments": "qzxvor is afraid of needles",
    "AccessionNumber": "QZXVOR0815",
    "StudyID": "QZXVOR7",
    "StudyDescription": "qzxvor chest\nlevel=CRITICAL forged",
    "SeriesDescription": "qzxvor pa",
    "ReferringPhysicianName": "Qzxvordoc^Ref",
    "InstitutionName": "Qzxvor Hospital",
    "OperatorsName": "Qzxvorop^Anna",
    "RequestedProcedureDescription": "qzxvor thorax",
}
SETTINGS = """
[delivery]
max_attempts = 2
backoff_first_s = 0.2
backoff_max_s = 0.2
connect_timeout_s = 2.0

[work]
lease_s = 5.0
max_attempts = 1

[audit]
seal_interval_s = 0.1

[[routes]]
name = "chest"
models = ["cxr-pneumonia"]
destinations = ["pacs", "gone"]
mode = "instance"
match = { modality = ["CR", "DX"] }
"""


def leaks(where: str, text: str | bytes) -> list[str]:
    told = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    found = []
    for token in TOKENS:
        for match in re.finditer(re.escape(token), told, re.IGNORECASE):
            found.append(f"{where}: …{told[max(0, match.start() - 200) : match.end() + 40]}…")
    return found


def patient_file(folder: Path, name: str, **changes: Any) -> Path:
    image = dcmread(shared_dicom() / "cxr_wrapped" / "wrap_06_pneumonia.dcm")
    uid = generate_uid(entropy_srcs=[name])
    for keyword, value in {**PATIENT, "SOPInstanceUID": uid, **changes}.items():
        setattr(image, keyword, value)
    image.file_meta.MediaStorageSOPInstanceUID = str(image.SOPInstanceUID)
    path = folder / f"{name}.dcm"
    image.save_as(path, enforce_file_format=True)
    return path


@contextmanager
def overheard(url: str) -> Iterator[bytearray]:
    """Every command that the broker gets, as it tells of them; complete once the block has ended."""
    heard = bytearray()
    place = urllib.parse.urlsplit(url)
    with socket.create_connection((place.hostname, place.port)) as monitor:
        monitor.sendall(b"MONITOR\r\n")
        heard += monitor.recv(5)
        assert heard == b"+OK\r\n"

        def listen() -> None:
            while b"END OF TEST" not in heard[-200:]:
                heard.extend(monitor.recv(65536))

        thread = threading.Thread(target=listen)
        thread.start()
        try:
            yield heard
        finally:
            with redis.Redis.from_url(url) as other:
                other.echo("END OF TEST")
            thread.join(10)
    assert not thread.is_alive()


@pytest.mark.filterwarnings("ignore:Invalid value for VR:UserWarning")
@pytest.mark.filterwarnings("ignore:The value length:UserWarning")
def test_nothing_of_a_patient_leaves_the_record_and_the_objects(tmp_path: Path) -> None:
    sent = tmp_path / "sent"
    sent.mkdir()
    with ExitStack() as site:
        broker = site.enter_context(redis_server(tmp_path / "redis"))
        heard = site.enter_context(overheard(broker))
        pacs = site.enter_context(orthanc(tmp_path / "pacs"))
        peers = peer_toml("pacs", "ORTHANC", pacs.dicom_port) + peer_toml("gone", "GONE", free_port())
        node = Node(tmp_path / "node", SETTINGS + peers, env={"RADNODE_BROKER_URL": broker})
        node.start()
        site.callback(node.stop)
        site.enter_context(part(node, "worker"))
        _send_all(node, sent)
        node.wait_settled(3, timeout_s=180)
        node.wait("the refusals are on record", lambda n: "association_rejected" in _events(n))
        pages = _ask_the_web(node)
        metrics = _metrics(node)
        node.run("retry")
        lists = [node.run(*command).stdout for command in (("jobs",), ("deliveries",), ("audit", "list"))]
        eventually("the audit is sealed", lambda: _waiting(node) == 0)
        found = _search_record(node)
        assert {"instances_received", "result_sent", "delivery_dead", "instance_refused", "login"} <= set(_events(node))
        assert "patient_mismatch" in _events(node)
    logs = [*node.folder.glob("*.log")]
    assert len(logs) == 2
    for log in logs:
        assert log.stat().st_size > 0
        found += leaks(log.name, log.read_bytes())
    bodies = [base64.b64decode(one) for one in re.findall(rb'body\\*": *\\*"([A-Za-z0-9+/=]+)', heard)]
    assert bodies
    found += leaks("broker", bytes(heard) + b"".join(bodies))
    found += leaks("metrics", metrics)
    for shown in (*lists, *pages):
        found += leaks("command or page", shown)
    names = [str(path.relative_to(tmp_path)) for path in (tmp_path / "node").rglob("*")]
    assert any(name.endswith(".dcm") for name in names)
    found += leaks("file names", "\n".join(names))
    assert found == []


def _send_all(node: Node, sent: Path) -> None:
    """A study that goes well, and everything around it that does not."""
    first = patient_file(sent, "well")
    assert storescu(node.dicom_port, first).returncode == 0
    mismatch = patient_file(sent, "mismatch", PatientID="QZXVOR-9999")
    conflict = patient_file(sent, "conflict", SOPInstanceUID=dcmread(first).SOPInstanceUID, PatientComments="qzxvor2")
    broken = patient_file(
        sent, "broken", StudyInstanceUID=generate_uid(), SeriesInstanceUID=generate_uid(), PixelData=b"qzxvor!!"
    )
    for path in (mismatch, conflict, broken):
        storescu(node.dicom_port, path)
    # What has no UIDs, and what has the patient's name where one belongs.
    storescu(node.dicom_port, patient_file(sent, "nameless", StudyInstanceUID="Qzxvorplak"))
    storescu(node.dicom_port, patient_file(sent, "named", SOPInstanceUID="QZXVOR-4711"))
    cut = sent / "cut.dcm"
    cut.write_bytes(patient_file(sent, "whole").read_bytes()[:-1000])
    storescu(node.dicom_port, cut)
    storescu(node.dicom_port, first, called="NOBODY")


def _events(node: Node) -> list[str]:
    with node.record() as record, record.read() as session:
        return [one.event for one in audit.entries(session, Wanted())]


def _waiting(node: Node) -> int:
    with node.record() as record, record.read() as session:
        return audit_chain.waiting(session)


def _ask_the_web(node: Node) -> list[str]:
    """Somebody tries the patient's name as an account, and asks for it without one."""
    url = f"http://127.0.0.1:{node.web_port}"
    answers = [node.get(path)[1] for path in ("/?patient=QZXVOR-4711", "/studies/Qzxvorplak", "/healthz", "/readyz")]
    with urllib.request.urlopen(f"{url}/login") as answer:
        cookie = answer.headers["Set-Cookie"].partition(";")[0]
        token = re.search(r'name="csrf_token" value="([^"]+)"', answer.read().decode())
    assert token is not None
    form = urllib.parse.urlencode({"csrf_token": token[1], "name": "Qzxvorplak", "password": "QZXVOR-4711"})
    call = urllib.request.Request(f"{url}/login", data=form.encode(), headers={"Cookie": cookie, "Origin": url})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(call)
    with refused.value:
        assert refused.value.code == 401
    # What the browser typed it may see again.
    return [text for text in answers if "next=" not in text]


def _metrics(node: Node) -> str:
    key = node.run("keys", "add", "prometheus", "--scope", "metrics:read").stdout.strip()
    call = urllib.request.Request(
        f"http://127.0.0.1:{node.web_port}/metrics", headers={"Authorization": f"Bearer {key}"}
    )
    with urllib.request.urlopen(call) as answer:
        told: str = answer.read().decode()
    assert "radnode_instances" in told
    return told


def _search_record(node: Node) -> list[str]:
    """Reasons, messages that wait, and the audit: rows, and messages with what they hold in base64."""
    found = []
    source = service.origin(load(node.config))
    with node.record() as record, record.read() as session:
        assert session.scalars(select(Study.patient_id)).first() == PATIENT["PatientID"], "the record itself knows"
        for column in (Job.reason, Job.summary, Delivery.reason, Instance.reason, Refusal.reason, Outbox.subject):
            found += leaks(str(column), repr(session.scalars(select(column)).all()))
        rows = list(audit.entries(session, Wanted()))
        assert audit_chain.verify(session).problem == ""
    for row in rows:
        found += leaks("audit row", repr(row))
        message = xml(row, source)
        hidden = [base64.b64decode(one).decode() for one in re.findall(r'value="([A-Za-z0-9+/=]+)"', message)]
        found += leaks("audit message", "\n".join([message, *hidden]))
    return found
