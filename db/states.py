"""States and the only changes allowed between them.

Each table is a set of (from, to). A state is changed by `UPDATE … WHERE state = from` and nothing else
(`db.transitions`), so two processes can race and one of them simply finds zero rows.
"""

from __future__ import annotations

from enum import StrEnum


class StudyState(StrEnum):
    RECEIVING = "RECEIVING"  # images are, or may still be, arriving
    COMPLETE = "COMPLETE"  # judged complete and routed; a late image reopens it
    DELETING = "DELETING"  # files of it are going; until they are gone nothing of it is taken
    CLEARED = "CLEARED"  # its images are deleted, what was found in them is kept; a new image reopens it
    DELETED = "DELETED"  # all of it is deleted but its UIDs; a new image opens it anew


class InstanceState(StrEnum):
    RECEIVED = "RECEIVED"  # durable, not yet routed
    STORED = "STORED"  # kept, no model reads it; the reason says why
    ROUTED = "ROUTED"  # at least one job will look at it
    ANALYSED = "ANALYSED"
    NOT_ANALYSED = "NOT_ANALYSED"  # a model was asked and refused, with its reason
    FAILED = "FAILED"  # its job is parked
    QUARANTINED = "QUARANTINED"  # kept apart for a person


class JobState(StrEnum):
    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    DONE = "DONE"
    NOT_ANALYSED = "NOT_ANALYSED"  # finished: the result says why there is none
    PARKED = "PARKED"  # tried a bounded number of times; waits for a person
    SUPERSEDED = "SUPERSEDED"  # a later revision took its place before it ran


class DeliveryState(StrEnum):
    PENDING = "PENDING"
    SENDING = "SENDING"
    SENT = "SENT"  # the peer answered Success; not yet proved
    CONFIRMED = "CONFIRMED"  # storage commitment or read-back says it is there
    UNCONFIRMED = "UNCONFIRMED"  # sent; the peer offers no way to prove it
    DEAD = "DEAD"  # given up; waits for a person
    WITHDRAWN = "WITHDRAWN"  # never sent: its study was deleted, or the settings keep it from the destination


class CommitmentState(StrEnum):
    ASKED = "ASKED"
    ANSWERED = "ANSWERED"
    EXPIRED = "EXPIRED"


class CircuitState(StrEnum):
    CLOSED = "CLOSED"  # traffic flows
    OPEN = "OPEN"  # nothing is tried before opened_until
    HALF_OPEN = "HALF_OPEN"  # one trial is on its way


class RefusalKind(StrEnum):
    REFUSED = "REFUSED"  # a failure status was answered; the sender keeps it
    CONFLICT = "CONFLICT"  # same SOP Instance UID, other bytes; kept aside
    CONTEXT = "CONTEXT"  # the SOP class or transfer syntax was not accepted at negotiation


class ModelState(StrEnum):
    UPLOADED = "uploaded"  # unpacked and whole; its network has not yet answered the test vectors here
    VALIDATED = "validated"  # it has, and waits for a person to use it
    SHADOW = "shadow"  # reads along; what it says is kept and never sent
    ACTIVE = "active"  # reads; one version of a model at most
    RETIRED = "retired"  # no longer used; may come back by a roll-back


class OrderState(StrEnum):
    """What the hospital's worklist says of a study."""

    WANTED = "WANTED"  # to be asked, or asked in vain so far
    MATCHED = "MATCHED"  # its order is on record and of the same patient
    ABSENT = "ABSENT"  # the worklist has none that is this study's beyond doubt
    MISMATCHED = "MISMATCHED"  # its order is another patient's: a person must look
    VOUCHED = "VOUCHED"  # a person has looked


class PriorState(StrEnum):
    """What became of a question for a study's priors."""

    WANTED = "WANTED"  # to be asked, or being fetched; work waits for it, for a bounded time
    FOUND = "FOUND"  # they are here
    ABSENT = "ABSENT"  # the peer has none
    REFUSED = "REFUSED"  # what it gave is another patient's: nothing of it is kept
    FAILED = "FAILED"  # they did not come in time
    GONE = "GONE"  # they were here, and their files are deleted


class NoticeKind(StrEnum):
    """By what a peer tells that a study is done."""

    IAN = "IAN"  # Instance Availability Notification
    MPPS = "MPPS"  # Modality Performed Procedure Step
    COMMITMENT = "COMMITMENT"  # a request for storage commitment: whoever asks has sent all it names
    WORKITEM = "WORKITEM"  # a Unified Procedure Step whose input is ready


class NoticeState(StrEnum):
    IN_PROGRESS = "IN PROGRESS"
    COMPLETED = "COMPLETED"
    DISCONTINUED = "DISCONTINUED"


class PledgeState(StrEnum):
    WAITING = "WAITING"  # the peer has still to be told
    REPORTED = "REPORTED"
    GIVEN_UP = "GIVEN_UP"  # it could not be told in time, and will ask again


class PerformanceState(StrEnum):
    """A work item of another system's that this node performs (PS3.4 CC.1.1, from the performer's side)."""

    CLAIMING = "CLAIMING"  # its manager is, or was, asked for it; the answer is not on record
    HELD = "HELD"  # it is IN PROGRESS under this node's transaction UID
    COMPLETING = "COMPLETING"  # done here; its manager has still to be told
    CANCELING = "CANCELING"  # not to be done here; its manager has still to be told
    COMPLETED = "COMPLETED"
    CANCELED = "CANCELED"
    LOST = "LOST"  # another performer has it, or its manager has ended it or knows it no more
    GIVEN_UP = "GIVEN_UP"  # its manager could not be told in time; waits for a person


class WorkitemState(StrEnum):
    """Procedure Step State (0074,1000) of a Unified Procedure Step (PS3.4 CC.1.1)."""

    SCHEDULED = "SCHEDULED"
    IN_PROGRESS = "IN PROGRESS"  # claimed: whoever did alone knows its Transaction UID
    COMPLETED = "COMPLETED"
    CANCELED = "CANCELED"


class TidingState(StrEnum):
    """Of an event of a work item that a subscriber is to be told."""

    WAITING = "WAITING"
    TOLD = "TOLD"
    GIVEN_UP = "GIVEN_UP"  # it could not be told in time


class Scope(StrEnum):
    STUDY = "STUDY"
    INSTANCE = "INSTANCE"


class DeletionScope(StrEnum):
    STUDY = "STUDY"  # everything of a study
    IMAGES = "IMAGES"  # the received images of a study
    PRIORS = "PRIORS"  # images that were fetched to compare a study with
    RESULTS = "RESULTS"  # the objects made from a study; their UIDs stay, so that none is given twice
    ASIDE = "ASIDE"  # an object that was set aside, because it came under the UID of another


class DeletionState(StrEnum):
    BEGUN = "BEGUN"  # the record no longer names the files; they are being removed
    DONE = "DONE"


_S = StudyState
STUDY_TRANSITIONS = frozenset(
    {
        (_S.RECEIVING, _S.COMPLETE),
        (_S.COMPLETE, _S.RECEIVING),
        (_S.COMPLETE, _S.DELETING),
        (_S.RECEIVING, _S.DELETING),  # a person insists
        (_S.CLEARED, _S.DELETING),
        (_S.DELETING, _S.CLEARED),
        (_S.DELETING, _S.DELETED),
        (_S.CLEARED, _S.RECEIVING),
        (_S.DELETED, _S.RECEIVING),
    }
)

DELETION_TRANSITIONS = frozenset({(DeletionState.BEGUN, DeletionState.DONE)})

_I = InstanceState
INSTANCE_TRANSITIONS = frozenset(
    {
        (_I.RECEIVED, _I.STORED),
        (_I.RECEIVED, _I.ROUTED),
        (_I.STORED, _I.ROUTED),  # the rules have changed, and a late image reopened its study
        (_I.ROUTED, _I.ANALYSED),
        (_I.ROUTED, _I.NOT_ANALYSED),
        (_I.ROUTED, _I.FAILED),
        # A second model, or a later revision, may read what the first one could not.
        (_I.NOT_ANALYSED, _I.ANALYSED),
        (_I.FAILED, _I.ANALYSED),
        (_I.FAILED, _I.NOT_ANALYSED),
        (_I.NOT_ANALYSED, _I.FAILED),
        (_I.QUARANTINED, _I.RECEIVED),  # a person vouches for it
        # The worklist's order is another patient's.
        (_I.RECEIVED, _I.QUARANTINED),
        (_I.STORED, _I.QUARANTINED),
    }
)

_J = JobState
JOB_TRANSITIONS = frozenset(
    {
        (_J.QUEUED, _J.RUNNING),
        (_J.QUEUED, _J.SUPERSEDED),
        (_J.QUEUED, _J.PARKED),
        (_J.RUNNING, _J.RUNNING),  # a lease that ran out is taken over
        (_J.RUNNING, _J.QUEUED),
        (_J.RUNNING, _J.DONE),
        (_J.RUNNING, _J.NOT_ANALYSED),
        (_J.RUNNING, _J.PARKED),
        (_J.RUNNING, _J.SUPERSEDED),  # later images were judged while it ran
        (_J.PARKED, _J.QUEUED),
        (_J.PARKED, _J.NOT_ANALYSED),  # a person gives it up
    }
)

_D = DeliveryState
DELIVERY_TRANSITIONS = frozenset(
    {
        (_D.PENDING, _D.SENDING),
        (_D.SENDING, _D.PENDING),
        (_D.SENDING, _D.SENT),
        (_D.SENDING, _D.DEAD),
        (_D.SENT, _D.CONFIRMED),
        (_D.SENT, _D.UNCONFIRMED),
        (_D.SENT, _D.PENDING),
        (_D.SENT, _D.DEAD),
        (_D.UNCONFIRMED, _D.CONFIRMED),
        (_D.UNCONFIRMED, _D.PENDING),  # a late report says that the peer does not hold it
        (_D.CONFIRMED, _D.PENDING),  # so says the report on a transaction that C-FIND had anticipated
        (_D.DEAD, _D.PENDING),
        # A person has the study deleted.
        (_D.PENDING, _D.WITHDRAWN),
        (_D.DEAD, _D.WITHDRAWN),
    }
)

_C = CommitmentState
COMMITMENT_TRANSITIONS = frozenset({(_C.ASKED, _C.ANSWERED), (_C.ASKED, _C.EXPIRED), (_C.EXPIRED, _C.ANSWERED)})

_M = ModelState
MODEL_TRANSITIONS = frozenset(
    {
        (_M.UPLOADED, _M.VALIDATED),
        (_M.UPLOADED, _M.RETIRED),
        (_M.VALIDATED, _M.SHADOW),
        (_M.VALIDATED, _M.ACTIVE),
        (_M.VALIDATED, _M.RETIRED),
        (_M.SHADOW, _M.VALIDATED),  # another version takes its place in the shadow
        (_M.SHADOW, _M.ACTIVE),
        (_M.SHADOW, _M.RETIRED),
        (_M.ACTIVE, _M.RETIRED),
        (_M.RETIRED, _M.ACTIVE),
    }
)

_O = OrderState
ORDER_TRANSITIONS = frozenset(
    {
        *((_O.WANTED, target) for target in (_O.MATCHED, _O.ABSENT, _O.MISMATCHED)),
        # An order may be entered after the images were taken, as in an emergency.
        (_O.ABSENT, _O.MATCHED),
        (_O.ABSENT, _O.MISMATCHED),
        # The hospital has given the order to another patient since.
        (_O.MATCHED, _O.MISMATCHED),
        (_O.MISMATCHED, _O.VOUCHED),
    }
)

_R = PriorState
PRIOR_TRANSITIONS = frozenset(
    {
        *((_R.WANTED, target) for target in (_R.FOUND, _R.ABSENT, _R.REFUSED, _R.FAILED)),
        (_R.FOUND, _R.GONE),
        # The study is read again later.
        *((source, _R.WANTED) for source in (_R.ABSENT, _R.REFUSED, _R.FAILED, _R.GONE)),
    }
)

_N = NoticeState
NOTICE_TRANSITIONS = frozenset({(_N.IN_PROGRESS, _N.COMPLETED), (_N.IN_PROGRESS, _N.DISCONTINUED)})

_P = PledgeState
PLEDGE_TRANSITIONS = frozenset(
    {
        (_P.WAITING, _P.REPORTED),
        (_P.WAITING, _P.GIVEN_UP),
        # The peer asks again under the same transaction.
        (_P.REPORTED, _P.WAITING),
        (_P.GIVEN_UP, _P.WAITING),
    }
)

_F = PerformanceState
PERFORMANCE_TRANSITIONS = frozenset(
    {
        *((_F.CLAIMING, target) for target in (_F.HELD, _F.LOST, _F.GIVEN_UP)),
        # Nobody else has taken it meanwhile.
        (_F.GIVEN_UP, _F.CLAIMING),
        *((_F.HELD, target) for target in (_F.COMPLETING, _F.CANCELING, _F.LOST)),
        *((_F.COMPLETING, target) for target in (_F.COMPLETED, _F.LOST, _F.GIVEN_UP)),
        # Its manager does not take it as completed, and says so for good.
        (_F.COMPLETING, _F.CANCELING),
        *((_F.CANCELING, target) for target in (_F.CANCELED, _F.LOST, _F.GIVEN_UP)),
    }
)

_W = WorkitemState
WORKITEM_TRANSITIONS = frozenset(
    {(_W.SCHEDULED, _W.IN_PROGRESS), (_W.IN_PROGRESS, _W.COMPLETED), (_W.IN_PROGRESS, _W.CANCELED)}
)

_T = TidingState
TIDING_TRANSITIONS = frozenset({(_T.WAITING, _T.TOLD), (_T.WAITING, _T.GIVEN_UP)})

TRANSITIONS: dict[type[StrEnum], frozenset[tuple[StrEnum, StrEnum]]] = {
    StudyState: frozenset(STUDY_TRANSITIONS),
    InstanceState: frozenset(INSTANCE_TRANSITIONS),
    JobState: frozenset(JOB_TRANSITIONS),
    DeliveryState: frozenset(DELIVERY_TRANSITIONS),
    CommitmentState: frozenset(COMMITMENT_TRANSITIONS),
    ModelState: frozenset(MODEL_TRANSITIONS),
    DeletionState: frozenset(DELETION_TRANSITIONS),
    OrderState: frozenset(ORDER_TRANSITIONS),
    PriorState: frozenset(PRIOR_TRANSITIONS),
    NoticeState: frozenset(NOTICE_TRANSITIONS),
    PledgeState: frozenset(PLEDGE_TRANSITIONS),
    WorkitemState: frozenset(WORKITEM_TRANSITIONS),
    TidingState: frozenset(TIDING_TRANSITIONS),
    PerformanceState: frozenset(PERFORMANCE_TRANSITIONS),
}
