"""The whole evaluation of a bundle as one JSON document: what `radnode evaluate --json` prints.

>>> found = evaluate(bundle, load_runner(bundle), read("labels-csv", {"file": path}), Images(folder))
>>> found.document["sources"]["nih_cxr14"]["auroc"]
{'value': 0.913, 'low': 0.874, 'high': 0.946}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from models.datasets.pixels import Images
from models.datasets.samples import SampleSet
from models.evaluation.compare import compare
from models.evaluation.curves import curves_by_source
from models.evaluation.explanations import deletion_and_insertion, localisation
from models.evaluation.figures import Rules, figures_by_source, sizes
from models.evaluation.judging import Judged, LeftOut, judge
from models.evaluation.randomisation import weight_randomisation
from models.evaluation.sources import source_test
from models.evaluation.truth import NEGATIVE_NAMES, truth_of
from models.manifest import Manifest
from models.registry import Bundle
from models.runner import Runner

SCHEMA = "radnode.evaluation/1"


@dataclass(frozen=True)
class Request:
    """What is asked for.

    negative, rename, labels: as :func:`models.evaluation.truth.truth_of` takes them. explain: how many images to test
    the maps on by deletion, insertion and weight randomisation; 0 leaves these out. boxes_side: see `localisation`.
    """

    rules: Rules = field(default_factory=Rules)
    negative: tuple[str, ...] = NEGATIVE_NAMES
    rename: Mapping[str, str] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    explain: int = 0
    boxes_side: float | None = None


@dataclass(frozen=True)
class Evaluation:
    """document: JSON values only. judged: what it was computed from, for pictures and further questions."""

    document: dict[str, Any]
    judged: Judged


def evaluate(
    bundle: Bundle,
    runner: Runner,
    found: SampleSet,
    images: Images,
    request: Request | None = None,
    *,
    against: tuple[Bundle, Runner] | None = None,
    each: Callable[[], object] = lambda: None,
) -> Evaluation:
    """Judge every sample through the serving path and count. against: another bundle, judged on the same samples.

    Operating points are the bundle's own; nothing is chosen on these data. each: called after every image.
    Raises DatasetError when no image can be judged, or what the runtimes raise.
    """
    request = request or Request()
    judged, left_out, skipped = _judge((bundle, runner), found, images, request, each)
    unreadable, refused = (_listed(left_out, kind) for kind in ("unreadable", "unlike the training images"))
    document: dict[str, Any] = {
        "schema": SCHEMA,
        **_identity(bundle),
        "data": found.name,
        "labels": list(judged.labels),
        "exclusive": judged.exclusive,
        **sizes(judged),
        "skipped": skipped,
        "unreadable": unreadable,
        "refused_by_gate": refused,
        "left_out": {
            "rows": sum(problem.count for problem in found.problems if problem.left_out),
            "unreadable": len(unreadable),
            "refused_by_gate": len(refused),
        },
        "problems": [{"where": p.where, "what": p.what, "count": p.count} for p in found.problems],
        "resamples": request.rules.resamples,
        "interval": "95 % percentile, bootstrap over patients",
        "operating_points": _points(bundle.manifest),
        "thresholds_chosen_here": False,
        **figures_by_source(judged, request.rules),
        "source_test": source_test(judged, request.rules.seed),
        "curves": curves_by_source(judged),
    }
    if against is not None:
        other, _, _ = _judge(against, found, images, _for_other(request, against[0]), each)
        document["comparison"] = {"against": _identity(against[0]), **compare(judged, other, request.rules)}
    document["explanations"] = _explanations(bundle, runner, judged, images, request)
    return Evaluation(document, judged)


def _judge(
    model: tuple[Bundle, Runner], found: SampleSet, images: Images, request: Request, each: Callable[[], object]
) -> tuple[Judged, tuple[LeftOut, ...], dict[str, int]]:
    bundle, runner = model
    truth = truth_of(bundle.manifest, found, negative=request.negative, rename=request.rename, wanted=request.labels)
    judged, left_out = judge(bundle, runner, truth, images, each=each)
    return judged, left_out, dict(truth.skipped)


def _for_other(request: Request, bundle: Bundle) -> Request:
    """What is asked of another bundle, which may have fewer of the labels."""
    keys = {label.key for label in bundle.manifest.labels}
    rename = {name: key for name, key in request.rename.items() if key in keys}
    return replace(request, rename=rename, labels=tuple(label for label in request.labels if label in keys))


def _identity(bundle: Bundle) -> dict[str, Any]:
    identity = bundle.identity
    return {
        "model": identity.id,
        "name": identity.name,
        "version": identity.version,
        "bundle_digest": identity.bundle_digest,
        "weights_digest": identity.weights_digest,
    }


def _listed(left_out: tuple[LeftOut, ...], kind: str) -> list[dict[str, str]]:
    return [{"file": one.file, "reason": one.reason} for one in left_out if one.kind == kind]


def _points(manifest: Manifest) -> list[dict[str, Any]]:
    return [point.model_dump(mode="json") for point in manifest.operating_points]


def _explanations(bundle: Bundle, runner: Runner, judged: Judged, images: Images, request: Request) -> dict[str, Any]:
    rules, found = request.rules, {}
    # Maps are bootstrapped over few images; the seed alone is shared with the figures.
    found["localisation"] = localisation(
        bundle, runner, judged.samples, images, replace(rules), boxes_side=request.boxes_side
    )
    if request.explain:
        found["deletion_and_insertion"] = deletion_and_insertion(
            bundle, runner, judged, images, rules, most=request.explain
        )
        found["weight_randomisation"] = weight_randomisation(
            bundle, runner, judged, images, most=request.explain, seed=rules.seed
        )
    return {name: part for name, part in found.items() if part}
