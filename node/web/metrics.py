"""Prometheus metrics, computed from the record at each scrape: there is nothing to lose at a restart."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily

from db import (
    audit_chain,
    circuits,
    deletions,
    hl7_received,
    operations,
    outbox,
    performances,
    priors,
    queues,
    retention,
    workitem_queries,
    workitem_tidings,
)
from db.session import Record
from db.types import utcnow
from node.settings import Settings
from node.web import counting, figures
from node.web.figures import QUANTILES, Silence, Spread


class RecordCollector:
    """Counts per state, what waits and for how long, turnaround, silent peers, open circuits, free disk."""

    def __init__(self, settings: Settings, record: Record) -> None:
        self.settings = settings
        self.record = record

    def collect(self) -> Iterator[GaugeMetricFamily]:
        with self.record.read() as session:
            counts = counting.of_record(self.record).counts(session)
            waiting = outbox.waiting(session)
            open_now = circuits.open_circuits(session)
            unsealed, chain_end = audit_chain.waiting(session), audit_chain.head(session).position
            collector = self.settings.audit.collector
            unsent = chain_end - audit_chain.cursor(session, collector) if collector else 0
            aside_bytes, going = retention.aside_bytes(session), deletions.open_count(session)
            now = utcnow()
            took = figures.spreads(operations.turnaround(session, now - timedelta(hours=1)))
            oldest_at = operations.queues(session).oldest_queued_at
            peers = self.settings.peers
            watched = {peer.ae_title.strip() for peer in peers.values() if peer.silent_after_min is not None}
            quiet = figures.silences(peers, operations.last_study(session, watched), now)
            queued = {name: queues.waiting(session, name) for name in self.settings.hl7.destinations}
            bundles = {name: queues.waiting(session, name) for name in self.settings.fhir.destinations}
            taken = hl7_received.counts(session)
            performed, fetched = performances.counts(session), priors.counts(session)
            pushed, tidings = workitem_queries.counts(session), workitem_tidings.counts(session)
        for name, states in counts.items():
            family = GaugeMetricFamily(f"radnode_{name}", f"How many {name} are in each state.", labels=["state"])
            for state, count in states.items():
                family.add_metric([state], count)
            yield family
        yield GaugeMetricFamily("radnode_outbox_waiting", "Messages the broker has not got yet.", value=waiting)
        yield GaugeMetricFamily("radnode_audit_unsealed", "Audit rows without a place in the chain.", value=unsealed)
        yield GaugeMetricFamily("radnode_audit_unsent", "Audit rows the collector has not got yet.", value=unsent)
        broken = GaugeMetricFamily("radnode_circuit_open", "Destinations that are left alone.", labels=["destination"])
        for destination in open_now:
            broken.add_metric([destination], 1)
        yield broken
        oldest_s = figures.waited_s(oldest_at, now)
        yield GaugeMetricFamily("radnode_job_oldest_wait_seconds", "Longest wait of a queued job.", value=oldest_s)
        yield from _turnaround(took)
        yield from _silence(quiet)
        yield from _queues("hl7", "HL7", queued)
        yield from _queues("fhir", "FHIR", bundles)
        yield from _taken(taken)
        yield _performed(performed)
        yield _by_state("radnode_priors", "Questions for prior studies, by what became of them.", fetched)
        yield _by_state("radnode_workitems", "Work items that peers have pushed, by state.", pushed)
        yield _by_state("radnode_workitem_events", "Events of work items, by whether they were told.", tidings)
        free = shutil.disk_usage(self.settings.data_dir).free
        yield GaugeMetricFamily("radnode_disk_free_bytes", "Free space of the data folder, in bytes.", value=free)
        low = free < self.settings.retention.early_below_bytes
        yield GaugeMetricFamily("radnode_disk_low", "1 below retention.early_below_bytes.", value=int(low))
        yield GaugeMetricFamily("radnode_quarantine_bytes", "Bytes of what was set aside.", value=aside_bytes)
        yield GaugeMetricFamily("radnode_deletions_open", "Deletions whose files are not all gone.", value=going)


def _turnaround(took: Mapping[str, Spread]) -> Iterator[GaugeMetricFamily]:
    family = GaugeMetricFamily(
        "radnode_turnaround_seconds",
        "Seconds that the jobs finished within the last hour took, by stage: wait, read, whole, sent.",
        labels=["stage", "quantile"],
    )
    for stage, spread in took.items():
        for share, value in zip(QUANTILES, spread.seconds, strict=True):
            family.add_metric([stage, str(share)], value)
    yield family


def _queues(key: str, name: str, queued: Mapping[str, tuple[int, float]]) -> Iterator[GaugeMetricFamily]:
    """What waits for destinations that take one thing after the other."""
    waiting = GaugeMetricFamily(
        f"radnode_{key}_waiting", f"Results that wait to be told by {name}.", labels=["destination"]
    )
    oldest = GaugeMetricFamily(
        f"radnode_{key}_oldest_wait_seconds", "For how long the first of them has waited.", labels=["destination"]
    )
    for destination, (number, wait_s) in queued.items():
        waiting.add_metric([destination], number)
        oldest.add_metric([destination], wait_s)
    yield from (waiting, oldest)


def _taken(taken: Mapping[str, int]) -> Iterator[GaugeMetricFamily]:
    received = GaugeMetricFamily(
        "radnode_hl7_received", "HL7 messages taken within hl7.listener.kept_days.", labels=["kind"]
    )
    for kind, number in taken.items():
        received.add_metric([kind], number)
    yield received


def _by_state(name: str, what: str, counts: Mapping[str, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, what, labels=["state"])
    for state, number in counts.items():
        family.add_metric([state], number)
    return family


def _performed(counts: Mapping[tuple[str, str], int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(
        "radnode_ups_performed",
        "Work items of other systems that this node performs or performed in the last 30 days, by state.",
        labels=["manager", "state"],
    )
    for (manager, state), number in sorted(counts.items()):
        family.add_metric([manager, state], number)
    return family


def _silence(quiet: Iterable[Silence]) -> Iterator[GaugeMetricFamily]:
    silent = GaugeMetricFamily(
        "radnode_peer_silent", "1 where a peer has sent no study for longer than silent_after_min.", labels=["peer"]
    )
    age = GaugeMetricFamily(
        "radnode_peer_last_study_age_seconds", "Seconds since the latest image of a peer's studies.", labels=["peer"]
    )
    for one in quiet:
        silent.add_metric([one.peer], float(one.silent))
        if one.age_s is not None:
            age.add_metric([one.peer], one.age_s)
    yield silent
    yield age


def render(settings: Settings, record: Record) -> bytes:
    """The metrics in Prometheus' text format. Raises RecordUnavailable."""
    registry = CollectorRegistry()
    registry.register(RecordCollector(settings, record))
    return generate_latest(registry)
