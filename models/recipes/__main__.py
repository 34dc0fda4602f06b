"""Every recipe made again, one after the other, each by the `radnode train` that a person would type: `make models`."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from models.errors import ModelError
from models.recipes import PLANS, RECIPES, plan_of
from models.training.plan import StartWeights, loader_options, read_plan

EXIT_FAILED = 1
WEIGHTS = "weights"
FOLDERS = {
    "cxr-pneumonia": "cxr",
    "cxr-covid": "cxr",
    "cxr14": "ChestX-ray14",
    "ct-covid": "ct2d",
    "ct-covid-series": "covid-ct-md",
    "lung-nodule": "lidc",
    "mr-tumour": "mr2d",
    "pneumoniamnist": "medmnist",
}
"""Recipe to the folder of its images and labels, below the folder of all data."""


def main(
    data: Annotated[Path, typer.Option(help="Folder with the data sets and `weights`.")],
    out: Annotated[Path, typer.Option(help="Folder of the runs; one that was broken off goes on.")] = Path("runs"),
    only: Annotated[list[str] | None, typer.Option(help="Only this recipe; may be repeated.")] = None,
) -> None:
    """Make every bundle whose data are there, and say of the others what they lack. Exit code 1 where one failed."""
    wanted = only or sorted([*RECIPES, *PLANS])
    if unknown := [name for name in wanted if name not in FOLDERS]:
        raise typer.BadParameter(f"{', '.join(unknown)}: none of {', '.join(sorted(FOLDERS))}", param_hint="--only")
    told = {name: _make(name, data, out) for name in wanted}
    typer.echo("\n".join(f"{name}: {what}" for name, what in told.items()))
    if any(what.startswith("failed") for what in told.values()):
        raise typer.Exit(EXIT_FAILED)


def _make(name: str, data: Path, out: Path) -> str:
    folder = data / FOLDERS[name]
    try:
        lacking = missing(name, folder, data / WEIGHTS)
    except ModelError as error:
        return f"failed: {error}"
    if lacking:
        return f"not made: there is no {', no '.join(lacking)}"
    command = train_command(name, folder, data / WEIGHTS, out)
    typer.echo(shlex.join(["radnode", *command]), err=True)
    done = subprocess.run([_radnode(), *command], check=False)
    return "made" if done.returncode == 0 else f"failed with exit code {done.returncode}; its messages stand above"


def train_command(name: str, folder: Path, weights: Path, out: Path) -> list[str]:
    """What follows `radnode`."""
    found = ["train", name, "--data", str(folder), "--weights", str(weights)]
    if name in RECIPES:
        # This one keeps finished parts in a folder of its own, and --out is the bundle.
        return [*found, "--runs", str(out), "--out", str(out / name / "bundles" / name)]
    return [*found, "--out", str(out / name)]


def missing(name: str, folder: Path, weights: Path) -> list[str]:
    """Paths that a recipe reads and that are not there."""
    wanted = [folder, weights]
    if name in RECIPES:
        wanted.append(folder / "labels.csv")
    else:
        plan, _ = read_plan(plan_of(name))
        for one in plan.data.every_set:
            options = loader_options(plan, folder, one)
            wanted += [path for value in options.values() for path in _paths(value)]
        if isinstance(plan.network.weights, StartWeights):
            wanted.append(weights / plan.network.weights.path)
    return [str(path) for path in dict.fromkeys(wanted) if not path.exists()]


def _paths(value: object) -> Sequence[Path]:
    if isinstance(value, Path):
        return [value]
    return [one for one in value if isinstance(one, Path)] if isinstance(value, list | tuple) else []


def _radnode() -> str:
    return str(Path(sys.executable).with_name("radnode"))


if __name__ == "__main__":
    typer.run(main)
