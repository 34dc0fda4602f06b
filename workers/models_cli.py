"""`radnode models`: the bundles in folders and the versions installed on this node, and which of them reads."""

from __future__ import annotations

import json as json_module
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from db import model_versions
from db.errors import ConflictError, RefusedError
from db.model_versions import ModelVersionView, NewModelVersion
from db.session import Record
from db.states import ModelState
from models import cli as framework
from models import registry
from models.cli import Folders, Id, Row
from models.errors import BundleError, BundleNotFoundError, ModelError
from models.manifest import read_manifest
from models.packaging import Unpacked, keys, unpack
from models.registry import Bundle
from models.runner import load_runner
from node.cli.common import Config, Json, err, open_record
from node.settings import Settings, load
from workers.loaded import ModelUnusable, installed_bundle, require_verified_codes

MODELS = "models"
"""Below the data folder; each version in a folder named after its digest."""

app = typer.Typer(no_args_is_help=True, help="Model bundles.")
app.command("keygen")(framework.keygen)
app.command("pack")(framework.pack_bundle)

Version = Annotated[str, typer.Argument(help="The installed version.")]
OneVersion = Annotated[
    str | None, typer.Option("--version", help="An installed version; the one that reads by default.")
]


class ModelRefused(RefusedError):
    """A bundle or version that this node does not take, or no longer."""


@app.command("list")
def list_models(config: Config = None, models_dir: Folders = None, json: Json = False) -> None:
    """Every bundle and installed version, its state and whether it reads; exit code 1 if a bundle is damaged."""
    with _known(config) as (settings, versions):
        folders = registry.candidates(_folders(settings, models_dir))
        rows = [_folder_row(folder) for folder in folders] + [_version_row(settings, one) for one in versions]
    # Of several folders with one id the last one counts; an active version outweighs them all.
    last = {row["id"]: row for row in rows if row["state"] == "ok"}
    last |= {row["id"]: row for row in rows if row["state"] == ModelState.ACTIVE}
    for row in rows:
        row["reads"] = last.get(row["id"]) is row
    framework.print_rows(rows, json_output=json, columns=("id", "version", "name", "state", "reads", "reason"))


def _folder_row(folder: Path) -> Row:
    origin = "shipped" if folder.parent == registry.SHIPPED else "folder"
    return framework.folder_row(folder) | {"origin": origin, "signed_by": None}


def _version_row(settings: Settings, version: ModelVersionView) -> Row:
    folder = settings.data_dir / version.folder
    try:
        name, reason = read_manifest(folder)[0].name, version.reason
    except BundleError as error:
        name, reason = "", str(error)
    return {
        "id": version.model_id,
        "version": version.version,
        "name": name,
        "state": version.state.value,
        "reason": reason,
        "digest": version.digest,
        "folder": str(folder),
        "origin": "installed",
        "signed_by": version.signed_by or None,
        "installed_at": version.installed_at.isoformat(),
        "changed_at": version.changed_at.isoformat(),
    }


@app.command()
def show(
    model: Id, config: Config = None, version: OneVersion = None, models_dir: Folders = None, json: Json = False
) -> None:
    """What a bundle is for, what it finds and how well; with --json the whole manifest."""
    with _known(config) as (settings, versions), framework.told():
        framework.print_bundle(_bundle(settings, versions, model, version, models_dir), json_output=json)


@app.command()
def verify(
    model: Id, config: Config = None, version: OneVersion = None, models_dir: Folders = None, json: Json = False
) -> None:
    """Hold every file against its digest and the network against its test vectors; exit code 1 where one differs."""
    with _known(config) as (settings, versions):
        framework.print_verification(
            model, lambda: _bundle(settings, versions, model, version, models_dir), json_output=json
        )


@app.command()
def install(
    zip_file: Annotated[Path, typer.Argument(metavar="ZIP", help="A bundle's zip; its signature lies beside it.")],
    config: Config = None,
    allow_unsigned: Annotated[
        bool, typer.Option("--allow-unsigned", help="Take a zip nobody signed. Never possible in clinical_mode.")
    ] = False,
    json: Json = False,
) -> None:
    """Check a zip's signature, then its content, unpack it and try its network; it reads only once it is activated."""
    with open_record(config) as (settings, record):
        found = _unpack(settings, zip_file, allow_unsigned=allow_unsigned)
        identity = found.bundle.identity
        version = _write_down(settings, record, found)
        try:
            load_runner(found.bundle, settings.work.accelerator)
        except ModelError as error:
            with record.write() as session:
                model_versions.refused(session, identity.id, identity.version, reason=str(error), actor=_actor())
            raise ModelUnusable(f"{identity.id} {identity.version} was unpacked, not validated: {error}") from error
        with record.write() as session:
            model_versions.validated(session, identity.id, identity.version, actor=_actor())
            version = model_versions.find(session, identity.id, identity.version)
    signed = f"signed with key {version.signed_by}" if version.signed_by else "not signed"
    told = f"{version.model_id} {version.version} is installed ({signed}) and {version.state}; digest {version.digest}"
    _tell(json, told, _shown(version))


@app.command()
def activate(model: Id, version: Version, config: Config = None, json: Json = False) -> None:
    """Let an installed version read, from the next job on; the one before is retired in the same moment."""
    with open_record(config) as (settings, record):
        with record.read() as session:
            found = model_versions.find(session, model, version)
        require_version_usable(settings, found)
        with record.write() as session:
            replaced = model_versions.activate(session, model, version, actor=_actor())
        _tell(
            json,
            f"{model} {version} reads from the next job on{f'; {replaced} is retired' if replaced else ''}",
            {"id": model, "active": version, "replaced": replaced},
        )


@app.command()
def shadow(model: Id, version: Version, config: Config = None, json: Json = False) -> None:
    """Let an installed version read along after the active one; what it says is kept with the job and never sent."""
    with open_record(config) as (settings, record):
        with record.read() as session:
            found = model_versions.find(session, model, version)
        require_version_usable(settings, found)
        with record.write() as session:
            replaced = model_versions.shadow(session, model, version, actor=_actor())
        _tell(
            json,
            f"{model} {version} reads along from the next job on; nothing it says is sent",
            {"id": model, "shadow": version, "replaced": replaced},
        )


@app.command()
def rollback(model: Id, config: Config = None, json: Json = False) -> None:
    """Give the place of the active version back to the one before, or to the bundle that came with the node."""
    with open_record(config) as (settings, record):
        with record.write() as session:
            gone, back = model_versions.rollback(session, model, actor=_actor())
            # What is raised here undoes the change: better the version in doubt than none.
            if back is None:
                _require_something_before(settings, model, gone)
            else:
                require_version_usable(settings, model_versions.find(session, model, back))
        now = f"{model} {back}" if back else f"the bundle of {model} that came with the node"
        _tell(
            json, f"{now} reads from the next job on; {gone} is retired", {"id": model, "active": back, "retired": gone}
        )


@app.command()
def retire(model: Id, version: Version, config: Config = None, json: Json = False) -> None:
    """Use an installed version no longer; no rollback leads to it. Its files stay, for results that name it."""
    with open_record(config) as (_, record):
        with record.write() as session:
            was = model_versions.retire(session, model, version, actor=_actor())
        if was is ModelState.ACTIVE:
            err.print(f"{model} has no active version now: the bundle that came with the node reads, if there is one.")
        _tell(json, f"{model} {version} is retired", {"id": model, "retired": version, "was": was.value})


def _unpack(settings: Settings, zip_file: Path, *, allow_unsigned: bool) -> Unpacked:
    if allow_unsigned and settings.clinical_mode:
        raise ModelRefused("clinical_mode takes no unsigned model; have it signed by somebody this node trusts")
    with _typed():
        trusted = keys.trusted(settings.trusted_keys_dir)
        found = unpack(zip_file, settings.data_dir / MODELS, trusted, allow_unsigned=allow_unsigned)
    require_verified_codes(found.bundle, clinical_mode=settings.clinical_mode)
    return found


def _write_down(settings: Settings, record: Record, found: Unpacked) -> ModelVersionView:
    identity = found.bundle.identity
    new = NewModelVersion(
        model_id=identity.id,
        version=identity.version,
        digest=identity.bundle_digest,
        folder=f"{MODELS}/{identity.bundle_digest}",
        archive_sha256=found.archive_sha256,
        signed_by=found.signed_by,
    )
    try:
        with record.write() as session:
            return model_versions.install(session, new, actor=_actor())
    except ConflictError:
        shutil.rmtree(settings.data_dir / new.folder)
        raise


def require_version_usable(settings: Settings, version: ModelVersionView) -> None:
    """Whole on disk, and still vouched for: trust may have been withdrawn since it was installed.

    Raises ModelUnusable or ModelRefused.
    """
    name = f"{version.model_id} {version.version}"
    with _typed():
        trusted = keys.trusted(settings.trusted_keys_dir)
        bundle = installed_bundle(settings, version)
    require_verified_codes(bundle, clinical_mode=settings.clinical_mode)
    if version.signed_by and version.signed_by not in trusted:
        raise ModelRefused(f"{name} was signed with key {version.signed_by}, which is no longer trusted here")
    if not version.signed_by and settings.clinical_mode:
        raise ModelRefused(f"clinical_mode refuses {name}: nobody signed it")


def require_bundle_in_a_folder(settings: Settings, model: str) -> None:
    """Raise ModelUnusable where no folder of the node holds a whole bundle of that id."""
    with _typed():
        registry.load(model, settings.work.model_dirs)


def _require_something_before(settings: Settings, model: str, version: str) -> None:
    try:
        require_bundle_in_a_folder(settings, model)
    except ModelUnusable as error:
        raise ModelUnusable(
            f"{model} cannot go back: no installed version was active before {version}, and no bundle in a folder can "
            f"take its place ({error}); `radnode models retire` takes it out of use"
        ) from error


@contextmanager
def _typed() -> Iterator[None]:
    """What is wrong with a bundle, as a failure of the node: one line and an exit status."""
    try:
        yield
    except ModelError as error:
        raise ModelUnusable(str(error)) from error


@contextmanager
def _known(config: Path | None) -> Iterator[tuple[Settings, list[ModelVersionView]]]:
    """The settings and the installed versions. Looking makes no record where there is none yet."""
    settings = load(config)
    if not settings.database_url and not (settings.data_dir / "radnode.db").is_file():
        yield settings, []
        return
    with open_record(config) as (settings, record):
        with record.read() as session:
            versions = model_versions.versions(session)
        yield settings, versions


def _bundle(
    settings: Settings, versions: list[ModelVersionView], model: str, version: str | None, models_dir: Folders
) -> Bundle:
    """The installed version asked for, else the one that reads. Raises BundleError."""
    for one in versions:
        wanted = one.state is ModelState.ACTIVE if version is None else one.version == version
        if one.model_id == model and wanted:
            return installed_bundle(settings, one)
    if version is not None:
        raise BundleNotFoundError(f"no version {version!r} of model {model!r} is installed")
    return registry.load(model, _folders(settings, models_dir))


def _folders(settings: Settings, named: list[Path] | None) -> list[Path]:
    return [*settings.work.model_dirs, *(named or ())]


def _shown(version: ModelVersionView) -> dict[str, Any]:
    values = asdict(version)
    for name in ("id", "previous_id"):
        del values[name]
    moments = {name: values[name].isoformat() for name in ("installed_at", "changed_at")}
    return {"id": values.pop("model_id"), **values, **moments, "state": version.state.value}


def _tell(as_json: bool, line: str, document: dict[str, Any]) -> None:
    typer.echo(json_module.dumps(document, indent=2) if as_json else line)


def _actor() -> str:
    return f"command line (uid {os.getuid()})"
