"""Decisions on studies: compare-and-set against late images, revisions that supersede, jobs that follow."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError, NoResultFound

from db import jobs, outbox, studies
from db.domain import NewJob, ResultRef
from db.errors import ConflictError
from db.session import Record
from db.states import InstanceState, JobState, Scope, StudyState
from db.tables import Audit, Instance, Job, Outbox, Revision, RevisionInstance, RoutingDecision, Study
from tests.support.records import (
    NOON,
    STUDY,
    WORKER,
    claim,
    image,
    job_ids,
    load,
    outcome,
    race,
    receive,
    result,
    revision,
    settle,
)


def states(record: Record) -> list[tuple[str, str]]:
    with record.read() as session:
        return [(i.state.value, i.reason) for i in session.scalars(select(Instance).order_by(Instance.id))]


def job_states(record: Record) -> dict[str, str]:
    with record.read() as session:
        return {job.id: job.state.value for job in session.scalars(select(Job))}


def topics(record: Record) -> list[tuple[str, str]]:
    with record.read() as session:
        return [(m.topic, m.subject) for m in session.scalars(select(Outbox).order_by(Outbox.id))]


def test_studies_become_due_the_longest_waiting_first(record: Record) -> None:
    for number, minutes in ((1, 2), (2, 0), (3, 1), (4, 9)):
        receive(record, image(number, f"5.{number}", received_at=NOON + timedelta(minutes=minutes)))
    with record.read() as session:
        uids = {row.id: row.study_instance_uid for row in session.scalars(select(Study))}
        due = studies.due_studies(session, NOON + timedelta(minutes=5))
        assert [uids[i] for i in due] == ["5.2", "5.3", "5.1"]
        assert studies.due_studies(session, NOON + timedelta(minutes=5), limit=1) == due[:1]
        assert studies.receiving_count(session) == 4


def test_a_study_is_seen_with_its_images(record: Record) -> None:
    receive(record, image(1, modality="CR", series_description="AP"), image(2, own_result=True))
    view = load(record)
    first, second = view.instances
    assert (view.study_instance_uid, view.version, view.calling_ae, view.routed) == (STUDY, 2, "MODALITY", frozenset())
    assert (first.modality, first.series_description, first.state) == ("CR", "AP", InstanceState.RECEIVED)
    assert (first.facts, first.received_at, first.series_instance_uid) == (image().facts, NOON, f"{STUDY}.1")
    assert (first.own_result, second.own_result) == (False, True)
    with record.read() as session, pytest.raises(NoResultFound):
        studies.load_study(session, 4711)


def test_a_decision_writes_everything_at_once(record: Record) -> None:
    receive(record, image(1), image(2))
    view = load(record)
    routed, stored = view.instances
    new = revision(
        view,
        instance_ids=(routed.id,),
        jobs=(NewJob("cxr", "stat", ("sender", "pacs")), NewJob("tb", "routine", ("sender",))),
    )
    (opened,) = settle(record, view, new, stored=[(stored.id, "no route matched")], reason="chest: quiet")
    assert states(record) == [("ROUTED", "route chest"), ("STORED", "no route matched")]
    with record.read() as session:
        study = session.scalars(select(Study)).one()
        found = session.get_one(Revision, opened)
        decision = session.scalars(select(RoutingDecision)).one()
        queued = {job.model: job for job in session.scalars(select(Job))}
        assert session.scalars(select(RevisionInstance.instance_id)).all() == [routed.id]
        assert session.scalars(select(Audit.event)).all() == ["instances_received", "study_routed"]
    assert (study.state, study.completeness_reason) == (StudyState.COMPLETE, "chest: quiet")
    assert (found.number, found.supersedes_id, found.scope, found.subject) == (1, None, Scope.STUDY, "")
    assert (decision.rules_digest, decision.revision_id, decision.explanation) == ("d" * 64, opened, new.explanation)
    assert (queued["cxr"].state, queued["cxr"].destinations) == (JobState.QUEUED, ["sender", "pacs"])
    assert sorted(topics(record)) == [("infer", queued["tb"].id), ("infer.stat", queued["cxr"].id)]
    assert studies.topic_for("stat") == outbox.TOPIC_INFER_STAT
    assert studies.topic_for("urgent") == outbox.TOPIC_INFER
    assert load(record).routed == {("chest", routed.id)}


def test_waiting_moves_the_next_look(record: Record) -> None:
    receive(record, image(1))
    view = load(record)
    later = NOON + timedelta(minutes=1)
    assert settle(record, view, complete=False, check_at=later, reason="images may still be arriving") == []
    with record.read() as session:
        assert studies.due_studies(session, NOON) == []
        assert studies.due_studies(session, later) == [view.id]
        assert studies.receiving_count(session) == 1
    assert load(record).version == view.version


def test_an_image_that_arrives_during_the_decision_wins(record: Record) -> None:
    receive(record, image(1))
    view = load(record)
    receive(record, image(2))
    with pytest.raises(ConflictError, match="judged again"):
        settle(record, view, revision(view))
    assert states(record) == [("RECEIVED", ""), ("RECEIVED", "")]
    assert job_ids(record) == []
    assert topics(record) == []


def test_a_decision_is_written_once(record: Record) -> None:
    receive(record, image(1))
    view = load(record)

    def decide(_: int) -> int:
        try:
            return len(settle(record, view, revision(view)))
        except ConflictError:
            return 0

    assert sorted(race(4, decide)) == [0, 0, 0, 1]
    assert len(job_ids(record)) == 1


def test_images_and_decisions_race_without_losing_an_image(record: Record) -> None:
    def act(number: int) -> None:
        if number:
            receive(record, *(image(10 * number + k) for k in range(4)))
            return
        for _ in range(20):
            with record.read() as session:
                known = session.scalars(select(Study.id)).one_or_none()
                view = None if known is None else studies.load_study(session, known)
            pending = () if view is None else tuple(i for i in view.instances if ("chest", i.id) not in view.routed)
            if view is None or not pending:
                continue
            try:
                settle(record, view, revision(view))
            except ConflictError:
                continue

    race(3, act)
    view = load(record)
    if {i.id for i in view.instances} - {i for _, i in view.routed}:
        # The last image came after the last decision: then the study says that it must be looked at.
        with record.read() as session:
            assert studies.receiving_count(session) == 1
        settle(record, view, revision(view))
    assert {i.id for i in view.instances} == {i for _, i in load(record).routed}
    assert len(view.instances) == 8


def test_a_late_image_opens_a_revision_that_supersedes(record: Record) -> None:
    receive(record, image(1))
    view = load(record)
    (first,) = settle(record, view, revision(view))
    (old,) = job_ids(record)
    receive(record, image(2))
    view = load(record)
    (second,) = settle(record, view, revision(view))
    with record.read() as session:
        found = session.get_one(Revision, second)
        superseded = session.get_one(Job, old)
        covered = session.scalars(
            select(RevisionInstance.instance_id).where(RevisionInstance.revision_id == second)
        ).all()
    assert (found.number, found.supersedes_id) == (2, first)
    assert sorted(covered) == [i.id for i in view.instances]
    assert (superseded.state, superseded.reason) == (JobState.SUPERSEDED, "revision 2 has later images")
    assert superseded.finished_at is not None
    assert claim(record, old) is None
    assert [s for s in job_states(record).values() if s == "QUEUED"] == ["QUEUED"]


def test_a_running_job_is_not_superseded_and_its_reports_become_predecessors(record: Record) -> None:
    receive(record, image(1))
    view = load(record)
    settle(record, view, revision(view))
    (old,) = job_ids(record)
    first = claim(record, old)
    assert first is not None
    assert first.predecessors == ()
    receive(record, image(2))
    view = load(record)
    settle(record, view, revision(view))
    (new,) = [job for job in job_ids(record) if job != old]
    assert job_states(record) == {old: "RUNNING", new: "QUEUED"}
    with record.write() as session:
        jobs.finish(session, old, WORKER, outcome(result(1, "SR"), result(2, "SC"), result(3, "SR")))
    second = claim(record, new)
    assert second is not None
    assert second.predecessors == (result(1, "SR").ref, result(3, "SR").ref)
    assert second.revision_number == 2
    assert second.identity != first.identity
    assert isinstance(second.predecessors[0], ResultRef)


def test_revisions_count_per_route_and_subject(record: Record) -> None:
    receive(record, image(1), image(2))
    view = load(record)
    one, two = view.instances

    def of(route: str, uid: str, instance_id: int) -> list[int]:
        new = revision(view, route=route, scope=Scope.INSTANCE, subject=uid, instance_ids=(instance_id,))
        return settle(record, view, new, complete=False)

    for route, each in (("chest", one), ("chest", two), ("other", one), ("chest", one)):
        of(route, each.sop_instance_uid, each.id)
    with record.read() as session:
        found = session.execute(select(Revision.route, Revision.subject, Revision.number).order_by(Revision.id)).all()
    assert [tuple(row) for row in found] == [
        ("chest", one.sop_instance_uid, 1),
        ("chest", two.sop_instance_uid, 1),
        ("other", one.sop_instance_uid, 1),
        ("chest", one.sop_instance_uid, 2),
    ]


def test_an_image_stored_under_older_rules_is_routed_by_newer_ones(record: Record) -> None:
    receive(record, image(1))
    view = load(record)
    settle(record, view, stored=[(view.instances[0].id, "no route matched")])
    assert states(record) == [("STORED", "no route matched")]
    receive(record, image(2))
    view = load(record)
    settle(record, view, revision(view))
    assert states(record) == [("ROUTED", "route chest")] * 2


def test_the_same_model_twice_on_a_revision_is_refused_whole(record: Record) -> None:
    receive(record, image(1))
    view = load(record)
    twice = revision(view, jobs=(NewJob("cxr", "routine", ()),) * 2)
    with pytest.raises(IntegrityError):
        settle(record, view, twice)
    assert replace(load(record), routed=frozenset()) == view
    assert job_ids(record) == []
