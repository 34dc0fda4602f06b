"""What counts as proof that a peer holds a result, on both databases, with peers that answer over the wire."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from db import deliveries, listing
from db.session import Record
from db.tables import Delivery
from db.types import utcnow
from node.settings import Peer, Settings
from tests.support import records
from tests.support.peers import Finder, finder
from tests.support.processes import eventually, free_port
from workers import proof

SENDER = "host:deliver:1"
# pynetdicom leaves the socket of a refused connection to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def archive() -> Iterator[Finder]:
    with finder() as peer:
        yield peer


def settings_for(tmp_path: Path, port: int, how: str = "auto") -> Settings:
    peer = Peer(ae_title="FINDER", host="127.0.0.1", port=port, proof=how)  # type: ignore[arg-type]
    return Settings(data_dir=tmp_path, peers={"pacs": peer})


def sent(record: Record, *, ago: timedelta = timedelta(0)) -> list[int]:
    """One job's SR and SC, which the peer has answered Success for; their delivery ids."""
    job_id = records.finished_job(record, records.result(1), records.result(2, "SC"))
    with record.write() as session:
        due = deliveries.claim(session, job_id, "pacs", SENDER, lease_s=60)
        for one in due:
            assert deliveries.mark_sent(session, one.id, SENDER, one.ref, "")
        session.execute(update(Delivery).values(sent_at=utcnow() - ago))
    return [one.id for one in due]


def states(record: Record) -> list[str]:
    with record.read() as session:
        return [row["state"] for row in listing.deliveries(session)]


def uids(record: Record) -> list[str]:
    with record.read() as session:
        return [row["sop_instance_uid"] for row in listing.deliveries(session)]


def test_what_the_peer_finds_is_confirmed_and_the_rest_is_named(
    record: Record, archive: Finder, tmp_path: Path
) -> None:
    first, second = sent(record)
    archive.holds = {uids(record)[0]}
    missing = proof.read_back(record, settings_for(tmp_path, archive.port), "pacs", [first, second], looks_s=(0.0,))
    assert states(record) == ["CONFIRMED", "SENT"]
    assert missing == {second}


def test_a_report_that_is_still_to_come_is_not_anticipated(record: Record, archive: Finder, tmp_path: Path) -> None:
    ids = sent(record)
    archive.holds = set(uids(record))
    with record.write() as session:
        deliveries.ask_commitment(session, "1.2.3", "pacs", ids, deadline_at=utcnow() + timedelta(hours=1))
    assert proof.read_back(record, settings_for(tmp_path, archive.port), "pacs", ids, looks_s=(0.0,)) == set()
    assert states(record) == ["SENT", "SENT"]
    assert archive.questions == 0


def test_a_report_of_loss_outweighs_what_was_believed(record: Record) -> None:
    ids = sent(record)
    first, second = uids(record)
    with record.write() as session:
        deliveries.ask_commitment(session, "1.2.3", "pacs", ids, deadline_at=utcnow() + timedelta(hours=1))
        deliveries.confirm(session, ids, "found by C-FIND")
        deliveries.apply_commitment(session, "1.2.3", [first], {second: 0x0112}, retry_at=utcnow())
    assert states(record) == ["CONFIRMED", "PENDING"]


def test_what_was_looked_for_in_vain_is_sent_again(record: Record, archive: Finder, tmp_path: Path) -> None:
    sent(record, ago=timedelta(seconds=proof.LOST_AFTER_S + 60))
    archive.holds = {uids(record)[0]}
    proof.check_overdue(record, settings_for(tmp_path, archive.port), "pacs", 60.0)
    assert states(record) == ["CONFIRMED", "PENDING"]


def test_a_peer_that_is_away_is_asked_another_time(record: Record, tmp_path: Path) -> None:
    sent(record, ago=timedelta(seconds=proof.LOST_AFTER_S + 60))
    proof.check_overdue(record, settings_for(tmp_path, free_port()), "pacs", 60.0)
    assert states(record) == ["SENT", "SENT"]


def test_a_peer_that_refuses_to_answer_leaves_it_unconfirmed(record: Record, archive: Finder, tmp_path: Path) -> None:
    sent(record, ago=timedelta(seconds=proof.LOST_AFTER_S + 60))
    archive.status = 0xC000
    proof.check_overdue(record, settings_for(tmp_path, archive.port), "pacs", 60.0)
    assert states(record) == ["UNCONFIRMED", "UNCONFIRMED"]


def test_where_only_commitment_counts_nothing_is_sent_again_for_want_of_it(
    record: Record, archive: Finder, tmp_path: Path
) -> None:
    ids = sent(record, ago=timedelta(seconds=proof.LOST_AFTER_S + 60))
    with record.write() as session:
        deliveries.ask_commitment(session, "1.2.3", "pacs", ids, deadline_at=utcnow() - timedelta(seconds=1))
        assert deliveries.expire_commitments(session, utcnow()) == 1
    proof.check_overdue(record, settings_for(tmp_path, archive.port, "commitment"), "pacs", 60.0)
    assert states(record) == ["UNCONFIRMED", "UNCONFIRMED"]
    assert archive.questions == 0


def test_a_destination_that_never_answers_holds_up_the_proof_of_no_other(
    record: Record, archive: Finder, tmp_path: Path
) -> None:
    job_id = records.finished_job(record, destinations=("mute", "pacs"))
    for name in ("mute", "pacs"):
        with record.write() as session:
            (due,) = deliveries.claim(session, job_id, name, SENDER, lease_s=60)
            deliveries.mark_sent(session, due.id, SENDER, due.ref, "")
            archive.holds.add(due.ref.sop_instance_uid)
    with finder() as mute:
        mute.may_answer.clear()
        peers = {
            "mute": Peer(ae_title="FINDER", host="127.0.0.1", port=mute.port),
            "pacs": Peer(ae_title="FINDER", host="127.0.0.1", port=archive.port),
        }
        prover = proof.Prover(Settings(data_dir=tmp_path, peers=peers), record, after_s=-1.0, rest_s=0.0)
        assert prover.run_once() == ["mute", "pacs"]
        eventually("the one that answers is asked", lambda: "CONFIRMED" in states(record), timeout_s=5)
        assert "mute" not in prover.run_once(), "it is asked one question at a time"
        assert sorted(states(record)) == ["CONFIRMED", "SENT"]
        mute.holds = set(uids(record))
        mute.may_answer.set()
        eventually("the slow one is asked in the end", lambda: states(record) == ["CONFIRMED"] * 2, timeout_s=10)
