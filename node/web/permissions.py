"""Who may do what: one table. Pages, API and keys of programs all ask it; a right that is not in it nobody has."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum


class Permission(StrEnum):
    """What a route may ask for; also the scopes of API keys."""

    STUDIES_READ = "studies:read"  # worklist and study, without who the patient is
    PATIENTS_READ = "patients:read"  # patient names, ids, accession numbers, reports
    IMAGES_READ = "images:read"  # pixels, which can show a face or burnt-in text
    WORK_RETRY = "work:retry"  # parked jobs and dead letters are tried again
    EVENTS_READ = "events:read"  # that something changed, for live pages
    METRICS_READ = "metrics:read"  # counts per state
    READINGS_WRITE = "readings:write"  # verdicts on findings; a person's alone, no program's
    WORK_RERUN = "work:rerun"  # finished studies are read again
    OPERATIONS_READ = "operations:read"  # queues, workers, peers, dead letters, the rule tester
    PEERS_ECHO = "peers:echo"  # a peer is asked whether it answers
    WORKITEMS_READ = "workitems:read"  # Unified Procedure Steps, which name the patient
    WORKITEMS_WRITE = "workitems:write"  # they are pushed, claimed, changed and canceled
    MODELS_READ = "models:read"  # bundles, their cards, agreement and drift
    MODELS_MANAGE = "models:manage"  # which version reads
    AUDIT_READ = "audit:read"  # what people and the node did
    API_DOCS_READ = "api-docs:read"  # the description of the API
    SELF = "self"  # one's own account and log-out


class Role(StrEnum):
    VIEWER = "viewer"
    RADIOLOGIST = "radiologist"
    PACS_ADMIN = "pacs-admin"
    ML_ENGINEER = "ml-engineer"
    AUDITOR = "auditor"


_P = Permission
_EVERYBODY = frozenset({_P.SELF, _P.API_DOCS_READ})
_CARE = _EVERYBODY | {_P.STUDIES_READ, _P.PATIENTS_READ, _P.IMAGES_READ, _P.EVENTS_READ, _P.MODELS_READ}
_RUN = frozenset({_P.METRICS_READ, _P.OPERATIONS_READ})

ROLE_PERMISSIONS: dict[Role, frozenset[Permission]] = {
    Role.VIEWER: _CARE,
    Role.RADIOLOGIST: _CARE | {_P.READINGS_WRITE, _P.WORK_RERUN},
    Role.PACS_ADMIN: _CARE | _RUN | {_P.WORK_RETRY, _P.WORK_RERUN, _P.PEERS_ECHO, _P.WORKITEMS_READ},
    # Sees how models fare, not whom they read.
    Role.ML_ENGINEER: _EVERYBODY | _RUN | {_P.STUDIES_READ, _P.EVENTS_READ, _P.MODELS_READ, _P.MODELS_MANAGE},
    # Looks at what people did; which patient it was stands in the study's own record.
    Role.AUDITOR: _EVERYBODY | {_P.STUDIES_READ, _P.AUDIT_READ},
}

# A program has no account of its own to look at, and reads no images as a person does.
_NO_SCOPES = frozenset({Permission.SELF, Permission.READINGS_WRITE})
SCOPES = tuple(permission for permission in Permission if permission not in _NO_SCOPES)


def permissions_of(roles: Iterable[str]) -> frozenset[Permission]:
    """What these roles allow together. A name that is no role, from an older release perhaps, allows nothing."""
    known = {role.value: role for role in Role}
    return frozenset().union(*(ROLE_PERMISSIONS[known[name]] for name in roles if name in known))


def permissions_of_scopes(scopes: Iterable[str]) -> frozenset[Permission]:
    """What a key's scopes allow; unknown ones allow nothing."""
    return frozenset(scope for scope in SCOPES if scope.value in set(scopes))
