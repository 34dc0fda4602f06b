"""The shipped bundle is what its card says."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from models.contracts import Presence
from models.datasets.labels import LabelledImage, read_labels
from models.evaluation.metrics import auroc
from models.evaluation.report import columns_of
from models.evaluation.scoring import score_images
from models.preprocess import apply, grey_from_uint8
from models.registry import SHIPPED, Bundle, load_bundle
from models.runner import LiteRtRunner, check_golden

pytestmark = pytest.mark.tensorflow

FOLDER = SHIPPED / "cxr-pneumonia"
DATA = Path(__file__).parents[3] / "shared" / "data" / "cxr"
MOST_BYTES = 12_000_000
PER_CELL = 15

needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the shared data is not beside this checkout")


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle(FOLDER)


@pytest.fixture(scope="module")
def runner(bundle: Bundle) -> LiteRtRunner:
    return LiteRtRunner(bundle)


def sample() -> list[LabelledImage]:
    """The same 15 images of each source and label of the test part, every time."""
    from models.recipes.cxr_pneumonia import select, split_rows  # noqa: PLC0415 - imports TensorFlow

    cells: dict[tuple[str, str], list[LabelledImage]] = {}
    for row in sorted(split_rows(select(read_labels(DATA / "labels.csv"))).test, key=_draw):
        cells.setdefault((row.source, row.label), []).append(row)
    return [row for cell in cells.values() for row in cell[:PER_CELL]]


def _draw(row: LabelledImage) -> str:
    return hashlib.sha256(row.file.encode()).hexdigest()


def test_it_is_small_and_verifies(bundle: Bundle, runner: LiteRtRunner) -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < MOST_BYTES
    assert check_golden(bundle, runner) <= 1e-3


def test_preprocessing_here_is_that_of_training(bundle: Bundle) -> None:
    with np.load(bundle.golden, allow_pickle=False) as golden:
        got = apply(bundle.manifest.preprocessing, grey_from_uint8(golden["raw"])).array
        np.testing.assert_allclose(got, golden["raw_input"].astype(np.float32), atol=1e-3)


def test_the_card_tells_the_figures_of_the_manifest(bundle: Bundle) -> None:
    card = (FOLDER / "MODEL_CARD.md").read_text()
    for found in bundle.manifest.evaluation["test"]["sources"].values():
        assert f"{found['auroc']['value']:.3f} [{found['auroc']['low']:.3f}, {found['auroc']['high']:.3f}]" in card
    assert "Not a medical device" in card


def test_cross_validation_beats_the_frozen_network_in_either_source(bundle: Bundle) -> None:
    validated = bundle.manifest.evaluation["cross_validation"]
    for source, least in (("kermany224", 0.97), ("nih_cxr14", 0.86)):
        figure = validated["sources"][source]["auroc"]["value"]
        assert figure >= least, source
        assert figure > validated["auroc_of_frozen_features"][source]["value"], source


def test_the_operating_point_is_of_use_in_either_source(bundle: Bundle) -> None:
    for source, found in bundle.manifest.evaluation["cross_validation"]["sources"].items():
        assert found["sensitivity"]["value"] >= 0.7, source
        assert found["specificity"]["value"] >= 0.7, source


@needs_data
def test_the_split_of_the_card_is_the_split_of_the_code(bundle: Bundle) -> None:
    from models.recipes.cxr_pneumonia import select, split_rows  # noqa: PLC0415 - imports TensorFlow

    split = split_rows(select(read_labels(DATA / "labels.csv")))
    assert bundle.manifest.training["split"]["sha256"] == split.digest


@needs_data
def test_it_tells_pneumonia_from_normal_on_patients_it_never_saw(bundle: Bundle, runner: LiteRtRunner) -> None:
    scores = score_images(bundle, runner, sample(), DATA, label="pneumonia")
    assert len(scores.scored) == 4 * PER_CELL
    assert not scores.unreadable
    data = columns_of(scores.scored)
    for source, least in (("kermany224", 0.93), ("nih_cxr14", 0.8)):
        here = data.sources == source
        assert auroc(data.labels[here], data.probabilities[here]) >= least, source
    said = {s.presence for s in scores.scored}
    assert {Presence.PRESENT, Presence.ABSENT} <= said
