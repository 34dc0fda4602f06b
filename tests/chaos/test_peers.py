"""Destinations that are away, full, slow or mute. Observed: each result arrives once, or says why it did not."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from tests.support.figures import note_figure
from tests.support.proxy import PASS, Fault
from tests.support.site import PACS, PICKY, Site

pytestmark = [pytest.mark.e2e, pytest.mark.soak]

UNCONFIRMED = frozenset({"UNCONFIRMED"})
"""The picky archive answers no C-FIND: without its commitment report nothing proves what it holds."""


def failed_once(site: Site, studies: list[str], reason: str = "") -> None:
    """Until some delivery waits for another try, for that reason."""

    def waits() -> bool:
        rows = site.deliveries(studies)
        return any(row.state == "PENDING" and row.attempts > 0 and reason in row.reason for row in rows)

    site.wait(f"a try has failed {reason}", waits)


def mended(site: Site, studies: list[str], what: str) -> None:
    """With the line as it should be, all arrives, once."""
    site.line.set(PASS)
    at = time.monotonic()
    site.wait_delivered(studies)
    note_figure(what, rounds=1, longest_s=time.monotonic() - at)
    site.assert_exactly_once(studies)


def test_nobody_listens(site: Site) -> None:
    site.line.set(Fault(refuse=True))
    studies = site.send(PACS, 3)
    failed_once(site, studies, "cannot be reached")
    mended(site, studies, "PACS refuses connections, then works: all delivered")


def test_it_takes_connections_and_never_says_a_word(site: Site) -> None:
    site.line.set(Fault(black_hole=True))
    studies = site.send(PACS)
    failed_once(site, studies, "did not answer the association request")
    site.line.break_all()
    mended(site, studies, "PACS silent, then works: all delivered")


@pytest.mark.parametrize("offset", [700, 3000, 30000])
def test_it_breaks_off_in_the_middle(site: Site, offset: int) -> None:
    """In the negotiation, in the report, and in the picture."""
    site.line.set(Fault(cut_after_bytes=offset))
    studies = site.send(PACS)
    failed_once(site, studies)
    mended(site, studies, f"PACS breaks off after {offset} bytes, then works: all delivered")


def test_slow_as_a_drip_it_holds_up_no_other(site: Site) -> None:
    """Its answers come a byte at a time; each try ends by its time limit, and the other archive is served meanwhile."""
    site.line.set(Fault(drip_bytes_s=2.0))
    slow = site.send(PACS, 3)
    site.wait("the slow one is being tried", lambda: any(d.state == "SENDING" for d in site.deliveries(slow)))
    at = time.monotonic()
    others = site.send(PICKY, 2)
    site.wait_delivered(others)
    seconds = time.monotonic() - at
    note_figure("beside a PACS slow as a drip: others delivered", rounds=1, longest_s=seconds)
    assert any(d.state in {"PENDING", "SENDING"} for d in site.deliveries(slow))
    site.line.break_all()
    mended(site, slow, "PACS slow as a drip, then works: all delivered")


def test_out_of_resources(site: Site) -> None:
    """0xA700 is no refusal for good: tried again until there is room."""
    site.picky.answers[:] = [0xA700] * 3
    studies = site.send(PICKY)
    site.wait_delivered(studies)
    rows = site.deliveries(studies)
    assert max(row.attempts for row in rows) > 1
    site.assert_exactly_once(studies, held(site, studies))
    note_figure("PACS answers A700 three times: all delivered", rounds=1, attempts=max(row.attempts for row in rows))


def test_no_context_accepted(site: Site) -> None:
    """It refuses for good: a dead letter that says so, and goes out when a person has mended it."""
    site.picky.take(reports=False)
    studies = site.send(PICKY)
    site.wait_delivered(studies, frozenset({"DEAD"}))
    assert all("accepts none of the SOP classes" in row.reason for row in site.deliveries(studies))
    site.picky.take(reports=True)
    site.node.run("retry", "--destination", "picky")
    site.wait_delivered(studies)
    site.assert_exactly_once(studies, held(site, studies))


def test_a_commitment_report_that_never_comes(site: Site) -> None:
    site.picky.commits = False
    studies = site.send(PICKY)
    at = time.monotonic()
    site.wait_delivered(studies, UNCONFIRMED, timeout_s=120)
    note_figure("no commitment report: said so", rounds=1, longest_s=time.monotonic() - at)
    assert all("neither storage commitment nor C-FIND" in row.reason for row in site.deliveries(studies))
    site.assert_exactly_once(studies, held(site, studies))


def held(site: Site, studies: list[str]) -> Counter[str]:
    """What the picky archive has taken of these studies; an object that came twice is still one."""
    ours = {result.sop_instance_uid for result in site.results(studies)}
    return Counter(uid for uid in site.picky.held if uid in ours)
