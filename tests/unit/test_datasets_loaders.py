"""Each kind of data set, from label files as they are published."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from models.contracts import SeriesFacts
from models.datasets import KINDS, Box, SampleSet, read
from models.errors import DatasetError

NIH_2020 = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]\n"
)
NIH_2017 = NIH_2020.replace("[x,y]", "[x,y],")
CHEXPERT = (
    "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,"
    "Edema,Consolidation,Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices\n"
)


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path


def notes(found: SampleSet) -> dict[str, int]:
    return {problem.what: problem.count for problem in found.problems if not problem.left_out}


@pytest.mark.parametrize(
    ("header", "row"),
    [
        (NIH_2020, "{file},{labels},0,{patient},{age},M,PA,2682,2749,0.143,0.143\n"),
        (NIH_2017, "{file},{labels},0,{patient},{age:03d}Y,M,PA,2682,2749,0.143,0.143,\n"),
    ],
)
def test_chestxray14_in_both_headers_with_lists_and_boxes(tmp_path: Path, header: str, row: str) -> None:
    lines = [("00000001_000.png", "Cardiomegaly|Effusion", 1, 58), ("00000002_000.png", "No Finding", 2, 414)]
    text = header + "".join(row.format(file=f, labels=name, patient=p, age=a) for f, name, p, a in lines)
    boxes = "Image Index,Finding Label,Bbox [x,y,w,h],,,\n00000001_000.png,Infiltrate,225.1,547.0,86.8,79.2,,,\n"
    found = read(
        "chestxray14",
        {
            "file": written(tmp_path / "Data_Entry_2017.csv", text),
            "train_list": written(tmp_path / "train_val_list.txt", "00000001_000.png\n"),
            "test_list": written(tmp_path / "test_list.txt", "00000002_000.png\r\n"),
            "boxes": written(tmp_path / "BBox_List_2017.csv", boxes),
        },
    )
    first, second = found.samples
    assert {label for label, value in first.targets.items() if value == 1} == {"Cardiomegaly", "Effusion"}
    assert (first.patient, first.age_years, first.sex, first.view, first.split) == ("1", 58.0, "M", "PA", "train")
    assert first.boxes == (Box("Infiltration", 225.1, 547.0, 86.8, 79.2),)
    assert set(second.targets.values()) == {0.0}
    assert (second.age_years, second.split) == (None, "test")
    assert notes(found)["the age is above 120 years; taken as unknown"] == 1


def test_chestxray14_refuses_an_image_on_both_lists_and_unknown_findings(tmp_path: Path) -> None:
    row = "a.png,{},0,1,58,M,PA,1,1,1,1\n"
    both = written(tmp_path / "list.txt", "a.png\n")
    good = written(tmp_path / "good.csv", NIH_2020 + row.format("Mass"))
    with pytest.raises(DatasetError, match="both official lists"):
        read("chestxray14", {"file": good, "train_list": both, "test_list": both})
    bad = written(tmp_path / "bad.csv", NIH_2020 + row.format("Mass|Massif"))
    with pytest.raises(DatasetError, match=r"line 2: 'Massif' is none of the findings"):
        read("chestxray14", {"file": bad})


def test_chestxray14_finds_images_in_its_twelve_folders(tmp_path: Path) -> None:
    file = written(tmp_path / "t.csv", NIH_2020 + "a.png,Mass,0,1,58,M,PA,1,1,1,1\n")
    written(tmp_path / "images" / "images_003" / "images" / "a.png", "")
    found = read("chestxray14", {"file": file, "images": tmp_path / "images"})
    assert found.samples[0].file == "images_003/images/a.png"


def test_covidx_names_with_blanks_are_told_apart_and_noted(tmp_path: Path) -> None:
    lines = "7 a.png normal rsna\nCOVID 12 COVID 12.png COVID-19 sirm\ncase 9 b_1.jpg pneumonia cohen\n"
    found = read("covidx", {"train": written(tmp_path / "train.txt", lines)})
    assert [(s.patient, s.file, s.source) for s in found.samples] == [
        ("7", "train/a.png", "rsna"),
        ("COVID 12", "train/COVID 12.png", "sirm"),
        ("case 9", "train/b_1.jpg", "cohen"),
    ]
    assert any("blanks" in what and count == 2 for what, count in notes(found).items())
    assert found.exclusive
    assert found.labels == ("COVID-19", "normal", "pneumonia")


def test_covidx_cxr4_has_three_parts(tmp_path: Path) -> None:
    options = {
        part: written(tmp_path / f"{part}.txt", f"{part} {part}.png {label} bimcv\n")
        for part, label in (("train", "positive"), ("validation", "negative"), ("test", "positive"))
    }
    found = read("covidx", options)
    assert [(s.split, s.file) for s in found.samples] == [
        ("train", "train/train.png"),
        ("validation", "val/validation.png"),
        ("test", "test/test.png"),
    ]


def test_covidx_refuses_a_foreign_class_and_no_list(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="'influenza' is none of the classes"):
        read("covidx", {"train": written(tmp_path / "train.txt", "7 a.png influenza rsna\n")})
    with pytest.raises(DatasetError, match="needs one of the options"):
        read("covidx", {})


RSNA = "patientId,x,y,width,height,Target\na,,,,,0\nb,264.0,152.0,213.0,379.0,1\nb,562.0,152.0,256.0,453.0,1\nc,,,,,0\n"


def test_rsna_boxes_of_one_image_are_one_sample(tmp_path: Path) -> None:
    found = read("rsna-pneumonia", {"file": written(tmp_path / "labels.csv", RSNA)})
    assert [(s.file, s.targets["pneumonia"], len(s.boxes)) for s in found.samples] == [
        ("a.dcm", 0.0, 0),
        ("b.dcm", 1.0, 2),
        ("c.dcm", 0.0, 0),
    ]
    assert found.samples[1].boxes[0] == Box("pneumonia", 264.0, 152.0, 213.0, 379.0)


def test_rsna_details_make_three_classes_and_contradictions_a_problem(tmp_path: Path) -> None:
    options = {
        "file": written(tmp_path / "labels.csv", RSNA),
        "details": written(
            tmp_path / "details.csv",
            "patientId,class\na,No Lung Opacity / Not Normal\nb,Lung Opacity\nb,Lung Opacity\nc,Lung Opacity\n",
        ),
    }
    with pytest.raises(DatasetError, match=r"1 of 4 cannot be used.*contradict"):
        read("rsna-pneumonia", options)
    found = read("rsna-pneumonia", {**options, "max_bad_fraction": 0.5})
    assert [s.file for s in found.samples] == ["a.dcm", "b.dcm"]
    assert found.samples[0].targets == {"normal": 0.0, "not_normal": 1.0, "lung_opacity": 0.0}
    assert found.exclusive


def chexpert_row(patient: int, cells: str, plane: str = "Frontal,AP") -> str:
    return f"CheXpert-v1.0-small/train/patient{patient:05d}/study1/view1_frontal.jpg,Female,68,{plane},{cells}\n"


def test_chexpert_keeps_uncertain_and_blank_apart(tmp_path: Path) -> None:
    text = CHEXPERT + chexpert_row(1, "1.0,,0.0,-1.0,,,,,,,,,,1.0")
    file = written(tmp_path / "train.csv", text)
    (sample,) = read("chexpert", {"train": file}).samples
    assert (sample.patient, sample.sex, sample.age_years, sample.view, sample.split) == (
        "patient00001",
        "F",
        68.0,
        "AP",
        "train",
    )
    assert (sample.targets["No Finding"], sample.targets["Cardiomegaly"], sample.targets["Lung Opacity"]) == (1, 0, -1)
    assert math.isnan(sample.targets["Edema"])
    (negative,) = read("chexpert", {"train": file, "blank": "negative"}).samples
    assert negative.targets["Edema"] == 0


def test_chexpert_drops_the_leading_folder_that_the_images_do_not_have(tmp_path: Path) -> None:
    file = written(tmp_path / "train.csv", CHEXPERT + chexpert_row(1, "1.0" + "," * 13))
    inside = "train/patient00001/study1/view1_frontal.jpg"
    written(tmp_path / "CheXpert-v1.0-small" / inside, "")
    (above,) = read("chexpert", {"train": file, "images": tmp_path}).samples
    (below,) = read("chexpert", {"train": file, "images": tmp_path / "CheXpert-v1.0-small"}).samples
    assert (above.file, below.file) == (f"CheXpert-v1.0-small/{inside}", inside)


def test_chexpert_lateral_views_can_stay_aside_and_other_cells_are_refused(tmp_path: Path) -> None:
    both = CHEXPERT + chexpert_row(1, "1.0" + "," * 13) + chexpert_row(2, "1.0" + "," * 13, "Lateral,")
    found = read("chexpert", {"train": written(tmp_path / "a.csv", both), "frontal_only": True})
    assert [s.patient for s in found.samples] == ["patient00001"]
    with pytest.raises(DatasetError, match=r"'2\.0' is none of 1, 0, -1 and blank"):
        read("chexpert", {"train": written(tmp_path / "b.csv", CHEXPERT + chexpert_row(1, "2.0" + "," * 13))})


def medmnist(path: Path, labels: list[list[int]], shape: tuple[int, ...] = (28, 28)) -> Path:
    arrays: dict[str, Any] = {}
    for part in ("train", "val", "test"):
        arrays[f"{part}_images"] = np.zeros((len(labels), *shape), np.uint8)
        arrays[f"{part}_labels"] = np.array(labels, np.uint8)
    np.savez_compressed(path, **arrays)
    return path


def test_medmnist_official_parts_and_images_as_patients(tmp_path: Path) -> None:
    found = read("medmnist", {"file": medmnist(tmp_path / "pneumoniamnist.npz", [[0], [1]])})
    assert [s.split for s in found.samples] == ["train"] * 2 + ["validation"] * 2 + ["test"] * 2
    assert found.samples[3].file == "pneumoniamnist.npz#val/1"
    assert found.samples[3].targets == {"normal": 0.0, "pneumonia": 1.0}
    assert len({s.patient for s in found.samples}) == 6
    assert any("names no patients" in what for what in notes(found))


def test_medmnist_multi_label_volumes_and_damage(tmp_path: Path) -> None:
    several = read("medmnist", {"file": medmnist(tmp_path / "x.npz", [[0, 1], [1, 1]]), "names": ["a", "b"]})
    assert not several.exclusive
    assert several.samples[1].targets == {"a": 1.0, "b": 1.0}
    with pytest.raises(DatasetError, match="not of two dimensions"):
        read("medmnist", {"file": medmnist(tmp_path / "v.npz", [[0], [1]], (28, 28, 28))})
    with pytest.raises(DatasetError, match=r"no readable \.npz archive"):
        read("medmnist", {"file": written(tmp_path / "broken.npz", "no archive")})
    with pytest.raises(DatasetError, match="2 labels, but 3 names"):
        read("medmnist", {"file": tmp_path / "x.npz", "names": ["a", "b", "c"]})


def test_folders_are_classes_with_patients_from_names(tmp_path: Path) -> None:
    for name in ("train/NORMAL/person1_a.jpeg", "train/NORMAL/person1_b.jpeg", "test/SICK/person2_a.jpeg", "notes.txt"):
        written(tmp_path / name, "")
    found = read("folder-per-class", {"folder": tmp_path, "patient_pattern": r"(person\d+)_"})
    assert [(s.file, s.patient, s.split) for s in found.samples] == [
        ("test/SICK/person2_a.jpeg", "person2", "test"),
        ("train/NORMAL/person1_a.jpeg", "person1", "train"),
        ("train/NORMAL/person1_b.jpeg", "person1", "train"),
    ]
    assert found.labels == ("NORMAL", "SICK")
    assert notes(found) == {"files that are no images of a class were left aside": 1}
    for pattern in ("person", "("):
        with pytest.raises(DatasetError, match="patient_pattern"):
            read("folder-per-class", {"folder": tmp_path, "patient_pattern": pattern})


def test_csv_with_named_columns(tmp_path: Path) -> None:
    file = written(tmp_path / "t.csv", "Image;Who;Eff;Age\na.png;7;1;058Y\nb.png;8;-1;010M\nc.png;9;0;\n")
    options = {"file": file, "delimiter": ";", "columns": {"file": "Image", "patient": "Who", "age": "Age"}}
    found = read("csv", {**options, "label_columns": {"effusion": "Eff"}})
    assert [s.targets["effusion"] for s in found.samples] == [1.0, -1.0, 0.0]
    assert [s.age_years for s in found.samples] == [58.0, pytest.approx(10 / 12), None]
    with pytest.raises(DatasetError, match=r"either columns\.label or label_columns"):
        read("csv", options)
    with pytest.raises(DatasetError, match="lacks the columns Effusion; it has 'Image', 'Who', 'Eff', 'Age'"):
        read("csv", {**options, "label_columns": {"effusion": "Effusion"}})


def test_csv_cells_with_several_labels(tmp_path: Path) -> None:
    file = written(tmp_path / "t.csv", "f,l\na.png,mass|nodule\nb.png,none\n")
    columns = {"file": "f", "label": "l"}
    found = read("csv", {"file": file, "columns": columns, "separator": "|", "negative": ["none"]})
    assert [dict(s.targets) for s in found.samples] == [{"mass": 1.0, "nodule": 1.0}, {"mass": 0.0, "nodule": 0.0}]
    assert any("patient of its own" in what for what in notes(found))


def dicom(
    path: Path, modality: str, patient: str, series: str = "", z: float | None = None, number: int = 1, **more: Any
) -> str:
    """A file of headers only; returns its SOP Instance UID."""
    data = Dataset()
    data.SOPClassUID, data.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", generate_uid()
    data.StudyInstanceUID, data.SeriesInstanceUID = "1.2.3", series or generate_uid()
    data.Modality, data.PatientID, data.PatientAge, data.PatientSex = modality, patient, "058Y", "F"
    data.Manufacturer, data.Rows, data.Columns, data.InstanceNumber = "Maker", 16, 16, number
    if z is not None:
        data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, z], [1, 0, 0, 0, 1, 0]
    for keyword, value in more.items():
        setattr(data, keyword, value)
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, data, enforce_file_format=True)
    return str(data.SOPInstanceUID)


def test_dicom_radiographs_alone_and_slices_together_in_space(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    dicom(folder / "cr.dcm", "CR", "SECRET7")
    for name, z, number in (("a", 10.0, 1), ("b", 0.0, 2), ("c", 5.0, 3)):
        dicom(folder / "ct" / name, "CT", "SECRET7", "1.2.9", z, number)
    dicom(folder / "sr.dcm", "SR", "SECRET7")
    written(folder / "readme.txt", "no DICOM")
    radiograph, series = read("dicom-folder", {"folder": folder}).samples
    assert (radiograph.file, radiograph.files, radiograph.age_years, radiograph.device) == ("cr.dcm", (), 58.0, "Maker")
    assert series.files == ("ct/b", "ct/c", "ct/a")
    assert series.patient == radiograph.patient
    assert "SECRET" not in series.patient


@pytest.mark.parametrize("join", ["patient", "image", "file", "series", "study"])
def test_dicom_labels_are_joined(tmp_path: Path, join: str) -> None:
    folder = tmp_path / "images"
    uid = dicom(folder / "x" / "cr.dcm", "CR", "P7", "1.2.8")
    dicom(folder / "other.dcm", "CR", "P8")
    key = {"patient": "P7", "image": uid, "file": "x/cr.dcm", "series": "1.2.8", "study": "1.2.3"}[join]
    file = written(tmp_path / "labels.csv", f"key,effusion\n{key},1\nelsewhere,0\n")
    options = {"folder": folder, "file": file, "join": join, "join_column": "key"}
    found = read("dicom-folder", {**options, "label_columns": {"effusion": "effusion"}})
    assert [s.targets["effusion"] for s in found.samples] == [1.0] * (2 if join == "study" else 1)
    assert notes(found)["lines of the table of labels have no image"] == 1


def test_dicom_tables_that_contradict_or_fit_nothing_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    dicom(folder / "cr.dcm", "CR", "P7")
    options = {"folder": folder, "join": "patient", "label_column": "label"}
    twice = written(tmp_path / "twice.csv", "PatientID,label\nP7,sick\nP7,well\n")
    with pytest.raises(DatasetError, match="another line says otherwise") as refused:
        read("dicom-folder", {**options, "file": twice})
    assert "P7" not in str(refused.value)
    with pytest.raises(DatasetError, match="no image has a line"):
        read("dicom-folder", {**options, "file": written(tmp_path / "none.csv", "PatientID,label\nP9,sick\n")})


def test_dicom_headers_damaged_at_random_are_read_to_the_end(tmp_path: Path) -> None:
    dicom(tmp_path / "0.dcm", "CT", "P", "1.2.9", 0.0)
    whole, chance = (tmp_path / "0.dcm").read_bytes(), random.Random(7)
    for index in range(1, 300):
        damaged = bytearray(whole)
        for _ in range(chance.randint(1, 20)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        (tmp_path / f"{index}.dcm").write_bytes(damaged[: chance.randrange(140, len(damaged))])
    found = read("dicom-folder", {"folder": tmp_path, "max_bad_fraction": 1})
    assert found.samples[0].file == "0.dcm"
    used = sum(len(sample.every_file) for sample in found.samples)
    aside = sum(count for what, count in notes(found).items() if what.endswith("left aside"))
    assert used + aside + sum(problem.left_out for problem in found.problems) == 300


def test_dicom_copies_and_gaps_are_counted(tmp_path: Path) -> None:
    for index, z in enumerate((0.0, 5.0, 10.0, 30.0)):
        dicom(tmp_path / f"{index}.dcm", "CT", "P", "1.2.9", z, index)
    (tmp_path / "copy.dcm").write_bytes((tmp_path / "0.dcm").read_bytes())
    found = read("dicom-folder", {"folder": tmp_path, "max_bad_fraction": 0.5})
    assert [problem.left_out for problem in found.problems] == [True, False]
    assert notes(found) == {"series have gaps between their slices": 1}
    assert len(found.samples[0].files) == 4


def test_dicom_slices_that_a_node_leaves_out_are_left_aside_here_too(tmp_path: Path) -> None:
    for index in range(4):
        dicom(tmp_path / f"{index}.dcm", "CT", "P", "1.2.9", 5.0 * index, index)
    dicom(tmp_path / "again.dcm", "CT", "P", "1.2.9", 5.0, 9)
    dicom(tmp_path / "wide.dcm", "CT", "P", "1.2.9", 20.0, 10, Columns=32)
    dicom(tmp_path / "tilted.dcm", "CT", "P", "1.2.9", 20.0, 11, ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
    dicom(tmp_path / "flat.dcm", "CT", "P", "1.2.10", 0.0, 1, ImageOrientationPatient=[1, 0, 0, 1, 0, 0])
    found = read("dicom-folder", {"folder": tmp_path, "max_bad_fraction": 0.5})
    (series,) = found.samples
    assert series.files == ("0.dcm", "1.dcm", "2.dcm", "3.dcm")
    assert series.series == SeriesFacts(slices=4, missing=0, by_position=True, spacing_mm=5.0)
    assert [(problem.where, problem.left_out) for problem in found.problems] == [
        ("'flat.dcm'", True),
        ("'0.dcm'", False),
    ]
    assert list(notes(found).values()) == [3]


def test_an_unknown_kind_or_option_lists_the_known() -> None:
    with pytest.raises(DatasetError, match="chestxray14"):
        read("imagenet", {})
    for kind in KINDS:
        with pytest.raises(DatasetError, match=r"colour.*known: .*max_bad_fraction"):
            read(kind, {"colour": "red"})
