"""Prior studies from a real Orthanc and from peers that give what is not theirs to give."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid
from pynetdicom import AE
from sqlalchemy import func, select

from db import jobs, priors
from db.prior_tables import PriorImage, PriorRequest
from db.priors import Answer, Wish
from db.states import PriorState
from db.tables import Audit, Job
from db.types import utcnow
from node import storage
from node.header import read_file
from node.retrieve.desk import PriorDesk
from node.retrieve.keeping import prior_file
from node.settings import Delivery, Peer, Settings
from node.settings_priors import Priors
from tests.support import records
from tests.support.jobs import stored
from tests.support.listening import CR, Listener, chest_file, running
from tests.support.orthanc import Orthanc, orthanc
from tests.support.prior_archive import FIND, GET, MOVE, Archive
from tests.support.processes import free_port

pytestmark = [
    pytest.mark.e2e,
    # The library of the peers in this file leaves sockets open when an association is aborted.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

WISH = Wish(1, ("CR", "DX"), ("CHEST", "THORAX"), 3650)
JANE = {"PatientID": "ID-1", "PatientName": "Doe^Jane", "PatientBirthDate": "19700102", "PatientSex": "F"}


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with orthanc(tmp_path_factory.mktemp("pacs")) as server:
        yield server


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listener]:
    """One listener for all, and its record; which peer is asked, each test's own settings say."""
    with running(tmp_path_factory.mktemp("node"), "[priors]\nmax_images = 3\n") as started:
        yield started


def settings_for(node: Listener, port: int, **given: Any) -> Settings:
    return node.settings.model_copy(
        update={
            "peers": {"pacs": Peer(ae_title="ORTHANC", host="127.0.0.1", port=port)},
            "priors": Priors(**{"peer": "pacs", "wait_s": 20.0, **given}),
            "delivery": Delivery(response_timeout_s=5.0, connect_timeout_s=5.0),
        }
    )


def known(pacs: Orthanc, node: Listener, *, get: bool) -> None:
    """Let Orthanc know the node, with or without the right to C-GET."""
    rights = {"AET": "RADNODE", "Host": "127.0.0.1", "Port": node.port, "AllowGet": get, "AllowMove": True,
              "AllowFind": True, "AllowStore": True, "AllowEcho": True}  # fmt: skip
    pacs.request("PUT", "/modalities/node", rights)


def chest(folder: Path, name: str, **changes: Any) -> Path:
    given = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid(), "SOPInstanceUID": generate_uid(),
             "BodyPartExamined": "CHEST", **JANE}  # fmt: skip
    return chest_file(folder, f"{name}.dcm", **given | changes)


def uid(path: Path, keyword: str = "SOPInstanceUID") -> str:
    return str(dcmread(path, stop_before_pixels=True)[keyword].value)


@dataclass
class Asking:
    """A study that is here, its job, and what was there before."""

    node: Listener
    job_id: str
    settings: Settings
    before: set[Path]
    instances: set[str]
    last_event: int

    def ask(self, wish: Wish = WISH) -> Answer:
        job = records.claim(self.node.record, self.job_id)
        assert job is not None
        with self.node.record.write() as session:
            answer = priors.ask(session, job, wish, wait_s=self.settings.priors.wait_s)
            if answer.state is PriorState.WANTED:
                priors.wait(session, job, answer)
            else:
                jobs.hand_back(session, job.id, job.lease_owner, reason="looked", delay_s=0)
        return answer

    def answered(self, wish: Wish = WISH) -> Answer:
        """Asked, fetched by the desk, and asked again."""
        assert self.ask(wish).state is PriorState.WANTED
        assert PriorDesk(self.settings, self.node.record).run_once()
        return self.ask(wish)

    def files(self) -> list[Path]:
        """Of priors, beyond those that were there."""
        return sorted(_files(self.settings) - self.before)

    def arrived(self) -> set[str]:
        """Images of the node's own that were not there."""
        return {one.sop_instance_uid for one in self.node.instances()} - self.instances

    def timeline(self) -> list[tuple[str, str, str]]:
        with self.node.record.read() as session:
            here = Audit.event.startswith("priors"), Audit.id > self.last_event
            rows = session.scalars(select(Audit).where(*here).order_by(Audit.id))
            return [(row.event, row.outcome, row.detail["reason"]) for row in rows]


def _files(settings: Settings) -> set[Path]:
    return {path for path in (settings.data_dir / "priors").rglob("*") if path.is_file()}


def received(node: Listener, settings: Settings, file: Path) -> Asking:
    """The node has got an image, and a job for it."""
    new = stored(settings, file)
    records.receive(node.record, new)
    view = records.load(node.record, new.study_instance_uid)
    (opened,) = records.settle(node.record, view, records.revision(view))
    with node.record.read() as session:
        job_id = session.scalars(select(Job.id).where(Job.revision_id == opened)).one()
        last = session.scalar(select(func.max(Audit.id))) or 0
    here = {one.sop_instance_uid for one in node.instances()}
    return Asking(node, job_id, settings, _files(settings), here, last)


@pytest.mark.parametrize("get", [True, False], ids=["C-GET", "C-MOVE"])
def test_the_latest_study_of_the_same_patient_is_fetched_and_nothing_else(
    pacs: Orthanc, node: Listener, tmp_path: Path, get: bool
) -> None:
    mine = {**JANE, "PatientID": f"ID-{get}"}
    files = {
        "wanted": chest(tmp_path, "wanted", **mine, StudyDate="20251001"),
        "older": chest(tmp_path, "older", **mine, StudyDate="20240101"),
        "ancient": chest(tmp_path, "ancient", **mine, StudyDate="19990101"),
        "knee": chest(tmp_path, "knee", **mine, StudyDate="20251101", BodyPartExamined="KNEE"),
        "ct": chest(tmp_path, "ct", **mine, StudyDate="20251101", Modality="CT"),
        "later": chest(tmp_path, "later", **mine, StudyDate="20260401"),
        "namesake": chest(tmp_path, "namesake", StudyDate="20251101", PatientID="ID-OTHER"),
    }
    for file in files.values():
        pacs.upload(file)
    current = chest(tmp_path, "current", **mine, StudyDate="20260301")
    pacs.upload(current)
    known(pacs, node, get=get)
    asking = received(node, settings_for(node, pacs.dicom_port), current)
    answer = asking.answered()
    assert (answer.state, answer.reason) == (PriorState.FOUND, "1 study, images: 1")
    (prior,) = answer.images
    assert prior.sop_instance_uid == uid(files["wanted"])
    assert prior.study_instance_uid == uid(files["wanted"], "StudyInstanceUID")
    held = dcmread(asking.settings.data_dir / prior.path)
    assert held.PixelData == dcmread(files["wanted"]).PixelData
    assert held.file_meta.MediaStorageSOPInstanceUID == prior.sop_instance_uid
    # No image of the node's, hence nothing that a route takes.
    assert asking.arrived() == set()
    assert len(asking.files()) == 1
    assert node.incoming() == []
    assert [event for event, *_ in asking.timeline()] == ["priors_fetched"]


@pytest.mark.parametrize(
    "changes",
    [{"PatientID": "*"}, {"PatientID": "ID?"}, {"PatientID": ""}, {"PatientID": "A\\B"}, {"StudyDate": ""}],
    ids=["wildcard", "mark", "no id", "several", "no date"],
)
def test_a_study_that_would_ask_for_others_asks_for_none(
    node: Listener, tmp_path: Path, changes: dict[str, str]
) -> None:
    current = chest(tmp_path, "current", **{"StudyDate": "20260301", **changes})
    answer = received(node, settings_for(node, free_port()), current).answered()
    # A peer that does not even listen was not asked.
    assert (answer.state, answer.images) == (PriorState.ABSENT, ())


def test_a_peer_that_is_away_costs_the_wait_and_no_more(node: Listener, tmp_path: Path) -> None:
    # No longer than it is left alone after the first try, so that there is no second.
    asking = received(
        node, settings_for(node, free_port(), wait_s=2.0), chest(tmp_path, "current", StudyDate="20260301")
    )
    answer = asking.answered()
    assert answer.state is PriorState.FAILED
    assert "cannot be reached" in answer.reason


@pytest.fixture
def site(node: Listener, tmp_path: Path) -> Iterator[Callable[..., tuple[Archive, Asking]]]:
    """Makes an archive as a test wants it, and a study that asks it."""
    with ExitStack() as stack:

        def make(models: tuple[str, ...] = (FIND, GET), **given: Any) -> tuple[Archive, Asking]:
            archive = stack.enter_context(Archive(models=models))
            archive.move_to = node.port
            current = chest(tmp_path, "current", StudyDate="20260301")
            return archive, received(node, settings_for(node, archive.port, **given), current)

        yield make


Site = Callable[..., tuple[Archive, Asking]]

OTHERS: dict[str, dict[str, str]] = {
    "id": {"PatientID": "ID-2"},
    "birth date": {"PatientBirthDate": "19800102"},
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_study_that_the_answer_gives_to_another_patient_is_not_even_fetched(
    site: Site, tmp_path: Path, other: str
) -> None:
    archive, asking = site()
    archive.has(chest(tmp_path, "prior", StudyDate="20250101", **OTHERS[other]))
    answer = asking.answered()
    assert (answer.state, answer.images, asking.files()) == (PriorState.REFUSED, (), [])
    assert archive.questions == 1
    ((event, outcome, reason),) = asking.timeline()
    assert (event, outcome) == ("priors_refused", "warning")
    assert "a study given as this patient's has another Patient" in reason
    assert not any(value in reason for value in {**OTHERS[other], **JANE}.values() if value)


# By C-MOVE, an image of a study that was not asked for is received as any other.
FOREIGN = {**OTHERS, "series": {"SeriesInstanceUID": "1.2.3.5"}, "study": {"StudyInstanceUID": "1.2.3.4"}}


@pytest.mark.parametrize(
    ("by", "foreign"), [("C-GET", "birth date"), ("C-GET", "study"), ("C-GET", "series"), ("C-MOVE", "id")]
)
def test_an_image_of_another_patient_condemns_all_of_its_study(
    site: Site, tmp_path: Path, by: str, foreign: str
) -> None:
    changes = FOREIGN[foreign]
    archive, asking = site(models=(FIND, GET if by == "C-GET" else MOVE))
    study = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid(), "StudyDate": "20250101"}
    archive.has(chest(tmp_path, "fine", **study))
    archive.has(chest(tmp_path, "foreign", **{**study, **changes}), said={**study, **JANE})
    answer = asking.answered()
    assert (answer.state, answer.images) == (PriorState.REFUSED, ())
    assert asking.files() == []
    assert asking.node.incoming() == []
    with asking.node.record.read() as session:
        assert session.scalars(select(PriorImage.id).where(PriorImage.kept.is_(False))).all() == []
    assert asking.arrived() == set()
    assert asking.timeline()[0][:2] == ("priors_refused", "warning")


def test_the_next_one_is_taken_where_the_latest_is_refused(site: Site, tmp_path: Path) -> None:
    archive, asking = site()
    archive.has(chest(tmp_path, "foreign", StudyDate="20250601", PatientSex="M"))
    archive.has(chest(tmp_path, "fine", StudyDate="20250101"))
    archive.images = archive.images[1:]
    answer = asking.answered()
    assert (answer.state, answer.images[0].study_date) == (PriorState.FOUND, "20250101")
    assert answer.reason.startswith("1 study, images: 1; a study given as this patient's has another Patient's Sex")


def test_what_was_held_for_a_keeper_that_was_killed_is_in_nobodys_way(site: Site, tmp_path: Path) -> None:
    archive, asking = site()
    study = chest(tmp_path, "prior", StudyDate="20250101")
    archive.has(study)
    assert asking.ask().state is PriorState.WANTED
    relative = storage.derived_path(storage.PRIORS, "held")
    storage.store_bytes(asking.settings.data_dir, relative, study.read_bytes())
    with asking.node.record.write() as session:
        (request_id,) = session.scalars(select(PriorRequest.id).where(PriorRequest.state == PriorState.WANTED))
        held = prior_file(read_file(study), relative.as_posix(), study.stat().st_size, "a" * 64)
        assert priors.hold(session, request_id, held, most=9)
    assert PriorDesk(asking.settings, asking.node.record).run_once()
    answer = asking.ask()
    assert (answer.state, [one.sop_instance_uid for one in answer.images]) == (PriorState.FOUND, [uid(study)])
    assert asking.files() == [asking.settings.data_dir / answer.images[0].path]


def test_answers_without_end_are_cut_off(site: Site, tmp_path: Path) -> None:
    archive, asking = site()
    archive.has(chest(tmp_path, "prior", StudyDate="20250101"))
    archive.studies *= 600
    begun = time.monotonic()
    answer = asking.answered()
    assert (answer.state, asking.files()) == (PriorState.FAILED, [])
    assert time.monotonic() - begun < 20
    assert "more than 500 entries" in answer.reason


def test_no_further_study_is_asked_about_once_the_wait_is_over(site: Site, tmp_path: Path) -> None:
    archive, asking = site(wait_s=1.5)
    for number in range(3):
        archive.has(chest(tmp_path, f"{number}", StudyDate=f"2025010{number + 1}", Modality="CT"))
    archive.series_after_s = 1.5
    for one in archive.studies:
        one.ModalitiesInStudy, one.Modality = "CR", "CT"
    answer = asking.answered()
    assert answer.state is PriorState.FAILED
    assert answer.reason.startswith(priors.NOT_IN_TIME)
    assert archive.questions <= 2


def test_images_without_end_are_cut_off_and_none_stays(site: Site, tmp_path: Path) -> None:
    archive, asking = site(max_images=3)
    study = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid(), "StudyDate": "20250101"}
    for number in range(6):
        archive.has(chest(tmp_path, f"{number}", **study))
    archive.studies = archive.studies[:1]
    answer = asking.answered()
    assert (answer.state, asking.files()) == (PriorState.FAILED, [])
    assert "more than 3 images" in answer.reason


def test_a_full_disk_keeps_them_out(site: Site, tmp_path: Path) -> None:
    archive, asking = site()
    archive.has(chest(tmp_path, "prior", StudyDate="20250101"))
    full = asking.settings.limits.model_copy(update={"min_free_bytes": 1 << 60})
    asking.settings = asking.settings.model_copy(update={"limits": full})
    answer = asking.answered()
    assert (answer.state, answer.images) == (PriorState.FAILED, ())
    assert "bytes are free" in answer.reason
    assert archive.questions == 0


def test_what_comes_after_its_time_is_refused_and_goes_nowhere(site: Site, tmp_path: Path) -> None:
    archive, asking = site(models=(FIND, MOVE))
    study = chest(tmp_path, "prior", StudyDate="20250101")
    archive.has(study)
    assert asking.ask().state is PriorState.WANTED
    with asking.node.record.write() as session:
        due = priors.claim_due(session, utcnow(), lease_s=60)
        assert due is not None
        priors.expect(session, due.id, uid(study, "StudyInstanceUID"), utcnow())
        assert priors.settle(session, due.id, PriorState.FAILED, reason="said")
    originated(asking.node, study)
    assert (asking.files(), asking.arrived()) == ([], set())
    # Nobody's C-MOVE: an image like any other.
    assert asking.node.storescu(str(study)).returncode == 0
    assert (asking.files(), asking.arrived()) == ([], {uid(study)})


def originated(node: Listener, file: Path) -> None:
    """Sent as of the node's own C-MOVE; refused."""
    sender = AE("ORTHANC")
    sender.add_requested_context(CR, "1.2.840.10008.1.2.1")
    association = sender.associate("127.0.0.1", node.port, ae_title="RADNODE")
    image = dcmread(file)
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    status = association.send_c_store(image, originator_aet="RADNODE", originator_id=1)
    association.release()
    assert status.Status == 0x0110


def test_an_archive_that_names_no_originator_is_found_out(site: Site, tmp_path: Path) -> None:
    archive, asking = site(models=(FIND, MOVE))
    archive.has(chest(tmp_path, "prior", StudyDate="20250101"))
    archive.originator = None
    answer = asking.answered()
    assert (answer.state, answer.images) == (PriorState.FAILED, ())


def test_more_images_than_are_wanted_are_not_held_for_a_move_either(site: Site, tmp_path: Path) -> None:
    archive, asking = site(models=(FIND, MOVE), max_images=200)
    study = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid(), "StudyDate": "20250101"}
    for number in range(4):
        archive.has(chest(tmp_path, f"{number}", **study))
    archive.studies = archive.studies[:1]
    # The listener's own limit: it keeps to its settings, whatever was asked for.
    assert asking.node.settings.priors.max_images == 3
    answer = asking.answered()
    assert (answer.state, len(answer.images), len(asking.files())) == (PriorState.FOUND, 3, 3)
    assert "1 images failed" in answer.reason
