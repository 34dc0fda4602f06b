"""`radnode echo` and `radnode send`: talking to a peer by hand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from db.errors import ConfigError
from node import scu, sending
from node.cli.common import EXIT_FAILED, Config, err, out, plain
from node.files import find_files
from node.settings import Peer, Settings, load

echo_app = typer.Typer()
send_app = typer.Typer()

Target = Annotated[str, typer.Argument(metavar="PEER", help="A peer's name from the settings, or AET@HOST:PORT.")]
_ADDRESS = re.compile(r"^(?P<aet>[^@]{1,16})@(?P<host>.+):(?P<port>\d{1,5})$")


def find_peer(target: str, settings: Settings) -> Peer:
    """A configured peer by name, or one written as AET@HOST:PORT. Raises ConfigError."""
    if target in settings.peers:
        return settings.peers[target]
    written = _ADDRESS.match(target)
    if written is None:
        names = ", ".join(settings.peers) or "none are configured"
        raise ConfigError(f"{target} is neither a peer ({names}) nor AET@HOST:PORT")
    return Peer(ae_title=written["aet"], host=written["host"].strip("[]"), port=int(written["port"]))


@echo_app.command()
def echo(peer: Target, config: Config = None) -> None:
    """C-ECHO a peer and say what is wrong if it does not answer."""
    settings = load(config)
    result = scu.echo(find_peer(peer, settings), settings)
    if not result.ok:
        err.print(plain(f"{peer}: {result.cause}. {result.remedy}"), soft_wrap=True)
        raise typer.Exit(EXIT_FAILED)
    out.print(plain(f"{peer}: answers"), soft_wrap=True)


@send_app.command()
def send(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH…", help="DICOM files or folders of them.")],
    to: Annotated[str, typer.Option("--to", help="A peer's name from the settings, or AET@HOST:PORT.")],
    config: Config = None,
) -> None:
    """Send DICOM files to a peer; says of each that failed why."""
    settings = load(config)
    files = find_files(paths)
    failed = 0
    with Progress(console=err, transient=True) as progress:
        task = progress.add_task("sending", total=len(files))
        for result in sending.send_files(find_peer(to, settings), settings, files):
            progress.advance(task)
            if not result.ok:
                failed += 1
                err.print(plain(f"{result.path}: {result.reason}"), soft_wrap=True)
    err.print(plain(f"{len(files) - failed} of {len(files)} files taken by {to}."), soft_wrap=True)
    if failed or not files:
        raise typer.Exit(EXIT_FAILED)
