"""The loop that asks the record which studies may be complete and writes what `node.verdicts` decides."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial

import structlog

from db import deliveries, studies
from db.domain import StudyView
from db.errors import ConflictError, PermanentError, RetriableError
from db.session import Record
from db.types import utcnow
from node import bell, scu
from node.settings import Peer, Settings
from node.syntaxes import readable_sop_classes
from node.verdicts import StudyPlan, plan

log = structlog.get_logger(__name__)

_SILENT_S = 60.0
_ANSWER_WITHIN_S = 5.0
# A study that cannot be judged is tried again after these, doubling: its cause may be mended by an update.
_FAILED_FIRST_S, _FAILED_MAX_S = 5.0, 3600.0

# (study) -> images the PACS says the study has, or None.
ExpectedCount = Callable[[StudyView], int | None]


class Sweeper:
    """Judges studies one by one; a study that cannot be judged never holds up the next."""

    def __init__(
        self,
        settings: Settings,
        record: Record,
        expected: ExpectedCount | None = None,
        wait: bell.Wait = threading.Event.wait,
    ) -> None:
        self.settings = settings
        self.record = record
        self.wait = wait
        self.expected = expected or PacsCounts(settings, record)
        self.readable = readable_sop_classes(settings.read_secondary_captures, settings.read_for_processing)
        # Study row id -> failures in a row.
        self._failures: dict[int, int] = {}

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set. The record being away is waited out."""
        while not self.wait(stop, self.settings.completeness.sweep_interval_s):
            try:
                self.run_once()
            except RetriableError as error:
                log.warning("sweep_postponed", reason=str(error))

    def run_once(self) -> int:
        """Judge what is due; returns how many revisions were opened."""
        with self.record.read() as session:
            due = studies.due_studies(session, utcnow())
        return sum(self._judge_or_postpone(study_id) for study_id in due)

    def _judge_or_postpone(self, study_id: int) -> int:
        try:
            opened = self._judge(study_id)
        except RetriableError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a peer's headers provoke, the next study is judged
            self._postpone(study_id, error)
            return 0
        self._failures.pop(study_id, None)
        return opened

    def _postpone(self, study_id: int, error: Exception) -> None:
        failures = self._failures.get(study_id, 0)
        self._failures[study_id] = failures + 1
        wait_s = min(_FAILED_FIRST_S * 2 ** min(failures, 16), _FAILED_MAX_S)
        with self.record.write() as session:
            uid = studies.postpone(session, study_id, utcnow() + timedelta(seconds=wait_s))
        log.error("study_not_judged", study_instance_uid=uid, cause=type(error).__name__, again_in_s=wait_s)

    def _judge(self, study_id: int) -> int:
        with self.record.read() as session:
            study = studies.load_study(session, study_id)
        decided = plan(study, self.settings, self.readable, None, utcnow())
        if decided.revisions and any(r.subject == "" for r in decided.revisions):
            # Silence alone has spoken so far; the PACS, where it may be asked, can say that more is to come.
            decided = plan(study, self.settings, self.readable, self.expected(study), utcnow())
        try:
            return self._write(study, decided)
        except ConflictError:
            log.info("study_changed_while_judged", study_instance_uid=study.study_instance_uid)
            return 0

    def _write(self, study: StudyView, decided: StudyPlan) -> int:
        with self.record.write() as session:
            opened = studies.settle(
                session,
                study,
                revisions=decided.revisions,
                stored=decided.stored,
                complete=decided.complete,
                reason=decided.reason,
                check_at=decided.check_at,
                quarantined=decided.quarantined,
                ask_order=decided.ask_order,
            )
        if opened:
            bell.ring(self.settings.data_dir, bell.RELAY)
            log.info(
                "study_routed",
                study_instance_uid=study.study_instance_uid,
                revisions=len(opened),
                reason=decided.reason,
            )
        return len(opened)


class PacsCounts:
    """Asks the sender by C-FIND how many instances a study has, where its peer entry allows.

    The node's own results that the peer has taken are not counted. A peer that does not answer within a bound, however
    busily it talks, is left alone for a while: one slow PACS must not hold up the studies of the others.
    """

    def __init__(self, settings: Settings, record: Record, *, within_s: float = _ANSWER_WITHIN_S) -> None:
        self.settings = settings
        self.record = record
        self.within_s = within_s
        self._silent_until: dict[str, float] = {}

    def __call__(self, study: StudyView) -> int | None:
        """None when nobody may be asked or nobody answers: a silent PACS must not stop the work."""
        known = self.settings.peer_by_ae(study.calling_ae)
        if known is None or not known[1].expected_counts:
            return None
        name, peer = known
        if time.monotonic() < self._silent_until.get(name, 0.0):
            return None
        asking = _Question(peer, self.settings, study.study_instance_uid)
        asking.start()
        asking.join(self.within_s)
        if asking.is_alive() or asking.failed:
            self._silent_until[name] = time.monotonic() + _SILENT_S
            reason = asking.failed or f"no answer to the whole question within {self.within_s:g} s"
            log.warning("expected_count_unknown", peer=name, reason=reason)
            return None
        count = asking.count
        if count is None:
            return None
        with self.record.read() as session:
            return count - deliveries.delivered_count(session, study.study_instance_uid, name)


class _Question(threading.Thread):
    """Ends with the association's own timeouts; whoever asked does not wait so long."""

    def __init__(self, peer: Peer, settings: Settings, study_uid: str) -> None:
        super().__init__(name="expected-count", daemon=True)
        self._ask = partial(scu.count_instances, peer, settings, study_uid)
        self.count: int | None = None
        self.failed = ""

    def run(self) -> None:
        try:
            self.count = self._ask()
        except (RetriableError, PermanentError) as error:
            self.failed = str(error)
