"""A model of slices: what it answers, and a real series through the worker's analysis to a report."""

from __future__ import annotations

import shutil
import weakref
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from highdicom.sr import srread
from pydicom import dcmread

from db.errors import LeaseLost
from models.backbones import load_weights
from models.contracts import FloatArray, Presence
from models.errors import ArchitectureError, GoldenError, PreprocessError
from models.gate import pooled
from models.preprocess import prepare
from models.reading import prepare_series, read_series
from models.registry import Bundle, load_bundle
from models.runner import KerasRunner, SeriesRunner, check_golden, load_runner
from models.series import Attention, evenly
from tests.support import bundles
from tests.support.result_samples import provenance
from tests.support.series import SLICES, ct_slice, lively_series_bundle, series_document, write_slice
from tests.support.shared import shared_dicom
from workers.analysis import Analysis, SourceInput, analyse
from workers.doctor import Finding, Grade, examine
from workers.loaded import Loaded
from workers.pixels import Limits, open_volume
from workers.results import build_results
from workers.sandbox import Decoders, JobFiles, Terms

pytestmark = pytest.mark.tensorflow

CHEST = sorted((shared_dicom() / "ct_chest" / "P001").glob("*.dcm"))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return load_bundle(lively_series_bundle(tmp_path_factory.mktemp("series") / "store" / "test-model"))


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RADNODE_MODEL_CACHE", str(tmp_path_factory.getbasetemp() / "series-cache"))


@pytest.fixture(scope="module")
def whole(bundle: Bundle) -> Callable[[FloatArray], tuple[FloatArray, ...]]:
    """The network as it is trained: all slices in one graph."""
    from models.training.series import build_series  # noqa: PLC0415 - imports TensorFlow

    shape = bundle.manifest.architecture
    model = build_series(shape.name, shape.input_shape, SLICES, shape.outputs, dropout=0.0)
    load_weights(model, bundle.weights)
    return lambda batch: tuple(part.numpy() for part in model(batch, training=False))


@pytest.fixture
def loaded(bundle: Bundle) -> Loaded:
    return Loaded(bundle, load_runner(bundle, "cpu"))


def read(loaded: Loaded, paths: list[Path]) -> Analysis:
    decoders = Decoders(Terms())
    try:
        return analyse(loaded, [SourceInput(path) for path in paths], JobFiles(decoders, Limits()))
    finally:
        decoders.close()


def drawn(folder: Path, count: int, leave_out: tuple[int, ...] = (), **changes: object) -> list[Path]:
    slices = [ct_slice("anna", place, bright=place == 3, **changes) for place in range(count) if place not in leave_out]
    return [write_slice(folder, one) for one in slices]


def regions_of(group: Any) -> set[str]:
    """SOP Instance UIDs of the images that a group's regions are drawn on."""
    regions = [item for item in group[0].ContentSequence if item.ValueType == "SCOORD"]
    return {one.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID for one in regions}


@pytest.mark.parametrize("runtime", ["litert", "keras"])
def test_slice_by_slice_is_what_the_whole_network_says(
    bundle: Bundle, whole: Callable[[FloatArray], tuple[FloatArray, ...]], runtime: str
) -> None:
    runner = load_runner(bundle, "cpu") if runtime == "litert" else SeriesRunner(bundle, KerasRunner(bundle))
    batch = np.random.default_rng(1).uniform(-1, 1, (2, SLICES, bundles.SIDE, bundles.SIDE, 3)).astype(np.float32)
    batch[1, 1] = batch[1, 0]  # a short series has the same slice twice
    found = runner.run(batch)
    features, attention, logits = whole(batch)
    assert found.attention is not None
    assert attention.max() > 1.5 / SLICES, "an attention that prefers nothing proves nothing"
    np.testing.assert_allclose(found.logits, logits, atol=1e-3)
    np.testing.assert_allclose(found.attention, attention, atol=1e-3)
    np.testing.assert_allclose(found.features, features, atol=1e-3)
    np.testing.assert_allclose(pooled(found.features), features.mean(axis=(1, 2, 3)), atol=1e-4)
    assert check_golden(bundle, runner) <= 1e-3


def test_the_key_slice_and_its_map_are_those_of_the_whole_network(
    bundle: Bundle, whole: Callable[[FloatArray], tuple[FloatArray, ...]]
) -> None:
    volume = open_volume(CHEST)
    chosen = evenly(len(volume), SLICES)
    stack = np.stack([prepare(bundle.manifest.preprocessing, volume.read(place)).input.array for place in chosen])
    features, attention, logits = whole(stack[np.newaxis])
    reading = read_series(bundle, load_runner(bundle, "cpu"), len(volume), volume.read)
    key = int(attention[0].argmax())
    (shown, *_) = reading.explanations
    assert [one.index for one in reading.slices] == chosen
    np.testing.assert_allclose([one.weight for one in reading.slices], attention[0], atol=1e-3)
    assert shown.slice_index == chosen[key]
    np.testing.assert_allclose([finding.logit for finding in reading.findings], logits[0], atol=1e-3)
    with np.load(bundle.weights) as arrays:
        kernel = arrays["logits/kernel"].astype(np.float32)
    cells = features.shape[2] * features.shape[3]
    closed = np.maximum(features[0, key] @ kernel[:, 0], 0) / cells * attention[0, key]
    np.testing.assert_allclose(shown.grid * shown.peak, closed, atol=1e-5)


def test_a_short_series_is_decoded_once_a_slice_and_weighs_the_same(bundle: Bundle) -> None:
    asked: list[int] = []
    volume = open_volume(CHEST[:2])

    def slice_at(place: int) -> Any:
        asked.append(place)
        return volume.read(place)

    reading = read_series(bundle, load_runner(bundle, "cpu"), 2, slice_at)
    assert asked == [0, 1]
    assert sum(one.weight for one in reading.slices) == pytest.approx(1, abs=1e-5)
    uniform = replace(volume.read(0), pixels=np.zeros((64, 64), np.float32))
    with pytest.raises(PreprocessError, match="slice 1 of 9: image is uniform"):
        prepare_series(bundle, 9, lambda _: uniform)


def test_no_more_than_one_decoded_slice_is_held(bundle: Bundle) -> None:
    volume, alive = open_volume(CHEST), []

    def slice_at(place: int) -> Any:
        assert not [one for one in alive if one() is not None]
        image = volume.read(place)
        alive.append(weakref.ref(image.pixels))
        return image

    read_series(bundle, load_runner(bundle, "cpu"), len(volume), slice_at)
    assert len(alive) == SLICES


def test_reading_ahead_says_the_same_and_holds_no_more_slices_than_it_may(bundle: Bundle) -> None:
    volume, runner = open_volume(CHEST), load_runner(bundle, "cpu")
    alive: list[weakref.ref[FloatArray]] = []
    most = 0

    def slice_at(place: int) -> Any:
        nonlocal most
        image = volume.read(place)
        alive.append(weakref.ref(image.pixels))
        most = max(most, sum(one() is not None for one in alive))
        return image

    ahead = read_series(bundle, runner, len(volume), slice_at, ahead=2)
    assert len(alive) == SLICES
    assert most <= 3
    plain = read_series(bundle, runner, len(volume), volume.read)
    assert (ahead.findings, ahead.slices, ahead.notes) == (plain.findings, plain.slices, plain.notes)


def test_who_may_not_go_on_is_asked_for_no_more_slices(bundle: Bundle) -> None:
    asked: list[int] = []

    def slice_at(place: int) -> Any:
        asked.append(place)
        raise LeaseLost("another worker has it")

    with pytest.raises(LeaseLost):
        read_series(bundle, load_runner(bundle, "cpu"), len(CHEST), slice_at, ahead=2)
    assert len(asked) <= 2


def test_attention_does_not_overflow() -> None:
    random = np.random.default_rng(0)
    wide = Attention(*(random.normal(0, 50, shape).astype(np.float32) for shape in ((8, 4), (8, 4), (4,))))
    weights = wide.weights(random.normal(0, 1e3, (6, 8)).astype(np.float32))
    assert weights.sum() == pytest.approx(1, abs=1e-6)


def test_damaged_series_bundles_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    def changed(name: str, **arrays: Any) -> Path:
        folder = tmp_path / name
        shutil.copytree(bundle.folder, folder)
        for file, change in arrays.items():
            with np.load(folder / f"{file}.npz") as held:
                whole = {key: held[key] for key in held.files}
            np.savez(folder / f"{file}.npz", **change(whole))
        # Keras needs no compiling.
        return bundles.write_manifest(folder, series_document(folder) | {"runtime": {"cpu": "keras", "gpu": "keras"}})

    def refused(error: type[Exception], match: str, folder: Path) -> None:
        with pytest.raises(error, match=match):
            load_runner(load_bundle(folder), "cpu")

    def without(key: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
        return lambda held: {name: array for name, array in held.items() if name != key}

    refused(GoldenError, "no readable test vectors", changed("no-series", golden=without("series")))
    refused(GoldenError, "off", changed("other", golden=lambda held: held | {"logits": held["logits"] + 0.1}))
    longer = changed("longer", golden=lambda held: held | {"series": np.zeros((1, 9), int)})
    refused(GoldenError, f"no test vectors of {SLICES} slices", longer)
    refused(ArchitectureError, "no weights of an attention", changed("plain", weights=without("attention/gate")))
    odd = changed("odd", weights=lambda held: held | {"attention/score": np.ones((7, 1))})
    refused(ArchitectureError, "do not fit together", odd)


def test_a_real_chest_becomes_a_report_that_names_its_slices(loaded: Loaded) -> None:
    analysis = read(loaded, CHEST[::-1])
    assert (analysis.analysed, analysis.reason, len(analysis.sources)) == (True, "", 1)
    (source,) = analysis.sources
    series, reading = source.series, source.reading
    assert series is not None
    assert reading is not None
    key = max(reading.slices, key=lambda one: one.weight)
    in_space = sorted((dcmread(path, stop_before_pixels=True) for path in CHEST), key=lambda one: one.SliceLocation)
    expected = [in_space[place].SOPInstanceUID for place in evenly(len(CHEST), SLICES)]
    assert [one.header.SOPInstanceUID for one in series.slices] == expected
    assert source.header.SOPInstanceUID == in_space[key.index].SOPInstanceUID

    report, *pictures = build_results(analysis.sources, provenance())
    present = [finding for finding in reading.findings if finding.presence is Presence.PRESENT]
    assert len(pictures) == len(present) >= 1
    picture = dcmread(BytesIO(pictures[0].data))
    assert picture.SourceImageSequence[0].ReferencedSOPInstanceUID == source.header.SOPInstanceUID
    assert f"slice {key.index + 1} of {len(CHEST)}" in picture.DerivationDescription
    said = srread(BytesIO(report.data))
    evidence = {entry[2] for entry in said.get_evidence()}
    assert evidence == {*expected, *(one.ref.sop_instance_uid for one in pictures)}
    group = said.content.get_planar_roi_measurement_groups()[0]
    assert regions_of(group) == {source.header.SOPInstanceUID}
    (labels,) = said.content.get_image_measurement_groups()
    assert [one.referenced_sop_instance_uid for one in labels.source_images] == expected
    told = f"slice {key.index + 1} of {len(CHEST)}"
    comments = [
        item.TextValue
        for part in said.ContentSequence
        for item in part.get("ContentSequence", ())
        if "TextValue" in item
    ]
    assert any(told in text and source.header.SOPInstanceUID in text for text in comments)
    again = build_results(read(loaded, CHEST).sources, provenance())
    assert [one.data for one in again] == [report.data, *(one.data for one in pictures)]


def test_what_is_not_a_whole_series_is_not_analysed(loaded: Loaded, tmp_path: Path) -> None:
    def reason(name: str, *arguments: Any, **changes: object) -> str:
        folder = tmp_path / name
        folder.mkdir()
        analysis = read(loaded, drawn(folder, *arguments, **changes))
        assert not analysis.analysed
        assert len(analysis.sources) == 1
        assert {image.read for image in analysis.images} == {False}
        return analysis.reason

    assert "series of 3 slices, at least 4 are needed" in reason("few", 3)
    assert reason("gap", 8, (4,)).startswith("about 1 of 8 slices are missing; 1 gap between slices")
    assert reason("mr", 8, Modality="MR") == "modality MR is not one the model reads"
    assert "without position in space" in reason("nowhere", 8, ImagePositionPatient=None)
    folder = tmp_path / "broken"
    folder.mkdir()
    paths = drawn(folder, 8)
    made = dcmread(paths[0])
    made.PixelData = made.PixelData[:100]
    made.save_as(paths[0])
    assert "image 1 of 8" in read(loaded, paths).reason


def test_each_series_of_a_study_is_read_by_itself(loaded: Loaded, tmp_path: Path) -> None:
    axial = drawn(tmp_path, 6)
    short = [write_slice(tmp_path, ct_slice("anna", place, series="2")) for place in range(2)]
    scout = write_slice(tmp_path, ct_slice("anna", 50, SeriesDescription="scout"))
    coronal = write_slice(tmp_path, ct_slice("anna", 60, ImageOrientationPatient=[1, 0, 0, 0, 0, -1]))
    analysis = read(loaded, [short[0], *axial, scout, coronal, short[1]])
    assert analysis.analysed
    assert analysis.reason == "1 of 2 series were not analysed: series of 2 slices, at least 4 are needed"
    refused, whole = analysis.sources
    assert (refused.reading, whole.reason) == (None, "")
    assert whole.series is not None
    assert (whole.series.count, len(whole.series.slices)) == (6, SLICES)
    assert whole.reading is not None
    assert any(
        "1 of 8 images of the series left out: its description excludes it" in note for note in whole.reading.notes
    )
    assert any("another orientation" in note for note in whole.reading.notes)
    outcomes = dict(zip([short[0], *axial, scout, coronal, short[1]], analysis.images, strict=True))
    assert [outcomes[path].read for path in axial] == [True] * 6
    beside = [outcomes[path].reason for path in axial if outcomes[path].reason]
    assert beside == ["its series was read by 4 of 6 slices; this one was not among them"] * 2
    assert outcomes[scout].reason == "its description excludes it"
    assert not outcomes[coronal].read
    report = srread(BytesIO(build_results(analysis.sources, provenance())[0].data))
    assert report.CompletionFlag == "PARTIAL"


def test_doctor_finds_a_route_that_hands_a_series_model_single_images(bundle: Bundle, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(bundle.folder, store / "test-model")
    keras = series_document(store / "test-model") | {"runtime": {"cpu": "keras", "gpu": "keras"}}
    bundles.write_manifest(store / "test-model", keras)

    def found(mode: str) -> Finding:
        config = tmp_path / f"{mode}.toml"
        config.write_text(
            f'data_dir = "{tmp_path / "data"}"\n[work]\nmodel_dirs = ["{store}"]\n'
            f'[[routes]]\nname = "ct"\nmodels = ["test-model"]\nmode = "{mode}"\nmatch = {{ modality = ["CT"] }}\n'
        )
        return next(one for one in examine(config) if one.check == "model test-model")

    assert found("study").grade is Grade.OK
    assert found("instance").grade is Grade.FAIL
    assert "routes ct hand it one image at a time" in found("instance").detail
