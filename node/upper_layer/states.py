"""The acceptor's part of the upper layer's state machine: PS3.8 section 9.2, table 9-10.

The states in which the standard waits for its own user (Sta3 for an answer to the request, Sta8 for one to the release)
take no PDU here, as the loop answers before it reads on. In Sta13 nothing is parsed any more: what comes is thrown away
(AA-6) until the peer closes (AR-5) or the time for it is over (AA-2). The requestor's states do not occur:
`node.sending` asks one thing at a time, and what it waits for follows from what it asked.
"""

from __future__ import annotations

from enum import Enum, IntEnum


class Pdu(IntEnum):
    """PDU types (PS3.8 section 9.3); UNKNOWN stands for every other one."""

    UNKNOWN = 0
    ASSOCIATE_RQ = 1
    ASSOCIATE_AC = 2
    ASSOCIATE_RJ = 3
    P_DATA = 4
    RELEASE_RQ = 5
    RELEASE_RP = 6
    ABORT = 7


class State(Enum):
    """Where an association is, by the standard's number."""

    AWAITING_REQUEST = "Sta2"
    ESTABLISHED = "Sta6"
    AWAITING_CLOSE = "Sta13"  # no PDU is taken any more


class Action(Enum):
    """What is done, by the standard's number (PS3.8 tables 9-6 to 9-9)."""

    ANSWER_REQUEST = "AE-6"
    TAKE_DATA = "DT-2"
    ANSWER_RELEASE = "AR-2, AR-4"
    ABORT = "AA-1"  # before an association: as the service user
    CLOSE = "AA-2, AA-3"
    PROVIDER_ABORT = "AA-8"


_UNEXPECTED = frozenset({Pdu.UNKNOWN, Pdu.ASSOCIATE_AC, Pdu.ASSOCIATE_RJ, Pdu.RELEASE_RP})

TABLE: dict[tuple[State, Pdu], Action] = {
    (State.AWAITING_REQUEST, Pdu.ASSOCIATE_RQ): Action.ANSWER_REQUEST,
    (State.AWAITING_REQUEST, Pdu.ABORT): Action.CLOSE,
    **{(State.AWAITING_REQUEST, pdu): Action.ABORT for pdu in (*_UNEXPECTED, Pdu.P_DATA, Pdu.RELEASE_RQ)},
    (State.ESTABLISHED, Pdu.P_DATA): Action.TAKE_DATA,
    (State.ESTABLISHED, Pdu.RELEASE_RQ): Action.ANSWER_RELEASE,
    (State.ESTABLISHED, Pdu.ABORT): Action.CLOSE,
    **{(State.ESTABLISHED, pdu): Action.PROVIDER_ABORT for pdu in (*_UNEXPECTED, Pdu.ASSOCIATE_RQ)},
}
