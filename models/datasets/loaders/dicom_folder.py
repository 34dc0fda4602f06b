"""A folder of DICOM files: one sample for each radiograph, one for each CT or MR series, labels joined from a table.

Only headers are read. A series' slices are ordered along its normal, as :mod:`models.datasets.loaders.slices` says.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from models.contracts import SeriesFacts
from models.datasets import options, values
from models.datasets.loaders.classes import NO_TARGETS, Classed, age_of, draft_of
from models.datasets.loaders.dicom_headers import Header, headers, pseudonym
from models.datasets.loaders.slices import ordered
from models.datasets.paths import relative, shown
from models.datasets.samples import Draft, Problems, Sample, SharedTargets
from models.datasets.tables import open_table
from models.errors import DatasetError

Join = Literal["patient", "study", "series", "image", "file"]

JOIN_COLUMNS: Mapping[Join, str] = {
    "patient": "PatientID",
    "study": "StudyInstanceUID",
    "series": "SeriesInstanceUID",
    "image": "SOPInstanceUID",
    "file": "file",
}
VOLUMES = ("CT", "MR", "PT")
Group = tuple[Sequence[Header], SeriesFacts | None]
"""The headers of one sample; facts of a series alone."""

NO_IMAGES = ("SR", "PR", "KO", "SEG", "REG", "RTSTRUCT", "RTPLAN", "RTDOSE", "DOC", "AU", "ECG", "HD")


class Options(options.Options):
    """folder: the images' folder. file: the table of labels; None gives samples without labels.

    join: what a line of the table is about; join_column: its column, None for JOIN_COLUMNS' name.
    label_column: of class names; or label_columns: label key to a column of 1, 0, -1 and blank.
    modalities: which to take; empty takes all that have images.
    salt: goes into the pseudonyms that replace patient numbers.
    """

    folder: Path
    file: Path | None = None
    join: Join = "image"
    join_column: str | None = None
    label_column: str | None = None
    label_columns: Mapping[str, str] = Field(default_factory=dict)
    modalities: tuple[str, ...] = ()
    salt: str = ""

    @model_validator(mode="after")
    def _one_way_to_label(self) -> Self:
        if self.file is not None and bool(self.label_column) == bool(self.label_columns):
            raise ValueError("a table of labels needs either label_column or label_columns")
        return self


@dataclass(frozen=True)
class _Labels:
    """The table: key of the join to the cells of the label columns."""

    cells: Mapping[str, tuple[str, ...]]
    used: set[str]

    def of(self, key: str) -> tuple[str, ...] | None:
        if key not in self.cells:
            return None
        self.used.add(key)
        return self.cells[key]


def load(options: Options) -> Draft:
    """Raises DatasetError: no folder, no DICOM image, a table whose lines contradict or that no image is in."""
    if not options.folder.is_dir():
        raise DatasetError(f"there is no folder {options.folder.name}")
    problems, name = Problems(), options.folder.name
    groups = _groups(options, problems)
    if not groups:
        raise DatasetError(f"{name} has no DICOM images of the modalities asked for")
    labels = _read_labels(options, problems) if options.file is not None else None
    found = [(_sample(group, facts, options, problems), group[0]) for group, facts in groups]
    if labels is None:
        draft = Draft(name, (), False, [sample for sample, _ in found], problems, len(found))
    elif options.label_columns:
        draft = _with_columns(found, labels, options, problems)
    else:
        draft = _with_classes(found, labels, options, problems)
    draft.seen = sum(len(group) for group, _ in groups) + len(problems.left_out)
    return draft


def _groups(options: Options, problems: Problems) -> list[Group]:
    """A radiograph alone, the slices of a series together, each in its order."""
    single: list[Group] = []
    series: dict[tuple[str, str], list[Header]] = defaultdict(list)
    seen: set[str] = set()
    for header in headers(options.folder, problems):
        where = shown(header.file)
        if header.modality in NO_IMAGES or not header.has_pixels:
            problems.note(where, "DICOM objects that are no images were left aside")
        elif options.modalities and header.modality not in options.modalities:
            problems.note(where, "images of other modalities were left aside")
        elif not header.sop or not header.series or not header.study:
            problems.leave_out(where, "the file lacks a UID of image, series or study")
        elif header.sop in seen:
            problems.leave_out(where, "an image with this SOP Instance UID is there already; one was kept")
        elif header.modality in VOLUMES and "LOCALIZER" in header.image_type:
            problems.note(where, "localizers were left aside")
        else:
            seen.add(header.sop)
            if header.frames > 1:
                problems.note(where, "files of several frames are read by their first")
            if header.modality in VOLUMES:
                series[header.study, header.series].append(header)
            else:
                single.append(((header,), None))
    return single + [group for slices in series.values() if (group := ordered(slices, problems))[0]]


def _sample(group: Sequence[Header], facts: SeriesFacts | None, options: Options, problems: Problems) -> Sample:
    first = group[0]
    where = shown(first.file)
    if not first.patient:
        problems.note(where, "files without a patient's number; each of their studies counts as a patient of its own")
    return Sample(
        file=first.file,
        patient=pseudonym(first.patient or f"study {first.study}", options.salt),
        source=options.source or options.folder.name,
        targets=NO_TARGETS,
        files=() if facts is None else tuple(header.file for header in group),
        series=facts,
        view=first.view,
        sex=values.sex(first.sex),
        age_years=age_of(first.age, where, problems),
        device=first.device,
    )


def _read_labels(options: Options, problems: Problems) -> _Labels:
    if options.file is None:
        raise DatasetError("there is no table of labels")
    column = options.join_column or JOIN_COLUMNS[options.join]
    wanted = [options.label_column] if options.label_column else list(options.label_columns.values())
    cells: dict[str, tuple[str, ...]] = {}
    with open_table(options.file) as table:
        for row in table.select(problems, [column, *wanted]):
            where = f"{options.file.name}, line {row.line}"
            key, *found = row.values
            if not key:
                problems.leave_out(where, f"{column} is empty")
                continue
            if options.join == "file":
                key = relative(key, where)
            if key in cells:
                problems.note(where, "lines of the table occur twice")
            if cells.setdefault(key, tuple(found)) != tuple(found):
                raise DatasetError(f"{where}: another line says otherwise of the same {options.join}")
    return _Labels(cells, set())


def _cells(
    found: Sequence[tuple[Sample, Header]], labels: _Labels, options: Options, problems: Problems
) -> list[tuple[Sample, tuple[str, ...]]]:
    joined = []
    for sample, header in found:
        keys = {
            "patient": header.patient,
            "study": header.study,
            "series": header.series,
            "image": header.sop,
            "file": header.file,
        }
        cells = labels.of(keys[options.join])
        if cells is None:
            problems.note(shown(sample.file), "images that have no line in the table of labels were left aside")
        else:
            joined.append((sample, cells))
    if not joined:
        raise DatasetError(
            f"no image has a line in the table of labels, joined by {options.join}; is it the right one?"
        )
    if unused := len(labels.cells) - len(labels.used):
        problems.note(options.folder.name, "lines of the table of labels have no image", unused)
    return joined


def _with_classes(
    found: Sequence[tuple[Sample, Header]], labels: _Labels, options: Options, problems: Problems
) -> Draft:
    rows = []
    for sample, (cell,) in _cells(found, labels, options, problems):
        if values.is_unknown(cell):
            problems.leave_out(shown(sample.file), "label is empty")
        else:
            rows.append(Classed(sample, frozenset((cell,))))
    return draft_of(options.folder.name, rows, problems, len(rows), exclusive=True)


def _with_columns(
    found: Sequence[tuple[Sample, Header]], labels: _Labels, options: Options, problems: Problems
) -> Draft:
    shared, samples = SharedTargets(options.label_columns), []
    for sample, cells in _cells(found, labels, options, problems):
        targets = [values.target(cell) for cell in cells]
        if None in targets:
            raise DatasetError(f"labels of {shown(sample.file)}: a cell is none of 1, 0, -1 and blank")
        made = shared.of_values(value for value in targets if value is not None)
        object.__setattr__(sample, "targets", made)
        samples.append(sample)
    return Draft(options.folder.name, tuple(options.label_columns), False, samples, problems, len(samples))
