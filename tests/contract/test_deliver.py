"""Deliveries that cannot go well come to an end that a person can see; on both databases."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

from sqlalchemy import update
from structlog.testing import capture_logs

from db import deliveries, listing
from db.session import Record
from db.tables import Delivery
from node.settings import Delivery as DeliverySettings
from node.settings import Peer, Settings
from tests.support import records
from tests.support.listening import chest_file
from tests.support.peers import EnhancedOnly
from tests.support.processes import free_port
from workers.deliver import Sender, hand_back_unsent, run_delivery

OWNER = "host:deliver:1"


def sender(record: Record, folder: Path, port: int, proof: str = "auto", **given: Any) -> Sender:
    peers = {"pacs": Peer(ae_title="OLD", host="127.0.0.1", port=port, proof=proof)}
    delivery = DeliverySettings(**{"max_attempts": 2, "association_idle_s": 0.0, **given})
    return Sender(Settings(data_dir=folder, peers=peers, delivery=delivery), record, OWNER)


def rows(record: Record) -> list[dict[str, Any]]:
    with record.read() as session:
        return listing.deliveries(session)


def test_a_result_whose_file_is_gone_becomes_a_dead_letter(record: Record, tmp_path: Path) -> None:
    job_id = records.finished_job(record, records.result(1, "SC"))
    with EnhancedOnly(free_port()) as archive:
        run_delivery(sender(record, tmp_path, archive.port), job_id, "pacs")
    (row,) = rows(record)
    assert row["state"] == "DEAD"
    assert "gone from the disk" in row["reason"]


def test_a_report_that_must_be_relabelled_and_is_gone_becomes_one_too(record: Record, tmp_path: Path) -> None:
    job_id = records.finished_job(record, records.result(1, "SR"))
    with EnhancedOnly(free_port()) as archive:
        run_delivery(sender(record, tmp_path, archive.port), job_id, "pacs")
    (row,) = rows(record)
    assert row["state"] == "DEAD"
    assert "restore it" in row["reason"]


def test_a_delivery_that_kills_its_senders_is_given_up(record: Record, tmp_path: Path) -> None:
    job_id = records.finished_job(record)
    for _ in range(2):
        with record.write() as session:
            assert deliveries.claim(session, job_id, "pacs", "host:killed:1", lease_s=-1)
    run_delivery(sender(record, tmp_path, free_port()), job_id, "pacs")
    (row,) = rows(record)
    assert (row["state"], row["reason"]) == ("DEAD", "tried 2 times, no sender ever finished")


def test_work_cut_short_is_tried_again_and_then_given_up(record: Record, tmp_path: Path) -> None:
    job_id = records.finished_job(record)
    mine = sender(record, tmp_path, free_port())
    seen = []
    for _ in range(2):
        with record.write() as session:
            session.execute(update(Delivery).values(next_attempt_at=records.NOON))
            assert deliveries.claim(session, job_id, "pacs", OWNER, lease_s=600)
        hand_back_unsent(mine, job_id, "pacs", "it took too long")
        seen.append(rows(record)[0]["state"])
    assert seen == ["PENDING", "DEAD"]
    assert rows(record)[0]["reason"] == "tried 2 times: it took too long"


def test_a_destination_nobody_knows_is_named(record: Record, tmp_path: Path) -> None:
    job_id = records.finished_job(record, destinations=("archive",))
    run_delivery(sender(record, tmp_path, free_port()), job_id, "archive")
    (row,) = rows(record)
    assert row["state"] == "DEAD"
    assert "[peers.archive]" in row["reason"]


def test_a_destination_that_is_away_is_tried_again(record: Record, tmp_path: Path) -> None:
    job_id = records.finished_job(record)
    run_delivery(sender(record, tmp_path, free_port()), job_id, "pacs")
    (row,) = rows(record)
    assert (row["state"], row["attempts"]) == ("PENDING", 1)
    assert "cannot be reached" in row["reason"]


def test_a_kept_association_that_breaks_at_its_first_object_costs_no_attempt(record: Record, tmp_path: Path) -> None:
    """The peer takes the first job, and ends the association with the second one's first object in its hands."""
    (tmp_path / "results").mkdir()
    with EnhancedOnly(free_port()) as archive:
        mine = sender(record, tmp_path, archive.port, proof="none", association_idle_s=60.0)
        with closing(mine):
            for number in (1, 2):
                chest_file(tmp_path / "results", f"{number}.dcm", SOPClassUID=records.SC)
                job_id = records.finished_job(record, records.result(number, "SC"), number=number)
                archive.hang_up_next = number == 2
                run_delivery(mine, job_id, "pacs")
    assert [(row["state"], row["attempts"]) for row in rows(record)] == [("UNCONFIRMED", 1)] * 2
    assert archive.associations == 2


def test_what_was_given_up_before_a_kept_association_broke_is_not_taken_up_again(
    record: Record, tmp_path: Path
) -> None:
    (tmp_path / "results").mkdir()
    with EnhancedOnly(free_port()) as archive:
        mine = sender(record, tmp_path, archive.port, proof="none", association_idle_s=60.0)
        with closing(mine), capture_logs() as logs:
            for number, kinds in ((1, {3: "SR", 1: "SC"}), (2, {4: "SR", 2: "SC"})):
                chest_file(tmp_path / "results", f"{number}.dcm", SOPClassUID=records.SC)
                results = [records.result(one, kind) for one, kind in kinds.items()]
                job_id = records.finished_job(record, *results, number=number)
                archive.hang_up_next = number == 2
                run_delivery(mine, job_id, "pacs")
    assert archive.associations == 2
    assert sorted(row["state"] for row in rows(record)) == ["DEAD", "DEAD", "UNCONFIRMED", "UNCONFIRMED"]
    assert [one["event"] for one in logs].count("delivery_dead") == 2
