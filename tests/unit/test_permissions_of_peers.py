"""A peer gets the presentation contexts of what it may ask for, and nothing is done on others: over a real listener."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE

from db import schema
from db.session import Record
from node import scp
from node.commitment import COMMITMENT_CLASS, COMMITMENT_INSTANCE
from node.handlers import Handlers
from node.scu import VERIFICATION
from node.settings import Peer, Settings
from node.settings_retention import Retention
from node.settings_worklist import Notices
from node.syntaxes import AVAILABILITY_CLASS, PERFORMED_STEP_CLASS
from tests.support import raw_association as raw
from tests.support.processes import free_port

CR = "1.2.840.10008.5.1.4.1.1.1"
PROPOSED = (VERIFICATION, CR, AVAILABILITY_CLASS, PERFORMED_STEP_CLASS, COMMITMENT_CLASS)
UNRECOGNISED_OPERATION = 0x0211
A_ABORT = 7


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    data_dir: Path = tmp_path_factory.mktemp("node")
    peers = {
        "ct": Peer(ae_title="CT", host="127.0.0.1", may=("store",)),
        "ris": Peer(ae_title="RIS", host="127.0.0.1", may=("notify",)),
        "sink": Peer(ae_title="SINK", host="127.0.0.1", may=()),
    }
    told = Settings(
        data_dir=data_dir,
        dicom_port=free_port(),
        peers=peers,
        notices=Notices(commitment=True),
        retention=Retention(images_days=0),
    )
    record = Record(told.record_url)
    schema.upgrade(record)
    handlers = Handlers(told, record, "listener")
    server = scp.start(told, handlers)
    yield told
    server.stop()
    handlers.close()
    record.close()


@pytest.mark.parametrize(
    ("calling", "refused"),
    [
        ("STRANGER", set()),
        ("CT", {AVAILABILITY_CLASS, PERFORMED_STEP_CLASS}),
        ("RIS", {CR}),
        ("SINK", {CR, AVAILABILITY_CLASS, PERFORMED_STEP_CLASS}),
    ],
)
def test_contexts_follow_the_peer_entry(settings: Settings, calling: str, refused: set[str]) -> None:
    entity = AE(calling)
    for uid in PROPOSED:
        entity.add_requested_context(uid)
    association = entity.associate("127.0.0.1", settings.dicom_port, ae_title="RADNODE")
    assert association.is_established
    assert {(str(c.abstract_syntax), c.result) for c in association.rejected_contexts} == {(uid, 3) for uid in refused}
    assert association.send_c_echo().Status == 0x0000
    association.release()


def test_nothing_is_done_for_an_operation_without_permission(settings: Settings) -> None:
    entity = AE("RIS")
    entity.add_requested_context(COMMITMENT_CLASS)
    association = entity.associate("127.0.0.1", settings.dicom_port, ae_title="RADNODE")
    asked = Dataset()
    asked.TransactionUID = "1.2.3.4"
    status, _ = association.send_n_action(asked, 1, COMMITMENT_CLASS, COMMITMENT_INSTANCE)
    assert status.Status == UNRECOGNISED_OPERATION
    association.abort()


def test_an_object_is_not_taken_on_a_context_of_something_else(settings: Settings) -> None:
    """One that calls itself of the class of C-ECHO, whose context everybody has; one on a refused context."""
    data = raw.element(0, b"")
    proposals = [(VERIFICATION, (raw.IMPLICIT,)), (CR, (raw.IMPLICIT,))]
    for context_id, sop_class, statuses in ((1, VERIFICATION, [UNRECOGNISED_OPERATION]), (3, CR, [])):
        with raw.connected(settings.dicom_port) as one:
            one.send(raw.request(proposals, calling="RIS"))
            assert one.read() is not None
            command = raw.with_length(raw.store_command("1.2.3.5", sop_class=sop_class))
            one.send(raw.message(context_id, command, data))
            *answers, last = one.rest()
            assert [answer.status for answer in answers] == statuses
            assert last.kind == A_ABORT
