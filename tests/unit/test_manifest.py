from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from typer.testing import CliRunner

import models.manifest
from models.cli import app
from models.errors import BundleFileError, BundleNotFoundError, DigestError, ManifestError
from models.manifest import json_schema
from models.registry import load, load_bundle
from tests.support import bundles

Change = Callable[[dict[str, Any]], Any]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return bundles.hollow_bundle(tmp_path / "store" / "test-model")


def rewrite(folder: Path, change: Change) -> None:
    manifest = bundles.document(folder)
    change(manifest)
    bundles.write_manifest(folder, manifest)


def test_whole_bundle_loads_with_an_identity_that_finds_it_again(folder: Path) -> None:
    bundle = load("test-model", [folder.parent])
    assert bundle.identity.bundle_digest == bundles.sha256(folder / "model.json")
    assert bundle.identity.weights_digest == bundles.sha256(folder / "weights.npz")
    assert bundle.weights == folder / "weights.npz"


@pytest.mark.parametrize("name", ["weights.npz", "golden.npz", "MODEL_CARD.md"])
def test_one_changed_byte_is_refused(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(DigestError, match=name):
        load_bundle(folder)


def test_missing_and_unlisted_files_are_refused(folder: Path) -> None:
    (folder / "extra.py").write_text("")
    with pytest.raises(BundleFileError):
        load_bundle(folder)
    (folder / "extra.py").unlink()
    (folder / "golden.npz").unlink()
    with pytest.raises(BundleFileError, match=r"golden\.npz"):
        load_bundle(folder)


def test_a_link_in_place_of_a_file_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "weights.npz").rename(tmp_path / "elsewhere.npz")
    (folder / "weights.npz").symlink_to(tmp_path / "elsewhere.npz")
    with pytest.raises(BundleFileError):
        load_bundle(folder)


@pytest.mark.parametrize("path", ["../weights.npz", "/etc/passwd", "a/../../weights.npz", "..\\weights.npz", "", "."])
def test_files_outside_the_bundle_are_refused(folder: Path, path: str) -> None:
    rewrite(folder, lambda m: m["files"][0].update(path=path))
    with pytest.raises(ManifestError, match="files"):
        load_bundle(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(colour="blue"),
        lambda m: m["labels"][0].update(weight=1),
        lambda m: m["architecture"].update(name="lambda_net"),
        lambda m: m["architecture"].update(outputs=3),
        lambda m: m["architecture"].update(input_shape=[32, 32, 3]),
        lambda m: m["architecture"].update(head="other"),
        lambda m: m["files"].pop(0),
        lambda m: m["files"].append(m["files"][0]),
        lambda m: m["preprocessing"].pop(1),
        lambda m: m["preprocessing"].append({"step": "exec"}),
        lambda m: m["operating_points"].pop(),
        lambda m: m["operating_points"][0].update(threshold=1.5),
        lambda m: m["operating_points"][0].update(undetermined_low=0.7),
        lambda m: m["operating_points"][0].update(undetermined_high=0.7),
        lambda m: m["calibration"]["labels"].pop("effusion"),
        lambda m: m["calibration"]["labels"]["effusion"].update(slope=-1),
        lambda m: m["admission"].update(reject_pattern="("),
        lambda m: m.update(created="2026-01-01T00:00:00"),
        lambda m: m.update(schema="radnode.bundle/2"),
        lambda m: m.pop("licence"),
        lambda m: m["labels"][0]["code"].update(value="1" * 17),
        lambda m: m.update(exclusive=True),
        lambda m: m.update(calibration={"method": "temperature"}),
        lambda m: m.update(ood={"method": "mahalanobis", "threshold": 30.0, "quantile": 0.99}),
        lambda m: m.update(changelog=[{"version": "one", "text": "first"}]),
    ],
)
def test_manifests_that_contradict_themselves_are_refused(folder: Path, change: Change) -> None:
    rewrite(folder, change)
    with pytest.raises(ManifestError):
        load_bundle(folder)


def test_what_a_manifest_may_say_besides(folder: Path) -> None:
    added = {
        "exclusive": True,
        "calibration": {"method": "temperature", "temperature": 1.5},
        "authors": ["A. Person", "a department"],
        "contraindications": ["children"],
        "references": ["a paper"],
        "changelog": [{"version": "1.0.0", "text": "first"}],
    }
    rewrite(folder, lambda m: m.update(added))
    manifest = load_bundle(folder).manifest
    assert manifest.exclusive
    assert manifest.changelog[0].text == "first"
    jsonschema.Draft202012Validator(json.loads(json_schema())).validate(bundles.document(folder) | added)


def test_a_label_may_be_a_kind_of_another_of_one_side(folder: Path) -> None:
    left = {"value": "7771000", "scheme": "SCT", "meaning": "Left"}
    rewrite(folder, lambda m: m["labels"][1].update(parent="pneumonia", laterality=left))
    label = load_bundle(folder).manifest.labels[1]
    assert (label.parent, label.laterality and label.laterality.value) == ("pneumonia", "7771000")
    for odd in ("effusion", "nothing"):
        rewrite(folder, lambda m, odd=odd: m["labels"][1].update(parent=odd))
        with pytest.raises(ManifestError, match="parent is another label"):
            load_bundle(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\udcff"])
def test_what_is_no_manifest_is_refused(folder: Path, text: str) -> None:
    (folder / "model.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ManifestError):
        load_bundle(folder)


def test_the_schema_file_is_that_of_the_code_and_accepts_a_manifest(folder: Path) -> None:
    written = Path(models.manifest.__file__).with_name("manifest.schema.json").read_text()
    assert written == json_schema()
    validator = jsonschema.Draft202012Validator(json.loads(written))
    manifest = bundles.document(folder)
    validator.validate(manifest)
    assert not validator.is_valid(manifest | {"colour": "blue"})


def test_an_unknown_id_is_answered_with_the_known_ones(folder: Path) -> None:
    with pytest.raises(BundleNotFoundError, match="test-model"):
        load("no-such-model", [folder.parent])


def test_list_names_damaged_bundles_too(folder: Path) -> None:
    damaged = bundles.hollow_bundle(folder.parent / "damaged")
    (damaged / "weights.npz").write_bytes(b"")
    done = CliRunner().invoke(app, ["list", "--json", "--models-dir", str(folder.parent)])
    rows = {Path(row["id"]).name: row["state"] for row in json.loads(done.stdout)}
    assert rows["damaged"] == "damaged"
    assert rows["test-model"] == "ok"


def test_show_gives_the_manifest_and_verify_refuses_a_changed_file(folder: Path) -> None:
    store = ["--models-dir", str(folder.parent)]
    shown = CliRunner().invoke(app, ["show", "test-model", "--json", *store])
    assert json.loads(shown.stdout)["labels"][0]["key"] == "pneumonia"
    assert "sensitivity 0.900" in CliRunner().invoke(app, ["show", "test-model", *store]).stdout
    (folder / "MODEL_CARD.md").write_text("# Better model\n")
    done = CliRunner().invoke(app, ["verify", "test-model", "--json", *store])
    assert done.exit_code == 1
    assert json.loads(done.stdout)["verified"] is False
