"""What the demo leaves behind: the objects as the PACS holds them, readable copies of them, and `result.json`."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image
from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from models.contracts import ModelIdentity
from workers.demo.pacs import DemoError, Pacs
from workers.demo.watch import Row, View
from workers.results import readable_html

NOTICE = "Research use. Not a medical device; every result is preliminary and unverified."
_OWN_FILE = re.compile(r"result\.json|(sr|sc)(-\d+){0,2}\.(dcm|html|png)")
_READABLE = {"sr": "html", "sc": "png"}


@dataclass(frozen=True)
class Sent:
    """One image as it was sent."""

    name: str
    path: Path
    sop_instance_uid: str
    study_instance_uid: str
    published_as: str


@dataclass(frozen=True)
class Fetched:
    """A result object as the PACS gave it back, and the files it was written to."""

    kind: str
    delivery: Row
    dicom: Path
    readable: Path


@dataclass
class Outcome:
    """Everything about one image. number: from 1, as in the file names."""

    number: int
    sent: Sent
    job: Row
    said: Row
    received: Row
    objects: list[Fetched] = field(default_factory=list)

    @property
    def positive(self) -> bool:
        return any(finding["presence"] == "present" for finding in self.said.get("findings", []))


def make_room(out: Path) -> None:
    """Make the folder, and remove what an earlier run of the demo left in it, and nothing else. Raises DemoError."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        for path in out.iterdir():
            if _OWN_FILE.fullmatch(path.name):
                path.unlink()
    except OSError as error:
        raise DemoError(f"{out} cannot be written ({error.strerror}); name another folder with --out") from error


def collect(view: View, images: Sequence[Sent], pacs: Pacs, out: Path) -> list[Outcome]:
    """Fetch every confirmed result out of the PACS and write it to `out`.

    Raises DemoError where an object is not there, is unreadable or lies in another study than its image.
    """
    outcomes = []
    for number, image in enumerate(images, 1):
        job = view.job_of(image.sop_instance_uid)
        received = next((row for row in view.instances if row["sop_instance_uid"] == image.sop_instance_uid), None)
        if job is None or received is None:
            raise DemoError(f"the record says nothing of {image.name}")
        outcome = Outcome(number, image, job, view.outcome_of(image.sop_instance_uid), received)
        taken: dict[str, int] = {}
        for row in view.deliveries_of(job):
            kind = str(row["kind"]).lower()
            taken[kind] = taken.get(kind, 0) + 1
            name = f"{kind}-{number}" + (f"-{taken[kind]}" if taken[kind] > 1 else "")
            outcome.objects.append(_fetch(row, kind, image, pacs, out / name))
        outcomes.append(outcome)
    return outcomes


def copy_first_positive(outcomes: Sequence[Outcome], out: Path) -> Outcome | None:
    """`sr.dcm`, `sr.html`, `sc.dcm`, `sc.png`: names that stay the same, for the first image with a finding."""
    first = next((outcome for outcome in outcomes if outcome.positive), None)
    if first is not None:
        for kind in dict.fromkeys(one.kind for one in first.objects):
            fetched = next(one for one in first.objects if one.kind == kind)
            for path in (fetched.dicom, fetched.readable):
                (out / f"{kind}{path.suffix}").write_bytes(path.read_bytes())
    return first


def write_report(
    outcomes: Sequence[Outcome], model: ModelIdentity, pacs: Pacs, seconds: dict[str, float], out: Path
) -> Path:
    """`result.json`: per image what was sent, said, created and confirmed, and how long each step took."""
    document = {
        "notice": NOTICE,
        "model": {"id": model.id, "version": model.version, "digest": model.bundle_digest},
        "pacs": {"product": pacs.told_as, "ae_title": pacs.address.ae_title},
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "images": [_image(outcome) for outcome in outcomes],
    }
    path = out / "result.json"
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return path


def _fetch(row: Row, kind: str, image: Sent, pacs: Pacs, target: Path) -> Fetched:
    data = pacs.fetch(row["sop_instance_uid"])
    try:
        found: Any = dcmread(BytesIO(data))
        study, instance = str(found.StudyInstanceUID), str(found.SOPInstanceUID)
    except (InvalidDicomError, AttributeError) as error:
        raise DemoError(f"the PACS gave back something that is no DICOM object ({type(error).__name__})") from error
    if instance != row["sop_instance_uid"] or study != image.study_instance_uid:
        raise DemoError(f"the PACS gave back an object of another study than that of {image.name}")
    dicom = target.with_suffix(".dcm")
    dicom.write_bytes(data)
    readable = target.with_suffix(f".{_READABLE.get(kind, 'txt')}")
    if kind == "sr":
        readable.write_text(readable_html(data), encoding="utf-8")
    elif kind == "sc":
        Image.fromarray(found.pixel_array).save(readable)
    else:
        readable.write_text(f"{found.SOPClassUID.name}\n", encoding="utf-8")
    return Fetched(kind, row, dicom, readable)


def _image(outcome: Outcome) -> dict[str, Any]:
    job = outcome.job
    return {
        "file": outcome.sent.path.name,
        "published_as": outcome.sent.published_as,
        "sop_instance_uid": outcome.sent.sop_instance_uid,
        "study_instance_uid": outcome.sent.study_instance_uid,
        "state": outcome.received["state"],
        "reason": outcome.received["reason"],
        "findings": outcome.said.get("findings", []),
        "job": {"id": job["id"], "state": job["state"], "model_version": job["model_version"]},
        "seconds": stage_seconds(outcome),
        "objects": [
            {
                "kind": one.kind,
                "sop_instance_uid": one.delivery["sop_instance_uid"],
                "study_instance_uid": one.delivery["study_instance_uid"],
                "file": one.dicom.name,
                "readable": one.readable.name,
                "delivery": one.delivery["state"],
                "attempts": one.delivery["attempts"],
                "proof": one.delivery["reason"],
            }
            for one in outcome.objects
        ],
    }


def stage_seconds(outcome: Outcome) -> dict[str, float | None]:
    """Durations of the stages, from the record's own times."""
    received, job = outcome.received["received_at"], outcome.job
    sent = [one.delivery["sent_at"] for one in outcome.objects]
    confirmed = [one.delivery["confirmed_at"] for one in outcome.objects]
    last_sent = max(sent) if sent and all(sent) else None
    last_confirmed = max(confirmed) if confirmed and all(confirmed) else None
    return {
        "received_to_job": _between(received, job["created_at"]),
        "job_waiting": _between(job["created_at"], job["started_at"]),
        "reading_and_building": _between(job["started_at"], job["finished_at"]),
        "finished_to_sent": _between(job["finished_at"], last_sent),
        "sent_to_confirmed": _between(last_sent, last_confirmed),
        "received_to_confirmed": _between(received, last_confirmed),
    }


def _between(start: str | None, end: str | None) -> float | None:
    if not start or not end:
        return None
    return round((datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds(), 3)
