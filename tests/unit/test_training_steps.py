"""One step of training: accumulation, several devices, frozen parts, averages."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models.contracts import GreyImage
from models.datasets.images import Tail, split_steps
from models.errors import DatasetError, RuntimeUnavailable
from models.preprocess import apply
from models.training.plan import read_plan
from models.training.recipe import NO_AUGMENTATION, LossPlan, Optimiser, Training
from tests.support.plans import written

pytestmark = pytest.mark.tensorflow

ROOT = Path(__file__).parents[2]
PLANES = np.random.default_rng(1).uniform(0, 1, (8, 32, 32, 1)).astype(np.float32)
VALUES = np.random.default_rng(2).integers(0, 2, (8, 2)).astype(np.float32)
MASK = np.array([[1, 1], [1, 0], [0, 1], [1, 1], [0, 0], [1, 1], [1, 0], [1, 1]], np.float32)


def network(depth: str | float | None = 0.5, *, train_batch_norm: bool = False) -> Any:
    import keras  # noqa: PLC0415 - slow

    from models import backbones  # noqa: PLC0415
    from models.training.network import Trained  # noqa: PLC0415

    keras.utils.set_random_seed(5)
    model = backbones.build("efficientnet_lite0", (32, 32, 3), 2, dropout=0.0)
    made = Trained(model, Tail(np.full(3, 2, np.float32), np.full(3, -1, np.float32)), 0)
    made.freeze(depth, train_batch_norm=train_batch_norm)
    return made


@pytest.mark.parametrize("slices", [0, 3])
def test_what_is_trained_on_is_what_is_served_for_several_windows_too(tmp_path: Path, slices: int) -> None:
    import keras  # noqa: PLC0415 - slow

    from models.training.network import Trained  # noqa: PLC0415

    windows = [[-600.0, 1500.0], [40.0, 400.0], [400.0, 1800.0]]
    plan, _ = read_plan(written(tmp_path, {"input": {"windows": windows, "slices": slices}}))
    plane_steps, tail = split_steps(plan.steps)
    hounsfield = np.random.default_rng(4).uniform(-1400, 1400, (max(slices, 1), 32, 32)).astype(np.float32)
    served = np.stack([apply(plan.steps, GreyImage(one)).array for one in hounsfield])
    for channel, (center, width) in enumerate(windows):
        expected = np.clip((hounsfield - center) / width + 0.5, 0, 1)
        np.testing.assert_allclose((served[..., channel] * 128 + 127) / 255, expected, atol=1e-4)
    planes = np.stack([apply(plane_steps, GreyImage(one)).array[..., 0] for one in hounsfield], axis=-1)
    given = keras.Input(served.shape if slices else served.shape[1:])
    same = keras.layers.Identity()(given)
    fed = Trained(keras.Model(given, [same, same]), tail, slices).logits(planes[np.newaxis], training=False).numpy()[0]
    np.testing.assert_allclose(fed, served if slices else served[0], atol=1e-5)


def after_steps(batch: int, accumulate: int, steps: int = 2) -> tuple[list[NDArray[Any]], list[float]]:
    import tensorflow as tf  # noqa: PLC0415 - slow

    from models.training.augmentation import Augmentation  # noqa: PLC0415
    from models.training.losses import Counts, build_loss  # noqa: PLC0415
    from models.training.step import Stepper, build_optimiser  # noqa: PLC0415

    made = network()
    training = Training(batch=batch, accumulate=accumulate, optimiser=Optimiser(name="sgd", clip=1.0))
    step = Stepper(
        made,
        optimiser=build_optimiser(training.optimiser, made.model.trainable_variables),
        loss=build_loss(LossPlan(), Counts(np.ones(2), np.ones(2)), exclusive=False),
        augmentation=Augmentation(NO_AUGMENTATION, 1),
        training=training,
        strategy=tf.distribute.get_strategy(),
    )
    losses = [step(PLANES, VALUES, MASK, rate=0.1, deferred=False) for _ in range(steps)]
    return [variable.numpy() for variable in made.model.trainable_variables], losses


def test_accumulated_batches_are_one_large_batch_although_their_masks_differ() -> None:
    large, losses = after_steps(batch=8, accumulate=1)
    small, same = after_steps(batch=2, accumulate=4)
    assert same == pytest.approx(losses, rel=1e-5)
    assert losses[1] < losses[0]
    for one, other in zip(large, small, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-6)


def test_frozen_batch_norm_keeps_its_statistics_and_what_lies_below_keeps_everything() -> None:
    made = network(0.5)
    layers = made.body_layers()
    norms = [layer for layer in layers if type(layer).__name__ == "BatchNormalization"]
    assert not any(norm.trainable for norm in norms)
    assert not any(layer.trainable for layer in layers[: len(layers) // 2])
    assert made.model.get_layer("logits").trainable
    before = norms[-1].moving_mean.numpy()
    made.logits(PLANES, training=True)
    np.testing.assert_array_equal(norms[-1].moving_mean.numpy(), before)


def test_trained_batch_norm_follows_the_images() -> None:
    made = network(0.0, train_batch_norm=True)
    norm = made.model.get_layer("top_bn")
    before = norm.moving_mean.numpy()
    made.logits(PLANES, training=True)
    assert np.abs(norm.moving_mean.numpy() - before).max() > 0


def test_the_head_alone_is_trained_where_no_layer_is_named() -> None:
    made = network(None)
    assert [variable.path for variable in made.model.trainable_variables] == ["logits/kernel", "logits/bias"]
    made.freeze("top_conv", train_batch_norm=False)
    assert {v.path.split("/")[0] for v in made.model.trainable_variables} == {"top_conv", "logits"}


def test_a_layer_that_is_not_there_is_named() -> None:
    with pytest.raises(DatasetError, match="no layer 'block99'"):
        network("block99")


def test_half_precision_is_for_gpus() -> None:
    from models.training.step import strategy_for  # noqa: PLC0415 - imports TensorFlow

    with pytest.raises(RuntimeUnavailable, match="needs a GPU"):
        strategy_for(Training(mixed_precision=True))


def test_the_average_is_swapped_in_and_out() -> None:
    from models.training.step import Average  # noqa: PLC0415 - imports TensorFlow

    made = network(None)
    kernel = made.model.get_layer("logits").kernel
    average = Average([kernel], decay=0.5)
    start = kernel.numpy()
    kernel.assign(start + 1)
    average.follow(1000)
    average.swap()
    np.testing.assert_allclose(kernel.numpy(), start + 0.5, rtol=1e-6)
    average.swap()
    np.testing.assert_allclose(kernel.numpy(), start + 1, rtol=1e-6)


_TWO_DEVICES = """
import json, sys
import numpy as np
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import keras
from models import backbones
from models.datasets.images import Tail
from models.training.augmentation import Augmentation
from models.training.losses import Counts, build_loss
from models.training.network import Trained
from models.training.recipe import NO_AUGMENTATION, LossPlan, Optimiser, Training
from models.training.step import Average, Stepper, build_optimiser
planes = np.random.default_rng(1).uniform(0, 1, (8, 32, 32, 1)).astype(np.float32)
values = np.random.default_rng(2).integers(0, 2, (8, 2)).astype(np.float32)
mask = np.ones((8, 2), np.float32); mask[1:4, 0] = 0
found = []
for strategy in (tf.distribute.get_strategy(), tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])):
    keras.utils.set_random_seed(5)
    training = Training(batch=8, optimiser=Optimiser(name="adamw"))
    with strategy.scope():
        model = backbones.build("efficientnet_lite0", (32, 32, 3), 2, dropout=0.0)
        network = Trained(model, Tail(np.full(3, 2, np.float32), np.full(3, -1, np.float32)), 0)
        changing = network.freeze(0.8, train_batch_norm=False)
        optimiser = build_optimiser(training.optimiser, model.trainable_variables)
        average = Average(changing, 0.9)
        step = Stepper(network, optimiser=optimiser, loss=build_loss(LossPlan(), Counts(np.ones(2), np.ones(2)),
            exclusive=False), augmentation=Augmentation(NO_AUGMENTATION, 1), training=training, strategy=strategy)
    losses = []
    for done in (1, 2):
        losses.append(step(planes, values, mask, rate=1e-3, deferred=False))
        average.follow(done)
    average.swap()
    kernel = model.get_layer("logits").kernel.numpy()
    found.append({"losses": losses, "kernel": kernel.tolist(), "replicas": strategy.num_replicas_in_sync})
print(json.dumps(found))
"""


def test_two_devices_learn_what_one_learns() -> None:
    done = subprocess.run([sys.executable, "-c", _TWO_DEVICES], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = json.loads(done.stdout.splitlines()[-1])
    assert (one["replicas"], two["replicas"]) == (1, 2)
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-4)
    np.testing.assert_allclose(two["kernel"], one["kernel"], atol=1e-5)
