"""What is known of a network without building it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from models import backbones
from models.errors import ArchitectureError
from models.manifest import Architecture
from models.preprocess import Scale


def test_the_catalogue_loads_no_tensorflow() -> None:
    look = (
        "import sys, models.backbones as b; b.info('resnet50'); print({'keras', 'tensorflow', 'h5py'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("name", sorted(backbones.ARCHITECTURES))
def test_every_entry_is_whole(name: str) -> None:
    info = backbones.info(name)
    assert info.name == name
    assert Scale.model_validate({"convention": info.convention}).convention == info.convention
    assert info.smallest_side <= info.native_side
    assert info.head == "gap_dense"


def test_conventions_of_the_families() -> None:
    by_family = {info.family: info.convention for info in backbones.ARCHITECTURES.values()}
    assert by_family == {
        "densenet": "torch",
        "efficientnet": "zero_to_255",
        "efficientnet_lite": "efficientnet_lite",
        "efficientnet_v2": "zero_to_255",
        "mobilenet_v2": "minus_one_to_one",
        "mobilenet_v3": "zero_to_255",
        "resnet": "caffe",
        "resnet_v2": "minus_one_to_one",
        "vgg": "caffe",
    }


def test_a_manifest_may_name_any_of_them_and_no_other() -> None:
    named = {"input_shape": (64, 64, 3), "head": "gap_dense", "outputs": 2}
    assert Architecture(name="densenet121", **named).name == "densenet121"
    with pytest.raises(ValueError, match="is none of"):
        Architecture(name="densenet122", **named)


def test_names_of_strangers_are_refused() -> None:
    with pytest.raises(ArchitectureError, match=r"'os\.system' is none of"):
        backbones.info("os.system")
    with pytest.raises(ArchitectureError, match="no network of Keras Applications"):
        backbones.family_of("efficientnet_lite0")


@pytest.mark.parametrize(
    ("shape", "outputs", "message"),
    [
        ((64, 64, 1), 1, "3 channels, not 1"),
        ((64, 31, 3), 1, "no less than 32"),
        ((64, 64, 3), 0, "at least one output"),
    ],
)
def test_shapes_that_cannot_be_are_refused_before_keras_is_loaded(
    shape: tuple[int, int, int], outputs: int, message: str
) -> None:
    with pytest.raises(ArchitectureError, match=message):
        backbones.build("resnet50", shape, outputs)
