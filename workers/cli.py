"""`radnode worker` and `radnode analyze`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from db.errors import ConfigError
from node import logs
from node.audit import activity
from node.cli.common import EXIT_FAILED, Config, Json, err, open_record, out
from node.files import find_files
from node.settings import load
from workers import pool

worker_app = typer.Typer()
analyze_app = typer.Typer()

_ROLES = (pool.INFER, pool.DELIVER)


@worker_app.command()
def worker(
    config: Config = None,
    role: Annotated[list[str] | None, typer.Option(help="infer or deliver; may be repeated. Without it both.")] = None,
) -> None:
    """Run the workers of this machine: one process per GPU, or on the CPU where there is none."""
    roles = role or list(_ROLES)
    unknown = [name for name in roles if name not in _ROLES]
    if unknown:
        raise ConfigError(f"there is no role {', '.join(unknown)}; the roles are {' and '.join(_ROLES)}")
    with open_record(config) as (settings, _):
        logs.configure(settings)
    with activity.on_record(settings, "worker"):
        pool.run_pool(settings, config, roles)


@analyze_app.command()
def analyze(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH…", help="DICOM files or folders of them.")],
    out_dir: Annotated[Path, typer.Option("--out", help="Folder for the reports, the pictures and result.json.")],
    model: Annotated[
        str, typer.Option(help="Id of the model: one that came with radnode, or of a folder in work.model_dirs.")
    ] = "cxr-pneumonia",
    config: Config = None,
    json: Json = False,
) -> None:
    """Read DICOM files without any service or network: SR, secondary capture and JSON into a folder."""
    from workers import analyze as analyzing  # noqa: PLC0415 - highdicom is slow to import and `worker` needs it not

    settings = load(config)
    logs.configure(settings)
    files = find_files(paths)
    with Progress(console=err, transient=True, disable=json) as progress:
        task = progress.add_task("reading", total=len(files))
        document = analyzing.analyze_files(settings, files, out_dir, model, lambda: progress.advance(task))
    if json:
        typer.echo(analyzing.as_json(document))
    else:
        for line in analyzing.lines(document):
            out.print(line, markup=False, soft_wrap=True)
    if not any(entry["outcome"] != analyzing.REFUSED for entry in document["files"]):
        raise typer.Exit(EXIT_FAILED)
