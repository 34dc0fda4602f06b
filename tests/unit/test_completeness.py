from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.completeness import Decision, Policy, Progress, Verdict, decide

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
POLICY = Policy(quiet_period_s=60, deadline_s=600)


def after(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def progress(last: float = 0, **changes: Any) -> Progress:
    known = Progress(
        first_received_at=START, last_received_at=after(last), instances=3, series_descriptions=("Chest AP", "Lateral")
    )
    return replace(known, **changes)


def test_images_may_still_come_until_it_is_quiet() -> None:
    assert decide(POLICY, progress(10), after(69.9)) == Decision(
        Verdict.WAIT, "images may still be arriving", after(70)
    )
    assert decide(POLICY, progress(10), after(70)) == Decision(Verdict.COMPLETE, "3 images, quiet for 60 s", after(70))
    assert decide(POLICY, progress(10, instances=1), after(70)).reason == "1 image, quiet for 60 s"


def test_a_promise_holds_a_quiet_study_back_until_the_deadline() -> None:
    short = progress(expected=5)
    waiting = decide(POLICY, short, after(100))
    assert waiting == Decision(Verdict.WAIT, "waiting: 3 of 5 expected images", after(600))
    given_up = decide(POLICY, short, waiting.check_at)
    assert given_up.verdict is Verdict.GIVE_UP
    assert given_up.reason == "deadline of 600 s passed: 3 of 5 expected images"


def test_a_kept_promise_hurries_nobody_and_more_than_promised_is_no_fault() -> None:
    kept = progress(10, expected=3)
    assert decide(POLICY, kept, after(20)).verdict is Verdict.WAIT
    assert decide(POLICY, kept, after(70)).reason == "3 images of 3 expected, quiet for 60 s"
    assert decide(POLICY, progress(10, expected=2), after(70)).verdict is Verdict.COMPLETE


def test_required_series_are_waited_for() -> None:
    needy = replace(POLICY, required_series=("^chest", "scout"))
    assert decide(needy, progress(), after(100)).reason == "waiting: no series matches scout"
    there = progress(series_descriptions=("CHEST ap", "a scout view"))
    assert decide(needy, there, after(100)).verdict is Verdict.COMPLETE


def test_too_few_images_are_waited_for() -> None:
    assert decide(replace(POLICY, min_instances=4), progress(), after(100)).reason == (
        "waiting: 3 of at least 4 images"
    )


def test_everything_that_is_missing_is_named() -> None:
    needy = replace(POLICY, min_instances=4, required_series=("scout",))
    assert decide(needy, progress(expected=9), after(700)).reason == (
        "deadline of 600 s passed: 3 of 9 expected images, 3 of at least 4 images, no series matches scout"
    )


def test_a_sender_that_never_falls_silent_is_cut_off_at_the_deadline() -> None:
    busy = decide(POLICY, progress(590), after(600))
    assert (busy.verdict, busy.reason) == (Verdict.GIVE_UP, "deadline of 600 s passed: images were still arriving")


def test_single_images_are_read_at_once() -> None:
    eager = replace(POLICY, per_instance=True, min_instances=99)
    assert decide(eager, progress(expected=99), START).verdict is Verdict.COMPLETE


def test_a_silence_longer_than_the_deadline_gives_up_at_the_deadline() -> None:
    impatient = Policy(quiet_period_s=60, deadline_s=30)
    assert decide(impatient, progress(), after(29)).check_at == after(30)
    assert decide(impatient, progress(), after(30)).verdict is Verdict.GIVE_UP


seconds = st.floats(0, 10_000, allow_nan=False).map(lambda value: round(value, 3))
policies = st.builds(
    Policy,
    quiet_period_s=seconds,
    deadline_s=seconds.filter(lambda value: value > 0),
    min_instances=st.integers(1, 5),
    required_series=st.lists(st.sampled_from(["chest", "^lat", "scout"]), max_size=2).map(tuple),
)


@st.composite
def situations(draw: st.DrawFn) -> tuple[Progress, datetime]:
    """What is known of a study, and a moment after its last image."""
    last = after(draw(seconds))
    known = Progress(
        first_received_at=START,
        last_received_at=last,
        instances=draw(st.integers(1, 6)),
        series_descriptions=tuple(draw(st.lists(st.sampled_from(["Chest AP", "LAT", "scout"]), max_size=3))),
        expected=draw(st.none() | st.integers(0, 6)),
    )
    return known, last + timedelta(seconds=draw(seconds))


@given(policies, situations())
def test_waiting_always_ends(policy: Policy, situation: tuple[Progress, datetime]) -> None:
    known, now = situation
    decision = decide(policy, known, now)
    for _ in range(3):
        if decision.verdict is not Verdict.WAIT:
            break
        assert decision.check_at > now, "a wait that is over at once would spin"
        now = decision.check_at
        decision = decide(policy, known, now)
    assert decision.verdict is not Verdict.WAIT
    assert now <= max(situation[1], known.first_received_at + timedelta(seconds=policy.deadline_s))


@given(policies, situations())
def test_complete_means_quiet_and_nothing_missing(policy: Policy, situation: tuple[Progress, datetime]) -> None:
    known, now = situation
    decision = decide(policy, known, now)
    if decision.verdict is Verdict.COMPLETE:
        assert now >= known.last_received_at + timedelta(seconds=policy.quiet_period_s)
        assert known.instances >= max(policy.min_instances, known.expected or 0)
    if decision.verdict is Verdict.GIVE_UP:
        assert now >= known.first_received_at + timedelta(seconds=policy.deadline_s)
    assert decision.reason


@given(policies, situations(), seconds)
def test_a_verdict_other_than_waiting_stands(
    policy: Policy, situation: tuple[Progress, datetime], later: float
) -> None:
    known, now = situation
    if decide(policy, known, now).verdict is Verdict.COMPLETE:
        assert decide(policy, known, now + timedelta(seconds=later)).verdict is Verdict.COMPLETE


@given(policies, situations())
def test_a_new_image_never_makes_an_earlier_completion(policy: Policy, situation: tuple[Progress, datetime]) -> None:
    known, now = situation
    more = replace(known, last_received_at=now, instances=known.instances)
    if policy.quiet_period_s > 0:
        assert decide(policy, more, now).verdict is not Verdict.COMPLETE


@pytest.mark.parametrize("zone_hours", [-11, 0, 9])
def test_moments_of_other_zones_are_the_same_moments(zone_hours: int) -> None:
    there = timezone(timedelta(hours=zone_hours))
    assert decide(POLICY, progress(10), after(70).astimezone(there)).verdict is Verdict.COMPLETE


def test_a_required_series_is_looked_for_in_what_a_description_may_hold() -> None:
    policy = Policy(quiet_period_s=60, deadline_s=600, required_series=("lateral",))
    assert decide(policy, progress(series_descriptions=(" " * 57 + "lateral",)), after(70)).verdict is Verdict.COMPLETE
    assert decide(policy, progress(series_descriptions=(" " * 64 + "lateral",)), after(70)).verdict is Verdict.WAIT


def test_a_study_that_is_announced_as_done_need_not_be_quiet_but_lacks_nothing_else() -> None:
    done = progress(10, announced="MPPS")
    assert decide(POLICY, done, after(11)) == Decision(Verdict.COMPLETE, "3 images, all that MPPS names", after(11))
    assert decide(POLICY, replace(done, expected=5), after(11)).verdict is Verdict.WAIT
    assert decide(replace(POLICY, min_instances=4), done, after(11)).verdict is Verdict.WAIT
    assert decide(replace(POLICY, required_series=("scout",)), done, after(11)).verdict is Verdict.WAIT
