"""Numbers of the operations and models pages: quantiles, silence, drift, agreement; what the kernel says."""

from __future__ import annotations

import fcntl
import math
import os
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ks_2samp

from db.operations import Turnaround
from db.readings import Agreement
from node.identity import owner_prefix
from node.settings import Peer, Settings
from node.web import drift, figures, machine
from node.web.model_page import agreed

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_quantiles_are_values_that_were_measured() -> None:
    values = [float(number) for number in range(1, 101)]
    assert [figures.quantile(values, share) for share in figures.QUANTILES] == [50, 95, 99]
    assert figures.quantile([7.0], 0.99) == 7
    took = [Turnaround(1, 2, 3, None), Turnaround(3, 2, 5, 8)]
    told = figures.spreads(took)
    assert (told["wait"].seconds, told["sent"].count) == ((1, 3, 3), 1)
    assert figures.spreads([]) == {}


def test_a_peer_is_silent_after_its_minutes_and_one_that_never_sent_is_too() -> None:
    def peer(title: str, minutes: float | None) -> Peer:
        return Peer(ae_title=title, host="127.0.0.1", silent_after_min=minutes)

    peers = {"ct": peer("CT1", 10), "mr": peer("MR1", 10), "us": peer("US1", None), "cr": peer("CR1", 10)}
    last = {"CT1": NOW - timedelta(minutes=9), "MR1": NOW - timedelta(minutes=11), "US1": NOW - timedelta(days=9)}
    told = {one.peer: one.silent for one in figures.silences(peers, last, NOW)}
    assert told == {"ct": False, "mr": True, "cr": True}


def histogram(values: np.ndarray, edges: list[float]) -> dict[str, list[float]]:
    return {"edges": edges, "counts": np.histogram(values, edges)[0].astype(float).tolist()}


def summaries(values: np.ndarray) -> list[dict[str, object]]:
    return [{"images": [{"findings": [{"label": "pneumonia", "probability": float(value)}]}]} for value in values]


def test_scores_that_stay_are_stable_and_scores_that_move_are_seen() -> None:
    random = np.random.default_rng(1)
    before, same, moved = random.beta(2, 5, 2000), random.beta(2, 5, 800), random.beta(4, 3, 800)
    edges = [number / 20 for number in range(21)]
    reference = {"scores": {"pneumonia": histogram(before, edges)}}
    (stable,) = drift.score_drifts(reference, summaries(same))
    (much,) = drift.score_drifts(reference, summaries(moved))
    assert (stable.verdict, stable.count, stable.reference_count) == ("stable", 800, 2000)
    assert much.verdict == "much"
    for one, values in ((stable, same), (much, moved)):
        exact = ks_2samp(before, values).statistic
        assert one.ks is not None
        assert exact - 0.05 <= one.ks <= exact + 1e-9
    assert stable.critical == pytest.approx(1.358 * math.sqrt(2800 / (800 * 2000)))


def test_psi_by_hand_and_words_nobody_knew() -> None:
    reference = {"inputs": {"view_position": {"AP": 50, "PA": 50}}}
    facts = [{"view_position": "AP"}] * 75 + [{"view_position": "PA"}] * 25
    (told,) = drift.input_drifts(reference, facts)
    assert told.psi == pytest.approx(0.25 * math.log(0.75 / 0.5) - 0.25 * math.log(0.25 / 0.5), abs=1e-3)
    assert (told.ks, told.verdict) == (None, "much")
    (odd,) = drift.input_drifts(reference, [{"view_position": "LL"}] * 100)
    assert odd.psi > 5
    (few,) = drift.input_drifts(reference, [{"view_position": "AP"}] * 10)
    assert few.verdict == "few"


@pytest.mark.parametrize(
    "reference",
    [
        {},
        {"scores": None},
        {"scores": {"pneumonia": 3}},
        {"scores": {"pneumonia": {"edges": [0, 1], "counts": [1, 2]}}},
        {"scores": {"pneumonia": {"edges": [1, 0], "counts": [1]}}},
        {"scores": {"pneumonia": {"edges": [0, 1], "counts": [-1]}}},
        {"scores": {"pneumonia": {"edges": "x", "counts": "y"}}},
    ],
)
def test_a_reference_that_is_none_gives_no_drift(reference: dict[str, object]) -> None:
    assert drift.score_drifts(reference, summaries(np.ones(60))) == []
    assert drift.score_drifts({"scores": {"pneumonia": {"a": 1}}}, [{"images": "none"}])[0].count == 0


def test_agreement_is_wilsons_interval_and_leaves_the_uncertain_out() -> None:
    # Wilson's interval of 8 in 10, as published: 0.49 to 0.943.
    share = agreed(Agreement("pneumonia", "present", 8, 2, 5))
    assert share is not None
    assert share == pytest.approx((0.8, 0.490, 0.943), abs=1e-3)
    assert agreed(Agreement("pneumonia", "present", 0, 0, 5)) is None


_HOLD = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.lockf(fd, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_process_lives_for_as_long_as_it_holds_its_lock(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    name = f"{owner_prefix(settings)}infer:4711"
    folder = tmp_path / "alive"
    folder.mkdir()
    (folder / f"{owner_prefix(settings)}deliver:4712").touch()
    (folder / "other-node:infer:1").touch()
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(folder / name)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert machine.living(settings) == [name]
        # Whoever looks takes nothing: it is still held.
        fd = os.open(folder / name, os.O_RDWR)
        with pytest.raises(BlockingIOError):
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(fd)
        holder.communicate("")
    assert machine.living(settings) == []
    assert (machine.role_of(name), machine.short(name)) == ("infer", "infer:4711")


def test_the_kernel_counts_connections_to_a_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert machine.open_connections(port) == 0
        with socket.create_connection(("127.0.0.1", port)):
            accepted, _ = server.accept()
            with accepted:
                assert machine.open_connections(port) == 1
    assert machine.open_connections(port, [Path("/proc/net/no-such-table")]) is None
