"""How one file would be routed, and why: for the command line and the page, on the rules that the sweeper uses."""

from __future__ import annotations

from typing import Any

from db.domain import InstanceView, StudyView
from db.states import InstanceState
from db.types import utcnow
from node import routing
from node.identity import MANUFACTURER
from node.settings import Settings
from node.syntaxes import readable_sop_classes
from node.verdicts import plan


def explain(settings: Settings, facts: dict[str, Any]) -> dict[str, Any]:
    """Every route's conditions held against one file's facts, and what would happen."""
    outcomes = [routing.try_route(route, facts) for route in settings.routes]
    chosen = routing.choose(settings.routes, facts, settings.route_match)
    stored = _why_stored(settings, facts)
    if stored:
        outcome = f"stored, not read: {stored}"
    else:
        outcome = "; ".join(
            f"{route.name} -> {', '.join(route.models)} ({route.priority}), "
            f"{'as it arrives' if route.mode == 'instance' else 'when the study is complete'}, "
            f"results to {', '.join(route.destinations)}"
            for route, _ in chosen
        )
    return {"facts": facts, "routes": [o.as_dict() for o in outcomes], "outcome": outcome}


def _why_stored(settings: Settings, facts: dict[str, Any]) -> str:
    """What the sweeper would write of a study that is this image alone; "" where a model reads it."""
    now = utcnow()
    image = InstanceView(
        id=0,
        sop_instance_uid="",
        series_instance_uid="",
        sop_class_uid=facts["sop_class_uid"],
        state=InstanceState.RECEIVED,
        facts=facts,
        calling_ae=facts["calling_ae"],
        own_result=facts["manufacturer"] == MANUFACTURER,
        received_at=now,
    )
    study = StudyView(
        id=0,
        study_instance_uid="",
        version=0,
        first_received_at=now,
        last_received_at=now,
        calling_ae=image.calling_ae,
        expected_instances=None,
        instances=(image,),
        routed=frozenset(),
    )
    readable = readable_sop_classes(settings.read_secondary_captures, settings.read_for_processing)
    return next((reason for _, reason in plan(study, settings, readable, None, now).stored), "")
