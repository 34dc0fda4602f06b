"""FHIR's own models as judges of what leaves this node: fhir.resources, whose R4B models hold R4's resources.

Loaded at the first resource, for 0.1 s and 12 MB that a node without FHIR never pays.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

from db.errors import PermanentError
from node.worklist.fhir.values import Json


class InvalidResource(PermanentError):
    """A result that no valid FHIR resource can be made of."""


def checked(resource: Json) -> Json:
    """The resource itself, once FHIR's model has taken it. Raises InvalidResource."""
    kind = str(resource["resourceType"])
    try:
        _model(kind).model_validate(resource)
    except ValueError as error:
        # What it says quotes the resource.
        raise InvalidResource(f"no valid {kind} can be made of a result ({type(error).__name__})") from None
    return resource


@cache
def _model(kind: str) -> Any:
    return getattr(import_module(f"fhir.resources.R4B.{kind.lower()}"), kind)
