"""`radnode fhir`, as a person types it."""

from __future__ import annotations

import json
from pathlib import Path

from sqlalchemy import select

from db import jobs
from db.tables import Audit
from tests.support import records
from tests.support.node import Node

SERVER = '[fhir.destinations.repository]\nurl = "https://fhir.example.org/R4"\nimaging_study = false\n'


def test_what_a_server_gets_is_listed_and_shown(tmp_path: Path) -> None:
    node = Node(tmp_path, SERVER)
    # It makes the record.
    assert node.run("fhir", "show", "1.2.3", check=False).returncode == 1
    with node.record() as record:
        job_id = records.queued_job(record)
        assert records.claim(record, job_id) is not None
        done = records.outcome(records.result(), destinations=("pacs",), told=("repository",), summary={})
        with record.write() as session:
            jobs.finish(session, job_id, records.WORKER, done)
    (row,) = node.json("fhir", "sent")
    assert (row["report"], row["destination"], row["state"]) == (f"{records.STUDY}.9.1", "repository", "PENDING")
    (bundle,) = json.loads(node.run("fhir", "show", records.STUDY, "--destination", "repository").stdout)
    places = [one["request"]["url"] for one in bundle["entry"]]
    assert places == [f"Device/{'m' * 64}", f"DiagnosticReport/{records.STUDY}.9.1", f"Task/{job_id}"]
    assert bundle["entry"][0]["fullUrl"].startswith("https://fhir.example.org/R4/")
    with node.record() as record, record.read() as session:
        viewed = session.execute(select(Audit.subject, Audit.actor).where(Audit.event == "study_viewed")).all()
    assert {tuple(one) for one in viewed} == {(uid, "command line") for uid in ("1.2.3", records.STUDY)}
