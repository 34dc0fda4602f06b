"""An archive of any size, written by the database itself."""

from __future__ import annotations

from sqlalchemy import text

from db import audit_chain
from db.session import Record

# Of images, in one transaction.
_MOST_AT_ONCE = 200_000
# The databases count and reckon with time in ways of their own; everything else is the same.
_AT = {
    "sqlite": "strftime('%Y-%m-%d %H:%M:%f000', '2026-03-01 12:00:00', '-' || (STUDIES - i) || ' seconds')",
    "postgresql": "timestamptz '2026-03-01 12:00:00+00' - (STUDIES - i) * interval '1 second'",
}
_JOB_ID = {"sqlite": "printf('%036d', i)", "postgresql": "lpad(i::text, 36, '0')"}
_FOUND = (
    '{"images": [{"sop_instance_uid": "1.2.3", "analysed": true, "findings": [{"label": "pneumonia", '
    '"presence": "PRESENCE", "probability": 0.5, "threshold": 0.5, "priority": "routine"}]}]}'
)


def fill(record: Record, studies: int, images: int = 1) -> None:
    """Write so many studies with so many images each into an empty record, all read and sent, the last one at `NOON`.

    Row ids and UIDs are numbers from one on. Ends with the statistics that the database makes by itself before long.
    """
    at, job = _AT[record.dialect].replace("STUDIES", str(studies)), _JOB_ID[record.dialect]
    json = "" if record.dialect == "sqlite" else "::json"
    false = "0" if record.dialect == "sqlite" else "false"
    present = _FOUND.replace("PRESENCE", "present")
    absent = _FOUND.replace("PRESENCE", "absent")
    rows = {
        "studies (id, study_instance_uid, state, version, first_received_at, last_received_at, check_at, "
        "completeness_reason, calling_ae, patient_id, patient_name, accession_number, study_description)": (
            f"i, '1.2.840.99.' || i, 'COMPLETE', 1, {at}, {at}, {at}, '', 'AE', 'P' || i, 'Doe^' || i, 'A' || i, ''"
        ),
        "series (id, study_id, series_instance_uid, modality, series_description)": "i, i, '1.2.' || i, 'DX', ''",
        "revisions (id, study_id, route, scope, subject, number, reason, decided_at)": (
            f"i, i, 'chest', 'STUDY', '', 1, '', {at}"
        ),
        "jobs (id, revision_id, study_id, model, model_version, model_digest, destinations, priority, state, reason, "
        "attempts, announcements, announced_at, available_at, lease_owner, created_at, finished_at, summary)": (
            f"{job}, i, i, 'cxr', '1', '', '[]'{json}, CASE WHEN i % 1000 = 0 THEN 'stat' ELSE 'routine' END, "
            f"CASE WHEN i % 5000 = 7 THEN 'PARKED' ELSE 'DONE' END, '', 1, 1, {at}, {at}, '', {at}, {at}, "
            f"CASE WHEN i % 10 = 0 THEN '{present}'{json} ELSE '{absent}'{json} END"
        ),
        "results (id, job_id, kind, sop_class_uid, sop_instance_uid, series_instance_uid, study_instance_uid, "
        "transfer_syntax_uid, path, size_bytes, sha256, created_at)": (
            f"i, {job}, 'SR', '1', '1.9.' || i, '1', '1', '1', 'p', 1, 's', {at}"
        ),
        "deliveries (id, result_id, job_id, destination, state, reason, attempts, next_attempt_at, lease_owner, "
        "created_at, sent_sop_class_uid, sent_sop_instance_uid)": (
            f"i, i, {job}, 'pacs', CASE WHEN i % 5000 = 9 THEN 'DEAD' ELSE 'CONFIRMED' END, '', 1, {at}, '', {at}, "
            "'', ''"
        ),
        "audit (id, at, event, outcome, actor, subject, detail)": (
            f"i, {at}, CASE WHEN i % 2 = 0 THEN 'job_finished' ELSE 'instances_received' END, 'success', 'host:1', "
            f"CASE WHEN i % 2 = 0 THEN {job} ELSE '1.2.840.99.' || i END, '{{}}'{json}"
        ),
        "readings (id, at, study_instance_uid, job_id, model, model_version, sop_instance_uid, label, presence, "
        "verdict, reason, laterality, comment, reader)": (
            f"i, {at}, '1.2.840.99.' || i, {job}, 'cxr', '1', '1.2.3', 'pneumonia', 'present', "
            "'accept', '', '', '', 'ada'"
        ),
    }
    for table, values in rows.items():
        _insert(record, table, f"SELECT {values} FROM numbers", 1, studies)
    of_images = (
        "instances (id, study_id, series_id, sop_instance_uid, sop_class_uid, transfer_syntax_uid, state, reason, "
        "path, size_bytes, sha256, facts, own_result, calling_ae, called_ae, peer_address, received_at)"
    )
    image = f"((i - 1) * {images} + k)"
    each = (
        f"SELECT {image}, i, i, '1.2.3.' || {image}, '1', '1', 'ANALYSED', '', 'p', 1, 's', "
        f"'{{\"body_part\": \"CHEST\"}}'{json}, {false}, 'AE', 'AE', '', {at} FROM numbers, "
        f"(WITH RECURSIVE images(k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM images WHERE k < {images}) "
        "SELECT k FROM images) AS images"
    )
    at_once = max(1, _MOST_AT_ONCE // images)
    for first in range(1, studies + 1, at_once):
        _insert(record, of_images, each, first, min(studies, first + at_once - 1))
    # As the keeper does it by and by.
    places = 1
    while places:
        with record.write() as session:
            places, _ = audit_chain.seal(session)
    with record.engine.begin() as connection:
        if record.dialect == "postgresql":
            for table in ("studies", "series", "instances", "revisions", "results", "deliveries", "audit", "readings"):
                # What is written by number does not count them up.
                last = f"pg_get_serial_sequence('{table}', 'id'), (SELECT max(id) FROM {table})"
                connection.execute(text(f"SELECT setval({last})"))
        # As the database does by itself before long.
        connection.execute(text("ANALYZE"))


def _insert(record: Record, table: str, select: str, first: int, last: int) -> None:
    numbers = f"WITH RECURSIVE numbers(i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM numbers WHERE i < {last})"
    statement = f"INSERT INTO {table} {numbers} {select}"
    with record.engine.begin() as connection:
        # No bind parameters in here, but psycopg takes a single % for one.
        connection.exec_driver_sql(statement if record.dialect == "sqlite" else statement.replace("%", "%%"))
