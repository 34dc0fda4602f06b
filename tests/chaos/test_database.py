"""PostgreSQL crashes in the middle of work. Observed: senders are told to try again, and all resumes by itself."""

from __future__ import annotations

import time

import pytest

from tests.support.dcmtk import echoscu, storescu
from tests.support.figures import note_figure
from tests.support.site import PACS, Site

pytestmark = [pytest.mark.e2e, pytest.mark.soak]


def test_restarted_in_the_middle(site: Site) -> None:
    """No process of the node is restarted for it."""
    before = {name: process.pid for name, process in site.parts.items()}
    studies = site.send(PACS, 3)
    site.wait_until_running(studies)
    site.database_runs.off()
    site.database_runs.on()
    back_at = time.monotonic()
    studies += site.send(PACS)
    site.wait_delivered(studies, timeout_s=90)
    note_figure("PostgreSQL crashed and restarted: all delivered", rounds=1, longest_s=time.monotonic() - back_at)
    site.assert_exactly_once(studies)
    assert {name: process.pid for name, process in site.parts.items()} == before
    assert all(process.poll() is None for process in site.parts.values())


def test_away_it_is_answered_out_of_resources_and_served_again_without_a_restart(site: Site) -> None:
    site.database_runs.off()
    try:
        refused = storescu(site.node.dicom_port, site.source, calling=PACS)
        assert echoscu(site.node.dicom_port).returncode == 0
    finally:
        site.database_runs.on()
    assert "Received Store Response (Refused: OutOfResources)" in refused.stdout
    studies = site.send(PACS)
    site.wait_delivered(studies)
    site.assert_exactly_once(studies)
