"""Series of slices: attention, its maps in closed form, and which slices are read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread

from models.errors import DatasetError, ManifestError
from models.explain import closed_form_maps, slice_map
from models.manifest import parse_manifest
from models.series import evenly
from tests.support.bundles import hollow_bundle
from tests.support.plans import written
from tests.support.series import draw_series, plan_change
from tests.support.shared import shared_data

pytestmark = pytest.mark.tensorflow

COVID = {"key": "covid", "display": "COVID-19", "code": {"value": "1", "scheme": "99TEST", "meaning": "COVID-19"}}


def test_attention_adds_up_and_the_maps_add_up_to_the_logits() -> None:
    import keras  # noqa: PLC0415 - slow

    from models.training.series import build_series  # noqa: PLC0415

    keras.utils.set_random_seed(2)
    model = build_series("efficientnet_lite0", (64, 64, 3), 5, 2, dropout=0.3)
    series = np.random.default_rng(0).uniform(-1, 1, (2, 5, 64, 64, 3)).astype(np.float32)
    features, attention, logits = (one.numpy() for one in model(series, training=False))
    assert features.shape == (2, 5, 2, 2, 1280)
    np.testing.assert_allclose(attention.sum(axis=1), 1, rtol=1e-5)
    kernel, bias = (weight.numpy() for weight in model.get_layer("logits").weights)
    cells = np.einsum("nshwc,cl,ns->nl", features, kernel, attention) / 4
    np.testing.assert_allclose(cells + bias, logits, rtol=1e-3, atol=1e-4)


def test_maps_of_a_slice_are_those_of_its_image_times_its_weight() -> None:
    random = np.random.default_rng(1)
    features, head = random.normal(size=(4, 4, 6)).astype(np.float32), random.normal(size=(6, 2)).astype(np.float32)
    maps = slice_map(features, 0.7, head)
    assert maps.shape == (2, 4, 4)
    np.testing.assert_allclose(maps, 0.7 * closed_form_maps(features, head), rtol=1e-6)
    assert slice_map(features, 0.0, head).max() == 0
    assert maps.min() >= 0


def test_gradient_reaches_attention_and_body() -> None:
    import tensorflow as tf  # noqa: PLC0415 - slow

    from models.training.series import build_series  # noqa: PLC0415

    # In a network of random weights the signal dies out on its way.
    start = shared_data() / "weights" / "efficientnet_lite0_imagenet_keras_layout_fp16.npz"
    model = build_series("efficientnet_lite0", (32, 32, 3), 3, 1, dropout=0.0, weights=start)
    series = np.random.default_rng(0).uniform(-1, 1, (1, 3, 32, 32, 3)).astype(np.float32)
    with tf.GradientTape() as tape:
        logit = model(series, training=False)[-1]
    paths = {variable.path: variable.value for variable in model.trainable_variables}
    wanted = [value for path, value in paths.items() if "attention" in path or "stem_conv" in path]
    assert len(wanted) == 4
    assert all(np.abs(tf.convert_to_tensor(g).numpy()).max() > 0 for g in tape.gradient(logit, wanted))


@pytest.mark.parametrize(("count", "expected"), [(9, [0, 4, 8]), (3, [0, 1, 2]), (1, [0, 0, 0]), (2, [0, 0, 1])])
def test_slices_are_read_evenly(count: int, expected: list[int]) -> None:
    assert evenly(count, 3) == expected


def test_a_manifest_of_series_is_whole_or_refused(tmp_path: Path) -> None:
    document = json.loads((hollow_bundle(tmp_path / "series") / "model.json").read_text())

    def refused(why: str) -> None:
        with pytest.raises(ManifestError, match=why):
            parse_manifest(json.dumps(document).encode(), "series")

    document["architecture"] |= {"slices": 5}
    refused("slices and pooling come together")
    document["architecture"] |= {"pooling": "attention"}
    refused("series belongs to an architecture with slices")
    document["series"] = {"min_slices": 5, "max_missing": 1.5}
    refused("max_missing")
    document["series"] = {"min_slices": 5}
    assert parse_manifest(json.dumps(document).encode(), "series").series is not None
    document["architecture"] |= {"head": "other"}
    refused("gap_dense")
    document["architecture"] = document["architecture"] | {"head": "gap_dense", "slices": None, "pooling": None}
    refused("series belongs to an architecture with slices")


def test_series_that_the_bundle_would_refuse_do_not_teach_it(tmp_path: Path) -> None:
    from models.training.data import read_data  # noqa: PLC0415
    from models.training.plan import Folders, read_plan  # noqa: PLC0415

    draw_series(tmp_path, patients=3)
    removed = sorted(tmp_path.glob("p01-*.dcm"), key=lambda path: int(dcmread(path).InstanceNumber))[3]
    removed.unlink()
    plan, _ = read_plan(written(tmp_path, plan_change() | {"bundle": {"labels": [COVID]}}))
    found = read_data(plan, Folders(tmp_path, tmp_path))
    assert [sample.file[:3] for sample in found.samples] == ["p00", "p02"]
    assert [p.what for p in found.problems if p.left_out] == ["about 1 of 6 slices are missing"]
    strict = plan_change(7) | {"bundle": {"labels": [COVID]}}
    with pytest.raises(DatasetError, match="none of the 3 series; first: series of 6 slices, at least 7 are needed"):
        read_data(read_plan(written(tmp_path, strict))[0], Folders(tmp_path, tmp_path))


def test_slices_of_a_file_list_become_the_channels_of_one_plane(tmp_path: Path) -> None:
    from models.datasets.images import split_steps  # noqa: PLC0415
    from models.datasets.pixels import Images  # noqa: PLC0415
    from models.datasets.planes import load  # noqa: PLC0415
    from models.datasets.samples import Sample  # noqa: PLC0415
    from models.training.network import batches_of  # noqa: PLC0415
    from models.training.plan import read_plan  # noqa: PLC0415

    names = tuple(f"{number}.png" for number in range(5))
    for number, name in enumerate(names):
        picture = np.full((32, 32), 50 * number, np.uint8)
        picture[0, 0] = 255
        Image.fromarray(picture).save(tmp_path / name)
    sample = Sample(names[0], "p", "s", {"pneumonia": 1.0}, files=names)
    plan, _ = read_plan(written(tmp_path, {}))
    planes = load([sample], Images(tmp_path), split_steps(plan.steps)[0], tmp_path / "cache")
    (read,) = batches_of(planes, 3)(np.array([0]))
    assert read.shape == (32, 32, 3)
    np.testing.assert_allclose(read[16, 16], np.array([0, 100, 200]) / 255, atol=1e-2)
