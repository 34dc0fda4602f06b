"""`radnode doctor`: what is wrong with this installation, why, and how to mend it.

Each check finds one thing out, and none stops the next.
"""

from __future__ import annotations

import fcntl
import json as json_module
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from db import deletions, listing, outbox, retention, schema
from db.errors import ConfigError, PeerUnavailable, RadnodeError
from db.identities import Identity
from db.session import Record, safe_url
from models.runner import check_golden, visible_gpus
from node import broker, scu, storage
from node.broker_url import weaknesses
from node.cli.common import EXIT_FAILED, Config, Json, out
from node.retrieve.asking import ask_studies
from node.retrieve.choosing import Current
from node.settings import Peer, Settings, load
from node.settings_fhir import FhirDestination
from node.settings_hl7 import Hl7Destination
from node.syntaxes import decodable_transfer_syntaxes, undecodable_transfer_syntaxes
from node.worklist import query
from node.worklist.fhir.client import Server
from node.worklist.hl7.link import Link
from node.worklist.matching import Key
from workers.loaded import LoadedModels, ModelUnusable

app = typer.Typer()

# The share of quarantine from which on a person should look.
_NEARLY_FULL = 0.8
# Asked of the worklist to see whether it answers.
_NO_ORDER = "RADNODE-DOCTOR"


class Grade(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    """One thing found out. remedy: what to do, "" where nothing is to be done."""

    check: str
    grade: Grade
    detail: str
    remedy: str = ""


@app.command()
def doctor(
    config: Config = None,
    json: Json = False,
    skip_model: Annotated[bool, typer.Option("--skip-model", help="Load no model; saves some seconds.")] = False,
) -> None:
    """Check settings, disk, record, broker, listener, peers, decoders, models and GPU; names cause and remedy."""
    findings = list(examine(config, with_models=not skip_model))
    if json:
        typer.echo(json_module.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            out.print(f"{finding.grade.value:<5} {finding.check}: {finding.detail}", markup=False, soft_wrap=True)
            if finding.remedy:
                out.print(f"      {finding.remedy}", markup=False, soft_wrap=True)
    if any(finding.grade is Grade.FAIL for finding in findings):
        raise typer.Exit(EXIT_FAILED)


def examine(config: Path | None, *, with_models: bool = True) -> Iterator[Finding]:
    """Every finding in turn; without readable settings there is only one."""
    try:
        settings = load(config)
    except ConfigError as error:
        yield Finding("settings", Grade.FAIL, str(error), "Mend the settings; `radnode config check` reads them again.")
        return
    yield Finding("settings", Grade.OK, f"{len(settings.routes)} routes, {len(settings.peers)} peers")
    yield from _exposure(settings)
    yield _disk(settings)
    yield from _low_disk(settings)
    yield _record(settings)
    yield from _set_aside(settings)
    for check in (_broker, _listener):
        yield check(settings)
    for name, peer in settings.peers.items():
        yield _peer(settings, name, peer)
    for name, destination in settings.hl7.destinations.items():
        yield _hl7(settings, name, destination)
    for name, repository in settings.fhir.destinations.items():
        yield _fhir(settings, name, repository)
    yield from _worklist(settings)
    yield from _priors(settings)
    yield from _senders(settings)
    yield _decoders()
    yield _gpu(settings)
    if with_models:
        yield from _models(settings)


def _attempt(name: str, act: Callable[[], str], remedy: str) -> Finding:
    try:
        return Finding(name, Grade.OK, act())
    except RadnodeError as error:
        return Finding(name, Grade.FAIL, str(error), remedy)


def _exposure(settings: Settings) -> Iterator[Finding]:
    if settings.access.allow_plain_beyond_loopback:
        yield Finding(
            "access",
            Grade.WARN,
            "DICOM without TLS is permitted beyond loopback",
            "Set [tls] and remove the permission.",
        )
    if settings.access.allow_unknown_beyond_loopback:
        yield Finding("access", Grade.WARN, "any peer may send beyond loopback", "Set access.known_peers_only = true.")
    if weak := weaknesses(settings.effective_broker_url):
        yield Finding(
            "access",
            Grade.WARN,
            f"the broker lies beyond loopback and {' and '.join(weak)}",
            "Use rediss://:PASSWORD@HOST:PORT/0?ssl_ca_certs=CA.pem, or see that nobody else reaches that network.",
        )


def _disk(settings: Settings) -> Finding:
    def look() -> str:
        storage.require_room(settings)
        free = shutil.disk_usage(settings.data_dir).free
        return f"{free / 1024**3:.1f} GiB free below {settings.data_dir}"

    return _attempt("disk", look, "Make room, or set RADNODE_DATA_DIR to another disk.")


def _low_disk(settings: Settings) -> Iterator[Finding]:
    keep = settings.retention
    if settings.data_dir.is_dir() and shutil.disk_usage(settings.data_dir).free < keep.early_below_bytes:
        yield Finding(
            "disk low",
            Grade.WARN,
            f"less than retention.early_below_bytes = {keep.early_below_bytes} are free"
            + (": finished studies lose their images, the oldest first" if keep.delete_early else ""),
            "Make room, shorten retention.images_days, or set retention.delete_early = true.",
        )


def _set_aside(settings: Settings) -> Iterator[Finding]:
    """Quarantine nearly full, and deletions that come to no end."""
    record = _fitting_record(settings)
    if record is None:
        return
    try:
        with record.read() as session:
            lies, going = retention.aside_bytes(session), deletions.open_count(session)
    finally:
        record.close()
    most = settings.retention.aside_max_bytes
    if lies > _NEARLY_FULL * most:
        yield Finding(
            "quarantine",
            Grade.WARN,
            f"{lies} of {most} bytes are taken; what does not fit is answered 0xA700",
            "See `radnode quarantine list`, then release or delete; or raise retention.aside_max_bytes.",
        )
    if going:
        yield Finding(
            "deletions",
            Grade.WARN,
            f"files of {going} deletions are not all gone",
            "A running keeper removes them; if they stay, its log says why.",
        )


def _record(settings: Settings) -> Finding:
    def look() -> str:
        record = Record(settings.record_url)
        try:
            if not settings.database_url and schema.current(record) is None:
                return "not made yet; `radnode serve` makes it"
            schema.require_current(record)
            with record.read() as session:
                counts, waiting = listing.counts(session), outbox.waiting(session)
        finally:
            record.close()
        parked = counts["jobs"].get("PARKED", 0)
        dead = counts["deliveries"].get("DEAD", 0)
        return f"{safe_url(settings.record_url)}; {parked} parked jobs, {dead} dead letters, {waiting} messages waiting"

    return _attempt("record", look, "Start the database, check database_url, then run `radnode db upgrade`.")


def _broker(settings: Settings) -> Finding:
    if settings.embedded_broker and not _node_runs(settings):
        return Finding("broker", Grade.OK, "embedded; `radnode serve` starts it")

    def look() -> str:
        broker.ping(settings.effective_broker_url)
        return "embedded, answers" if settings.embedded_broker else "answers"

    return _attempt("broker", look, "Start Redis or Valkey, or remove broker_url to use the embedded one.")


def _node_runs(settings: Settings) -> bool:
    """A node holds its lock while it lives; its pid file stays behind when it is killed."""
    try:
        with (settings.data_dir / "radnode.lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _listener(settings: Settings) -> Finding:
    """A running node answers its own C-ECHO; where none runs the port must be free."""
    host = "127.0.0.1" if settings.dicom_host in {"0.0.0.0", "::"} else settings.dicom_host  # noqa: S104 - compared only
    where = f"{settings.ae_title}@{settings.dicom_host}:{settings.dicom_port}"
    if _node_runs(settings) and settings.tls.certificate is None and not settings.access.known_peers_only:
        found = scu.echo(Peer(ae_title=settings.ae_title, host=host, port=settings.dicom_port), settings)
        if found.ok:
            return Finding("listener", Grade.OK, f"{where} answers C-ECHO")
        return Finding("listener", Grade.FAIL, f"{where}: {found.cause}", found.remedy)
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.settimeout(2.0)
        taken = probe.connect_ex((host, settings.dicom_port)) == 0
    if _node_runs(settings):
        grade, detail = (Grade.OK, "takes connections") if taken else (Grade.FAIL, "takes no connections")
        return Finding("listener", grade, f"{where} {detail}", "" if taken else "See the log of `radnode serve`.")
    if taken:
        return Finding(
            "listener", Grade.FAIL, f"another program uses port {settings.dicom_port}", "Stop it or set dicom_port."
        )
    return Finding("listener", Grade.OK, f"{where} is free; `radnode serve` will listen there")


def _peer(settings: Settings, name: str, peer: Peer) -> Finding:
    found = scu.echo(peer, settings)
    where = f"{peer.ae_title}@{peer.host}:{peer.port}"
    if found.ok:
        return Finding(f"peer {name}", Grade.OK, f"{where} answers C-ECHO")
    return Finding(f"peer {name}", Grade.FAIL, f"{where}: {found.cause}", found.remedy)


def _hl7(settings: Settings, name: str, to: Hl7Destination) -> Finding:
    def look() -> str:
        with Link(settings, to) as link:
            link.open()
        return f"{to.host}:{to.port} takes connections{' over TLS' if to.tls else ''}"

    return _attempt(f"hl7 {name}", look, "Results for it wait. Let it listen for MLLP there, and this node connect.")


def _fhir(settings: Settings, name: str, to: FhirDestination) -> Finding:
    def look() -> str:
        with Server(to, settings.delivery.connect_timeout_s) as server:
            version = server.capability()
        if not version.startswith(("4.0", "4.3")):
            raise PeerUnavailable(f"it speaks FHIR {version}, not R4")
        return f"{to.url} speaks FHIR {version}"

    return _attempt(f"fhir {name}", look, "Results for it wait. See url, token and ca, and the server's log.")


def _worklist(settings: Settings) -> Iterator[Finding]:
    """Whether the worklist may be asked; the key is no order's."""
    asking = [route.name for route in settings.routes if route.ask_worklist]
    peer = settings.peers.get(settings.worklist.peer)
    if peer is not None:

        def look() -> str:
            query.ask(peer, settings, settings.worklist.peer, Key(accession_number=_NO_ORDER))
            return f"{settings.worklist.peer} answers C-FIND; asked by {', '.join(asking) or 'no route'}"

        yield _attempt("worklist", look, "Let this node's AE title query the worklist, by Accession Number.")
    elif asking and not settings.hl7.listener.enabled:
        yield Finding(
            "worklist",
            Grade.WARN,
            f"{', '.join(asking)}: orders are asked for, but nothing tells any, so each study waits and is routine",
            "Set worklist.peer, or hl7.listener.enabled = true, or remove ask_worklist.",
        )


def _priors(settings: Settings) -> Iterator[Finding]:
    """Whether earlier studies may be asked for; the patient is nobody."""
    peer = settings.peers.get(settings.priors.peer)
    if peer is None:
        return

    def look() -> str:
        ask_studies(peer, settings, Current("", Identity(_NO_ORDER), ""), ("19000101", "19000102"))
        return f"{settings.priors.peer} answers C-FIND for prior studies"

    yield _attempt("priors", look, "Let this node's AE title query the peer at STUDY level, and C-GET from it.")


def _senders(settings: Settings) -> Iterator[Finding]:
    to_sender = [route.name for route in settings.routes if "sender" in route.destinations]
    if to_sender and not settings.peers:
        yield Finding(
            "routes",
            Grade.WARN,
            f"{', '.join(to_sender)}: results go back to the sender, but no peer is configured, so they stay here",
            "Add a [peers.NAME] entry with the sender's AE title, host and port.",
        )


def _decoders() -> Finding:
    missing = undecodable_transfer_syntaxes()
    if missing:
        return Finding(
            "decoders", Grade.WARN, f"no decoder for {', '.join(missing)}", "Install radnode with all its dependencies."
        )
    return Finding("decoders", Grade.OK, f"{len(decodable_transfer_syntaxes())} transfer syntaxes can be read")


def _gpu(settings: Settings) -> Finding:
    gpus = visible_gpus()
    if settings.work.accelerator == "gpu" and not gpus:
        return Finding(
            "gpu", Grade.FAIL, "none is visible", "Check the driver, or set work.accelerator to auto or cpu."
        )
    return Finding("gpu", Grade.OK, f"{len(gpus)} in use" if gpus else "none; models run on the CPU")


def _models(settings: Settings) -> Iterator[Finding]:
    """The versions that read: the active ones where the record names any."""
    record = _fitting_record(settings)
    try:
        yield from _try_models(settings, LoadedModels(settings, record))
    finally:
        if record is not None:
            record.close()


def _fitting_record(settings: Settings) -> Record | None:
    """None where there is none yet, or none that can be asked: the record's own check says why."""
    record = Record(settings.record_url)
    try:
        schema.require_current(record)
    except RadnodeError:
        record.close()
        return None
    return record


def _try_models(settings: Settings, models: LoadedModels) -> Iterator[Finding]:
    for model_id in _wanted(settings):

        def look(wanted: str = model_id) -> str:
            loaded = models.get(wanted)
            off = check_golden(loaded.bundle, loaded.runner)
            if loaded.bundle.manifest.series is not None and (alone := _image_by_image(settings, wanted)):
                raise ModelUnusable(f"it reads series, but routes {', '.join(alone)} hand it one image at a time")
            if loaded.bundle.manifest.priors is not None and not settings.priors.peer:
                raise ModelUnusable("it compares with prior studies, and priors.peer names nobody who has any")
            return f"version {loaded.bundle.manifest.version} answers its test vectors (largest difference {off:.1e})"

        yield _attempt(f"model {model_id}", look, "Install the model again, or mend the routes that name it.")


def _image_by_image(settings: Settings, model_id: str) -> list[str]:
    return [route.name for route in settings.routes if route.mode == "instance" and model_id in route.models]


def _wanted(settings: Settings) -> Iterable[str]:
    return dict.fromkeys(model for route in settings.routes for model in route.models)
