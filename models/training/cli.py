"""`radnode train`: run a recipe."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

RECIPES = {"cxr-pneumonia": "models.recipes.cxr_pneumonia"}
app = typer.Typer()


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help=f"One of {', '.join(RECIPES)}.")],
    data: Annotated[Path, typer.Option(help="Folder with labels.csv and the images.")],
    weights: Annotated[Path, typer.Option(help="ImageNet weights of the backbone (.npz).")],
    out: Annotated[Path, typer.Option(help="Where the bundle goes.")],
) -> None:
    """Train a shipped model again from its recipe. Free configurations are a release to come."""
    if recipe not in RECIPES:
        typer.echo(f"radnode: no recipe {recipe}; there are {', '.join(RECIPES)}", err=True)
        raise typer.Exit(2)
    argv = [sys.executable, "-m", RECIPES[recipe], "--data", str(data), "--weights", str(weights), "--out", str(out)]
    raise typer.Exit(subprocess.run(argv, check=False).returncode)
