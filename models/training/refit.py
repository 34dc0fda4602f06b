"""The head of a network in closed form, for its body as it is.

A head that grew along with the body by gradient steps fits some hundred images worse than the penalised optimum: it is
far from converged for the weakest features, and close to the last batches in the strongest.
"""

from __future__ import annotations

import numpy as np

from models.contracts import FloatArray
from models.evaluation.metrics import Numbers
from models.training.batches import draw_probabilities
from models.training.feed import Examples, patterns
from models.training.head import fit_head
from models.training.network import Trained
from models.training.plan import Plan

LOGITS = "logits"


def refit(network: Trained, examples: Examples, plan: Plan) -> None:
    """Fit each label's row of the linear layer to its known images, weighed as often as training draws them.

    Where training mirrors images at random, both sides of each count. Raises DatasetError for a label with images of
    one kind only.
    """
    features, values, mask, weights = _design(network, examples, plan)
    kernels, biases = [], []
    for column in range(values.shape[1]):
        known = mask[:, column] > 0
        truth = (values[known, column] > 0.5).astype(np.float64)
        weighed = weights[known] / weights[known].mean()
        kernel, bias = fit_head(features[known], truth, weighed, plan.training.refit_penalty)
        kernels.append(kernel[:, 0])
        biases.append(bias[0])
    network.model.get_layer(LOGITS).set_weights([np.stack(kernels, axis=1), np.array(biases, dtype=np.float32)])


def _design(network: Trained, examples: Examples, plan: Plan) -> tuple[FloatArray, FloatArray, FloatArray, Numbers]:
    """Pooled features (n, channels), values and mask (n, labels), and weights (n,) with mean 1."""
    weights = np.ones(len(examples))
    if plan.training.sampling == "sources":
        cells = patterns(examples.values, examples.mask)
        weights = draw_probabilities(examples.sources, cells, plan.training.source_power) * len(examples)
    features = [network.predict(examples.read, len(examples))[1]]
    if plan.augment.horizontal_flip:
        features.append(network.predict(lambda chosen: examples.read(chosen)[:, :, ::-1], len(examples))[1])
    sides = len(features)
    return (
        np.concatenate(features),
        np.tile(examples.values, (sides, 1)),
        np.tile(examples.mask, (sides, 1)),
        np.tile(weights, sides),
    )
