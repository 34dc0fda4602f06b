"""How long a report and a picture take to a peer: a kept association, a new one each time, and pynetdicom's SCU.

    python -m bench.send --rounds 20 --json send.json

To DCMTK's storescp as installed, which leaves Nagle's algorithm on, to the same with TCP_NODELAY=1, and to Orthanc with
it. All ways take turns within each round, with objects of their own UIDs; medians, and ratios to pynetdicom's SCU taken
within each round. The objects are a structured report and a Secondary Capture as this node builds them.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from pydicom import dcmread
from pydicom.uid import generate_uid
from pynetdicom import AE, build_context

from bench.figures import Figures, arguments_of
from node.link import Link
from node.sending import open_link
from node.settings import Delivery, Peer, Settings
from node.upper_layer.negotiation import Context
from tests.support.orthanc import orthanc
from tests.support.processes import free_port, listens, program, running
from tests.support.result_samples import analysed, header, provenance
from workers.links import Links
from workers.results import build_results

EXPLICIT = "1.2.840.10008.1.2.1"
CLASSES = ("1.2.840.10008.5.1.4.1.1.88.34", "1.2.840.10008.5.1.4.1.1.7")
CONTEXTS = [Context(uid, EXPLICIT) for uid in CLASSES]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments = arguments_of(parser, rounds=20)
    settings = Settings(delivery=Delivery(association_idle_s=600.0))
    figures = Figures("send", "ms")
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        sources = [analysed(header(Rows=2500, Columns=2048), ["pneumonia"])]
        objects = [result.data for result in build_results(sources, provenance())]
        peers = {
            "storescp": stack.enter_context(_storescp(folder / "plain", nodelay=False)),
            "storescp, no delay": stack.enter_context(_storescp(folder / "nodelay", nodelay=True)),
            "Orthanc, no delay": stack.enter_context(_orthanc(folder / "orthanc")),
        }
        kept = stack.enter_context(closing(Links(settings, lambda _: True)))
        for number in range(-2, arguments.rounds):
            for peer_name, peer in peers.items():
                ways: dict[str, Callable[[list[Path]], None]] = {
                    "kept": lambda files, peer=peer: _kept(kept, peer, files),  # type: ignore[misc]
                    "new": lambda files, peer=peer: _new(peer, settings, files),  # type: ignore[misc]
                    "pynetdicom": lambda files, peer=peer: _pynetdicom(peer, files),  # type: ignore[misc]
                }
                for way in sorted(ways, reverse=bool(number % 2)):
                    files = _fresh(objects, folder)
                    began = time.perf_counter()
                    ways[way](files)
                    took_ms = (time.perf_counter() - began) * 1e3
                    if number >= 0:
                        figures.add(number, peer_name, way, took_ms)
    figures.report(arguments, against="pynetdicom")


def _fresh(objects: list[bytes], folder: Path) -> list[Path]:
    """The objects under new UIDs: an archive does less for what it has."""
    paths = []
    for place, data in enumerate(objects):
        path = folder / f"{place}.dcm"
        path.write_bytes(data)
        dataset = dcmread(path)
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid(prefix=None)
        dataset.save_as(path)
        paths.append(path)
    return paths


def _store(link: Link, files: list[Path]) -> None:
    for context, file in zip(CONTEXTS, files, strict=True):
        result = link.store(file, context, _uid(file))
        if not result.ok:
            raise SystemExit(result.reason)


def _uid(file: Path) -> str:
    return str(dcmread(file, stop_before_pixels=True, specific_tags=[]).file_meta.MediaStorageSOPInstanceUID)


def _kept(links: Links, peer: Peer, files: list[Path]) -> None:
    with links.use(f"{peer.host}:{peer.port}", peer, CONTEXTS) as link:
        _store(link, files)


def _new(peer: Peer, settings: Settings, files: list[Path]) -> None:
    link = open_link(peer, settings, CONTEXTS)
    _store(link, files)
    link.release()


def _pynetdicom(peer: Peer, files: list[Path]) -> None:
    """As its own documentation does it."""
    entity = AE("RADNODE")
    entity.requested_contexts = [build_context(uid, EXPLICIT) for uid in CLASSES]
    association = entity.associate(peer.host, peer.port, ae_title=peer.ae_title)
    for file in files:
        if association.send_c_store(dcmread(file)).Status != 0x0000:
            raise SystemExit("a peer refused an object")
    association.release()


@contextmanager
def _storescp(folder: Path, *, nodelay: bool) -> Iterator[Peer]:
    folder.mkdir()
    port = free_port()
    environment = {**os.environ, **({"TCP_NODELAY": "1"} if nodelay else {})}
    # Several at a time, as an archive does; it keeps nothing, so that only the way there is measured.
    argv = [program("storescp", "dcmtk"), "--fork", "--ignore", "-pdu", "131072", str(port)]
    with running(argv, lambda: listens(port), log=folder.with_suffix(".log"), env=environment):
        yield Peer(ae_title="ARCHIVE", host="127.0.0.1", port=port)


@contextmanager
def _orthanc(folder: Path) -> Iterator[Peer]:
    with orthanc(folder, options={"MaximumPduLength": 131072}) as server:
        yield Peer(ae_title="ORTHANC", host="127.0.0.1", port=server.dicom_port)


if __name__ == "__main__":
    main()
