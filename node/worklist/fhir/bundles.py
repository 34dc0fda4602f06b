"""Bundles: one transaction for each report that is sent, and the pages of a search. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from db.errors import PermanentError
from db.fhir_view import ModelMatter, Work, told_of
from node.worklist.fhir.resources import Writer, device
from node.worklist.fhir.values import Json, exact


class UnsendableResult(PermanentError):
    """A result that no receiver could file."""


def transaction(work: Work, earlier: Sequence[Work], writer: Writer, url: str) -> Json:
    """All there is to say of finished work: the same again is the same resources under the same ids (PUT).

    earlier: work whose reports this one has taken the place of. url: the receiver's base. Raises UnsendableResult.
    """
    if not exact(work.study.patient_id):
        raise UnsendableResult(
            "the images name no patient, or by an identifier that FHIR cannot hold; nobody could file a report of them"
        )
    model = ModelMatter(work.model, work.model_version, work.model_digest, told_of(work.summary))
    resources = [
        *([device(model)] if work.model_digest else []),
        *([writer.imaging_study_of(work.study)] if writer.imaging_study else []),
        *(one for each in (work, *earlier) for one in (*writer.observations(each), writer.report(each))),
        writer.task(work),
    ]
    return {"resourceType": "Bundle", "type": "transaction", "entry": [_put(one, url) for one in resources]}


def _put(resource: Json, url: str) -> Json:
    place = f"{resource['resourceType']}/{resource['id']}"
    # When it was updated there, the receiver says.
    told = {name: value for name, value in resource.items() if name != "meta"}
    return {"fullUrl": f"{url}/{place}", "resource": told, "request": {"method": "PUT", "url": place}}


def searchset(resources: Iterable[Json], url: str, links: dict[str, str]) -> Json:
    """A page of a search. url: this node's base. links: addresses by relation, self and next."""
    entries = [
        {"fullUrl": f"{url}/{one['resourceType']}/{one['id']}", "resource": one, "search": {"mode": "match"}}
        for one in resources
    ]
    page: Json = {
        "resourceType": "Bundle",
        "type": "searchset",
        "link": [{"relation": relation, "url": address} for relation, address in links.items()],
    }
    return {**page, "entry": entries} if entries else page
