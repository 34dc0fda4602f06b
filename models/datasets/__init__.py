"""Labelled images: reading label files, splitting them by patient, and turning images into grey planes.

    >>> from models.datasets import read
    >>> found = read("chestxray14", {"file": "Data_Entry_2017.csv", "train_list": "train_val_list.txt",
    ...                              "test_list": "test_list.txt", "images": "images"})
    >>> found.labels[:2], len(found.samples)
    (('Atelectasis', 'Cardiomegaly'), 112120)

Kinds, each a module of :mod:`models.datasets.loaders` whose ``Options`` say what it takes. Every kind also takes the
options of :class:`models.datasets.options.Options`: ``images`` (checks that every image is there), ``labels`` (which,
in which order), ``rename``, ``drop``, ``exclusive``, ``max_bad_fraction``, ``source`` and ``name``.

============== =====================================================================================================
labels-csv     ``file``: columns file, source, patient, label
chestxray14    ``file``, ``train_list``, ``test_list``, ``boxes``
covidx         ``train``, ``validation``, ``test``: lists of "patient file class source"
rsna-pneumonia ``file``, ``details``
chexpert       ``train``, ``validation``, ``test``, ``blank``, ``frontal_only``
medmnist       ``file``, ``names``
folder-per-class ``folder``, ``patient_pattern``
csv            ``file``, ``columns``, ``label_columns``
dicom-folder   ``folder``, ``file``, ``join``, ``join_column``, ``label_columns``
============== =====================================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from models.datasets.samples import Box, Problem, Sample, SampleSet
from models.errors import DatasetError

__all__ = ["KINDS", "Box", "Problem", "Sample", "SampleSet", "read"]

KINDS: Mapping[str, str] = {
    "labels-csv": "models.datasets.loaders.labels_csv",
    "chestxray14": "models.datasets.loaders.chestxray14",
    "covidx": "models.datasets.loaders.covidx",
    "rsna-pneumonia": "models.datasets.loaders.rsna_pneumonia",
    "chexpert": "models.datasets.loaders.chexpert",
    "medmnist": "models.datasets.loaders.medmnist",
    "folder-per-class": "models.datasets.loaders.folder_per_class",
    "csv": "models.datasets.loaders.user_csv",
    "dicom-folder": "models.datasets.loaders.dicom_folder",
}
"""Kind to the module that reads it: ``Options``, a pydantic model, and ``load(options) -> Draft``."""


def read(kind: str, options: Mapping[str, Any]) -> SampleSet:
    """Read a data set's labels; images stay closed.

    Raises:
        DatasetError: an unknown kind or option; a file that is missing, no UTF-8, or lacks a column (the message names
            those it has); labels that nobody knows; a path that leaves the images' folder; an image with two
            contradicting rows; a wanted label without any positive sample; more rows that cannot be used than
            ``max_bad_fraction``. Fewer of them are counted in ``SampleSet.problems``.
    """
    if kind not in KINDS:
        raise DatasetError(f"data sets of kind {kind!r} are unknown; there are {', '.join(sorted(KINDS))}")
    loader = import_module(KINDS[kind])
    # Imported late, so that the values above can be had without pydantic and the tables.
    from models.datasets.finish import finish  # noqa: PLC0415
    from models.datasets.options import parse  # noqa: PLC0415

    parsed = parse(loader.Options, kind, options)
    return finish(loader.load(parsed), parsed)
