"""The README's demonstration as a person runs it: what comes back, and that nothing stays behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image
from pydicom import dcmread

pytestmark = pytest.mark.e2e

RADNODE = Path(sys.executable).parent / "radnode"
SR_3D, SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.88.34", "1.2.840.10008.5.1.4.1.1.7"


def environment(temporary: Path) -> dict[str, str]:
    """Temporary folders where the test sees them, and a hospital's settings that the demo must not touch."""
    temporary.mkdir()
    return {
        **os.environ,
        "TMPDIR": str(temporary),
        "RADNODE_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/hospital",
        "COLUMNS": "200",
    }


def processes_in(folder: Path) -> list[psutil.Process]:
    return [one for one in psutil.process_iter(["cmdline"]) if str(folder) in " ".join(one.info["cmdline"] or [])]


@pytest.mark.parametrize("options", [(), ("--sample-pacs",)], ids=["orthanc", "sample"])
def test_results_are_fetched_out_of_the_pacs_and_nothing_stays_behind(options: tuple[str, ...], tmp_path: Path) -> None:
    temporary, out = tmp_path / "tmp", tmp_path / "out"
    # What lies where it is started is not its code.
    (tmp_path / "pydicom.py").write_text("raise SystemExit('not this one')")
    done = subprocess.run(
        [RADNODE, "demo", "--out", out, *options],
        cwd=tmp_path,
        env=environment(temporary),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result: dict[str, Any] = json.loads((out / "result.json").read_text(encoding="utf-8"))
    assert result["pacs"]["product"].startswith("the demo's own" if options else "Orthanc")
    assert result["pacs"]["product"] in done.stdout
    assert "Not a medical device" in result["notice"]
    assert {image["file"] for image in result["images"]} == {
        "adult-covid.dcm",
        "child-normal.dcm",
        "child-pneumonia.dcm",
    }
    for image in result["images"]:
        assert image["state"] == "ANALYSED"
        assert image["seconds"]["received_to_confirmed"] > 0
        positive = any(finding["presence"] == "present" for finding in image["findings"])
        kinds = [one["kind"] for one in image["objects"]]
        assert kinds == (["sr", "sc"] if positive else ["sr"])
        for one in image["objects"]:
            found = dcmread(out / one["file"])
            assert one["delivery"] == "CONFIRMED"
            assert one["proof"] == "storage commitment"
            assert found.StudyInstanceUID == image["study_instance_uid"]
            assert found.SOPInstanceUID == one["sop_instance_uid"]
            assert found.SOPClassUID == (SR_3D if one["kind"] == "sr" else SECONDARY_CAPTURE)
            assert (out / one["readable"]).stat().st_size > 0
    with Image.open(out / "sc.png") as picture:
        assert picture.size == (dcmread(out / "sc.dcm").Columns, dcmread(out / "sc.dcm").Rows)
    assert "Not for clinical use" in (out / "sr.html").read_text(encoding="utf-8")
    assert list(temporary.iterdir()) == []
    assert processes_in(temporary) == []


@pytest.mark.parametrize("asked", [signal.SIGINT, signal.SIGTERM])
def test_stopped_half_way_it_clears_up(asked: signal.Signals, tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    demo = subprocess.Popen(
        [RADNODE, "demo", "--out", tmp_path / "out"],
        env=environment(temporary),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert demo.stdout is not None
    with demo.stdout as told:
        for line in told:
            if "received, durable and recorded" in line:
                assert processes_in(temporary)
                demo.send_signal(asked)
                break
        rest = told.read()
    assert demo.wait(120) == 130
    assert "Stopped." in rest
    assert list(temporary.iterdir()) == []
    assert processes_in(temporary) == []
