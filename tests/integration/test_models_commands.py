"""`radnode models`: from a folder to the version that reads, and back; and what is refused on the way."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from sqlalchemy import select
from typer.testing import CliRunner

from db.errors import ConfigError, ConflictError, RadnodeError
from db.model_versions import UnknownModelVersion
from db.session import Record
from db.tables import Audit
from node.settings import load
from tests.support import bundles
from workers.loaded import ModelUnusable
from workers.models_cli import ModelRefused, app

pytestmark = pytest.mark.tensorflow
Made = Callable[[str], Path]


@pytest.fixture(scope="module")
def working(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundles.working_bundle(tmp_path_factory.mktemp("models") / "test-model")


@pytest.fixture(autouse=True)
def _node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RADNODE_DATA_DIR", str(tmp_path / "data"))


def radnode(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def done(*arguments: str | Path) -> Any:
    result = radnode(*arguments, "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.stdout)


def refused(error: type[RadnodeError], match: str, *arguments: str | Path) -> None:
    with pytest.raises(error, match=match):
        raise radnode(*arguments).exception or AssertionError("it was not refused")


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A signing key whose public half this node trusts."""
    assert radnode("keygen", "--out", tmp_path / "keys", "--name", "site").exit_code == 0
    trusted = tmp_path / "data" / "trusted-keys"
    trusted.mkdir(parents=True)
    (tmp_path / "keys" / "site.pub").rename(trusted / "site.pub")
    return tmp_path / "keys" / "site.key"


@pytest.fixture
def made(working: Path, key: Path, tmp_path: Path) -> Made:
    """A signed zip of the working bundle under that version. Keras needs no compiling."""

    def make(version: str, **changes: Any) -> Path:
        folder = tmp_path / f"bundle-{version}"
        folder.mkdir(exist_ok=True)
        for path in working.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        manifest = bundles.document(folder) | {"version": version, "runtime": {"cpu": "keras", "gpu": "keras"}}
        bundles.write_manifest(folder, manifest | changes)
        out = tmp_path / f"{version}.zip"
        done("pack", folder, "--out", out, "--key", key)
        return out

    return make


def states() -> dict[str, tuple[str, bool]]:
    return {row["version"]: (row["state"], row["reads"]) for row in done("list") if row["id"] == "test-model"}


def test_looking_makes_no_record(tmp_path: Path) -> None:
    rows = done("list")
    assert {(row["origin"], row["state"], row["reads"]) for row in rows} == {("shipped", "ok", True)}
    assert done("show", "cxr-pneumonia")["id"] == "cxr-pneumonia"
    assert not (tmp_path / "data").exists()


def test_from_two_zips_to_the_version_that_reads_and_back(made: Made, tmp_path: Path) -> None:
    told = done("install", made("1.0.0"))
    assert (told["id"], told["state"], len(told["signed_by"])) == ("test-model", "validated", 16)
    assert (tmp_path / "data" / told["folder"] / "weights.npz").is_file()
    done("install", made("1.0.1"))
    assert done("activate", "test-model", "1.0.0")["replaced"] is None
    assert done("shadow", "test-model", "1.0.1")["shadow"] == "1.0.1"
    assert states() == {"1.0.0": ("active", True), "1.0.1": ("shadow", False)}
    assert done("activate", "test-model", "1.0.1")["replaced"] == "1.0.0"
    assert done("show", "test-model")["version"] == "1.0.1"
    assert done("show", "test-model", "--version", "1.0.0")["version"] == "1.0.0"
    assert done("verify", "test-model")["verified"] is True
    assert done("rollback", "test-model") == {"id": "test-model", "active": "1.0.0", "retired": "1.0.1"}
    assert states() == {"1.0.0": ("active", True), "1.0.1": ("retired", False)}
    assert done("retire", "test-model", "1.0.0")["was"] == "active"
    assert states() == {"1.0.0": ("retired", False), "1.0.1": ("retired", False)}
    record = Record(load().record_url)
    with record.read() as session:
        events = [(one.event, one.actor) for one in session.scalars(select(Audit).order_by(Audit.id))]
    record.close()
    assert [event for event, _ in events][-3:] == ["model_activated", "model_rolled_back", "model_retired"]
    assert {actor.partition(" (uid")[0] for _, actor in events} == {"command line"}


def test_installing_twice_is_installing_once_and_a_version_means_one_content(made: Made, tmp_path: Path) -> None:
    packed = made("1.0.0")
    first = done("install", packed)
    assert done("install", packed)["installed_at"] == first["installed_at"]
    refused(ConflictError, "another content", "install", made("1.0.0", licence="another"))
    assert [path.name for path in (tmp_path / "data" / "models").iterdir()] == [first["digest"]]


def test_a_network_that_answers_differently_is_not_validated(made: Made, working: Path) -> None:
    with np.load(working / "golden.npz") as golden:
        inputs, logits = golden["inputs"], golden["logits"]
    try:
        np.savez(working / "golden.npz", inputs=inputs, logits=logits + 1)
        packed = made("1.0.0")
    finally:
        np.savez(working / "golden.npz", inputs=inputs, logits=logits)
    refused(ModelUnusable, "not validated", "install", packed)
    assert states() == {"1.0.0": ("uploaded", False)}
    refused(RadnodeError, "not validated: .*off", "activate", "test-model", "1.0.0")


def test_unsigned_zips_need_a_word_and_never_pass_in_clinical_mode(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = made("1.0.0")
    Path(f"{packed}.sig").unlink()
    refused(ModelUnusable, "not signed", "install", packed)
    monkeypatch.setenv("RADNODE_CLINICAL_MODE", "true")
    refused(ModelRefused, "clinical_mode", "install", packed, "--allow-unsigned")
    assert not list((tmp_path / "data").rglob("weights.npz"))
    monkeypatch.setenv("RADNODE_CLINICAL_MODE", "false")
    assert done("install", packed, "--allow-unsigned")["signed_by"] == ""
    monkeypatch.setenv("RADNODE_CLINICAL_MODE", "true")
    refused(ModelRefused, "nobody signed it", "activate", "test-model", "1.0.0")


def test_trust_withdrawn_is_trust_lost(made: Made, tmp_path: Path) -> None:
    done("install", made("1.0.0"))
    (tmp_path / "data" / "trusted-keys" / "site.pub").unlink()
    refused(ModelRefused, "no longer trusted", "activate", "test-model", "1.0.0")
    refused(ModelUnusable, "not trusted here", "install", tmp_path / "1.0.0.zip")


def test_trusted_keys_may_lie_where_the_node_cannot_write(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = made("1.0.0")
    (tmp_path / "data" / "trusted-keys").rename(tmp_path / "etc")
    refused(ModelUnusable, "not trusted here", "install", packed)
    monkeypatch.setenv("RADNODE_WORK__TRUSTED_KEYS", str(tmp_path / "etc"))
    assert done("install", packed)["state"] == "validated"


def test_a_version_damaged_on_disk_is_neither_activated_nor_rolled_back_to(made: Made, tmp_path: Path) -> None:
    first = done("install", made("1.0.0"))
    done("install", made("1.0.1"))
    done("activate", "test-model", "1.0.0")
    done("activate", "test-model", "1.0.1")
    (tmp_path / "data" / first["folder"] / "weights.npz").write_bytes(b"damaged")
    refused(ModelUnusable, "not what it was", "rollback", "test-model")
    assert states() == {"1.0.0": ("retired", False), "1.0.1": ("active", True)}
    assert radnode("verify", "test-model", "--version", "1.0.0").exit_code == 1
    done("install", tmp_path / "1.0.0.zip")
    assert done("rollback", "test-model")["active"] == "1.0.0"


def test_going_back_to_nothing_is_refused(made: Made, working: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done("install", made("1.0.1"))
    done("activate", "test-model", "1.0.1")
    refused(ModelUnusable, "no model 'test-model'", "rollback", "test-model")
    refused(ModelUnusable, "no installed version was active before 1.0.1", "rollback", "test-model")
    assert states() == {"1.0.1": ("active", True)}
    monkeypatch.setenv("RADNODE_WORK__MODEL_DIRS", json.dumps([str(working.parent)]))
    assert done("rollback", "test-model")["active"] is None
    assert states() == {"1.0.0": ("ok", True), "1.0.1": ("retired", False)}


def test_what_is_not_there_is_said_so(tmp_path: Path) -> None:
    refused(UnknownModelVersion, "none", "activate", "test-model", "1.0.0")
    refused(ModelUnusable, "no file", "install", tmp_path / "none.zip")
    refused(ConfigError, "no settings file", "list", "--config", tmp_path / "none.toml")
    assert radnode("show", "test-model", "--version", "1.0.0").exit_code == 1


def test_the_console_script_tells_a_refusal_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "hostile.zip").write_bytes(b"PK\x05\x06" + bytes(18))
    ended = subprocess.run(
        [sys.executable, "-m", "node.cli.main", "models", "install", str(tmp_path / "hostile.zip"), "--allow-unsigned"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ended.returncode == 1
    assert ended.stderr == "radnode: the zip holds no model.json\n"
