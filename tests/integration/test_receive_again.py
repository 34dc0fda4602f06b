"""What a sender is told when it sends what is being deleted, was deleted, or finds no room in quarantine."""

from __future__ import annotations

from pathlib import Path

from pydicom.uid import generate_uid
from sqlalchemy import update

from db import deletions
from db.states import InstanceState
from db.tables import Instance
from node.deletion import carry_out, path_of_result
from node.digests import digest_of
from tests.support.dcmtk import storescu
from tests.support.listening import Listener, chest_file, running

SUCCESS = "Received Store Response (Success)"
OUT_OF_RESOURCES = "Received Store Response (Refused: OutOfResources)"


def begin(listener: Listener, study: str) -> None:
    with listener.record.write() as session:
        deletions.begin_study(session, study, path_of=path_of_result, actor="anna", reason="test", force=True)


def test_images_come_again_once_their_study_is_gone(tmp_path: Path) -> None:
    study = generate_uid()
    first = chest_file(tmp_path, StudyInstanceUID=study)
    second = chest_file(tmp_path, "second.dcm", StudyInstanceUID=study)
    with running(tmp_path) as listener:
        assert SUCCESS in storescu(listener.port, first).stdout
        begin(listener, study)
        for file in (first, second):
            assert OUT_OF_RESOURCES in storescu(listener.port, file).stdout
        assert listener.instances() == []
        assert "is being deleted" in listener.refusals()[0].reason
        assert carry_out(listener.settings, listener.record, "keeper-1") == 1
        for file in (first, second):
            assert SUCCESS in storescu(listener.port, file).stdout
        paths = [one.path for one in listener.instances()]
        assert len(paths) == 2
        assert all((listener.settings.data_dir / path).is_file() for path in paths)


def test_what_lies_in_a_full_quarantine_already_may_come_again(tmp_path: Path) -> None:
    uid = generate_uid()
    mine = chest_file(tmp_path, SOPInstanceUID=uid)
    other = chest_file(tmp_path, "o.dcm", SOPInstanceUID=uid, PixelData=b"\1" * 4096)
    room = other.stat().st_size * 3 // 2
    with running(tmp_path, f"[limits]\nmin_free_bytes = 0\n[retention]\naside_max_bytes = {room}\n") as listener:
        for file in (mine, other, other):
            assert SUCCESS in storescu(listener.port, file).stdout
        assert len(list((listener.settings.data_dir / "quarantine").rglob("*.dcm"))) == 1


def test_a_full_quarantine_leaves_images_with_their_sender(tmp_path: Path) -> None:
    study = generate_uid()
    mine = chest_file(tmp_path, StudyInstanceUID=study)
    foreign = [
        chest_file(tmp_path, f"{n}.dcm", StudyInstanceUID=study, PatientID="ID-2", SOPInstanceUID=generate_uid())
        for n in range(2)
    ]
    room = mine.stat().st_size * 3 // 2
    with running(tmp_path, f"[limits]\nmin_free_bytes = 0\n[retention]\naside_max_bytes = {room}\n") as listener:
        assert SUCCESS in storescu(listener.port, mine).stdout
        assert SUCCESS in storescu(listener.port, foreign[0]).stdout
        assert OUT_OF_RESOURCES in storescu(listener.port, foreign[1]).stdout
        assert {one.state for one in listener.instances()} == {InstanceState.RECEIVED, InstanceState.QUARANTINED}
        # Other bytes under a known UID have no room either; they are not kept.
        (known,) = [one.sop_instance_uid for one in listener.instances() if one.state is InstanceState.RECEIVED]
        other = chest_file(tmp_path, "o.dcm", StudyInstanceUID=study, SOPInstanceUID=known, PixelData=b"\1" * 4096)
        assert OUT_OF_RESOURCES in storescu(listener.port, other).stdout
        assert len(list((listener.settings.data_dir / "instances").rglob("*.dcm"))) == 2
        assert list((listener.settings.data_dir / "quarantine").rglob("*.dcm")) == []
        assert listener.incoming() == []


def test_an_image_that_an_earlier_release_took_is_known_by_its_sha256(tmp_path: Path) -> None:
    uid = generate_uid()
    mine = chest_file(tmp_path, SOPInstanceUID=uid)
    other = chest_file(tmp_path, "o.dcm", SOPInstanceUID=uid, PixelData=b"\1" * 4096)
    with running(tmp_path) as listener:
        assert SUCCESS in storescu(listener.port, mine).stdout
        data_dir = listener.settings.data_dir
        (stored,) = listener.instances()
        digest = digest_of(data_dir / stored.path, "sha256", whole=False)
        older = data_dir / "instances" / "00" / "older.dcm"
        (data_dir / stored.path).rename(older)
        with listener.record.write() as session:
            path = older.relative_to(data_dir).as_posix()
            session.execute(update(Instance).values(blake3="", sha256=digest, path=path))
        assert SUCCESS in storescu(listener.port, mine).stdout
        assert list((data_dir / "instances").rglob("*.dcm")) == [older]
        assert listener.refusals() == []
        assert SUCCESS in storescu(listener.port, other).stdout
        assert [one.sop_instance_uid for one in listener.refusals()] == [uid]
        assert len(list((data_dir / "quarantine").rglob("*.dcm"))) == 1
