"""A day's picture: how many jobs and deliveries wait over the hours, and each result's way to the PACS by priority."""

from __future__ import annotations

from pathlib import Path

from bench.day.compare import modelled, overheads
from bench.day.outcome import Outcome
from bench.day.queueing import waiting_at

_COLOURS = {"stat": "#c0392b", "urgent": "#d68910", "routine": "#2e6da4"}
_POINTS = 480


def draw(outcomes: list[Outcome], path: Path) -> None:
    """One column a run. Matplotlib belongs to the `train` extra."""
    import matplotlib  # noqa: PLC0415

    matplotlib.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415

    # Without a date and with ids that do not change the same day is the same file.
    pyplot.rcParams["svg.hashsalt"] = "day"
    figure, axes = pyplot.subplots(
        3,
        len(outcomes),
        figsize=(5.5 * len(outcomes), 8),
        layout="constrained",
        sharex=True,
        sharey="row",
        squeeze=False,
    )
    taken = overheads(outcomes[0].jobs)
    for column, outcome in enumerate(outcomes):
        top, middle, bottom = (row[column] for row in axes)
        hours = outcome.seconds / 24
        moments = [outcome.drained_s * place / _POINTS for place in range(_POINTS)]
        clock = [moment / hours for moment in moments]
        real = waiting_at(moments, [(job.created_s, job.started_s) for job in outcome.jobs])
        model = modelled(outcome.jobs, outcome.workers, taken)
        told = waiting_at(moments, [(one.work.at_s - taken.handover_s, one.begun_s) for one in model])
        top.step(clock, real, where="post", color="#2e6da4", label="measured")
        top.step(clock, told, where="post", color="#888888", linewidth=0.8, label="model")
        top.set_title(f"{outcome.workers} worker{'s' if outcome.workers > 1 else ''}")
        top.set_ylabel("jobs that wait")
        top.legend(loc="upper right")
        middle.step(clock, waiting_at(moments, outcome.deliveries), where="post", color="#5b4b8a")
        middle.set_ylabel("objects not yet at the PACS")
        for priority, colour in _COLOURS.items():
            sent = [(job, job.sent_s) for job in outcome.jobs if job.priority == priority and job.sent_s is not None]
            bottom.scatter(
                [job.received_s / hours for job, _ in sent],
                [at - job.received_s for job, at in sent],
                s=9,
                color=colour,
                label=priority,
            )
        bottom.set_yscale("log")
        bottom.set_ylabel("last image to PACS, real seconds")
        bottom.set_xlabel("hour of the day")
        bottom.set_xticks(range(0, 25, 4))
        bottom.legend(loc="upper left")
        for one in (top, middle, bottom):
            one.axvspan(*(moment / hours for moment in outcome.outage_s), color="#dddddd", zorder=0)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)
