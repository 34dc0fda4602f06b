"""What each event is in the words of DICOM PS3.15 A.5: the one place that says so.

Codes: PS3.16 CID 400 (events), CID 401 (types), CID 402 (roles), CID 404 (kinds of object), and the numbers of PS3.15
A.5.1.2 for what has none there.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal

from db.audit_events import Event


@dataclass(frozen=True)
class Code:
    value: str
    meaning: str
    scheme: str = "DCM"


APPLICATION_ACTIVITY = Code("110100", "Application Activity")
AUDIT_LOG_USED = Code("110101", "Audit Log Used")
BEGIN_TRANSFERRING = Code("110102", "Begin Transferring DICOM Instances")
INSTANCES_ACCESSED = Code("110103", "DICOM Instances Accessed")
INSTANCES_TRANSFERRED = Code("110104", "DICOM Instances Transferred")
STUDY_DELETED = Code("110105", "DICOM Study Deleted")
EXPORT = Code("110106", "Export")
ORDER_RECORD = Code("110109", "Order Record")
PATIENT_RECORD = Code("110110", "Patient Record")
QUERY = Code("110112", "Query")
SECURITY_ALERT = Code("110113", "Security Alert")
USER_AUTHENTICATION = Code("110114", "User Authentication")

APPLICATION_START = Code("110120", "Application Start")
APPLICATION_STOP = Code("110121", "Application Stop")
LOGIN = Code("110122", "Login")
LOGOUT = Code("110123", "Logout")
NODE_AUTHENTICATION = Code("110126", "Node Authentication")
SECURITY_CONFIGURATION = Code("110129", "Security Configuration")
SOFTWARE_CONFIGURATION = Code("110131", "Software Configuration")
RESTRICTED_FUNCTION = Code("110132", "Use of Restricted Function")
SECURITY_ROLES_CHANGED = Code("110136", "Security Roles Changed")
USER_SECURITY_CHANGED = Code("110137", "User security Attributes Changed")

APPLICATION = Code("110150", "Application")
LAUNCHER = Code("110151", "Application Launcher")
DESTINATION = Code("110152", "Destination Role ID")
SOURCE = Code("110153", "Source Role ID")
DESTINATION_MEDIA = Code("110154", "Destination Media")

STUDY_UID = Code("110180", "Study Instance UID")
NODE_ID = Code("110182", "Node ID")
PATIENT_NUMBER = Code("2", "Patient Number", "RFC-3881")
USER_IDENTIFIER = Code("11", "User Identifier", "RFC-3881")
URI = Code("12", "URI", "RFC-3881")

# Names of events of this node's own, as a second type of each message: PS3.16 has no finer ones.
OWN_SCHEME = "99RADNODE"

Action = Literal["C", "R", "U", "D", "E"]


class Who(Enum):
    """Who takes part besides this node, and who asked for it."""

    NODE = "the node alone, by one of its processes"
    PERSON = "whoever acts: an account, a program's key, the command line"
    STARTER = "what was started or stopped, and who did it"
    SENDER = "a peer that sends to this node"
    RECEIVER = "a peer that this node sends to"
    APPLICATION = "a machine without an AE title: it speaks HL7, or got no further than its TLS handshake"


class What(Enum):
    """The object it is about."""

    NOTHING = "nothing but the event"
    STUDY = "a study, which is the subject, and the patient it is of"
    PART = "part of a study, which the detail names, or work on it"
    ALERT = "what the alert is about"
    USER = "an account"
    LOG = "the audit trail"
    LIST = "a list of studies"


@dataclass(frozen=True)
class Meaning:
    """One message of PS3.15 A.5.3. failure: its outcome indicator where it did not go well (A.5.2)."""

    event: Code
    action: Action
    who: Who
    what: What
    type: Code | None = None
    failure: Literal["4", "8", "12"] = "8"


def _alert(kind: Code, who: Who = Who.PERSON, what: What = What.ALERT) -> Meaning:
    return Meaning(SECURITY_ALERT, "E", who, what, kind)


def _activity(what: What = What.NOTHING, who: Who = Who.NODE) -> Meaning:
    return Meaning(APPLICATION_ACTIVITY, "E", who, what)


_MODEL = _alert(SOFTWARE_CONFIGURATION)
_ACCOUNT = _alert(USER_SECURITY_CHANGED, what=What.USER)

MEANINGS: dict[Event, Meaning] = {
    "application_started": Meaning(APPLICATION_ACTIVITY, "E", Who.STARTER, What.NOTHING, APPLICATION_START),
    "application_stopped": Meaning(APPLICATION_ACTIVITY, "E", Who.STARTER, What.NOTHING, APPLICATION_STOP),
    "settings_changed": _alert(SECURITY_CONFIGURATION, Who.NODE),
    "association_rejected": _alert(NODE_AUTHENTICATION, Who.SENDER),
    "handshake_failed": _alert(NODE_AUTHENTICATION, Who.APPLICATION),
    "instances_received": Meaning(INSTANCES_TRANSFERRED, "C", Who.SENDER, What.STUDY),
    "instance_refused": Meaning(INSTANCES_TRANSFERRED, "C", Who.SENDER, What.PART),
    "patient_mismatch": _alert(RESTRICTED_FUNCTION, Who.SENDER),
    "instance_released": _alert(RESTRICTED_FUNCTION, Who.PERSON, What.PART),
    "study_routed": _activity(What.STUDY),
    "order_matched": _activity(What.STUDY),
    "order_mismatched": _alert(RESTRICTED_FUNCTION, Who.NODE),
    "priors_fetched": Meaning(INSTANCES_TRANSFERRED, "R", Who.NODE, What.STUDY),
    "priors_absent": Meaning(QUERY, "E", Who.NODE, What.STUDY),
    "priors_refused": _alert(RESTRICTED_FUNCTION, Who.NODE),
    "notice_received": _activity(What.STUDY, Who.SENDER),
    "commitment_asked": _activity(What.NOTHING, Who.SENDER),
    "workitem_received": _activity(What.STUDY, Who.SENDER),
    "workitem_changed": _activity(What.STUDY, Who.SENDER),
    "workitem_claimed": _activity(What.STUDY),
    "workitem_performed": _activity(What.STUDY),
    # The node read the images and made objects out of them.
    "job_finished": Meaning(INSTANCES_ACCESSED, "C", Who.NODE, What.PART),
    "job_parked": _activity(What.PART),
    "job_retried": _activity(What.PART, Who.PERSON),
    "job_given_up": _activity(What.PART, Who.PERSON),
    "sending_begun": Meaning(BEGIN_TRANSFERRING, "E", Who.RECEIVER, What.PART),
    "result_sent": Meaning(INSTANCES_TRANSFERRED, "C", Who.RECEIVER, What.PART),
    "delivery_dead": Meaning(INSTANCES_TRANSFERRED, "C", Who.RECEIVER, What.PART),
    "delivery_retried": _activity(What.PART, Who.PERSON),
    # What leaves DICOM's realm is an export (A.5.3.5).
    "message_sent": Meaning(EXPORT, "R", Who.RECEIVER, What.PART),
    "message_refused": _alert(NODE_AUTHENTICATION, Who.APPLICATION),
    "order_received": Meaning(ORDER_RECORD, "U", Who.APPLICATION, What.NOTHING),
    "patient_identity_changed": Meaning(PATIENT_RECORD, "U", Who.APPLICATION, What.STUDY),
    "model_installed": _MODEL,
    "model_validated": _MODEL,
    "model_activated": _MODEL,
    "model_rolled_back": _MODEL,
    "model_shadowed": _MODEL,
    "model_retired": _MODEL,
    "login": Meaning(USER_AUTHENTICATION, "E", Who.PERSON, What.NOTHING, LOGIN, failure="4"),
    "logout": Meaning(USER_AUTHENTICATION, "E", Who.PERSON, What.NOTHING, LOGOUT),
    "access_denied": _alert(RESTRICTED_FUNCTION),
    "user_created": _ACCOUNT,
    "user_password_changed": _ACCOUNT,
    "user_roles_changed": _alert(SECURITY_ROLES_CHANGED, what=What.USER),
    "user_disabled": _ACCOUNT,
    "user_enabled": _ACCOUNT,
    "user_locked": _ACCOUNT,
    "api_key_created": _ACCOUNT,
    "api_key_revoked": _ACCOUNT,
    "patients_shown": Meaning(QUERY, "E", Who.PERSON, What.LIST),
    "study_viewed": Meaning(INSTANCES_ACCESSED, "R", Who.PERSON, What.STUDY),
    "report_viewed": Meaning(INSTANCES_ACCESSED, "R", Who.PERSON, What.PART),
    "study_exported": Meaning(EXPORT, "R", Who.PERSON, What.STUDY),
    "finding_judged": _activity(What.STUDY, Who.PERSON),
    "judgement_undone": _activity(What.STUDY, Who.PERSON),
    "first_read": _activity(What.STUDY, Who.PERSON),
    "study_rerun": _activity(What.STUDY, Who.PERSON),
    "study_deleted": Meaning(STUDY_DELETED, "D", Who.PERSON, What.STUDY),
    "instances_deleted": Meaning(INSTANCES_ACCESSED, "D", Who.PERSON, What.STUDY),
    "audit_used": Meaning(AUDIT_LOG_USED, "E", Who.PERSON, What.LOG),
    "audit_pruned": _alert(SECURITY_CONFIGURATION, what=What.LOG),
}

# For rows of another release, whose name this one does not know: sent all the same.
UNKNOWN = _activity(who=Who.PERSON)


_BY_NAME: dict[str, Meaning] = {str(name): meaning for name, meaning in MEANINGS.items()}


def meaning_of(event: str) -> Meaning:
    """What an event of the record is to a collector."""
    return _BY_NAME.get(event, UNKNOWN)
