"""What benchmarks share: rounds, medians, percentiles, ratios taken within each round, JSON and a plot."""

from __future__ import annotations

import argparse
import json
import os
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class One:
    """One measurement."""

    round: int
    case: str
    way: str
    value: float


@dataclass
class Figures:
    """Measurements of several ways (programs, settings) in several cases; in `unit`."""

    name: str
    unit: str
    seen: list[One] = field(default_factory=list)
    load_before: float = field(default_factory=lambda: os.getloadavg()[0])

    def add(self, number: int, case: str, way: str, value: float) -> None:
        self.seen.append(One(number, case, way, value))

    def values(self, case: str, way: str) -> list[float]:
        """By round."""
        return [one.value for one in self.seen if (one.case, one.way) == (case, way)]

    def report(self, arguments: argparse.Namespace, against: str) -> None:
        """Print a table; write JSON and a plot where the arguments name files. against: the way that ratios are to."""
        cases = list(dict.fromkeys(one.case for one in self.seen))
        ways = list(dict.fromkeys(one.way for one in self.seen))
        load_after = os.getloadavg()[0]
        print(f"{os.cpu_count()} cores, load {self.load_before:.1f} before and {load_after:.1f} after; {self.unit}")
        print(f"{'case':<24} {'way':<16} {'median':>9} {'p95':>9} {'p99':>9} {'least':>9}   to {against}")
        for case in cases:
            for way in ways:
                row = summary(self.values(case, way), self.values(case, against))
                print(
                    f"{case:<24} {way:<16} {row['p50']:9.2f} {row['p95']:9.2f} {row['p99']:9.2f} {row['least']:9.2f}"
                    f"   {row['ratio']:.2f}"
                )
        if arguments.json:
            rows = {
                case: {way: summary(self.values(case, way), self.values(case, against)) for way in ways}
                for case in cases
            }
            document = {
                "bench": self.name,
                "unit": self.unit,
                "against": against,
                "cores": os.cpu_count(),
                "load": [self.load_before, os.getloadavg()[0]],
                "summary": rows,
                "measured": [asdict(one) for one in self.seen],
            }
            arguments.json.write_text(json.dumps(document, indent=1), encoding="utf-8")
        if arguments.plot:
            plot(self, arguments.plot)


def summary(values: list[float], others: list[float]) -> dict[str, float]:
    """Median, percentiles, least, and the median of the ratios to what was measured in the same round."""
    ordered = sorted(values)
    ratios = [mine / theirs for mine, theirs in zip(values, others, strict=True)]
    return {
        "p50": statistics.median(ordered),
        "p95": percentile(ordered, 0.95),
        "p99": percentile(ordered, 0.99),
        "least": ordered[0],
        "ratio": statistics.median(ratios),
        "rounds": float(len(ordered)),
    }


def percentile(ordered: list[float], share: float) -> float:
    """The least value that at least this share of them does not exceed."""
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


def arguments_of(parser: argparse.ArgumentParser, rounds: int) -> argparse.Namespace:
    """Parse the command line with what all of them take."""
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--json", type=Path, help="Write every measurement there.")
    parser.add_argument("--plot", type=Path, help="Draw medians there, with the range of the rounds (PNG or SVG).")
    return parser.parse_args()


def plot(figures: Figures, path: Path) -> None:
    """Medians as bars, the least and the most as whiskers."""
    import matplotlib  # noqa: PLC0415 - belongs to the `train` extra

    matplotlib.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415

    cases = list(dict.fromkeys(one.case for one in figures.seen))
    ways = list(dict.fromkeys(one.way for one in figures.seen))
    figure, axes = pyplot.subplots(figsize=(1.5 + 1.6 * len(cases), 4), layout="constrained")
    width = 0.8 / len(ways)
    for place, way in enumerate(ways):
        rows = [sorted(figures.values(case, way)) for case in cases]
        medians = [statistics.median(row) for row in rows]
        below = [median - row[0] for median, row in zip(medians, rows, strict=True)]
        above = [row[-1] - median for median, row in zip(medians, rows, strict=True)]
        axes.bar(
            [x + place * width for x in range(len(cases))], medians, width, yerr=[below, above], capsize=3, label=way
        )
    axes.set_xticks([x + 0.4 - width / 2 for x in range(len(cases))], cases)
    axes.set_ylabel(figures.unit)
    axes.legend()
    figure.savefig(path)
    pyplot.close(figure)
