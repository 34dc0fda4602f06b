"""From a study in the record to what should be written about it: routing and completeness put together. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from db.domain import InstanceView, NewJob, NewRevision, StudyView
from db.states import InstanceState, Scope
from node.completeness import Decision, Policy, Progress, Verdict, decide
from node.routing import RouteOutcome, choose, rules_digest, why_not
from node.rules import Route
from node.settings import Completeness, Settings
from node.worklist.gate import gate

OWN_RESULT = "a result of this node, returned by a peer; never read again"


@dataclass(frozen=True)
class StudyPlan:
    """What to write: see `db.studies.settle`."""

    revisions: tuple[NewRevision, ...]
    stored: tuple[tuple[int, str], ...]
    complete: bool
    reason: str
    check_at: datetime
    quarantined: tuple[tuple[int, str], ...] = ()
    ask_order: bool = False


@dataclass
class _Group:
    """The images of a study that one route takes; `explanations` by SOP Instance UID."""

    route: Route
    images: list[InstanceView] = field(default_factory=list)
    explanations: dict[str, RouteOutcome] = field(default_factory=dict)


def plan(
    study: StudyView, settings: Settings, readable: frozenset[str], expected: int | None, now: datetime
) -> StudyPlan:
    """Judge every route of a study.

    readable: SOP Class UIDs that hold pixels a model may read; others are stored only.
    expected: the count a PACS gave by C-FIND, where asked; it outweighs the header's.
    """
    groups, stored = _sort(study, settings, readable)
    revisions: list[NewRevision] = []
    ask_order = False
    waiting: list[Decision] = []
    reasons: list[str] = []
    quarantined = _stop(groups, study, settings, now)
    for group in groups.values():
        pending = _pending(group, study)
        if not pending:
            continue
        policy = policy_of(group.route, settings.completeness)
        decision = decide(policy, _progress(study, group, pending, expected), now)
        order = gate(group.route, study.order, settings.worklist.wait_s, now)
        ask_order |= group.route.ask_worklist and study.order is None
        if decision.verdict is not Verdict.WAIT and order.hold_until is not None:
            decision = Decision(Verdict.WAIT, order.note, order.hold_until)
        if decision.verdict is Verdict.WAIT:
            waiting.append(decision)
        else:
            if order.note:
                decision = replace(decision, reason=f"{decision.reason}; {order.note}")
            revisions.extend(_revisions(group, pending, decision, rules_digest(settings.routes), order.priority))
        reasons.append(f"{group.route.name}: {decision.reason}")
    reasons.extend(sorted(set(quarantined.values())))
    return StudyPlan(
        revisions=tuple(revisions),
        stored=tuple(stored),
        complete=not waiting,
        reason="; ".join(reasons) or "nothing to read",
        check_at=min((d.check_at for d in waiting), default=now),
        quarantined=tuple(sorted(quarantined.items())),
        ask_order=ask_order,
    )


def _pending(group: _Group, study: StudyView) -> list[InstanceView]:
    return [i for i in group.images if (group.route.name, i.id) not in study.routed]


def _stop(groups: Mapping[str, _Group], study: StudyView, settings: Settings, now: datetime) -> dict[int, str]:
    """Images in doubt, by row id, with the reason: no route gets what one of them has cause to stop."""
    stopped: dict[int, str] = {}
    for group in groups.values():
        order = gate(group.route, study.order, settings.worklist.wait_s, now)
        if order.stop:
            stopped.update({image.id: order.note for image in _pending(group, study)})
    for group in groups.values():
        group.images = [image for image in group.images if image.id not in stopped]
    return stopped


def policy_of(route: Route, defaults: Completeness) -> Policy:
    """A route's own waiting times, or the node's."""
    return Policy(
        quiet_period_s=defaults.quiet_period_s if route.quiet_period_s is None else route.quiet_period_s,
        deadline_s=defaults.deadline_s if route.deadline_s is None else route.deadline_s,
        min_instances=route.min_instances,
        required_series=route.required_series,
        per_instance=route.mode == "instance",
    )


def _sort(
    study: StudyView, settings: Settings, readable: frozenset[str]
) -> tuple[Mapping[str, _Group], Sequence[tuple[int, str]]]:
    groups: dict[str, _Group] = {}
    stored: list[tuple[int, str]] = []
    for image in study.instances:
        reason = _not_for_models(image, readable)
        chosen = [] if reason else choose(settings.routes, image.facts, settings.route_match)
        for route, outcome in chosen:
            group = groups.setdefault(route.name, _Group(route))
            group.images.append(image)
            group.explanations[image.sop_instance_uid] = outcome
        if not chosen and image.state is InstanceState.RECEIVED:
            stored.append((image.id, reason or why_not(settings.routes, image.facts)))
    return groups, stored


def _not_for_models(image: InstanceView, readable: frozenset[str]) -> str:
    if image.own_result:
        return OWN_RESULT
    if image.sop_class_uid not in readable:
        return "its SOP class is stored, not read by models"
    return ""


def _progress(study: StudyView, group: _Group, pending: list[InstanceView], expected: int | None) -> Progress:
    # A promise counts the whole study, whatever route its images take, but not what this node made of it. The deadline
    # runs from the first image that waits: a study reopened by a late one gets its full time again.
    return Progress(
        first_received_at=min(i.received_at for i in pending),
        last_received_at=max(i.received_at for i in group.images),
        instances=sum(not i.own_result for i in study.instances),
        images=len(group.images),
        series_descriptions=tuple(sorted({i.series_description for i in study.instances})),
        expected=study.expected_instances if expected is None else expected,
        announced=study.announced,
    )


def _revisions(
    group: _Group, pending: list[InstanceView], decision: Decision, digest: str, priority: str
) -> list[NewRevision]:
    if group.route.mode == "instance":
        sets = [(Scope.INSTANCE, image.sop_instance_uid, [image]) for image in pending]
    else:
        sets = [(Scope.STUDY, "", group.images)]
    return [
        _revision(group, images, decision, digest, scope=scope, subject=subject, priority=priority)
        for scope, subject, images in sets
    ]


def _revision(
    group: _Group,
    images: list[InstanceView],
    decision: Decision,
    digest: str,
    *,
    scope: Scope,
    subject: str,
    priority: str,
) -> NewRevision:
    route = group.route
    jobs = tuple(NewJob(model, priority, route.destinations) for model in dict.fromkeys(route.models))
    explained = dict.fromkeys(i.sop_instance_uid for i in images)
    return NewRevision(
        route=route.name,
        scope=scope,
        subject=subject,
        reason=f"{decision.verdict.value}: {decision.reason}",
        instance_ids=tuple(i.id for i in images),
        jobs=jobs,
        rules_digest=digest,
        explanation=[{"sop_instance_uid": uid, **group.explanations[uid].as_dict()} for uid in explained],
    )
