"""What a finished job says, as its summary in the record holds it: the one reading of it for HL7 and FHIR. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

# (value, meaning, scheme) by presence (DICOM CID 240).
PRESENCE = {
    "present": ("52101004", "Present", "SCT"),
    "absent": ("272519000", "Absent", "SCT"),
    "undetermined": ("373068000", "Undetermined", "SCT"),
}
PROBABILITY = ("122157", "Probability", "DCM")
# Codes that no terminologist looks after.
OWN_SCHEME = "99RADNODE"


@dataclass(frozen=True)
class Finding:
    """code: (value, scheme, meaning). presence: present, absent or undetermined. probability, threshold in [0, 1].

    label: the model's own name of it.
    """

    code: tuple[str, str, str]
    presence: str
    probability: float
    threshold: float
    priority: str
    label: str = ""


@dataclass(frozen=True)
class Image:
    """One image, or one series, that the model was to read. reason: why it did not; "" where it did."""

    sop_instance_uid: str
    series_instance_uid: str
    findings: tuple[Finding, ...]
    reason: str


def images_of(summary: dict[str, Any]) -> tuple[Image, ...]:
    """What the job says of each image, or of each series."""
    return tuple(_image(one) for one in summary.get("images", []))


def most_urgent(images: Iterable[Image]) -> str:
    """stat, urgent or routine: of the most urgent finding that is present."""
    present = {f.priority for image in images for f in image.findings if f.presence == "present"}
    return next((one for one in ("stat", "urgent") if one in present), "routine")


def _image(told: dict[str, object]) -> Image:
    findings = told.get("findings")
    return Image(
        sop_instance_uid=str(told.get("sop_instance_uid", "")),
        series_instance_uid=str(told.get("series_instance_uid", "")),
        findings=tuple(_finding(one) for one in findings) if isinstance(findings, list) else (),
        reason="" if told.get("analysed") else str(told.get("reason") or "no reason given"),
    )


def _finding(told: dict[str, object]) -> Finding:
    label = str(told["label"])
    # A job that ended under an earlier release left no code.
    code = told.get("code")
    value, scheme, meaning = map(str, code) if isinstance(code, list) else (label, OWN_SCHEME, label)
    return Finding(
        code=(value, scheme, meaning),
        presence=str(told["presence"]),
        probability=float(str(told["probability"])),
        threshold=float(str(told["threshold"])),
        priority=str(told["priority"]),
        label=label,
    )
