"""A model that compares: one network for both images, the prior weighed into the logits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.comparison import comparison_of
from models.contracts import GreyImage, Reading
from models.errors import ArchitectureError, GoldenError, ManifestError
from models.gate import pooled
from models.reading import read_image
from models.registry import Bundle, load_bundle
from models.runner import Runner, check_golden, load_runner
from tests.support import bundles


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundles.comparing_bundle(tmp_path_factory.mktemp("bundle") / "test-comparing")


@pytest.fixture(scope="module")
def loaded(folder: Path) -> tuple[Bundle, Runner]:
    bundle = load_bundle(folder)
    return bundle, load_runner(bundle, "cpu")


def picture(seed: int) -> GreyImage:
    """Stripes, of a direction and width of their own."""
    y, x = np.mgrid[0:160, 0:140]
    return GreyImage((127 + 127 * np.sin((x * seed + y * (5 - seed)) / 9)).astype(np.float32))


def logits(reading: Reading) -> np.ndarray:
    return np.array([finding.logit for finding in reading.findings])


def changed(folder: Path, to: Path, change: Callable[[dict[str, np.ndarray]], Any], name: str = "prior.npz") -> Path:
    """The bundle with other arrays in one of its files, and a manifest that says so."""
    to.mkdir()
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    with np.load(folder / name) as arrays:
        held = {key: arrays[key] for key in arrays.files}
    change(held)
    np.savez(to / name, **held)
    manifest = json.loads((folder / "model.json").read_text())
    for entry in manifest["files"]:
        entry["sha256"] = bundles.sha256(to / entry["path"])
    return bundles.write_manifest(to, manifest)


def test_the_prior_is_weighed_in_and_its_absence_too(loaded: tuple[Bundle, Runner]) -> None:
    bundle, runner = loaded
    alone = read_image(bundle, runner, picture(1))
    beside = read_image(bundle, runner, picture(1), picture(2))
    same = read_image(bundle, runner, picture(1), picture(1))
    assert (alone.compared, beside.compared) == (False, True)
    with np.load(bundle.weights) as arrays:
        (bias,) = arrays["logits/bias"].astype(np.float32)
    # Nothing is new in an image beside itself: only the constant is left.
    assert logits(same)[0] == pytest.approx(bias, abs=1e-4)
    without = logits(read_image(bundle, runner, picture(2)))
    # Either is the same network's answer, once taken off and once with 0.25 off for want of a prior.
    assert logits(beside)[0] == pytest.approx(logits(alone)[0] - without[0] + bias, abs=1e-4)
    assert abs(logits(beside)[0] - logits(same)[0]) > 1e-3


def test_it_is_the_priors_own_features_that_count(loaded: tuple[Bundle, Runner]) -> None:
    bundle, runner = loaded
    comparison = comparison_of(bundle)
    assert comparison is not None
    with np.load(bundle.golden) as golden:
        current, prior = golden["inputs"][:1], golden["prior_inputs"][:1]
    forward = comparison.of(runner.run(current), runner.run(prior))
    expected = runner.run(current).logits + pooled(runner.run(prior).features) @ comparison.kernel
    np.testing.assert_allclose(forward.logits, expected, atol=1e-5)
    # The map of the current image is that of its own features.
    np.testing.assert_array_equal(forward.features, runner.run(current).features)


def test_a_prior_that_cannot_become_the_input_is_left_out_and_said_to_be(loaded: tuple[Bundle, Runner]) -> None:
    bundle, runner = loaded
    broken = GreyImage(np.full((160, 140), np.nan, np.float32))
    reading = read_image(bundle, runner, picture(1), broken)
    assert not reading.compared
    assert any(note.startswith("the prior was not read") for note in reading.notes)
    np.testing.assert_allclose(logits(reading), logits(read_image(bundle, runner, picture(1))))


def test_a_bundle_that_answers_otherwise_with_a_prior_is_not_loaded(
    loaded: tuple[Bundle, Runner], folder: Path, tmp_path: Path
) -> None:
    _, runner = loaded

    def weigh_more(arrays: dict[str, np.ndarray]) -> None:
        arrays["kernel"] = arrays["kernel"] * 4

    def lose_pairs(arrays: dict[str, np.ndarray]) -> None:
        del arrays["prior_inputs"]

    def misfit(arrays: dict[str, np.ndarray]) -> None:
        arrays["kernel"] = arrays["kernel"][:100]

    def lose_labels(arrays: dict[str, np.ndarray]) -> None:
        arrays["kernel"] = arrays["kernel"][:, :0]

    cases: list[tuple[Callable[[dict[str, np.ndarray]], Any], str, type[Exception]]] = [
        (weigh_more, "prior.npz", GoldenError),
        (lose_pairs, "golden.npz", GoldenError),
        (misfit, "prior.npz", ArchitectureError),
        (lose_labels, "prior.npz", ArchitectureError),
    ]
    for number, (change, name, error) in enumerate(cases):
        bundle = load_bundle(changed(folder, tmp_path / str(number), change, name))
        with pytest.raises(error):
            check_golden(bundle, runner)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.pop("priors"), "come together"),
        (lambda m: m.update(files=m["files"][:-1]), "come together"),
        (lambda m: m["priors"].update(max=0), "greater than or equal to 1"),
        (lambda m: m["priors"].pop("within_days"), "Field required"),
        (lambda m: m["priors"].update(modality=["*"]), "String should match"),
        (lambda m: (m["architecture"].update(head="other"), m["runtime"].update(cpu="keras")), "gap_dense head"),
    ],
)
def test_manifests_that_contradict_themselves_are_refused(
    folder: Path, tmp_path: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    manifest = json.loads((folder / "model.json").read_text())
    change(manifest)
    with pytest.raises(ManifestError, match=message):
        load_bundle(bundles.write_manifest(tmp_path, manifest))
