"""The benchmarks run to their end and say what they measured; how much it is depends on the machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e


def test_receivers_are_compared_side_by_side(tmp_path: Path) -> None:
    figures = tmp_path / "receive.json"
    command = [sys.executable, "-m", "node.cli.main", "bench", "ingest", "--rounds", "1", "--ct", "2", "--cr", "1"]
    command += ["--only", "radnode", "--only", "storescp", "--json", str(figures)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    document = json.loads(figures.read_text())
    rows = {(row["case"], row["receiver"]): row for row in document["summary"]}
    assert set(rows) == {
        (f"{kind} x{n}", who) for kind in ("CT", "CR") for n in (1, 4) for who in ("radnode", "storescp")
    }
    for row in rows.values():
        assert row["images_per_s"] > 0
        assert row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"]
        assert f"{row['images_per_s']:.1f}" in told
    assert rows["CR x4", "storescp"]["to_storescp"] == 1.0
    assert len(document["measured"]) == 8


def test_the_record_is_asked_empty_and_full(tmp_path: Path) -> None:
    figures = tmp_path / "record.json"
    command = [sys.executable, "-m", "node.cli.main", "bench", "record", "--studies", "20", "--images", "3"]
    command += ["--rounds", "2", "--database", "sqlite", "--json", str(figures)]
    subprocess.run(command, capture_output=True, timeout=120, check=True)
    asked = json.loads(figures.read_text())["summary"]
    assert set(asked) == {
        f"sqlite: {what}" for what in ("image received", "study read", "worklist, first page", "metrics")
    }
    assert all(rows["full"]["p50"] > 0 and rows["full"]["rounds"] == 2 for rows in asked.values())


def test_a_series_is_read_by_the_worker_and_bare(tmp_path: Path) -> None:
    figures = tmp_path / "series.json"
    command = [sys.executable, "-m", "node.cli.main", "bench", "series", "--slices", "4", "--rounds", "1"]
    subprocess.run([*command, "--json", str(figures)], capture_output=True, timeout=120, check=True)
    (ways,) = json.loads(figures.read_text())["summary"].values()
    assert set(ways) == {"the worker", "decode, infer", "decode, prepare, infer"}
    assert all(way["p50"] > 0 for way in ways.values())


@pytest.mark.soak
@pytest.mark.parametrize(("name", "way"), [("study", "whole"), ("queue", "in the queue")])
def test_a_node_is_measured_from_the_last_byte(tmp_path: Path, name: str, way: str) -> None:
    figures = tmp_path / "figures.json"
    command = [sys.executable, "-m", "node.cli.main", "bench", name, "--images", "3", "--json", str(figures)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True).stdout
    ways = json.loads(figures.read_text())["summary"]["radiograph"]
    assert 0 < ways["bare work"]["p50"] < ways[way]["p50"]
    assert way in told
