"""The head in closed form: at the penalised optimum no gradient is left, label by label, unknown targets left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.errors import DatasetError
from models.training.plan import Plan
from tests.support.plans import changed

pytestmark = pytest.mark.tensorflow

PENALTY, IMAGES = 5.0, 24


def plan_with(change: dict[str, Any]) -> Plan:
    first = changed({})["bundle"]["labels"][0]
    labels = [first, {"key": "mass", "display": "Mass", "code": {"value": "1", "scheme": "99TEST", "meaning": "Test"}}]
    training = {"refit_penalty": PENALTY, "sampling": "shuffle"}
    return Plan.model_validate(changed({"training": training, "bundle": {"labels": labels}, **change}))


def examples(mask: Any) -> Any:
    from models.training.feed import Examples  # noqa: PLC0415

    random = np.random.default_rng(2)
    values = (random.random((IMAGES, 2)) < 0.5).astype(np.float32)
    planes = random.random((IMAGES, 32, 32, 1), dtype=np.float32) * 0.5 + values[:, :1, np.newaxis, np.newaxis] * 0.3
    who = np.arange(IMAGES).astype(str)
    return Examples(lambda chosen: planes[chosen], values, mask, who, np.full(IMAGES, "one"))


@pytest.mark.parametrize("flip", [False, True])
def test_no_gradient_is_left(flip: bool) -> None:
    from models.datasets.images import split_steps  # noqa: PLC0415
    from models.training.network import Trained, build  # noqa: PLC0415
    from models.training.refit import refit  # noqa: PLC0415

    plan = plan_with({"augment": {"horizontal_flip": flip}})
    mask = np.ones((IMAGES, 2), np.float32)
    mask[:7, 1] = 0
    held = examples(mask)
    network = Trained(build(plan, Path()), split_steps(plan.steps)[1], 0)
    refit(network, held, plan)

    views = [held.read, lambda chosen: held.read(chosen)[:, :, ::-1]] if flip else [held.read]
    features = np.concatenate([network.predict(view, IMAGES)[1] for view in views])
    logits = np.concatenate([network.predict(view, IMAGES)[0] for view in views])
    kernel, _ = network.model.get_layer("logits").get_weights()
    for label in range(2):
        known = np.tile(mask[:, label] > 0, len(views))
        truth = np.tile(held.values[:, label], len(views))[known]
        deviation = features[known].std(axis=0) + 1e-6
        design = (features[known] - features[known].mean(axis=0)) / deviation
        missed = 1 / (1 + np.exp(-logits[known, label])) - truth
        assert abs(missed.sum()) < 1e-2
        left = design.T @ missed + PENALTY * kernel[:, label] * deviation
        assert np.abs(left).max() < 1e-2


@pytest.mark.parametrize("change", [{"input": {"side": 32, "slices": 3}}, {}])
def test_series_and_classes_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    from models.datasets.images import split_steps  # noqa: PLC0415
    from models.training.network import Trained, build  # noqa: PLC0415
    from models.training.step import strategy_for  # noqa: PLC0415
    from models.training.trainer import Trainer, Watch  # noqa: PLC0415

    plan = plan_with(change)
    network = Trained(build(plan, Path()), split_steps(plan.steps)[1], plan.input.slices)
    held = examples(np.ones((IMAGES, 2), np.float32))
    with pytest.raises(DatasetError, match="refit_penalty is for labels of single images"):
        Trainer(
            plan, network, held, held, exclusive=not plan.input.slices, folder=tmp_path, identity="",
            strategy=strategy_for(plan.training), watch=Watch(),
        )  # fmt: skip
