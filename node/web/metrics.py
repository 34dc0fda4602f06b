"""Prometheus metrics, computed from the record at each scrape: there is nothing to lose at a restart."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily

from db import audit_chain, circuits, listing, outbox
from db.session import Record
from node.settings import Settings


class RecordCollector:
    """Counts per state, messages waiting, open circuits, free disk."""

    def __init__(self, settings: Settings, record: Record) -> None:
        self.settings = settings
        self.record = record

    def collect(self) -> Iterator[GaugeMetricFamily]:
        with self.record.read() as session:
            counts = listing.counts(session)
            waiting = outbox.waiting(session)
            open_now = circuits.open_circuits(session)
            unsealed, chain_end = audit_chain.waiting(session), audit_chain.head(session).position
            collector = self.settings.audit.collector
            unsent = chain_end - audit_chain.cursor(session, collector) if collector else 0
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
        free = shutil.disk_usage(self.settings.data_dir).free
        yield GaugeMetricFamily("radnode_disk_free_bytes", "Free space of the data folder, in bytes.", value=free)


def render(settings: Settings, record: Record) -> bytes:
    """The metrics in Prometheus' text format. Raises RecordUnavailable."""
    registry = CollectorRegistry()
    registry.register(RecordCollector(settings, record))
    return generate_latest(registry)
