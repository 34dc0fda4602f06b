from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.domain import InstanceView, NewJob, OrderView, StudyView
from db.states import InstanceState, OrderState, Scope
from node.routing import rules_digest
from node.rules import Match, Route
from node.settings import Completeness, Settings
from node.verdicts import OWN_RESULT, StudyPlan, plan, policy_of

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
CT = "1.2.840.10008.5.1.4.1.1.2"
SR = "1.2.840.10008.5.1.4.1.1.88.33"
READABLE = frozenset({CT})
QUIET = START + timedelta(seconds=60)

WHOLE = Route(name="whole", models=("lung", "liver", "lung"), match=Match(modality=("CT",)), destinations=("pacs",))
SINGLE = Route(name="single", models=("slice",), match=Match(modality=("CT",)), mode="instance", priority="stat")


def settings(*routes: Route, **changes: Any) -> Settings:
    return Settings().model_copy(
        update={"routes": routes, "completeness": Completeness(quiet_period_s=60, deadline_s=600), **changes}
    )


def picture(number: int, seconds: float = 0, **changes: Any) -> InstanceView:
    view = InstanceView(
        id=number,
        sop_instance_uid=f"1.{number}",
        series_instance_uid="1.0",
        sop_class_uid=CT,
        state=InstanceState.RECEIVED,
        facts={"modality": "CT"},
        calling_ae="MODALITY",
        own_result=False,
        received_at=START + timedelta(seconds=seconds),
        series_description="axial",
        modality="CT",
    )
    return replace(view, **changes)


def study(*pictures: InstanceView, expected: int | None = None, routed: tuple[tuple[str, int], ...] = ()) -> StudyView:
    return StudyView(
        id=1,
        study_instance_uid="1",
        version=len(pictures),
        first_received_at=START,
        last_received_at=START,
        calling_ae="MODALITY",
        expected_instances=expected,
        instances=pictures,
        routed=frozenset(routed),
    )


def judge(what: StudyView, now: datetime, *routes: Route, expected: int | None = None, **changes: Any) -> StudyPlan:
    return plan(what, settings(*routes, **changes), READABLE, expected, now)


def test_a_study_waits_and_then_becomes_one_revision() -> None:
    two = study(picture(1), picture(2, 30))
    waiting = judge(two, START + timedelta(seconds=40), WHOLE)
    assert (waiting.complete, waiting.revisions, waiting.stored) == (False, (), ())
    assert waiting.check_at == START + timedelta(seconds=90)
    done = judge(two, waiting.check_at, WHOLE)
    (revision,) = done.revisions
    assert done.complete
    assert (revision.route, revision.scope, revision.subject) == ("whole", Scope.STUDY, "")
    assert revision.instance_ids == (1, 2)
    assert revision.reason == "complete: 2 images, quiet for 60 s"
    assert revision.jobs == (NewJob("lung", "routine", ("pacs",)), NewJob("liver", "routine", ("pacs",)))
    assert revision.rules_digest == rules_digest((WHOLE,))
    assert [e["sop_instance_uid"] for e in revision.explanation] == ["1.1", "1.2"]
    assert all(e["route"] == "whole" and e["matched"] for e in revision.explanation)


def test_single_images_are_read_as_they_come() -> None:
    plan_now = judge(study(picture(1), picture(2)), START, SINGLE)
    assert plan_now.complete
    assert [(r.scope, r.subject, r.instance_ids) for r in plan_now.revisions] == [
        (Scope.INSTANCE, "1.1", (1,)),
        (Scope.INSTANCE, "1.2", (2,)),
    ]
    assert {job.priority for r in plan_now.revisions for job in r.jobs} == {"stat"}


def test_a_late_image_is_read_with_all_before_it() -> None:
    late = study(picture(1, state=InstanceState.ANALYSED), picture(2, 3600), routed=(("whole", 1),))
    assert judge(late, START + timedelta(seconds=3659), WHOLE).complete is False
    (revision,) = judge(late, START + timedelta(seconds=3660), WHOLE).revisions
    assert revision.instance_ids == (1, 2)


def test_a_late_image_starts_a_deadline_of_its_own() -> None:
    late = study(picture(1), picture(2, 3600), routed=(("whole", 1),), expected=9)
    assert judge(late, START + timedelta(seconds=4199), WHOLE).complete is False
    given_up = judge(late, START + timedelta(seconds=4200), WHOLE)
    assert given_up.revisions[0].reason == "give up: deadline of 600 s passed: 2 of 9 expected images"


def test_a_late_single_image_leaves_the_others_alone() -> None:
    late = study(picture(1), picture(2, 3600), routed=(("single", 1),))
    assert [r.subject for r in judge(late, QUIET, SINGLE).revisions] == ["1.2"]


def test_results_of_this_node_are_stored_and_never_read_again() -> None:
    returned = picture(2, 90, own_result=True)
    judged = judge(study(picture(1), returned, routed=(("whole", 1),)), START + timedelta(seconds=90), WHOLE)
    assert judged == StudyPlan((), ((2, OWN_RESULT),), True, "nothing to read", START + timedelta(seconds=90))


def test_results_of_this_node_do_not_delay_the_study() -> None:
    busy = study(picture(1), picture(2, 59, own_result=True))
    assert judge(busy, QUIET, WHOLE).revisions[0].instance_ids == (1,)


def test_what_holds_no_pixels_is_stored_only() -> None:
    judged = judge(study(picture(1, sop_class_uid=SR)), START, WHOLE)
    assert judged.stored == ((1, "its SOP class is stored, not read by models"),)
    assert judged.complete


def test_what_no_route_takes_is_stored_with_the_reason() -> None:
    ((number, reason),) = judge(study(picture(1, facts={"modality": "MR"})), START, WHOLE).stored
    assert number == 1
    assert reason == 'no route matched (whole: modality "MR" is not one of CT)'


def test_what_is_stored_already_is_not_stored_again() -> None:
    once = picture(1, facts={"modality": "MR"}, state=InstanceState.STORED)
    assert judge(study(once), START, WHOLE).stored == ()


def test_routes_wait_each_for_themselves() -> None:
    both = study(picture(1), picture(2))
    judged = judge(both, START, SINGLE, WHOLE, route_match="all")
    assert [r.route for r in judged.revisions] == ["single", "single"]
    assert not judged.complete
    assert judged.check_at == QUIET
    assert "single: each image is read" in judged.reason
    assert "whole: images may still be arriving" in judged.reason
    first_only = judge(both, START, SINGLE, WHOLE)
    assert first_only.complete


def test_the_count_of_a_pacs_outweighs_the_header() -> None:
    promised = study(picture(1), expected=1)
    assert judge(promised, QUIET, WHOLE).complete
    held = judge(promised, QUIET, WHOLE, expected=2)
    assert (held.complete, held.reason) == (False, "whole: waiting: 1 of 2 expected images")
    assert judge(study(picture(1), expected=2), QUIET, WHOLE, expected=1).complete


def test_a_study_of_nothing_is_complete() -> None:
    assert judge(study(), START, WHOLE) == StudyPlan((), (), True, "nothing to read", START)


def test_a_route_may_wait_otherwise_than_the_node() -> None:
    own = WHOLE.model_copy(update={"quiet_period_s": 0.0, "deadline_s": 5.0, "min_instances": 2})
    policy = policy_of(own, Completeness())
    assert (policy.quiet_period_s, policy.deadline_s, policy.min_instances, policy.per_instance) == (0, 5, 2, False)
    default = policy_of(SINGLE, Completeness(quiet_period_s=7, deadline_s=8))
    assert (default.quiet_period_s, default.deadline_s, default.per_instance) == (7, 8, True)


pictures = st.lists(
    st.builds(
        picture,
        number=st.integers(1, 1000),
        seconds=st.integers(0, 5000),
        facts=st.sampled_from([{"modality": "CT"}, {"modality": "MR"}]),
        own_result=st.booleans(),
        sop_class_uid=st.sampled_from([CT, SR]),
        state=st.sampled_from([InstanceState.RECEIVED, InstanceState.STORED, InstanceState.ANALYSED]),
    ),
    max_size=6,
    unique_by=lambda p: p.id,
)


@given(pictures, st.integers(0, 9000), st.sampled_from(["first", "all"]))
def test_every_image_is_read_stored_or_waited_for(seen: list[InstanceView], seconds: int, match: str) -> None:
    judged = judge(study(*seen), START + timedelta(seconds=seconds), WHOLE, SINGLE, route_match=match)
    read = {i for r in judged.revisions for i in r.instance_ids}
    stored = [i for i, _ in judged.stored]
    for one in seen:
        wanted = one.sop_class_uid == CT and one.facts["modality"] == "CT" and not one.own_result
        if not wanted:
            assert one.id not in read
            assert (one.id in stored) is (one.state is InstanceState.RECEIVED)
        else:
            assert one.id not in stored
            assert one.id in read or not judged.complete
    assert len(stored) == len(set(stored))
    if not judged.complete:
        assert judged.check_at > START + timedelta(seconds=seconds)


@pytest.mark.parametrize("now", [START, QUIET, START + timedelta(days=9)])
def test_deciding_twice_decides_the_same(now: datetime) -> None:
    seen = study(picture(1), picture(2, 10), expected=3)
    assert judge(seen, now, WHOLE) == judge(seen, now, WHOLE)


def test_what_this_node_made_counts_for_no_promise_and_reports_are_no_images() -> None:
    own = picture(2, own_result=True, sop_class_uid=SR, modality="SR", facts={"modality": "SR"})
    report = picture(3, sop_class_uid=SR, modality="SR", facts={"modality": "SR"})
    promised = judge(study(picture(1), own, expected=2), QUIET, WHOLE)
    assert "1 of 2 expected images" in promised.reason
    two_images = WHOLE.model_copy(update={"min_instances": 2})
    few = judge(study(picture(1), own, report), QUIET, two_images)
    assert "1 of at least 2 images" in few.reason


ASKING = Route(name="asking", models=("lung",), match=Match(modality=("CT",)), mode="instance", ask_worklist=True)


def ordered(state: OrderState, priority: str = "", *, after_s: float = 0) -> StudyView:
    return replace(study(picture(1)), order=OrderView(state, START + timedelta(seconds=after_s), priority))


def test_a_study_waits_for_its_order_before_it_is_queued_and_no_longer_than_allowed() -> None:
    first = judge(study(picture(1)), START, ASKING)
    assert (first.complete, first.revisions, first.ask_order) == (False, (), True)
    waiting = judge(ordered(OrderState.WANTED), START, ASKING)
    assert (waiting.revisions, waiting.ask_order) == ((), False)
    (late,) = judge(ordered(OrderState.WANTED), waiting.check_at, ASKING).revisions
    assert late.jobs[0].priority == "routine"
    assert late.reason.endswith("the worklist did not answer in time, priority of the route")


def test_the_order_is_asked_for_while_images_still_come() -> None:
    whole = WHOLE.model_copy(update={"ask_worklist": True})
    assert judge(study(picture(1)), START, whole).ask_order


def test_a_matched_order_gives_its_priority_and_another_patients_stops_the_images() -> None:
    (matched,) = judge(ordered(OrderState.MATCHED, "stat"), START, ASKING).revisions
    assert matched.jobs[0].priority == "stat"
    stopped = judge(ordered(OrderState.MISMATCHED, "stat"), START, ASKING)
    assert (stopped.complete, stopped.revisions) == (True, ())
    assert stopped.quarantined == ((1, "the worklist has its order for another patient"),)
    (vouched,) = judge(ordered(OrderState.VOUCHED, "stat"), START, ASKING).revisions
    assert vouched.jobs[0].priority == "routine"


def test_an_image_that_one_route_has_cause_to_stop_goes_to_no_other() -> None:
    plain = SINGLE.model_copy(update={"name": "plain"})
    both = judge(ordered(OrderState.MISMATCHED), START, plain, ASKING, route_match="all")
    assert both.revisions == ()
    assert [row for row, _ in both.quarantined] == [1]
    assert [one.route for one in judge(ordered(OrderState.MISMATCHED), START, plain).revisions] == ["plain"]
