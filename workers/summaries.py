"""What the record and scripts keep of an outcome; nothing of the patient."""

from __future__ import annotations

from typing import Any

from models.contracts import ModelIdentity
from workers.results import SourceResult


def summary_of(source: SourceResult) -> dict[str, Any]:
    """The outcome of one image, or of one series, for the record and for scripts; nothing of the patient."""
    reading = source.reading
    named = {"sop_instance_uid": str(source.header.get("SOPInstanceUID", "")), **_series_summary(source)}
    if reading is None:
        return {**named, "analysed": False, "reason": source.reason}
    findings = [
        {
            "label": finding.key,
            "code": [finding.code.value, finding.code.scheme, finding.code.meaning],
            "presence": finding.presence.value,
            "probability": round(finding.probability, 4),
            "threshold": finding.threshold,
            "priority": finding.priority.value,
        }
        for finding in reading.findings
    ]
    return {**named, "analysed": True, "findings": findings, "notes": list(reading.notes), **_prior_summary(source)}


def model_summary(model: ModelIdentity) -> dict[str, str]:
    """What tells the model from any other, beside its version and the bundle's digest, which the job holds."""
    return {"name": model.name, "manufacturer": model.manufacturer, "weights_sha256": model.weights_digest}


def _prior_summary(source: SourceResult) -> dict[str, Any]:
    """What an image was compared with, or why with nothing; empty for models that do not compare."""
    if source.prior is not None:
        uids = {"study_instance_uid": "StudyInstanceUID", "sop_instance_uid": "SOPInstanceUID"}
        return {"prior": {key: str(source.prior.get(keyword, "")) for key, keyword in uids.items()}}
    return {"prior": {"reason": source.without_prior}} if source.without_prior else {}


def _series_summary(source: SourceResult) -> dict[str, Any]:
    """Which slices were read, and the one that ``sop_instance_uid`` names; empty for single images."""
    series = source.series
    if series is None:
        return {}
    slices = [
        {
            "slice": one.number,
            "sop_instance_uid": str(one.header.get("SOPInstanceUID", "")),
            "frame": one.frame,
            "weight": round(one.weight, 4),
        }
        for one in series.slices
    ]
    uid = str(source.header.get("SeriesInstanceUID", ""))
    return {"series_instance_uid": uid, "series_slices": series.count, "key_slice": series.key, "slices": slices}
