"""`radnode demo`: a PACS and a node on this machine, radiographs sent through both, and what came back."""

from __future__ import annotations

import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from pydicom import dcmread
from rich.console import Console
from rich.table import Table

from db.session import Record
from models import registry
from models.compile import compiled, target_of
from models.errors import ModelError
from models.registry import Bundle
from workers.demo import outputs
from workers.demo.node import Node, forget_user_settings, free_ports
from workers.demo.orthanc import OrthancPacs, find_orthanc
from workers.demo.outputs import Outcome, Sent
from workers.demo.pacs import Address, DemoError, Pacs, SamplePacs
from workers.demo.watch import wait_until_confirmed
from workers.demo.wrap import PICTURES, Picture

app = typer.Typer()
MODEL = "cxr-pneumonia"
DATA = Path(__file__).parent / "data"
CONFIRMED_WITHIN_S = 180.0
EXIT_INTERRUPTED = 130

Out = Annotated[Path, typer.Option("--out", help="Folder for what comes back.", file_okay=False)]
Keep = Annotated[bool, typer.Option("--keep", help="Let PACS and node run until Ctrl-C, and keep their data.")]
Sample = Annotated[bool, typer.Option("--sample-pacs", help="Use the demo's own PACS even where Orthanc is installed.")]


class _Interrupted(Exception):
    """A signal asked to stop."""


class Teller:
    """Tells a person what happens, with the seconds since the start."""

    def __init__(self) -> None:
        self.console = Console(highlight=False, markup=False, emoji=False)
        self.started = time.monotonic()
        self.seconds: dict[str, float] = {}

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.started

    def step(self, text: str) -> None:
        self.console.print(f"{self.elapsed_s:6.1f} s  {text}", style="bold", soft_wrap=True)

    def detail(self, text: str) -> None:
        self.console.print(f"{self.elapsed_s:6.1f} s    {text}", soft_wrap=True)

    def plain(self, text: str) -> None:
        self.console.print(text, soft_wrap=True)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure a stage, for `result.json`."""
        begun = self.elapsed_s
        yield
        self.seconds[name] = self.elapsed_s - begun


@app.command()
def demo(out: Out = Path("demo-out"), keep: Keep = False, sample_pacs: Sample = False) -> None:
    """Show the whole way of a chest radiograph on this machine: PACS, node, report and Grad-CAM image, PACS."""
    forget_user_settings()
    teller = Teller()
    teller.plain(f"radnode demo. {outputs.NOTICE}")
    _raise_on_signals()
    try:
        with _temporary_folder(keep, teller) as folder:
            _run(folder, out, keep, sample_pacs, teller)
    except DemoError as error:
        teller.plain(f"The demo failed: {error}")
        raise typer.Exit(1) from error
    except _Interrupted as interrupted:
        teller.plain("Stopped.")
        raise typer.Exit(EXIT_INTERRUPTED) from interrupted


def _run(folder: Path, out: Path, keep: bool, sample_pacs: bool, teller: Teller) -> None:
    outputs.make_room(out)
    with teller.stage("model"):
        bundle = _prepare_model(teller)
    pacs_port, http_port, node_port, web_port = free_ports(4)
    pacs_at, node_at = Address("DEMOPACS", pacs_port), Address("RADNODE", node_port)
    images = [_image(picture) for picture in PICTURES]
    with ExitStack() as running:
        pacs = _pacs(folder / "pacs", pacs_at, http_port, node_at, sample_pacs)
        with teller.stage("start_pacs"):
            running.callback(pacs.stop)
            pacs.start()
            pacs.load([image.path for image in images])
            where = f"{pacs_at.ae_title}@{pacs_at.host}:{pacs_at.port}"
            teller.step(f"PACS: {pacs.told_as}, {where}, holds {len(images)} radiographs")
        node = Node(folder / "node", node_at, web_port, pacs_at, bundle.identity.id)
        with teller.stage("start_node"):
            running.callback(node.stop)
            node.start()
            teller.step(f"Node: {node_at.ae_title}@127.0.0.1:{node_port}, web http://127.0.0.1:{web_port}")
        outcomes = _send_and_collect(pacs, node, images, out, teller)
        first = outputs.copy_first_positive(outcomes, out)
        teller.seconds["total"] = teller.elapsed_s
        outputs.write_report(outcomes, bundle.identity, pacs, teller.seconds, out)
        _summary(outcomes, first, out, teller)
        if keep:
            teller.step(f"PACS and node go on; try `radnode studies --config {node.settings_file}`. Ctrl-C ends them.")
            with suppress(_Interrupted):
                signal.pause()
        _hold_signals()
        teller.step("Stopping the node and the PACS")
    teller.step("Done")


def _send_and_collect(pacs: Pacs, node: Node, images: list[Sent], out: Path, teller: Teller) -> list[Outcome]:
    names = {image.sop_instance_uid: image.name for image in images}
    record = Record(node.settings.record_url)
    try:
        with teller.stage("pacs_to_confirmed"):
            teller.step("The PACS sends them to the node (C-STORE)")
            pacs.route()
            with teller.console.status("reading and delivering"):
                view = wait_until_confirmed(record, names, CONFIRMED_WITHIN_S, teller.detail)
    except DemoError as error:
        raise DemoError(f"{error}\nThe end of the node's log:\n{node.process.log_tail(30)}") from error
    finally:
        record.close()
    with teller.stage("fetch"):
        outcomes = outputs.collect(view, images, pacs, out)
        count = sum(len(outcome.objects) for outcome in outcomes)
        teller.step(f"{count} results fetched back out of the PACS, each in the study of its radiograph")
    return outcomes


def _prepare_model(teller: Teller) -> Bundle:
    try:
        bundle = registry.load(MODEL)
        target = target_of(bundle)
        if not target.is_file():
            teller.step("Model: prepared for this machine (only the first time; some ten seconds)")
            compiled(bundle)
    except ModelError as error:
        raise DemoError(str(error)) from error
    teller.step(f"Model: {bundle.identity.name} {bundle.identity.version}, every file's digest checked")
    return bundle


def _pacs(folder: Path, address: Address, http_port: int, node: Address, sample: bool) -> Pacs:
    orthanc = None if sample else find_orthanc()
    if orthanc is None:
        return SamplePacs(folder, address, node)
    return OrthancPacs(orthanc, folder, address, http_port, node)


def _image(picture: Picture) -> Sent:
    path = DATA / f"{picture.name}.dcm"
    header = dcmread(path, stop_before_pixels=True)
    return Sent(picture.name, path, str(header.SOPInstanceUID), str(header.StudyInstanceUID), picture.published_as)


def _summary(outcomes: list[Outcome], first: Outcome | None, out: Path, teller: Teller) -> None:
    table = Table("image", "published as", "model says", "probability", "back in the PACS after")
    for outcome in outcomes:
        findings = outcome.said.get("findings", [])
        table.add_row(
            outcome.sent.name,
            outcome.sent.published_as,
            "\n".join(f"{finding['label']} {finding['presence']}" for finding in findings) or "not analysed",
            "\n".join(f"{finding['probability']:.3f}" for finding in findings),
            f"{outputs.stage_seconds(outcome)['received_to_confirmed']:.1f} s",
        )
    teller.console.print(table)
    shown = f"; {out}/sc.png and {out}/sr.html show {first.sent.name}" if first else ""
    teller.plain(f"Everything is in {out}/ (result.json){shown}.")
    teller.plain(outputs.NOTICE)


@contextmanager
def _temporary_folder(keep: bool, teller: Teller) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="radnode-demo-"))
    try:
        yield folder
    finally:
        if keep:
            teller.plain(f"The data stay in {folder}")
        else:
            shutil.rmtree(folder)


def _raise_on_signals() -> None:
    def on_signal(_number: int, _frame: FrameType | None) -> None:
        # Once: a second Ctrl-C must not stop the clearing up.
        _hold_signals()
        raise _Interrupted

    _on_stop(on_signal)


def _hold_signals() -> None:
    _on_stop(signal.SIG_IGN)


def _on_stop(action: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, action)
