"""What may become of a work item, as pure decisions: states, statuses and events of PS3.4 annex CC.

Data sets are in the DICOM JSON model (`db.dicom_json`).
"""

from __future__ import annotations

from datetime import datetime
from enum import IntEnum

from db.dicom_json import Json, code, element, items, sequence, values
from db.states import WorkitemState

GLOBAL_SUBSCRIPTION = "1.2.840.10008.5.1.4.34.5"
FILTERED_SUBSCRIPTION = "1.2.840.10008.5.1.4.34.5.1"

SOP_CLASS, SOP_INSTANCE = "00080016", "00080018"
TRANSACTION = "00081195"
STATE, PROGRESS_INFORMATION, PROGRESS, PROGRESS_DESCRIPTION = "00741000", "00741002", "00741004", "00741006"
COMMUNICATIONS, PERFORMED = "00741008", "00741216"
CANCELED_AT, CANCEL_REASON, DISCONTINUATION = "00404052", "00741238", "0074100E"
CONTACT_URI, CONTACT_NAME, REQUESTING_AE = "0074100A", "0074100C", "00741236"
PRIORITY, LABEL, WORKLIST_LABEL = "00741200", "00741204", "00741202"
STATION_NAME, HUMAN_PERFORMERS, WORKITEM_CODE = "00404025", "00404034", "00404018"
HUMAN_CODE, HUMAN_ORGANIZATION = "00404009", "00404036"
READINESS, INPUT, OUTPUT = "00404041", "00404021", "00404033"
PERFORMED_STATION, PERFORMED_WORKITEM, STARTED_AT, ENDED_AT = "00404028", "00404019", "00404050", "00404051"
STUDY = "0020000D"
MODIFIED_AT = "00404010"

READY = "READY"
"""Of Input Readiness State (0040,4041): all of the input can be had."""

PUSH_CLASS = "1.2.840.10008.5.1.4.34.6.1"
"""The SOP class of every work item, whatever class an operation on it belongs to (PS3.4 CC.3.1)."""

# Beside the patient's own group: admission, diagnoses, comments, requests.
_PATIENT_GROUP = "0010"
_PATIENT_TAGS = frozenset({"00380010", "00380014", "00081080", "00081084", "00400400", "0040A370"})

UNSPECIFIED = ("110513", "DCM", "Discontinued for unspecified reason")

# Of Scheduled Procedure Step Priority (0074,1200). MEDIUM is what all work items have where nobody tells them apart
# (PS3.3 C.30.1), so it is no cause for haste.
PRIORITIES = {"HIGH": "stat", "MEDIUM": "routine", "LOW": "routine"}

MOST_CHARACTERS = 1 << 20
"""Longest data set, as JSON."""


class UpsStatus(IntEnum):
    """What an operation on a work item is answered (PS3.4 CC.2, tables of status codes; PS3.7 annex C)."""

    SUCCESS = 0x0000
    ATTRIBUTES_NOT_SUPPORTED = 0x0001
    DUPLICATE = 0x0111
    RESOURCE_LIMITATION = 0x0213
    MODIFIED = 0xB300  # created, with modifications
    ALREADY_CANCELED = 0xB304
    ALREADY_COMPLETED = 0xB306
    ENDED = 0xC300  # it may no longer be updated
    WRONG_TRANSACTION = 0xC301
    ALREADY_IN_PROGRESS = 0xC302
    ONLY_CREATED_SCHEDULED = 0xC303
    FINAL_STATE_UNMET = 0xC304
    NO_SUCH_WORKITEM = 0xC307
    UNKNOWN_RECEIVER = 0xC308
    NOT_SCHEDULED = 0xC309  # the state it was to be created in
    NOT_IN_PROGRESS = 0xC310
    CANNOT_CANCEL_COMPLETED = 0xC311
    PERFORMER_UNREACHABLE = 0xC312
    PERFORMER_DECLINES = 0xC313
    NOT_APPROPRIATE = 0xC314


class EventType(IntEnum):
    """Event Type ID (PS3.4 table CC.2.4-1)."""

    STATE_REPORT = 1
    CANCEL_REQUESTED = 2
    PROGRESS_REPORT = 3
    SCP_STATUS_CHANGE = 4
    ASSIGNED = 5


_W = WorkitemState
# (state, state asked for) under the correct Transaction UID: PS3.4 table CC.1.1-2.
_CHANGES = {
    (_W.SCHEDULED, _W.IN_PROGRESS): UpsStatus.SUCCESS,
    (_W.SCHEDULED, _W.COMPLETED): UpsStatus.NOT_IN_PROGRESS,
    (_W.SCHEDULED, _W.CANCELED): UpsStatus.NOT_IN_PROGRESS,
    (_W.IN_PROGRESS, _W.IN_PROGRESS): UpsStatus.ALREADY_IN_PROGRESS,
    (_W.IN_PROGRESS, _W.COMPLETED): UpsStatus.SUCCESS,
    (_W.IN_PROGRESS, _W.CANCELED): UpsStatus.SUCCESS,
    (_W.COMPLETED, _W.IN_PROGRESS): UpsStatus.ENDED,
    (_W.COMPLETED, _W.COMPLETED): UpsStatus.ALREADY_COMPLETED,
    (_W.COMPLETED, _W.CANCELED): UpsStatus.ENDED,
    (_W.CANCELED, _W.IN_PROGRESS): UpsStatus.ENDED,
    (_W.CANCELED, _W.COMPLETED): UpsStatus.ENDED,
    (_W.CANCELED, _W.CANCELED): UpsStatus.ALREADY_CANCELED,
}


def decide_change(current: WorkitemState, target: WorkitemState, *, correct: bool, met: bool) -> UpsStatus:
    """Whether an item becomes `target` (PS3.4 table CC.1.1-2): SUCCESS, or why not.

    correct: the right Transaction UID was given. met: the requirements of the final state are.
    """
    if target is WorkitemState.SCHEDULED:
        return UpsStatus.ONLY_CREATED_SCHEDULED
    if not correct:
        return UpsStatus.WRONG_TRANSACTION
    status = _CHANGES[current, target]
    if status is UpsStatus.SUCCESS and target is not WorkitemState.IN_PROGRESS and not met:
        return UpsStatus.FINAL_STATE_UNMET
    return status


def unmet(data: Json, target: WorkitemState) -> tuple[str, ...]:
    """Attributes that a final state asks for and the item lacks (PS3.4 CC.2.5.1.1, columns P and X), as tags."""
    if target is WorkitemState.COMPLETED:
        performed = items(data, PERFORMED)[:1] or [{}]
        lacking = [
            tag
            for tag in (PERFORMED_STATION, PERFORMED_WORKITEM, STARTED_AT, ENDED_AT)
            if not values(performed[0], tag)
        ]
        # An analysis that made no object has an empty one.
        return tuple(lacking if OUTPUT in performed[0] else [*lacking, OUTPUT])
    progress = items(data, PROGRESS_INFORMATION)[:1] or [{}]
    return tuple(tag for tag in (CANCELED_AT, DISCONTINUATION) if not values(progress[0], tag))


def canceled(data: Json, at: datetime, information: Json | None = None) -> Json:
    """The data set with all that CANCELED asks for: what the request for it says, or that no reason is known.

    information: of a request to cancel. What stands there already is kept.
    """
    progress = dict((items(data, PROGRESS_INFORMATION)[:1] or [{}])[0])
    told = information or {}
    if not values(progress, CANCELED_AT):
        progress[CANCELED_AT] = element("DT", date_time(at))
    if not values(progress, CANCEL_REASON) and values(told, CANCEL_REASON):
        progress[CANCEL_REASON] = told[CANCEL_REASON]
    if not values(progress, DISCONTINUATION):
        progress[DISCONTINUATION] = told.get(DISCONTINUATION) or sequence([code(*UNSPECIFIED)])
    return {**data, PROGRESS_INFORMATION: sequence([progress])}


def state_report(data: Json) -> Json:
    """Event information of a change of the state, or of the input's readiness."""
    report = {tag: data.get(tag) or element("CS") for tag in (STATE, READINESS)}
    progress = items(data, PROGRESS_INFORMATION)[:1] or [{}]
    return {**report, **{tag: progress[0][tag] for tag in (CANCEL_REASON, DISCONTINUATION) if tag in progress[0]}}


def progress_report(data: Json) -> Json:
    """Event information of a change of the progress."""
    return {PROGRESS_INFORMATION: data.get(PROGRESS_INFORMATION) or sequence()}


def assigned(data: Json) -> Json | None:
    """Event information of an assignment; None where the item is assigned to nobody."""
    told: Json = {}
    if values(data, STATION_NAME):
        told[STATION_NAME] = data[STATION_NAME]
    for performer in items(data, HUMAN_PERFORMERS)[:1]:
        if values(performer, HUMAN_CODE):
            told[HUMAN_CODE] = performer[HUMAN_CODE]
        if values(performer, HUMAN_ORGANIZATION):
            told[HUMAN_ORGANIZATION] = performer[HUMAN_ORGANIZATION]
    return told or None


def cancel_requested(requesting_ae: str, information: Json) -> Json:
    """Event information of a request to cancel."""
    told = (CANCEL_REASON, DISCONTINUATION, CONTACT_URI, CONTACT_NAME)
    return {
        REQUESTING_AE: element("AE", requesting_ae),
        **{tag: information[tag] for tag in told if tag in information},
    }


def restarted() -> Json:
    """Event information of a start of this node: the record keeps items and subscriptions."""
    return {
        "00741242": element("CS", "RESTARTED"),
        "00741244": element("CS", "WARM START"),
        "00741246": element("CS", "WARM START"),
    }


def names_patient(tag: str) -> bool:
    """Whether an attribute says who the patient is, or something of that patient."""
    return tag.startswith(_PATIENT_GROUP) or tag in _PATIENT_TAGS


def date_time(moment: datetime) -> str:
    """A moment as DT with its offset from UTC."""
    return moment.strftime("%Y%m%d%H%M%S.%f%z")
