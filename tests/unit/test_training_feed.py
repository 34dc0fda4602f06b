"""Which images come when, how they are changed, and that both can be repeated."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from models.errors import DatasetError
from models.training.recipe import NO_AUGMENTATION, Augment, Training

pytestmark = pytest.mark.tensorflow

COUNT = 30
PLANES = np.random.default_rng(0).uniform(0, 1, (COUNT, 16, 16, 1)).astype(np.float32)


def examples() -> Any:
    from models.training.feed import Examples  # noqa: PLC0415 - imports TensorFlow

    values = np.zeros((COUNT, 1), np.float32)
    values[:4] = 1
    sources = np.array(["large"] * 20 + ["small"] * 10)
    return Examples(lambda chosen: PLANES[chosen], values, np.ones_like(values), np.arange(COUNT).astype(str), sources)


def test_an_epoch_is_a_function_of_seed_phase_and_epoch() -> None:
    from models.training.feed import order  # noqa: PLC0415

    training = Training(batch=4, seed=9)
    one = order(examples(), training, 1, 2)
    np.testing.assert_array_equal(one, order(examples(), training, 1, 2))
    others = [order(examples(), training, 0, 2), order(examples(), training, 1, 3)]
    others.append(order(examples(), training.model_copy(update={"seed": 10}), 1, 2))
    assert all((one != other).any() for other in others)
    assert one.shape == (7, 4)


def test_shuffling_sees_every_image_at_most_once() -> None:
    from models.training.feed import order  # noqa: PLC0415

    drawn = order(examples(), Training(batch=5, accumulate=2, sampling="shuffle"), 0, 0)
    assert drawn.shape == (3, 10)
    assert len(np.unique(drawn)) == COUNT


def test_sources_and_labels_are_drawn_evenly() -> None:
    from models.training.feed import order  # noqa: PLC0415

    training = Training(batch=30, source_power=0.0)
    drawn = np.concatenate([order(examples(), training, 0, epoch).ravel() for epoch in range(200)])
    assert np.mean(drawn < 20) == pytest.approx(0.5, abs=0.03)
    assert np.mean(drawn < 4) == pytest.approx(0.25, abs=0.03)


def test_fewer_images_than_a_step_takes_are_refused() -> None:
    from models.training.feed import steps_of  # noqa: PLC0415

    with pytest.raises(DatasetError, match="a step takes 64 images, but training has 30"):
        steps_of(examples(), Training(batch=32, accumulate=2, sampling="shuffle"))


def test_unknown_targets_make_patterns_of_their_own() -> None:
    from models.training.feed import patterns  # noqa: PLC0415

    found = patterns(np.array([[1, 0], [1, 0], [0, 0]], np.float32), np.array([[1, 1], [1, 0], [1, 1]], np.float32))
    assert found.tolist() == ["20", "23", "00"]


def test_the_pipeline_gives_the_steps_in_order() -> None:
    from models.training.feed import feed, order  # noqa: PLC0415

    data, training = examples(), Training(batch=4)
    indices = order(data, training, 0, 0)
    for chosen, (planes, values, mask) in zip(indices, feed(data, indices), strict=True):
        np.testing.assert_array_equal(planes.numpy(), PLANES[chosen])
        np.testing.assert_array_equal(values.numpy(), data.values[chosen])
        assert mask.numpy().all()


def augmented(plan: Augment, planes: Any, values: Any, mask: Any, seed: int = 1) -> list[Any]:
    import tensorflow as tf  # noqa: PLC0415 - slow

    from models.training.augmentation import Augmentation  # noqa: PLC0415

    given = (tf.constant(planes), tf.constant(values), tf.constant(mask))
    return [one.numpy() for one in Augmentation(plan, seed)(*given)]


def test_augmented_planes_stay_grey_in_range_and_depend_on_the_seed() -> None:
    plan = Augment(erase=1.0, blur=1.0, vertical_flip=True)
    ones = np.ones((8, 1), np.float32)
    first = augmented(plan, PLANES[:8], ones, ones)[0]
    assert first.shape == (8, 16, 16, 1)
    assert first.min() >= 0
    assert first.max() <= 1
    np.testing.assert_array_equal(first, augmented(plan, PLANES[:8], ones, ones)[0])
    assert np.abs(first - augmented(plan, PLANES[:8], ones, ones, seed=2)[0]).max() > 0


def test_without_augmentation_nothing_changes() -> None:
    ones = np.ones((8, 1), np.float32)
    np.testing.assert_array_equal(augmented(NO_AUGMENTATION, PLANES[:8], ones, ones)[0], PLANES[:8])


def test_slices_of_a_series_are_moved_alike() -> None:
    same = np.repeat(PLANES[:4], 3, axis=3)
    ones = np.ones((4, 1), np.float32)
    moved = augmented(Augment(rotation_degrees=90, shift=0.2, contrast=0, brightness=0), same, ones, ones)[0]
    np.testing.assert_allclose(moved[..., 0], moved[..., 2], atol=1e-6)
    assert np.abs(moved - same).max() > 0.1


@pytest.mark.parametrize("plan", [{"mixup": 1.0}, {"cutmix": 1.0}])
def test_mixed_targets_are_the_share_of_each_image_and_unknown_stays_unknown(plan: dict[str, float]) -> None:
    # Black and white pictures whose label is their grey value: the mixed grey must be the mixed label.
    values = np.array([[0, 1], [1, 0], [0, 0], [1, 1]] * 4, np.float32)
    planes = np.broadcast_to(values[:, 0, None, None, None], (16, 16, 16, 1)).astype(np.float32)
    mask = np.ones_like(values)
    mask[::4, 1] = 0
    mixed, targets, known = augmented(NO_AUGMENTATION.model_copy(update=plan), planes, values, mask, seed=3)
    np.testing.assert_allclose(mixed.mean(axis=(1, 2, 3)), targets[:, 0], atol=1e-5)
    assert known[::4, 1].max() == 0
    assert targets[::4, 1].max() == 0
    assert set(np.unique(known)) == {0.0, 1.0}


def test_the_whole_state_of_augmentation_is_in_its_variables() -> None:
    from models.training.augmentation import Augmentation  # noqa: PLC0415

    ones = np.ones((8, 1), np.float32)
    one, other = (Augmentation(Augment(mixup=0.5, erase=0.5), seed) for seed in (1, 2))
    one(PLANES[:8], ones, ones)
    for target, source in zip(other.variables, one.variables, strict=True):
        target.assign(source)
    expected, found = one(PLANES[:8], ones, ones), other(PLANES[:8], ones, ones)
    np.testing.assert_array_equal(found[0].numpy(), expected[0].numpy())
