"""A job from claim to commit: read, build, store, finish; or hand back, or park.

A job may be killed at any moment and run again elsewhere: object UIDs and times come from the job, files are written
before the record names them, and only the holder of the lease may finish.
"""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import structlog

from db import identities, jobs
from db.domain import ClaimedJob, InstanceOutcome, JobOutcome, NewResult, SourceFile
from db.errors import LeaseLost, PermanentError, RadnodeError, RecordUnavailable, RetriableError, StorageFull
from db.model_versions import ModelVersionView
from db.session import Record
from db.states import InstanceState, ModelState
from db.types import utcnow
from models.contracts import ModelIdentity
from models.errors import ModelError
from node import bell, storage
from node.header import Header
from node.settings import Settings, config_digest
from node.version import VERSION
from workers.analysis import Analysis, SourceInput, analyse, limits_for
from workers.backoff import backoff_s
from workers.loaded import Loaded, LoadedModels
from workers.priors import Priors, await_priors
from workers.results import Provenance, ResultObject, build_results
from workers.sandbox import Decoders, JobFiles
from workers.summaries import model_summary, summary_of

log = structlog.get_logger(__name__)

_RETRY_FIRST_S, _RETRY_MAX_S = 2.0, 300.0
_GIVE_UP_AFTER_S = 24 * 3600.0
_STORED_AT_ONCE = 4


class SourceGone(PermanentError):
    """A stored image is no longer in the data folder."""


class JobTooLong(RadnodeError):
    """Its time was up: it is tried again, and counts as tried."""


class PoisonStudy(PermanentError):
    """Images of it ended their decoders, and nothing else of it could be read."""


@dataclass
class Worker:
    """What one worker process works with. Made after the fork."""

    settings: Settings
    record: Record
    models: LoadedModels
    decoders: Decoders
    owner: str
    chance: random.Random = field(default_factory=random.SystemRandom)


def run_job(worker: Worker, job_id: str) -> None:
    """Claim a job and bring it to an end, or do nothing when it is not due. Raises RecordUnavailable only."""
    work = worker.settings.work
    with worker.record.write() as session:
        job = jobs.claim(session, job_id, worker.owner, lease_s=work.lease_s, max_attempts=work.max_attempts)
    if job is None:
        log.debug("job_not_due", job=job_id)
        return
    with structlog.contextvars.bound_contextvars(job=job_id):
        try:
            _carry_out(worker, job)
        except LeaseLost as error:
            log.warning("lease_lost", reason=str(error))
        except RecordUnavailable:
            raise
        except JobTooLong as error:
            hand_back_unfinished(worker, job.id, str(error))
        except RetriableError as error:
            _hand_back(worker, job, str(error))
        except RadnodeError as error:
            _park(worker, job, str(error))


def finish_job(worker: Worker, job_id: str) -> None:
    """`run_job`, and what nobody foresaw handed back: the process and its other jobs go on."""
    try:
        try:
            run_job(worker, job_id)
        except RecordUnavailable:
            raise
        except Exception as error:
            log.exception("job_failed", job=job_id)
            hand_back_unfinished(worker, job_id, f"unforeseen {type(error).__name__}; see the worker's log")
    except RecordUnavailable as error:
        # Where it was claimed its lease runs out; then it is announced again.
        log.warning("job_left", job=job_id, reason=str(error))


def was_cut_short(worker: Worker, job_id: str) -> bool:
    """Whether an earlier try of a job came to no end. Where the record is away the job itself will say so."""
    try:
        with worker.record.read() as session:
            return jobs.was_cut_short(session, job_id)
    except RecordUnavailable:
        return False


def hand_back_unfinished(worker: Worker, job_id: str, reason: str) -> None:
    """The job was cut short from outside (time limit, unforeseen error): QUEUED again, or parked after the last try."""
    work = worker.settings.work
    with worker.record.write() as session:
        attempt = jobs.attempts_of(session, job_id, worker.owner)
        if attempt is None:
            return
        if attempt >= work.max_attempts:
            jobs.park(session, job_id, worker.owner, reason=f"tried {attempt} times: {reason}")
        else:
            jobs.hand_back(session, job_id, worker.owner, reason=reason, delay_s=_delay_s(worker, attempt))
    log.error("job_cut_short", job=job_id, reason=reason)


def _carry_out(worker: Worker, job: ClaimedJob) -> None:
    # Loading a model may take longer than a lease: it is compiled for this machine once, or another job is at it.
    with _heartbeat(worker, job) as beat:
        model = worker.models.get(job.model)
        rules, priors = model.bundle.manifest.priors, None
        if rules is not None:
            priors = await_priors(worker.settings, worker.record, job, rules)
            if priors is None:
                return
        files = JobFiles(worker.decoders, limits_for(worker.settings.work))
        analysis = _analyse(worker, job, model, files, beat.check, priors)
        if files.poisoned and not analysis.analysed:
            raise PoisonStudy(f"no image of it could be read: {analysis.reason}; see `radnode parked`")
        provenance = provenance_of(worker.settings, job, model.bundle.identity)
        with worker.record.read() as session:
            identity = identities.of_study(session, job.study_instance_uid)
        names, notes = destinations_of(worker.settings, job)
        flagged = tuple(name for name in names if takes_key_objects(worker.settings, name))
        made = build_results(analysis.sources, provenance, identity, flags=bool(flagged))
        results = _store_all(worker.settings, made)
    told = worker.settings.told
    outcome = JobOutcome(
        analysed=analysis.analysed,
        reason="; ".join([*([analysis.reason] if analysis.reason else []), *notes]),
        model_version=model.bundle.manifest.version,
        model_digest=model.bundle.identity.bundle_digest,
        summary={
            "images": [summary_of(source) for source in analysis.sources],
            "model": model_summary(model.bundle.identity),
        },
        results=results,
        instances=_instance_outcomes(job, analysis),
        destinations=tuple(name for name in names if name not in told),
        told=tuple(name for name in names if name in told),
        flagged=flagged,
    )
    with worker.record.write() as session:
        identities.require_unchanged(session, job.study_instance_uid, identity)
        jobs.finish(session, job.id, worker.owner, outcome)
    bell.ring(worker.settings.data_dir, bell.RELAY)
    log.info("job_finished", analysed=analysis.analysed, results=len(results), destinations=len(names))
    _read_in_shadow(worker, job, files, beat, priors)


def _read_in_shadow(worker: Worker, job: ClaimedJob, files: JobFiles, beat: _Beat, priors: Priors | None) -> None:
    """Have the version in the shadow, where there is one, read the same images; keep what it says, and send nothing.

    The job is over and its results are on their way, so whatever happens here harms neither.
    """
    try:
        candidate = worker.models.version_in(ModelState.SHADOW, job.model)
        if candidate is None:
            return
        said = {
            "version": candidate.version,
            "digest": candidate.digest,
            **_shadow_summary(worker, job, files, candidate, beat, priors),
        }
        with worker.record.write() as session:
            jobs.note_shadow(session, job.id, said)
    except RecordUnavailable as error:
        log.warning("shadow_not_recorded", reason=str(error))


def _shadow_summary(  # noqa: PLR0917 - one of each
    worker: Worker, job: ClaimedJob, files: JobFiles, candidate: ModelVersionView, beat: _Beat, priors: Priors | None
) -> dict[str, Any]:
    try:
        analysis = _analyse(worker, job, worker.models.installed(candidate), files, beat.check, priors)
    except Exception as error:  # a candidate may fail in any way; that it did is what is recorded
        known = isinstance(error, RadnodeError | ModelError)
        log.warning("shadow_failed", version=candidate.version, exc_info=not known)
        return {
            "analysed": False,
            "reason": str(error) if known else f"unforeseen {type(error).__name__}",
            "images": [],
        }
    images = [summary_of(source) for source in analysis.sources]
    return {"analysed": analysis.analysed, "reason": analysis.reason, "images": images}


def _analyse(  # noqa: PLR0917 - one of each
    worker: Worker,
    job: ClaimedJob,
    model: Loaded,
    files: JobFiles,
    progress: Callable[[], None],
    priors: Priors | None,
) -> Analysis:
    folder = worker.settings.data_dir
    sources = [SourceInput(folder / s.path, s.facts, s.calling_ae, _as_recorded(job, s)) for s in job.sources]
    try:
        return analyse(model, sources, files, progress, priors)
    except FileNotFoundError as error:
        raise SourceGone(
            f"a stored image of study {job.study_instance_uid} is gone from {folder}; restore it, then `radnode retry`"
        ) from error
    except OSError as error:
        kind = error.strerror or type(error).__name__
        raise StorageFull(f"a stored image cannot be read ({kind}); check the disk of {folder}") from error


def _as_recorded(job: ClaimedJob, source: SourceFile) -> Header:
    """What the record knows of an image, should its file not be readable."""
    return Header(
        sop_class_uid=source.sop_class_uid,
        sop_instance_uid=source.sop_instance_uid,
        study_instance_uid=job.study_instance_uid,
        series_instance_uid=str(source.facts.get("series_instance_uid", "")),
        modality=str(source.facts.get("modality", "")),
    )


def provenance_of(settings: Settings, job: ClaimedJob, model: ModelIdentity) -> Provenance:
    """All that result objects depend on besides images and findings; the same on every rerun of a job."""
    return Provenance(
        identity=job.identity,
        created_at=job.created_at,
        model=model,
        ae_title=settings.ae_title,
        software_version=VERSION,
        config_digest=config_digest(settings),
        predecessors=job.predecessors,
        replaced_flags=job.replaced_flags,
    )


def destinations_of(settings: Settings, job: ClaimedJob) -> tuple[tuple[str, ...], list[str]]:
    """Peer names the results go to, and what to say where the sender is none of them."""
    names: list[str] = []
    notes: list[str] = []
    for destination in job.destinations:
        if destination != "sender":
            names.append(destination)
            continue
        for calling_ae in dict.fromkeys(source.calling_ae for source in job.sources):
            known = settings.peer_by_ae(calling_ae)
            if known is None:
                notes.append("the sender is no configured peer: results stay on this node; add a [peers] entry for it")
            else:
                names.append(known[0])
    return tuple(dict.fromkeys(names)), list(dict.fromkeys(notes))


def takes_key_objects(settings: Settings, destination: str) -> bool:
    """Whether a destination is to get a key object selection of what was found."""
    peer = settings.peers.get(destination)
    return peer is not None and peer.key_objects


def _instance_outcomes(job: ClaimedJob, analysis: Analysis) -> tuple[InstanceOutcome, ...]:
    return tuple(
        InstanceOutcome(
            source.instance_id,
            InstanceState.ANALYSED if image.read else InstanceState.NOT_ANALYSED,
            image.reason or f"read by {job.model}",
        )
        for source, image in zip(job.sources, analysis.images, strict=True)
    )


def _store_all(settings: Settings, made: Sequence[ResultObject]) -> tuple[NewResult, ...]:
    """Side by side, as the disk makes one of syncs that come together."""
    with ThreadPoolExecutor(min(len(made), _STORED_AT_ONCE), thread_name_prefix="store") as threads:
        return tuple(threads.map(partial(_store, settings), made))


def _store(settings: Settings, result: ResultObject) -> NewResult:
    relative = storage.derived_path(storage.RESULTS, result.ref.sop_instance_uid)
    storage.store_bytes(settings.data_dir, relative, result.data)
    return NewResult(
        kind=result.kind,
        ref=result.ref,
        transfer_syntax_uid=result.transfer_syntax_uid,
        path=relative.as_posix(),
        size_bytes=len(result.data),
        sha256=hashlib.sha256(result.data).hexdigest(),
    )


def _hand_back(worker: Worker, job: ClaimedJob, reason: str) -> None:
    """The machine lacks something for now: the longer the job has waited, the longer until the next try.

    Its attempts are not used up: a full disk at night must not leave a hundred jobs parked in the morning.
    """
    age_s = (utcnow() - job.created_at).total_seconds()
    if age_s > _GIVE_UP_AFTER_S:
        _park(worker, job, f"tried for {age_s / 3600:.0f} hours: {reason}")
        return
    wait_s = max(_RETRY_FIRST_S, min(_RETRY_MAX_S, age_s / 2)) * (0.5 + 0.5 * worker.chance.random())
    with worker.record.write() as session:
        jobs.hand_back(session, job.id, worker.owner, reason=reason, delay_s=wait_s, count=False)
    log.warning("job_handed_back", reason=reason, wait_s=round(wait_s, 1))


def _park(worker: Worker, job: ClaimedJob, reason: str) -> None:
    with worker.record.write() as session:
        jobs.park(session, job.id, worker.owner, reason=reason)
    log.error("job_parked", reason=reason)


def _delay_s(worker: Worker, attempt: int) -> float:
    return backoff_s(attempt, _RETRY_FIRST_S, _RETRY_MAX_S, worker.chance.random())


class _Beat:
    """Whether a job may go on: its lease, as the thread that renews it finds it, and its time."""

    def __init__(self, limit_s: float) -> None:
        self.lost: LeaseLost | None = None
        self._limit_s = limit_s
        self._ends_at = time.monotonic() + limit_s

    def check(self) -> None:
        """Raise LeaseLost once another worker has the job, JobTooLong once its time is up."""
        if self.lost is not None:
            raise self.lost
        if time.monotonic() > self._ends_at:
            raise JobTooLong(f"it took longer than work.soft_time_limit_s = {self._limit_s} s")


@contextmanager
def _heartbeat(worker: Worker, job: ClaimedJob) -> Iterator[_Beat]:
    """Renew the lease three times per lease while the block runs. A record that is away is tried again."""
    beat, stop = _Beat(worker.settings.work.soft_time_limit_s), threading.Event()
    lease_s = worker.settings.work.lease_s

    def renew() -> None:
        while not stop.wait(lease_s / 3):
            try:
                with worker.record.write() as session:
                    jobs.heartbeat(session, job.id, worker.owner, lease_s=lease_s)
            except LeaseLost as error:
                beat.lost = error
                return
            except RecordUnavailable as error:
                log.warning("lease_not_renewed", reason=str(error))

    thread = threading.Thread(target=renew, name=f"lease-{job.id}", daemon=True)
    thread.start()
    try:
        yield beat
    finally:
        stop.set()
        thread.join()
