"""`radnode bench day`, as small as it goes: every part of it runs, and what it writes down adds up."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.soak
def test_a_small_day_is_measured_and_modelled(tmp_path: Path) -> None:
    asked = [
        "--studies",
        "16",
        "--minutes",
        "0.2",
        "--workers",
        "1",
        "--slices",
        "25",
        "--side",
        "64",
        "--cr-rows",
        "600",
    ]
    files = ["--json", str(tmp_path / "day.json"), "--plot", str(tmp_path / "day.svg")]
    done = subprocess.run(
        [sys.executable, "-m", "bench.day", *asked, *files], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads((tmp_path / "day.json").read_text())
    (run,) = told["runs"]
    assert 0 < len(run["jobs"]) <= 16
    assert run["instances"] >= 16
    assert all(job["received_s"] <= job["started_s"] < job["finished_s"] for job in run["jobs"])
    assert run["writes"]["inserted"] > run["instances"]
    assert {row["workers"] for row in told["model"]["real_days"]} == {1, 2, 8, 64}
    assert "<svg" in (tmp_path / "day.svg").read_text()
