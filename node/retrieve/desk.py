"""The loop that fetches prior studies: C-FIND, then C-GET, and where that does not do C-MOVE to the listener."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import timedelta

import structlog

from db import priors
from db.errors import PeerUnavailable, PermanentError, RetriableError, StorageFull
from db.priors import DuePriors
from db.session import Record
from db.states import PriorState
from db.types import utcnow
from node import bell, storage
from node.dataset_source import HeaderError
from node.header import read_file
from node.retrieve import asking, choosing, retrieving
from node.retrieve.choosing import Candidates, Current
from node.retrieve.keeping import Asked, PriorStudy
from node.retrieve.retrieving import Bounds, Wanted
from node.scu import PeerRefused, at
from node.settings import Peer, Settings
from node.syntaxes import readable_sop_classes
from node.worklist.matching import askable_patient_id

log = structlog.get_logger(__name__)

_POLL_S = 0.2
_RETRY_FIRST_S, _RETRY_MAX_S = 2.0, 60.0
# Beyond the wait, after which a process that died while it fetched gives its question back.
_LEASE_MORE_S = 60.0
# A peer that is slow to answer costs other studies their wait.
_CONNECT_S, _ANSWER_S = 5.0, 15.0
_LEAST_FETCH_S = 1.0
# A study whose series do not suit costs a question; an archive may hold a hundred of them.
_MOST_TRIED = 10


@dataclass(frozen=True)
class Found:
    """The end of a search."""

    state: PriorState
    reason: str
    studies: tuple[PriorStudy, ...] = ()


class PriorDesk:
    """Answers the questions for priors one by one; each ends in time, whatever the peer does."""

    def __init__(self, settings: Settings, record: Record) -> None:
        quick = settings.delivery.model_copy(
            update={
                "connect_timeout_s": min(_CONNECT_S, settings.delivery.connect_timeout_s),
                "response_timeout_s": min(_ANSWER_S, settings.delivery.response_timeout_s),
            }
        )
        self.settings = settings.model_copy(update={"delivery": quick})
        self.record = record
        classes = readable_sop_classes(settings.read_secondary_captures, settings.read_for_processing)
        self._sop_classes = tuple(sorted(classes))

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set. The record being away is waited out."""
        while not stop.wait(_POLL_S):
            try:
                while not stop.is_set() and self.run_once():
                    pass
            except RetriableError as error:
                log.warning("priors_postponed", reason=str(error))

    def run_once(self) -> bool:
        """Answer the question that has waited longest; False where none is due. Raises RecordUnavailable."""
        now = utcnow()
        with self.record.read() as session:
            if not priors.any_due(session, now):
                return False
        with self.record.write() as session:
            due = priors.claim_due(session, now, lease_s=self.settings.priors.wait_s + _LEASE_MORE_S)
        if due is not None:
            self._answer(due)
        return True

    def _answer(self, due: DuePriors) -> None:
        peer = self.settings.peers.get(self.settings.priors.peer)
        if peer is None:
            self._settle(due, Found(PriorState.FAILED, "no [priors] peer is set"))
            return
        if utcnow() >= due.wait_until:
            self._settle(due, Found(PriorState.FAILED, priors.NOT_IN_TIME))
            return
        try:
            storage.require_room(self.settings)
            found = self._search(due, peer)
        except PeerUnavailable as error:
            self._again_or_never(due, str(error))
        except (PermanentError, StorageFull) as error:
            self._settle(due, Found(PriorState.FAILED, str(error)))
        except RetriableError:
            raise
        except Exception as error:
            # Whatever a peer's answers provoke, its study goes on without, and the next one is looked for.
            log.exception("priors_failed", study_instance_uid=due.study_instance_uid)
            self._settle(due, Found(PriorState.FAILED, f"unforeseen {type(error).__name__}; see the keeper's log"))
        else:
            self._settle(due, found)

    def _again_or_never(self, due: DuePriors, reason: str) -> None:
        wait = timedelta(seconds=min(_RETRY_FIRST_S * 2 ** min(due.attempts - 1, 8), _RETRY_MAX_S))
        if utcnow() + wait >= due.wait_until:
            self._settle(due, Found(PriorState.FAILED, reason))
            return
        with self.record.write() as session:
            priors.postpone(session, due.id, utcnow() + wait, reason=reason)
        log.warning("priors_tried_in_vain", study_instance_uid=due.study_instance_uid, reason=reason)

    def _settle(self, due: DuePriors, found: Found) -> None:
        files = [file for study in found.studies for file in study.files.values()]
        with self.record.write() as session:
            # What came after its time, or for a process that was killed: one image stands in a request once.
            left = priors.take_held(session, due.id)
            settled = priors.settle(session, due.id, found.state, reason=found.reason, images=files)
        bell.ring(self.settings.data_dir, bell.RELAY)
        storage.remove_stored(self.settings.data_dir, {one.path for one in left} - {one.path for one in files})
        if not settled:
            for study in found.studies:
                study.discard()
        log.info(
            "priors_settled" if settled else "priors_came_too_late",
            study_instance_uid=due.study_instance_uid,
            state=found.state.value,
            studies=len(found.studies),
            images=len(files),
            reason=found.reason,
        )

    def _search(self, due: DuePriors, peer: Peer) -> Found:
        current = self._current(due)
        days = choosing.period(current, due.wish.within_days)
        if days is None or not askable_patient_id(current.identity.patient_id):
            return Found(PriorState.ABSENT, "its Patient ID or its study date are missing or cannot be asked by")
        answers = asking.ask_studies(peer, self.settings, current, days)
        chosen = choosing.candidates(due.wish, current, answers)
        return self._fetch_all(due, peer, current, chosen)

    def _current(self, due: DuePriors) -> Current:
        try:
            header = read_file(self.settings.data_dir / due.sample)
        except (HeaderError, OSError) as error:
            raise PermanentError(f"the study's own image cannot be read ({type(error).__name__})") from error
        return choosing.current_of(header, due.correction)

    def _fetch_all(self, due: DuePriors, peer: Peer, current: Current, chosen: Candidates) -> Found:
        """The latest studies that can be had, as many as are wanted."""
        kept: list[PriorStudy] = []
        refused = [f"a study given as this patient's has another {', '.join(chosen.refused)}"] if chosen.refused else []
        missing: list[str] = []
        try:
            for candidate in chosen.studies[:_MOST_TRIED]:
                if len(kept) >= due.wish.most:
                    break
                if utcnow() >= due.wait_until:
                    missing.append(priors.NOT_IN_TIME)
                    break
                study = self._fetch(due, peer, current, candidate.study_instance_uid)
                if study.mismatch:
                    study.discard()
                    refused.append(f"an image sent as a prior was refused: {study.mismatch}")
                elif study.files:
                    kept.append(study)
                if study.reason and not study.mismatch:
                    missing.append(study.reason)
        except (RetriableError, PermanentError):
            for study in kept:
                study.discard()
            raise
        reason = "; ".join(dict.fromkeys([*refused, *missing]))
        if kept:
            images = sum(len(study.files) for study in kept)
            said = f"{len(kept)} {'study' if len(kept) == 1 else 'studies'}, images: {images}"
            return Found(PriorState.FOUND, "; ".join(part for part in (said, reason) if part), tuple(kept))
        if refused:
            return Found(PriorState.REFUSED, reason)
        if missing:
            return Found(PriorState.FAILED, reason)
        return Found(PriorState.ABSENT, f"{self.settings.priors.peer} holds none")

    def _fetch(self, due: DuePriors, peer: Peer, current: Current, study_uid: str) -> PriorStudy:
        """One study's suitable series. Raises PeerUnavailable, PermanentError; then nothing of it is left."""
        most = self.settings.priors.max_images
        series = choosing.series_for(due.wish, asking.ask_series(peer, self.settings, study_uid), most)
        asked = Asked(study_uid, series)
        study = PriorStudy(self.settings, current, due.wish, asked, self._sop_classes, due.id)
        if not series:
            return study
        wanted = Wanted(study_uid, series)
        try:
            self._retrieve(due, peer, wanted, study)
        except (RetriableError, PermanentError):
            study.discard()
            raise
        return study

    def _retrieve(self, due: DuePriors, peer: Peer, wanted: Wanted, study: PriorStudy) -> None:
        bounds = Bounds(self._left_s(due), self.settings.priors.max_images)
        try:
            got = retrieving.get(peer, self.settings, wanted, self._sop_classes, study.take, bounds)
        except (PeerRefused, PeerUnavailable) as error:
            why = str(error)
        else:
            if got.refused or (got.whole and got.completed):
                return
            why = got.reason or "C-GET brought nothing"
        if not self.settings.priors.move:
            study.reason = study.reason or why
            return
        log.info("prior_by_move", study_instance_uid=due.study_instance_uid, reason=why)
        self._move(due, peer, wanted, study, why)

    def _move(self, due: DuePriors, peer: Peer, wanted: Wanted, study: PriorStudy, why: str) -> None:
        left_s = self._left_s(due)
        with self.record.write() as session:
            closes_at = utcnow() + timedelta(seconds=left_s)
            priors.expect(session, due.id, wanted.study_instance_uid, closes_at)
        try:
            moved = retrieving.move(peer, self.settings, wanted, Bounds(left_s))
        finally:
            with self.record.write() as session:
                held = priors.take_held(session, due.id, wanted.study_instance_uid)
                priors.expect(session, due.id, wanted.study_instance_uid, utcnow())
            study.take_held(held)
        if moved.completed and not held:
            study.reason = (
                f"{at(peer)} sent {moved.completed} images without naming this node as the move originator; "
                "they were taken as any other; set priors.move = false"
            )
            log.error("move_originator_missing", reason=study.reason)
        elif not (moved.whole and held):
            study.reason = study.reason or f"C-GET: {why}; C-MOVE: {moved.reason or 'it brought nothing'}"

    def _left_s(self, due: DuePriors) -> float:
        return max(_LEAST_FETCH_S, (due.wait_until - utcnow()).total_seconds())
