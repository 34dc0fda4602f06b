"""`radnode backup` and `radnode record`: a copy of everything, and whether record and files fit each other."""

from __future__ import annotations

import json as json_module
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from node.backup import back_up
from node.cli.common import ACTOR, EXIT_FAILED, Config, Json, err, open_record, out, plain
from node.record_check import compare

backup_app = typer.Typer()
record_app = typer.Typer(no_args_is_help=True)

_SHOWN = 20


@backup_app.command()
def backup(
    folder: Annotated[Path, typer.Argument(help="A new folder, or one that holds an earlier backup.")],
    config: Config = None,
    json: Json = False,
) -> None:
    """Copy the record, every file it names, models, keys and anchors, while the node runs.

    A second backup into the same folder copies what is new and removes what is gone. Of a record in PostgreSQL only
    the files are copied: run pg_dump first.
    """
    with open_record(config) as (settings, record):
        copied = back_up(settings, record, folder, actor=ACTOR)
    if json:
        typer.echo(json_module.dumps(asdict(copied), indent=2))
    else:
        what = "the record" if copied.record else "no record (PostgreSQL: use pg_dump)"
        out.print(
            f"{what}, {copied.files} files copied ({copied.size_bytes} bytes), {copied.kept} there already, "
            f"{copied.removed} removed"
        )
    if copied.missing:
        err.print(f"{len(copied.missing)} files that the record names are missing; see `radnode record check`.")
        raise typer.Exit(EXIT_FAILED)


@record_app.callback()
def record_group() -> None:
    """The record and the files it names."""


@record_app.command("check")
def check(
    config: Config = None,
    json: Json = False,
    digests: Annotated[bool, typer.Option("--digests", help="Read every file and compute its digest.")] = False,
) -> None:
    """Tell which files the record names and which are there. Exit status 1 where one is missing or damaged."""
    with open_record(config) as (settings, record):
        found = compare(record, settings.data_dir, digests=digests)
    if json:
        typer.echo(json_module.dumps(asdict(found), indent=2))
    else:
        out.print(
            f"{found.named} files named, {len(found.missing)} missing, {len(found.damaged)} damaged; "
            f"{len(found.orphans)} files that no row names, {found.going} being deleted"
        )
        lines = [f"missing  {one.kind} {one.sop_instance_uid} {one.path}" for one in found.missing]
        lines += [f"damaged  {one.kind} {one.sop_instance_uid} {one.path}" for one in found.damaged]
        lines += [f"unnamed  {path}" for path in found.orphans]
        for line in lines[:_SHOWN]:
            out.print(plain(line), soft_wrap=True)
        if len(lines) > _SHOWN:
            err.print(f"{len(lines) - _SHOWN} more; see --json.")
    if found.missing or found.damaged:
        raise typer.Exit(EXIT_FAILED)
