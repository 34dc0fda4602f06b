"""What `radnode doctor` says of installations that are well, and of each way one can be ill."""

from __future__ import annotations

import fcntl
import gc
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from db.session import Record
from tests.support.fhir_server import FhirServer
from tests.support.redis_server import redis_server
from tests.support.worklists import wlmscpfs
from workers.doctor import Finding, Grade, examine


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write(tmp_path, "")


def write(folder: Path, extra: str, port: int | None = None) -> Path:
    path = folder / "radnode.toml"
    path.write_text(f'data_dir = "{folder / "data"}"\ndicom_port = {port or closed_port()}\n{extra}\n')
    return path


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield int(server.getsockname()[1])


def findings(config: Path) -> dict[str, Finding]:
    return {finding.check: finding for finding in examine(config, with_models=False)}


def test_a_fresh_installation_fails_nowhere(config: Path) -> None:
    found = findings(config)
    assert {finding.grade for finding in found.values()} <= {Grade.OK, Grade.WARN}
    assert set(found) >= {"settings", "disk", "record", "broker", "listener", "decoders", "gpu"}


def test_it_says_that_nobody_gets_the_results(config: Path) -> None:
    assert findings(config)["routes"].grade is Grade.WARN
    assert "[peers." in findings(config)["routes"].remedy


def test_wrong_settings_are_all_it_can_tell(tmp_path: Path) -> None:
    (only,) = examine(write(tmp_path, "dicom_prot = 5"))
    assert (only.check, only.grade) == ("settings", Grade.FAIL)
    assert "dicom_prot" in only.detail


def test_a_port_that_another_program_uses(tmp_path: Path, taken_port: int) -> None:
    found = findings(write(tmp_path, "", taken_port))["listener"]
    assert found.grade is Grade.FAIL
    assert str(taken_port) in found.detail
    assert found.remedy


def test_a_weak_broker_is_pointed_out_and_its_password_is_not(tmp_path: Path) -> None:
    path = tmp_path / "radnode.toml"
    path.write_text(
        f'data_dir = "{tmp_path / "data"}"\nbroker_url = "redis://:secret@broker.invalid/0"\nallow_weak_broker = true\n'
    )
    found = findings(path)
    assert found["access"].grade is Grade.WARN
    assert "reached in the clear" in found["access"].detail
    assert found["broker"].grade is Grade.FAIL
    assert "secret" not in repr(found)


# pynetdicom leaves the socket of a refused connection to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_peer_that_is_away(tmp_path: Path) -> None:
    config = write(tmp_path, f'[peers.pacs]\nae_title = "PACS"\nhost = "127.0.0.1"\nport = {closed_port()}')
    found = findings(config)["peer pacs"]
    assert found.grade is Grade.FAIL
    assert "cannot be reached" in found.detail
    assert found.remedy


def test_orders_that_are_asked_for_and_come_from_nowhere(tmp_path: Path) -> None:
    route = '[[routes]]\nname = "chest"\nmodels = ["cxr-pneumonia"]\nask_worklist = true\n'
    assert findings(write(tmp_path, route))["worklist"].grade is Grade.WARN


def test_a_worklist_that_may_be_asked(tmp_path: Path) -> None:
    with wlmscpfs(tmp_path / "orders") as server:
        ris = f'[peers.ris]\nae_title = "RIS"\nhost = "127.0.0.1"\nport = {server.peer.port}\n'
        found = findings(write(tmp_path, ris + '[worklist]\npeer = "ris"'))["worklist"]
    assert (found.grade, found.detail) == (Grade.OK, "ris answers C-FIND; asked by no route")


# pynetdicom leaves the socket of a refused connection to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_peer_for_priors_that_is_away(tmp_path: Path) -> None:
    pacs = f'[peers.pacs]\nae_title = "PACS"\nhost = "127.0.0.1"\nport = {closed_port()}\n'
    assert "priors" not in findings(write(tmp_path, pacs))
    found = findings(write(tmp_path, pacs + '[priors]\npeer = "pacs"'))["priors"]
    assert found.grade is Grade.FAIL
    assert "cannot be reached" in found.detail
    assert "C-GET" in found.remedy


def test_a_broker_that_is_away(tmp_path: Path) -> None:
    found = findings(write(tmp_path, "").with_name("radnode.toml"))
    assert found["broker"].grade is Grade.OK
    away = tmp_path / "away"
    away.mkdir()
    config = away / "radnode.toml"
    config.write_text(f'data_dir = "{away / "data"}"\nbroker_url = "redis://127.0.0.1:{closed_port()}"\n')
    assert findings(config)["broker"].grade is Grade.FAIL


def test_a_record_of_another_release(tmp_path: Path) -> None:
    path = tmp_path / "record.db"
    record = Record(f"sqlite:///{path}")
    with record.write() as session:
        session.connection().exec_driver_sql("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        session.connection().exec_driver_sql("INSERT INTO alembic_version VALUES ('0000')")
    record.close()
    config = tmp_path / "radnode.toml"
    config.write_text(f'data_dir = "{tmp_path / "data"}"\ndatabase_url = "sqlite:///{path}"\n')
    found = findings(config)["record"]
    assert found.grade is Grade.FAIL
    assert "radnode db upgrade" in found.remedy


def test_a_full_disk(tmp_path: Path) -> None:
    found = findings(write(tmp_path, f"[limits]\nmin_free_bytes = {10**18}"))["disk"]
    assert found.grade is Grade.FAIL
    assert found.remedy


def test_open_doors_are_pointed_out(tmp_path: Path) -> None:
    found = findings(write(tmp_path, "[access]\nallow_plain_beyond_loopback = true"))["access"]
    assert found.grade is Grade.WARN


# pynetdicom leaves the socket of a refused connection to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_killed_nodes_pid_file_is_no_running_node(config: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "radnode.pid").write_text("1\n")
    with (data / "radnode.lock").open("w") as lock:
        assert "is free" in findings(config)["listener"].detail
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = findings(config)["listener"]
        assert (found.grade, "is free" in found.detail) == (Grade.FAIL, False)
    assert "is free" in findings(config)["listener"].detail
    gc.collect()


@pytest.mark.tensorflow
def test_with_json_standard_output_holds_one_document(config: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "node.cli.main", "doctor", "--json", "--config", str(config)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "RADNODE_LOG_LEVEL": "DEBUG"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    checks = [finding["check"] for finding in json.loads(done.stdout)]
    assert any(check.startswith("model ") for check in checks)


def test_it_says_which_hl7_destination_takes_no_connections(tmp_path: Path, taken_port: int) -> None:
    table = '[hl7.destinations.{}]\nhost = "127.0.0.1"\nport = {}\n'
    found = findings(write(tmp_path, table.format("ris", taken_port) + table.format("lis", closed_port())))
    assert found["hl7 ris"].grade is Grade.OK
    assert found["hl7 lis"].grade is Grade.FAIL
    assert "Results for it wait" in found["hl7 lis"].remedy


def test_it_says_which_fhir_server_speaks_r4(tmp_path: Path) -> None:
    table = '[fhir.destinations.{}]\nurl = "{}"\n'
    with FhirServer() as r4, FhirServer(version="5.0.0") as r5:
        away = f"http://127.0.0.1:{closed_port()}/R4"
        found = findings(
            write(tmp_path, table.format("r4", r4.url) + table.format("r5", r5.url) + table.format("x", away))
        )
    assert (found["fhir r4"].grade, found["fhir r4"].detail) == (Grade.OK, f"{r4.url} speaks FHIR 4.0.1")
    assert (found["fhir r5"].grade, found["fhir x"].grade) == (Grade.FAIL, Grade.FAIL)
    assert "not R4" in found["fhir r5"].detail


def with_broker(folder: Path, url: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "radnode.toml"
    path.write_text(f'data_dir = "{folder / "data"}"\nbroker_url = "{url}"\nallow_weak_broker = true\n')
    return path


def test_a_broker_that_answers_and_one_that_wants_another_password(tmp_path: Path) -> None:
    with redis_server(tmp_path / "redis") as url:
        found = findings(with_broker(tmp_path / "well", url))
        assert (found["broker"].grade, found["broker"].detail) == (Grade.OK, "answers")
        with Redis.from_url(url) as client:
            client.config_set("requirepass", "right-one")
            refused = findings(with_broker(tmp_path / "ill", url.replace("redis://", "redis://:wrong-one@")))
            client.config_set("requirepass", "")
    assert refused["broker"].grade is Grade.FAIL
    assert refused["broker"].remedy
    assert "wrong-one" not in repr(refused)


def test_a_remote_broker_without_a_password_has_both_weaknesses_and_a_local_one_none(tmp_path: Path) -> None:
    remote = findings(with_broker(tmp_path / "remote", "redis://broker.invalid:6379/0"))["access"]
    assert remote.grade is Grade.WARN
    assert "in the clear and" in remote.detail
    assert "rediss://" in remote.remedy
    local = findings(with_broker(tmp_path / "local", f"redis://127.0.0.1:{closed_port()}/0"))
    assert "access" not in local
