"""`radnode parked` and `radnode quarantine`, as a person types them."""

from __future__ import annotations

from pathlib import Path

from db import jobs
from tests.support import records
from tests.support.node import Node
from tests.support.records import image


def test_what_waits_for_a_person_and_its_ways_out(tmp_path: Path) -> None:
    node = Node(tmp_path)
    assert node.json("parked", "list", "--json") == node.json("quarantine", "list", "--json") == []
    with node.record() as record:
        job_id = records.queued_job(record)
        assert records.claim(record, job_id) is not None
        with record.write() as session:
            jobs.park(session, job_id, records.WORKER, reason="because")
        records.receive(record, image(2, patient_id="ID-2"))
    (row,) = node.json("parked", "list", "--json")
    assert (row["id"], row["reason"], row["instances"][0]["state"]) == (job_id, "because", "FAILED")
    assert "because" in node.run("parked", "list").stdout
    (aside,) = node.json("quarantine", "list", "--json")
    uid = aside["sop_instance_uid"]
    assert (aside["state"], aside["path"]) == ("QUARANTINED", "instances/2.dcm")
    for command, name in (("parked give-up", job_id), ("quarantine release", uid)):
        assert node.run(*command.split(), name).returncode == 0
        again = node.run(*command.split(), name, check=False)
        assert (again.returncode, again.stderr.startswith("0 of 1")) == (1, True)
    assert node.json("parked", "list", "--json") == node.json("quarantine", "list", "--json") == []
    assert [one["state"] for one in node.instances()] == ["NOT_ANALYSED", "RECEIVED"]
    events = {(one["event"], one["actor"]) for one in node.json("audit", "list", "--json")}
    assert {("job_given_up", "command line"), ("instance_released", "command line")} <= events
