"""`radnode fhir`, as a person types it."""

from __future__ import annotations

import json
from pathlib import Path

from db import jobs
from tests.support import records
from tests.support.node import Node

SERVER = '[fhir.destinations.repository]\nurl = "https://fhir.example.org/R4"\nimaging_study = false\n'


def test_what_a_server_gets_is_listed_and_shown(tmp_path: Path) -> None:
    node = Node(tmp_path, SERVER)
    assert node.json("fhir", "sent") == []
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
    assert node.run("fhir", "show", "1.2.3", check=False).returncode == 1
    assert node.run("fhir", "show", records.STUDY, "--destination", "x", check=False).returncode == 2
    viewed = [one for one in node.json("audit", "list") if one["event"] == "study_viewed"]
    assert {(one["subject"], one["actor"]) for one in viewed} == {
        (uid, "command line") for uid in (records.STUDY, "1.2.3")
    }
