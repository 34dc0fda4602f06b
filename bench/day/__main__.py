"""A hospital's day, compressed in time, through a real node; and what a queueing model says of it.

    python -m bench.day --studies 300 --minutes 4 --workers 1 --workers 2 --json day.json --plot day.svg

Each number of workers gets the same day: radiographs and CT that are read, MR and priors that are stored, some studies
sent twice, STAT that overtakes, and a PACS that is away for an hour. Speeds are real and only the time between studies
is compressed, so that 300 studies in 4 minutes load the node as 108,000 a day would. Prints waits and latencies by
priority, the model's error against each run, and the model's forecast for other numbers of workers.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path

from bench.day import compare
from bench.day.chart import draw
from bench.day.files import Sizes, write_day
from bench.day.hospital import Kind, Study, day
from bench.day.outcome import Outcome
from bench.day.queueing import waiting_at
from bench.day.site import WARM_UP, run_day, series_model, site

_FORECAST = (2, 8, 64)
_POINTS = 480


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=300, help="studies of the day; a hospital has some 3000")
    parser.add_argument("--minutes", type=float, default=4.0, help="how long the day takes")
    parser.add_argument("--workers", type=int, action="append", help="inference processes; one run for each")
    parser.add_argument(
        "--jobs-at-once", type=int, default=1, help="of a worker; the queueing model knows workers of one job at a time"
    )
    parser.add_argument("--slices", type=int, default=30, help="of a CT; 300 in earnest")
    parser.add_argument("--side", type=int, default=128, help="rows and columns of a slice; 512 in earnest")
    parser.add_argument("--cr-rows", type=int, default=1250, help="rows of a radiograph; 2500 in earnest")
    parser.add_argument("--outage", type=float, nargs=2, default=(13.0, 14.0), help="hours: the PACS is away")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, help="SVG or PNG")
    arguments = parser.parse_args()
    sizes = Sizes(arguments.slices, arguments.side, arguments.cr_rows)
    studies = day(arguments.studies, arguments.seed)
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as name:
        models = series_model(Path(name) / "models")
        for workers in arguments.workers or [1, 2]:
            folder = Path(name) / f"run-{workers}"
            folder.mkdir()
            warm_up = [
                Study(WARM_UP - 2 * number - place, 0.0, kind, "routine")
                for number in range(workers)
                for place, kind in enumerate((Kind.CR, Kind.CT))
            ]
            folders = write_day([*warm_up, *studies], folder / "files", sizes)
            with site(folder, workers, arguments.jobs_at_once, models) as there:
                outcomes.append(
                    run_day(there, workers, studies, folders, arguments.minutes * 60, tuple(arguments.outage))
                )
            _tell(outcomes[-1])
            # After each run, so that one that fails costs only itself.
            document = _document(outcomes, arguments)
            if arguments.json:
                arguments.json.write_text(json.dumps(document, indent=1), encoding="utf-8")
            if arguments.plot:
                draw(outcomes, arguments.plot)
    print(json.dumps(document["model"], indent=1))


def _tell(outcome: Outcome) -> None:
    load = sum(outcome.loads) / len(outcome.loads) if outcome.loads else os.getloadavg()[0]
    print(
        f"{outcome.workers} workers: {len(outcome.jobs)} jobs, "
        f"{sum(job.sent_s is None for job in outcome.jobs)} of them superseded, {outcome.instances} images, "
        f"{outcome.received_bytes / 1e6:.0f} MB in {outcome.drained_s:.0f} s, mean load {load:.1f} on {os.cpu_count()} "
        f"cores, sent at most {max(outcome.lag_s):.2f} s late"
    )
    for what, values in _latencies(outcome).items():
        print(f"  {what:<34}" + "  ".join(f"{name} {value:8.2f}" for name, value in values.items()))
    print(f"  CPU seconds {_rounded(outcome.cpu_s)}, record {_rounded(outcome.writes)}")


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 1) for name, value in values.items()}


def _latencies(outcome: Outcome) -> dict[str, dict[str, float]]:
    found: dict[str, list[float]] = {}
    for job in outcome.jobs:
        found.setdefault(f"{job.priority}: wait for a worker, s", []).append(job.started_s - job.created_s)
        found.setdefault(f"{job.kind}: a worker's time, s", []).append(job.finished_s - job.started_s)
        if job.sent_s is not None:
            away = job.finished_s < outcome.outage_s[1] and job.sent_s > outcome.outage_s[0]
            kept = "PACS away" if away else "PACS there"
            found.setdefault(f"{job.priority}: last image to PACS, {kept}", []).append(job.sent_s - job.received_s)
    return {what: compare.shape(values) for what, values in sorted(found.items())}


def _document(outcomes: list[Outcome], arguments: argparse.Namespace) -> dict[str, object]:
    first = outcomes[0]
    taken = compare.overheads(first.jobs)
    held = []
    for outcome in outcomes:
        as_first = compare.resampled(outcome.jobs, first.jobs)
        for named, service in (("its own service times", None), ("service times of the first run", as_first)):
            model = compare.waits_of(compare.modelled(outcome.jobs, outcome.workers, taken, service), taken)
            for group, values in compare.waits(outcome.jobs).items():
                held.append(
                    {
                        "workers": outcome.workers,
                        "with": named,
                        "group": group,
                        "measured_s": compare.shape(values),
                        "model_s": compare.shape(model[group]),
                    }
                )
    compressed = {
        workers: {
            group: compare.shape(values)
            for group, values in compare.waits_of(compare.modelled(first.jobs, workers, taken), taken).items()
        }
        for workers in _FORECAST
    }
    days = compare.real_days(first.jobs, taken, (3_000, 150_000), (1, *_FORECAST))
    moments = [first.seconds * place / _POINTS for place in range(_POINTS)]
    return {
        "options": {name: str(value) for name, value in vars(arguments).items()},
        "cores": os.cpu_count(),
        "runs": [
            {
                **{name: value for name, value in asdict(outcome).items() if name not in ("jobs", "deliveries")},
                "latencies_s": _latencies(outcome),
                "jobs": [asdict(job) for job in outcome.jobs],
                "queue": waiting_at(moments, [(job.created_s, job.started_s) for job in outcome.jobs]),
                "deliveries_open": waiting_at(moments, outcome.deliveries),
            }
            for outcome in outcomes
        ],
        "model": {"overheads": asdict(taken), "held_against": held, "same_day": compressed, "real_days": days},
    }


if __name__ == "__main__":
    main()
