"""The peers of the tests themselves: each starts, answers and is gone afterwards."""

from __future__ import annotations

import socket
from pathlib import Path

import psycopg
import pytest
import redis
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from tests.support import dcmtk
from tests.support.orthanc import Modality, orthanc
from tests.support.postgres import postgres_server
from tests.support.processes import eventually, free_port, listens, program, running
from tests.support.redis_server import redis_server

pytestmark = pytest.mark.e2e


def small_image(folder: Path) -> tuple[Path, str]:
    image = Dataset()
    image.SOPClassUID = SecondaryCaptureImageStorage
    image.SOPInstanceUID = generate_uid()
    image.StudyInstanceUID = generate_uid()
    image.SeriesInstanceUID = generate_uid()
    image.Modality = "OT"
    image.PatientID = "ID-1"
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path = folder / "small.dcm"
    image.save_as(path, enforce_file_format=True)
    return path, image.StudyInstanceUID


def test_postgresql_gives_fresh_databases_and_is_gone_afterwards() -> None:
    with postgres_server() as server:
        first, second = server.new_database(), server.new_database()
        assert first != second
        with server.connect() as connection:
            assert connection.execute("SHOW server_encoding").fetchone() == ("UTF8",)
    assert not server.socket_dir.exists()
    with pytest.raises(psycopg.OperationalError):
        server.connect()


def test_redis_answers_and_can_come_back_on_its_port(tmp_path: Path) -> None:
    port = free_port()
    for _ in range(2):
        with redis_server(tmp_path, port=port) as url, redis.Redis.from_url(url) as client:
            assert client.dbsize() == 0
            client.set("key", "value")
        assert not listens(port)


def test_orthanc_stores_lists_sends_and_loses(tmp_path: Path) -> None:
    image, study = small_image(tmp_path)
    with orthanc(tmp_path / "pacs") as pacs, dcmtk.storescp(tmp_path / "archive") as archive_port:
        instance = pacs.upload(image)
        assert pacs.instances(study) == [instance]
        assert pacs.instances(study, modality="SR") == []
        assert pacs.tags(instance)["PatientID"] == "ID-1"
        pacs.add_modality(Modality("archive", "ARCHIVE", archive_port))
        assert pacs.echo("archive")
        pacs.send("archive", instance)
        assert [dcmread(path).StudyInstanceUID for path in (tmp_path / "archive").iterdir()] == [study]
        pacs.delete(instance)
        assert pacs.study(study) is None


def test_orthanc_sends_on_what_dcmtk_sends_to_it(tmp_path: Path) -> None:
    image, study = small_image(tmp_path)
    archive = tmp_path / "archive"
    with dcmtk.storescp(archive) as archive_port:
        route = Modality("archive", "ARCHIVE", archive_port)
        with orthanc(tmp_path / "pacs", route_to=route) as pacs:
            assert dcmtk.echoscu(pacs.dicom_port, called="ORTHANC").returncode == 0
            sent = dcmtk.storescu(pacs.dicom_port, image, called="ORTHANC")
            assert sent.returncode == 0, sent.stdout
            assert len(pacs.wait_for_instances(study, 1)) == 1
            found = dcmtk.findscu(pacs.dicom_port, "0008,0052=STUDY", f"0020,000D={study}")
            assert study in found.stdout
            (routed,) = eventually("the routed image", lambda: list(archive.iterdir()))
    assert study in dcmtk.dcmdump(routed).stdout


def test_dsrdump_refuses_what_is_no_report(tmp_path: Path) -> None:
    image, _ = small_image(tmp_path)
    assert dcmtk.dsrdump(image).returncode != 0


def test_a_missing_program_fails_the_test_and_names_its_package() -> None:
    with pytest.raises(pytest.fail.Exception, match=r"no-such-program.*Debian package no-such-package"):
        program("no-such-program", "no-such-package")


def test_a_server_that_dies_at_once_fails_with_its_own_words(tmp_path: Path) -> None:
    argv = ["sh", "-c", "echo the disk is full; exit 3"]
    with (
        pytest.raises(pytest.fail.Exception, match=r"ended with 3(?s:.*)the disk is full"),
        running(argv, lambda: False, log=tmp_path / "log"),
    ):
        pytest.fail("the block must not run")


def test_a_free_port_is_free() -> None:
    port = free_port()
    assert not listens(port)
    with socket.create_server(("127.0.0.1", port)):
        assert listens(port)
