"""`radnode`: commands are found by entry point and imported only when called.

So no package imports one above it, and `radnode echo` never pays for TensorFlow.
"""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import click
import typer

from db.errors import ConfigError, RadnodeError
from node import logs
from node.cli.common import EXIT_FAILED, EXIT_USAGE

GROUP = "radnode.commands"


class Delegated(click.Command):
    """A Typer application that reads its own arguments: Typer may bring a click of its own, whose exits and usage
    errors mean nothing to this one.
    """

    def __init__(self, name: str, entry: EntryPoint) -> None:
        super().__init__(name)
        self.entry = entry

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.args = args
        return args

    def invoke(self, ctx: click.Context) -> Any:
        app: typer.Typer = self.entry.load()
        command: Any = typer.main.get_command(app)
        return command.main(args=ctx.args, prog_name=ctx.command_path)


class Commands(click.Group):
    """A group whose commands are entry points named after them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(entry.name for entry in entry_points(group=GROUP))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = list(entry_points(group=GROUP, name=cmd_name))
        return Delegated(cmd_name, found[0]) if found else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The overview comes from a table: reading each command's own help would import all of them."""
        rows = [(name, SUMMARIES.get(name, "")) for name in self.list_commands(ctx) if name not in INTERNAL]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


SUMMARIES = {
    "analyze": "Read DICOM files without any service: SR, secondary capture and JSON into a folder.",
    "audit": "What happened, for the record.",
    "backup": "Copy the record and every file it names.",
    "bench": "Measure this machine.",
    "config": "Check the settings.",
    "db": "Look after the database.",
    "deliveries": "List what was sent where, and how far it got.",
    "demo": "Show the whole way of a chest radiograph on this machine.",
    "doctor": "Find what is wrong with this installation and say how to mend it.",
    "echo": "C-ECHO a peer.",
    "evaluate": "Measure a model on labelled images.",
    "federate": "Train together with other hospitals.",
    "fhir": "FHIR R4: list what was sent to servers, and show what they get.",
    "hl7": "Messages of HL7 v2: take them, and list what was sent and taken.",
    "instances": "List every image received and what became of it.",
    "jobs": "List the work: one model on one set of images.",
    "keys": "Keys by which programs use the web side.",
    "models": "Pack, install, activate and look at model bundles.",
    "parked": "What failed for good and waits for a person.",
    "quarantine": "What was set aside on arrival and waits for a person.",
    "record": "Hold the record against the files it names.",
    "retry": "Try parked jobs and dead letters again.",
    "routes": "Explain how a file would be routed.",
    "send": "Send DICOM files to a peer.",
    "serve": "Run the node.",
    "studies": "List the studies received, or delete one.",
    "train": "Train a model.",
    "ups": "Work items: Unified Procedure Steps.",
    "users": "People who may use the web side.",
    "worker": "Run the workers of this machine.",
    "workitems": "Work items that peers have pushed to this node (UPS): list, and show one.",
}
# Parts of `serve`, callable on their own by a service manager.
INTERNAL = {"listener", "keeper", "web"}

cli = Commands(
    name="radnode", help="An AI node that stands beside a hospital's PACS. Research use; not a medical device."
)


def run() -> None:
    """Entry point of the console script: a typed failure becomes one line and an exit status."""
    logs.configure_command()
    try:
        cli()
    except ConfigError as error:
        click.echo(f"radnode: {error}", err=True)
        sys.exit(EXIT_USAGE)
    except RadnodeError as error:
        click.echo(f"radnode: {error}", err=True)
        sys.exit(EXIT_FAILED)


if __name__ == "__main__":
    run()
