"""`radnode bench`: the benchmarks of the source tree, by name."""

from __future__ import annotations

import runpy
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer

from db.errors import ConfigError

app = typer.Typer(no_args_is_help=True)

_ROOT = Path(__file__).resolve().parents[2]
# Their options are the benchmark's own; `radnode bench NAME --help` shows them.
_AS_THEY_COME: dict[str, Any] = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@app.callback()
def bench() -> None:
    """Measure this machine, in a source checkout with its test peers. Options are the benchmark's: NAME --help."""


@app.command(context_settings=_AS_THEY_COME)
def ingest(context: typer.Context) -> None:
    """Receiving, beside Orthanc, DCMTK and pynetdicom."""
    _run("bench.compare", context.args)


@app.command(context_settings=_AS_THEY_COME)
def send(context: typer.Context) -> None:
    """Sending a report and a picture, beside pynetdicom."""
    _run("bench.send", context.args)


@app.command(context_settings=_AS_THEY_COME)
def infer(context: typer.Context) -> None:
    """The parts of a job: decoding, forward pass, report, picture."""
    _run("bench.infer", context.args)


@app.command(context_settings=_AS_THEY_COME)
def runtimes(context: typer.Context) -> None:
    """The shipped model in ONNX Runtime and OpenVINO, beside the node's runner: numbers first, then speed."""
    _run("bench.runtimes", context.args)


@app.command(context_settings=_AS_THEY_COME)
def explain(context: typer.Context) -> None:
    """What maps add to a forward pass."""
    _run("bench.explain", context.args)


@app.command(context_settings=_AS_THEY_COME)
def queue(context: typer.Context) -> None:
    """Radiographs in a row, and a STAT one behind them."""
    _run("bench.sustained", context.args)


@app.command(context_settings=_AS_THEY_COME)
def series(context: typer.Context) -> None:
    """A CT series through a model of slices, beside bare decoding and inference."""
    _run("bench.series", context.args)


@app.command(context_settings=_AS_THEY_COME)
def study(context: typer.Context) -> None:
    """From the last byte received to report and picture stored in a PACS."""
    _run("bench.journey", context.args)


@app.command(context_settings=_AS_THEY_COME)
def day(context: typer.Context) -> None:
    """A hospital's day, compressed, through a real node; what a queueing model forecasts for more workers."""
    _run("bench.day", context.args)


@app.command(context_settings=_AS_THEY_COME)
def record(context: typer.Context) -> None:
    """What a study costs in the record, empty and with 100,000 studies in it."""
    _run("bench.record", context.args)


def _run(module: str, arguments: list[str]) -> None:
    if not (_ROOT / "bench").is_dir() or find_spec(module) is None:
        raise ConfigError("the benchmarks come with the source and not with the package; run this in a checkout")
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
