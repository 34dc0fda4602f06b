"""The models' pages: bundles and installed versions, their cards, how readers agree, drift; and which version reads."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import RedirectResponse

from db import model_versions, operations, readings
from db.model_versions import ModelVersionView
from db.readings import Agreement
from db.states import ModelState
from node.web import drift
from node.web.access import Access
from node.web.context import Context, context_of
from node.web.desk import BundleCard, Figure, desk
from node.web.identity import Principal
from node.web.permissions import Permission
from node.web.problems import Problem

Reader = Annotated[Principal, Depends(Access(Permission.MODELS_READ))]
Manager = Annotated[Principal, Depends(Access(Permission.MODELS_MANAGE))]
_Z = 1.96


@dataclass(frozen=True)
class Row:
    """A bundle with what the record knows of it. version: None for one in a folder, which nobody installed."""

    card: BundleCard
    version: ModelVersionView | None

    @property
    def state(self) -> str:
        return self.card.origin if self.version is None else self.version.state.value

    @property
    def may_activate(self) -> bool:
        """A retired version comes back by a roll-back, or is activated again."""
        return self.version is not None and self.version.state in {
            *(ModelState.VALIDATED, ModelState.SHADOW, ModelState.RETIRED),
        }

    @property
    def may_shadow(self) -> bool:
        return self.version is not None and self.version.state is ModelState.VALIDATED

    @property
    def may_roll_back(self) -> bool:
        return self.version is not None and self.version.state is ModelState.ACTIVE


def add_routes(app: FastAPI) -> None:
    page: dict[str, Any] = {"include_in_schema": False}
    app.get("/models", **page)(show_models)
    app.get("/models/{model}/{version}", **page)(show_model)
    app.post("/models/{model}/{version}/activate", **page)(activate)
    app.post("/models/{model}/{version}/shadow", **page)(shadow)
    app.post("/models/{model}/rollback", **page)(roll_back)


def show_models(request: Request, principal: Reader) -> Response:
    """All bundles, and which of them read."""
    return context_of(request).pages.render(
        "models.html", request, principal=principal, rows=_rows(context_of(request))
    )


def show_model(request: Request, principal: Reader, model: str, version: str) -> Response:
    """One version: its card, its operating points, how readers agree with it, drift."""
    context = context_of(request)
    # What reads comes before a copy of it that does not.
    named = [row for row in _rows(context) if (row.card.id, row.card.version) == (model, version)]
    if not named:
        raise Problem(404, "there is no such version of a model")
    row = max(named, key=lambda one: (one.card.reads, one.version is not None))
    reference = row.card.reference
    with context.record.read() as session:
        judged = readings.agreement(session, model, version)
        summaries = operations.recent_summaries(session, model, version) if reference else []
        facts = operations.recent_facts(session, model, version) if reference else []
    return context.pages.render(
        "model.html",
        request,
        principal=principal,
        row=row,
        judged=[(one, agreed(one)) for one in judged],
        drifts=[
            *(("score", one) for one in drift.score_drifts(reference, summaries)),
            *(("input", one) for one in drift.input_drifts(reference, facts)),
        ],
        least=drift.LEAST,
        most_jobs=operations.MOST_JOBS,
        most_judged=readings.MOST_JUDGED,
    )


def agreed(one: Agreement) -> Figure | None:
    """The share accepted of what was accepted or rejected, with its 95 % interval (Wilson 1927); None without any."""
    count = one.accepted + one.rejected
    if not count:
        return None
    share, square = one.accepted / count, _Z * _Z
    middle = (share + square / (2 * count)) / (1 + square / count)
    half = _Z * math.sqrt(share * (1 - share) / count + square / (4 * count * count)) / (1 + square / count)
    return share, max(0.0, middle - half), min(1.0, middle + half)


def activate(request: Request, principal: Manager, model: str, version: str) -> Response:
    """Let an installed version read, from the next job on."""
    context = context_of(request)
    _require_usable(context, model, version)
    with context.record.write() as session:
        model_versions.activate(session, model, version, actor=principal.actor)
    return RedirectResponse("/models", 303)


def shadow(request: Request, principal: Manager, model: str, version: str) -> Response:
    """Let an installed version read along: what it says is kept and never sent."""
    context = context_of(request)
    _require_usable(context, model, version)
    with context.record.write() as session:
        model_versions.shadow(session, model, version, actor=principal.actor)
    return RedirectResponse("/models", 303)


def roll_back(request: Request, principal: Manager, model: str) -> Response:
    """Give the place of the active version back to the one before, or to what came with the node."""
    context = context_of(request)
    with context.record.write() as session:
        _, back = model_versions.rollback(session, model, actor=principal.actor)
        # What is raised here undoes the change: better the version in doubt than none.
        if back is None:
            desk().require_fallback(context.settings, model)
        else:
            desk().require_usable(context.settings, model_versions.find(session, model, back))
    return RedirectResponse("/models", 303)


def _require_usable(context: Context, model: str, version: str) -> None:
    with context.record.read() as session:
        found = model_versions.find(session, model, version)
    desk().require_usable(context.settings, found)


def _rows(context: Context) -> list[Row]:
    with context.record.read() as session:
        versions = model_versions.versions(session)
    cards = desk().cards(context.settings, versions)
    # The installed ones stand at the end, in the record's order.
    folders = len(cards) - len(versions)
    rows = [Row(card, None) for card in cards[:folders]]
    rows += [Row(card, one) for card, one in zip(cards[folders:], versions, strict=True)]
    return sorted(rows, key=lambda row: row.card.id)
