"""`radnode train`: make a bundle again from its data, by the name of its recipe."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from models.errors import ModelError
from models.recipes import RECIPES, Paths

EXIT_FAILED = 1

app = typer.Typer(help="Train a model.")

_out = Console(highlight=False)
_err = Console(stderr=True, highlight=False)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help=f"One of: {', '.join(sorted(RECIPES))}.")],
    data: Annotated[Path, typer.Option(help="Folder with labels.csv and the images.")],
    out: Annotated[Path, typer.Option(help="Folder of the bundle; what is there is replaced.")],
    weights: Annotated[Path, typer.Option(help="Folder with the ImageNet weights.")],
    *,
    runs: Annotated[Path, typer.Option(help="Where finished parts are kept, so that a broken run goes on.")] = Path(
        "runs"
    ),
) -> None:
    """Cross-validate, train, calibrate and measure; the bundle is complete at the end, its model card included."""
    if recipe not in RECIPES:
        raise typer.BadParameter(f"one of {', '.join(sorted(RECIPES))}", param_hint="RECIPE")
    make = import_module(RECIPES[recipe]).make
    try:
        make(Paths(data=data, weights=weights, out=out, runs=runs / recipe))
    except ModelError as error:
        _err.print(f"radnode: {error}", markup=False, soft_wrap=True)
        raise typer.Exit(EXIT_FAILED) from error
    _out.print(f"The bundle is in {out}.", markup=False)
