"""The way from a study to the hospital's own viewer."""

from __future__ import annotations

from urllib.parse import quote

from db.worklist import StudyRow

_OF_THE_PATIENT = ("{accession_number}", "{patient_id}")


def address(template: str, row: StudyRow, *, show_patient: bool) -> str:
    """`web.viewer_url` with the study's values, percent-encoded; "" where there is none, or the person may not see what
    it needs.
    """
    if not template or (not show_patient and any(name in template for name in _OF_THE_PATIENT)):
        return ""
    return template.format(
        study_instance_uid=quote(row.study_instance_uid, safe=""),
        accession_number=quote(row.patient.accession_number, safe=""),
        patient_id=quote(row.patient.patient_id, safe=""),
    )
