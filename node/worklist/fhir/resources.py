"""Results as FHIR R4 resources. Pure.

Everything a model says is preliminary; once a later report has taken its place it is ``entered-in-error``, so that
nobody counts on it, and the later one names it (extension ``diagnosticReport-replaces``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from db.fhir_view import FINISHED, ModelMatter, StudyMatter, Work
from db.states import JobState
from node.identity import DISCLAIMER, MANUFACTURER
from node.settings_fhir import Fhir
from node.worklist.fhir import ids
from node.worklist.fhir.values import (
    Json,
    concept,
    day,
    exact,
    hl7_concept,
    instant,
    person,
    text,
    typed_identifier,
    uid_identifier,
    without_empty,
)
from node.worklist.findings import PRESENCE, PROBABILITY, Finding, Image, images_of

PRELIMINARY, REPLACED = "preliminary", "entered-in-error"
TASK_STATES = {
    JobState.QUEUED: "requested",
    JobState.RUNNING: "in-progress",
    JobState.DONE: "completed",
    JobState.NOT_ANALYSED: "rejected",
    JobState.PARKED: "failed",
    JobState.SUPERSEDED: "cancelled",
}
_REPLACES = "http://hl7.org/fhir/StructureDefinition/diagnosticReport-replaces"
_IMAGING_REPORT = ("18748-4", "Diagnostic imaging study", "LN")
_SOURCE = ("121112", "Source of Measurement", "DCM")
_THRESHOLD = "Threshold of the operating point"
_UCUM = "http://unitsofmeasure.org"
_MOST_TEXT = 4000
_PRIORITIES = frozenset({"stat", "urgent", "routine"})


@dataclass(frozen=True)
class Writer:
    """Writes resources as one receiver gets them.

    imaging_study: an ImagingStudy is kept beside them; else it is referred to by its UID alone.
    """

    fhir: Fhir
    imaging_study: bool = True

    def report(self, work: Work) -> Json:
        """DiagnosticReport of finished work that has a structured report."""
        images = images_of(work.summary)
        report = ids.report_id(work.report_uid)
        return without_empty(
            {
                "resourceType": "DiagnosticReport",
                "id": report,
                "meta": {"lastUpdated": instant(work.changed_at)},
                "extension": _replaces(work),
                "identifier": [uid_identifier(work.report_uid)],
                "basedOn": self._based_on(work.study),
                "status": status_of(work),
                "category": [hl7_concept("v2-0074", "RAD")],
                "code": concept(_IMAGING_REPORT, f"AI reading by {work.model}, not verified"),
                "subject": self.subject(work.study),
                "effectiveDateTime": day(work.study.study_date),
                "issued": instant(work.finished_at or work.created_at),
                "result": [
                    {"reference": f"Observation/{one}", "type": "Observation"}
                    for one in (ids.observation_id(report, uid, f.label) for uid, _, f in _found(images))
                ],
                "imagingStudy": [self._study(work.study)],
                "conclusion": _conclusion(work, images),
            }
        )

    def observations(self, work: Work) -> list[Json]:
        """One Observation for each label in each image, or series, that was read."""
        report = ids.report_id(work.report_uid)
        return [
            self._observation(work, report, uid, image, finding)
            for uid, image, finding in _found(images_of(work.summary))
        ]

    def _observation(self, work: Work, report: str, uid: str, image: Image, finding: Finding) -> Json:
        value, scheme, meaning = finding.code
        present = finding.presence == "present"
        grave = "AA" if finding.priority == "stat" else "A"
        return without_empty(
            {
                "resourceType": "Observation",
                "id": ids.observation_id(report, uid, finding.label),
                "meta": {"lastUpdated": instant(work.changed_at)},
                "basedOn": self._based_on(work.study),
                "status": status_of(work),
                "category": [hl7_concept("observation-category", "imaging")],
                "code": concept((value, meaning, scheme)),
                "subject": self.subject(work.study),
                "effectiveDateTime": day(work.study.study_date),
                "issued": instant(work.finished_at or work.created_at),
                "valueCodeableConcept": concept(PRESENCE[finding.presence]),
                "interpretation": [hl7_concept("v3-ObservationInterpretation", grave)] if present else [],
                "note": [{"text": DISCLAIMER}],
                "device": _device(work),
                "derivedFrom": [self._study(work.study)],
                "component": [
                    {"code": concept(PROBABILITY), "valueQuantity": _ratio(finding.probability)},
                    {"code": {"text": _THRESHOLD}, "valueQuantity": _ratio(finding.threshold)},
                    {
                        "code": concept(_SOURCE, "Series" if image.series_instance_uid else "Image"),
                        "valueString": f"urn:oid:{uid}",
                    },
                ],
            }
        )

    def task(self, work: Work) -> Json:
        """Task: how far the work is."""
        ended = instant(work.finished_at) if work.finished_at else ""
        begun = instant(work.started_at) if work.started_at else ""
        report = {"reference": f"DiagnosticReport/{ids.report_id(work.report_uid)}", "type": "DiagnosticReport"}
        done = work.state in FINISHED and work.report_uid
        return without_empty(
            {
                "resourceType": "Task",
                "id": work.job_id,
                "meta": {"lastUpdated": instant(work.changed_at)},
                "basedOn": self._based_on(work.study),
                "status": TASK_STATES[work.state],
                "statusReason": without_empty({"text": text(work.reason, _MOST_TEXT)}),
                "intent": "order",
                "priority": work.priority if work.priority in _PRIORITIES else "routine",
                "code": {"text": text(f"AI reading by {work.model}")},
                "focus": self._study(work.study),
                "for": self.subject(work.study),
                "executionPeriod": without_empty({"start": begun, "end": ended if not begun or begun <= ended else ""}),
                "authoredOn": instant(work.created_at),
                "lastModified": instant(work.changed_at),
                "owner": _device(work),
                "output": [{"type": {"text": "Preliminary report"}, "valueReference": report}] if done else [],
            }
        )

    def imaging_study_of(self, study: StudyMatter) -> Json:
        """ImagingStudy: what of it is here, which may be less than the archive holds."""
        accession = exact(study.accession_number)
        number = [typed_identifier("ACSN", accession, self.fhir.accession_system)] if accession else []
        modalities = dict.fromkeys(_modality(one.modality) for one in study.series)
        endpoint = {
            "resourceType": "Endpoint",
            "id": "wado",
            "status": "active",
            "connectionType": hl7_concept("endpoint-connection-type", "dicom-wado-rs")["coding"][0],
            "payloadType": [{"text": "DICOM"}],
            "address": self.fhir.wado_url,
        }
        return without_empty(
            {
                "resourceType": "ImagingStudy",
                "id": study.study_instance_uid,
                "meta": {"lastUpdated": instant(study.last_received_at)},
                "contained": [endpoint] if self.fhir.wado_url else [],
                "identifier": [uid_identifier(study.study_instance_uid), *number],
                "status": "available",
                "modality": [_dicom(one) for one in modalities],
                "subject": self.subject(study),
                "started": day(study.study_date),
                "basedOn": self._based_on(study),
                "endpoint": [{"reference": "#wado", "type": "Endpoint"}] if self.fhir.wado_url else [],
                # Once the images are deleted here nothing is known of how many there are elsewhere.
                "numberOfSeries": len(study.series) or None,
                "numberOfInstances": sum(one.images for one in study.series) or None,
                "description": text(study.description),
                "series": [
                    {
                        "uid": one.series_instance_uid,
                        "modality": _dicom(_modality(one.modality)),
                        "numberOfInstances": one.images,
                    }
                    for one in study.series
                ],
            }
        )

    def subject(self, study: StudyMatter) -> Json:
        """The patient, by identifier: this node keeps no Patient. Without a usable one by name alone."""
        number = exact(study.patient_id)
        identifier = typed_identifier("MR", number, self.fhir.patient_id_system) if number else {}
        if identifier and study.issuer and text(study.issuer):
            identifier["assigner"] = {"display": text(study.issuer)}
        named = person(study.patient_name)
        return without_empty(
            {"type": "Patient", "identifier": identifier, "display": named or ("" if number else "unknown patient")}
        )

    def _study(self, study: StudyMatter) -> Json:
        uid = study.study_instance_uid
        kept = {"reference": f"ImagingStudy/{uid}"} if self.imaging_study else {}
        return {**kept, "type": "ImagingStudy", "identifier": uid_identifier(uid)}

    def _based_on(self, study: StudyMatter) -> list[Json]:
        number = exact(study.ordered)
        if not number:
            return []
        identifier = typed_identifier("ACSN", number, self.fhir.accession_system)
        return [{"type": "ServiceRequest", "identifier": identifier}]


def device(model: ModelMatter) -> Json:
    """Device: one version of a model, the same on every node that has it."""
    name, weights = text(str(model.told.get("name", ""))), text(str(model.told.get("weights_sha256", "")))
    digest = {"type": {"text": "SHA-256 of the weights"}, "valueCode": [{"text": weights}]}
    return without_empty(
        {
            "resourceType": "Device",
            "id": model.digest,
            "identifier": [{"system": "urn:radnode:bundle-sha256", "value": model.digest}],
            "status": "active",
            "manufacturer": text(str(model.told.get("manufacturer", ""))) or MANUFACTURER,
            "deviceName": [{"name": name or text(model.model) or "unknown", "type": "model-name"}],
            "modelNumber": text(model.model),
            "type": {"text": "AI model (software)"},
            "version": [{"value": text(model.version) or "unknown"}],
            "property": [digest] if weights else [],
            "note": [{"text": DISCLAIMER}],
        }
    )


def status_of(work: Work) -> str:
    """Of the report and its observations."""
    return REPLACED if work.replaced_at else PRELIMINARY


def _found(images: tuple[Image, ...]) -> Iterator[tuple[str, Image, Finding]]:
    """(UID of what was read, it itself, finding)."""
    for image in images:
        for finding in image.findings:
            yield image.series_instance_uid or image.sop_instance_uid, image, finding


def _replaces(work: Work) -> list[Json]:
    if not work.replaces:
        return []
    earlier = {"reference": f"DiagnosticReport/{ids.report_id(work.replaces)}", "type": "DiagnosticReport"}
    return [{"url": _REPLACES, "valueReference": earlier}]


def _conclusion(work: Work, images: tuple[Image, ...]) -> str:
    parts = ["A later reading has taken the place of this one."] if work.replaced_at else []
    for presence in ("present", "undetermined", "absent"):
        said = [f for image in images for f in image.findings if f.presence == presence]
        if said:
            listed = "; ".join(
                f"{text(f.code[2], 100)} (probability {f.probability:.2f}, threshold {f.threshold:.2f})"
                for f in said[:20]
            )
            more = f"; and {len(said) - 20} more" if len(said) > 20 else ""
            parts.append(f"{presence.capitalize()}: {listed}{more}.")
    refused = list(dict.fromkeys(text(image.reason, 200) for image in images if image.reason))
    if refused:
        parts.append(f"Not analysed: {'; '.join(refused[:5])}.")
    return f"{' '.join(parts)[:_MOST_TEXT]} {DISCLAIMER}".strip()


def _device(work: Work) -> Json:
    return {"reference": f"Device/{work.model_digest}", "type": "Device"} if work.model_digest else {}


def _ratio(value: float) -> Json:
    return {"value": round(value, 6), "unit": "1", "system": _UCUM, "code": "1"}


def _modality(value: str) -> str:
    """A peer's word, where it may pass for a code (VR CS)."""
    known = value.strip()
    return known if known.isascii() and known.replace("_", "").isalnum() and len(known) <= 16 else "OT"


def _dicom(code: str) -> Json:
    return {"system": "http://dicom.nema.org/resources/ontology/DCM", "code": code}
