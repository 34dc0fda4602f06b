"""Ten thousand images, every twentieth read and its results delivered: no process keeps more than it needs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from pydicom.uid import generate_uid

from tests.support.dcmtk import storescp, storescu
from tests.support.figures import note_figure
from tests.support.listening import chest_file
from tests.support.node import Node, peer_toml, running_node

pytestmark = [pytest.mark.e2e, pytest.mark.soak, pytest.mark.timeout(5400)]

IMAGES, WARM_UP, BATCH, SENDERS = 10_000, 2_000, 500, 4
READ_EVERY = 20
MOST_GROWTH_BYTES = 25 * 1024**2
"""Of one process over the last 8,000 images; a leak of 4 KiB an image would be 32 MB."""

ROUTE = """
[[routes]]
name = "chest"
models = ["cxr-pneumonia"]
destinations = ["archive"]
mode = "instance"
match = { modality = ["CR"], body_part = ["CHEST"] }
"""


@dataclass(frozen=True)
class Held:
    """What one process holds."""

    threads: int
    files: int
    sockets: int
    resident_bytes: int


def batch(folder: Path, count: int) -> Iterator[Path]:
    folder.mkdir(parents=True)
    study, series = generate_uid(), generate_uid()
    for number in range(count):
        part = "CHEST" if number % READ_EVERY == 0 else "HAND"
        yield chest_file(
            folder,
            f"{number:04}.dcm",
            SOPInstanceUID=generate_uid(),
            StudyInstanceUID=study,
            SeriesInstanceUID=series,
            BodyPartExamined=part,
            ViewPosition="PA",
        )


def holdings(node: Node) -> dict[str, Held]:
    """Every process of the node by what it does; those of the same kind are numbered by their age."""
    assert node.process is not None
    top = psutil.Process(node.process.pid)
    found: dict[str, Held] = {}
    for one in sorted([top, *top.children(recursive=True)], key=lambda process: process.create_time()):
        with one.oneshot():
            words = " ".join(one.cmdline())
            kind = next((k for k in ("infer", "deliver", "listener", "keeper", "web", "valkey") if k in words), "other")
            held = Held(one.num_threads(), one.num_fds(), len(one.net_connections("all")), one.memory_info().rss)
            found[f"{kind} {sum(name.startswith(kind) for name in found) + 1}"] = held
    return found


def send(node: Node, folder: Path, count: int) -> None:
    folders = [folder / str(number) for number in range(count // BATCH)]
    for one in folders:
        list(batch(one, BATCH))
    with ThreadPoolExecutor(SENDERS) as senders:
        done = list(senders.map(lambda one: storescu(node.dicom_port, one), folders))
    assert [one.returncode for one in done] == [0] * len(folders)


def settled(node: Node, instances: int) -> dict[str, Held]:
    node.wait_settled(instances, timeout_s=3000)
    before = holdings(node)
    # Sessions of the web side, idle connections and what the allocator holds back settle a little later.
    time.sleep(15)
    after = holdings(node)
    assert list(after) == list(before)
    return after


def test_ten_thousand_images(tmp_path: Path) -> None:
    with storescp(tmp_path / "received") as archive:
        peers = peer_toml("archive", "ARCHIVE", archive, proof="none")
        with running_node(tmp_path / "node", peers + ROUTE) as node:
            send(node, tmp_path / "warm", WARM_UP)
            first = settled(node, WARM_UP)
            at = time.monotonic()
            send(node, tmp_path / "more", IMAGES - WARM_UP)
            seconds = time.monotonic() - at
            last = settled(node, IMAGES)
    assert list(first) == list(last), "no process was replaced"
    for name, held in last.items():
        note_figure(
            "10,000 images",
            process=name,
            threads=f"{first[name].threads} → {held.threads}",
            files=f"{first[name].files} → {held.files}",
            sockets=f"{first[name].sockets} → {held.sockets}",
            resident_mb=f"{first[name].resident_bytes / 1e6:.0f} → {held.resident_bytes / 1e6:.0f}",
        )
    note_figure("10,000 images: the last 8,000 sent in", seconds=seconds)
    for name, held in last.items():
        assert held.threads <= first[name].threads + 2, name
        assert held.files <= first[name].files + 4, name
        assert held.sockets <= first[name].sockets + 4, name
        assert held.resident_bytes <= first[name].resident_bytes + MOST_GROWTH_BYTES, name
