"""`radnode train`: a plan becomes a bundle; or a shipped bundle is made again by the name of its recipe."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from models.errors import ModelError
from models.recipes import PLANS, RECIPES, Paths, plan_of

EXIT_FAILED = 1

app = typer.Typer(help="Train a model.")

# Paths and labels are others' words: no markup and no :name: is read from them.
_out = Console(highlight=False, markup=False, emoji=False)
_err = Console(stderr=True, highlight=False, markup=False, emoji=False)

_NAMES = ", ".join(sorted([*RECIPES, *PLANS]))


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help=f"A TOML file, or one of: {_NAMES}.")],
    out: Annotated[Path, typer.Option(help="Folder of the run; one that was broken off goes on.")],
    data: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Folder of labels and images; else the file's own."),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="Folder of start weights; else the file's own.")
    ] = None,
    *,
    cache: Annotated[
        Path | None, typer.Option(file_okay=False, help="Folder of images ready for training, which runs may share.")
    ] = None,
    folds: Annotated[
        int,
        typer.Option(
            min=0, max=100, help="Cross-validate: train this many networks, each patient held out once; no bundle."
        ),
    ] = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting of the plan for this run, as TOML: 'training.batch = 8'. Repeatable."),
    ] = None,
    leave_out: Annotated[
        list[str] | None, typer.Option(help="A label of the plan that this run does without. Repeatable.")
    ] = None,
    runs: Annotated[
        Path, typer.Option(help="For cxr-pneumonia: where finished parts are kept; --out is then the bundle's folder.")
    ] = Path("runs"),
) -> None:
    """Train, calibrate and measure; the bundle is complete at the end, its model card included."""
    try:
        if recipe in RECIPES:
            if folds or settings or leave_out:
                raise typer.BadParameter(f"{recipe} takes no --folds, --set or --leave-out", param_hint="RECIPE")
            _shipped(recipe, out, data, weights, runs)
            return
        config = plan_of(recipe) if recipe in PLANS else Path(recipe)
        if config.suffix != ".toml":
            raise typer.BadParameter(f"a file *.toml, or one of {_NAMES}", param_hint="RECIPE")
        wanted = tuple(settings or ()), tuple(leave_out or ())
        _plan(config, out, data, weights, cache=cache, folds=folds, wanted=wanted)
    except ModelError as error:
        _err.print(f"radnode: {error}", soft_wrap=True)
        raise typer.Exit(EXIT_FAILED) from error


def _shipped(recipe: str, out: Path, data: Path | None, weights: Path | None, runs: Path) -> None:
    if data is None or weights is None:
        raise typer.BadParameter(f"{recipe} needs --data and --weights", param_hint="RECIPE")
    import_module(RECIPES[recipe]).make(Paths(data=data, weights=weights, out=out, runs=runs / recipe))
    _out.print(f"The bundle is in {out}.", soft_wrap=True)


def _plan(
    config: Path,
    out: Path,
    data: Path | None,
    weights: Path | None,
    *,
    cache: Path | None,
    folds: int,
    wanted: tuple[tuple[str, ...], tuple[str, ...]],
) -> None:
    # Late: TensorFlow takes seconds, and a plan with a fault should be told at once.
    from models.training.plan import Changes, read_plan  # noqa: PLC0415

    changes = Changes(*wanted)
    read_plan(config, changes)
    from models.training.cross_validation import cross_validate  # noqa: PLC0415
    from models.training.general import default_folders, run_plan  # noqa: PLC0415
    from models.training.shown import ShownProgress  # noqa: PLC0415

    folders = default_folders(config, data, weights)
    with ShownProgress(_err) as shown:
        if folds:
            found = cross_validate(config, out, folders, folds, changes=changes, cache=cache, progress=shown.progress)
        else:
            found = run_plan(config, out, folders, changes=changes, cache=cache, progress=shown.progress)
    _out.print(f"The {'figures are' if folds else 'bundle is'} in {found}.", soft_wrap=True)
