"""Work items that change while they wait: woken, made ready, and by whom; over SQLite and PostgreSQL."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from db import audit, notices, workitems
from db import workitem_rules as rules
from db.dicom_json import element
from db.session import Record
from db.types import utcnow
from db.workitem_rules import UpsStatus
from tests.support.records import STUDY, image, receive
from tests.support.workitems import ITEM, new


def test_an_item_that_is_woken_while_it_is_looked_at_is_looked_at_again(record: Record) -> None:
    later = utcnow() + timedelta(hours=1)
    with record.write() as session:
        assert workitems.create(session, new(ITEM))
        looked_at = utcnow()
        assert workitems.wake(session, STUDY)
        workitems.explain(session, ITEM, "waits", looked_at=looked_at, check_at=later)
        assert [one.reason for one in workitems.due(session, utcnow(), "RADNODE")] == ["waits"]
        workitems.explain(session, ITEM, "waits", looked_at=utcnow(), check_at=later)
        assert workitems.due(session, utcnow(), "RADNODE") == []


def test_an_item_that_is_ready_later_says_then_that_the_study_is_done(record: Record) -> None:
    receive(record, image(1))
    item = new(ITEM, instances=(image(1).sop_instance_uid,))
    waiting = {**item.data, rules.READINESS: element("CS", "INCOMPLETE")}
    ready = {rules.READINESS: element("CS", rules.READY)}
    with record.write() as session:
        assert workitems.create(session, replace(item, data=waiting))
        assert notices.announced(session, STUDY) == ""
        assert workitems.change(session, ITEM, ready, "", actor="MANAGER") is UpsStatus.SUCCESS
        assert notices.announced(session, STUDY) == "WORKITEM"


def test_a_change_is_on_record_with_who_made_it_but_not_this_nodes_own(record: Record) -> None:
    label = {rules.LABEL: element("LO", "another")}
    with record.write() as session:
        assert workitems.create(session, new(ITEM))
        assert workitems.change(session, ITEM, label, "", actor="OTHER") is UpsStatus.SUCCESS
        assert workitems.change(session, ITEM, label, "", actor="RADNODE", own=True) is UpsStatus.SUCCESS
        found = list(audit.entries(session, audit.Wanted()))
    changed = [(one.actor, one.detail["asked"]) for one in found if one.event == "workitem_changed"]
    assert changed == [("OTHER", "update")]
