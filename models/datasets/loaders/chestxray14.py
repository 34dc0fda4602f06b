"""NIH ChestX-ray14 (Wang et al., CVPR 2017): `Data_Entry_2017.csv` of 2017 or 2020, its lists and its boxes.

The 2017 table ends each line in a comma and writes ages as '058Y', some above 400 years; the 2020 table writes 58.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import islice
from math import isfinite
from pathlib import Path

from models.datasets import options, values
from models.datasets.loaders.classes import age_of
from models.datasets.paths import relative, shown
from models.datasets.samples import Box, Draft, Problems, Sample, SharedTargets
from models.datasets.tables import open_table, open_text
from models.errors import DatasetError

FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)
NO_FINDING = "No Finding"
REQUIRED = ("Image Index", "Finding Labels", "Patient ID")
OPTIONAL = ("Patient Age", "Patient Gender", "View Position")
# The box list calls this finding by another name than the table.
BOX_NAMES = {"Infiltrate": "Infiltration"}
_SOURCE = "chestxray14"
_LICENCE = "free use with attribution (NIH Clinical Center)"


class Options(options.Options):
    """file: the table. train_list, test_list: the official `train_val_list.txt` and `test_list.txt`.

    boxes: `BBox_List_2017.csv`. no_finding: whether "No Finding" is a label of its own.
    """

    file: Path
    train_list: Path | None = None
    test_list: Path | None = None
    boxes: Path | None = None
    no_finding: bool = False


def load(options: Options) -> Draft:
    """Raises DatasetError for findings that are none of the fourteen, and for an image on both official lists."""
    problems = Problems()
    labels = (*FINDINGS, NO_FINDING) if options.no_finding else FINDINGS
    shared, known = SharedTargets(labels), frozenset((*FINDINGS, NO_FINDING))
    part_of, boxes_of = _official(options), _boxes(options.boxes, problems)
    source, samples, patterns = options.source or _SOURCE, [], {}
    name = options.file.name
    with open_table(options.file) as table:
        for row in table.select(problems, REQUIRED, OPTIONAL):
            image, cell, patient, age, sex, view = row.values
            where = f"{name}, line {row.line}"
            if not image or not patient or values.is_unknown(cell):
                problems.leave_out(where, "image, patient or finding is empty")
                continue
            if cell not in patterns:
                patterns[cell] = _findings(cell, known, where)
            if NO_FINDING in patterns[cell] and len(patterns[cell]) > 1:
                problems.leave_out(where, f"{NO_FINDING!r} stands beside a finding")
                continue
            file = relative(image, where)
            samples.append(
                Sample(
                    file=file,
                    patient=patient,
                    source=source,
                    targets=shared.of_positive(patterns[cell]),
                    split=part_of.pop(file, ""),
                    view=view,
                    sex=values.sex(sex),
                    age_years=age_of(age, where, problems),
                    licence=_LICENCE,
                    boxes=boxes_of.pop(file, ()),
                )
            )
    if part_of:
        problems.note(name, "images of the official lists are not in the table", len(part_of))
    if boxes_of:
        problems.note(name, "images with boxes are not in the table", len(boxes_of))
    if options.train_list and options.test_list and (loose := sum(not sample.split for sample in samples)):
        problems.note(name, "images are on neither official list", loose)
    return Draft(_SOURCE, labels, False, samples, problems, len(samples) + len(problems.left_out))


def _findings(cell: str, known: frozenset[str], where: str) -> frozenset[str]:
    found = frozenset(part.strip() for part in cell.split("|"))
    if unknown := sorted(found - known):
        raise DatasetError(
            f"{where}: {', '.join(map(shown, islice(unknown, 3)))} is none of the findings of ChestX-ray14 "
            f"({', '.join(sorted(known))})"
        )
    return found


def _official(options: Options) -> dict[str, str]:
    part_of: dict[str, str] = {}
    for path, part in ((options.train_list, "train"), (options.test_list, "test")):
        if path is None:
            continue
        with open_text(path) as stream:
            for number, line in enumerate(stream, 1):
                if file := line.strip():
                    where = f"{path.name}, line {number}"
                    if part_of.setdefault(relative(file, where), part) != part:
                        raise DatasetError(f"{where}: {shown(file)} is on both official lists")
    return part_of


def _boxes(path: Path | None, problems: Problems) -> dict[str, tuple[Box, ...]]:
    """The header reads `Image Index,Finding Label,Bbox [x,y,w,h],,,`: the box is in cells three to six."""
    found: dict[str, list[Box]] = defaultdict(list)
    if path is None:
        return {}
    with open_table(path) as table:
        if [name.casefold() for name in table.header[:3]] != ["image index", "finding label", "bbox [x"]:
            has = ", ".join(map(shown, table.header))
            raise DatasetError(
                f"{path.name} lacks the columns Image Index, Finding Label, Bbox [x,y,w,h]; it has {has}"
            )
        for raw in table.rows:
            where = f"{path.name}, line {table.line()}"
            try:
                image, label, *numbers = raw[:6]
                x, y, width, height = map(float, numbers)
            except ValueError:
                problems.note(where, "a box is no image, finding and four numbers; not used")
                continue
            label = BOX_NAMES.get(label, label)
            if label not in FINDINGS:
                raise DatasetError(f"{where}: {shown(label)} is none of the findings of ChestX-ray14")
            if not all(map(isfinite, (x, y, width, height))) or width <= 0 or height <= 0:
                problems.note(where, "a box is empty; not used")
                continue
            found[relative(image, where)].append(Box(label, x, y, width, height))
    return {file: tuple(boxes) for file, boxes in found.items()}
