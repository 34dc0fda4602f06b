"""What holds for every label file: damage, contradiction and hostile names are errors or counted, never silent."""

from __future__ import annotations

import gzip
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.datasets import Problem, Sample, SampleSet, read, tables, values
from models.datasets.combine import combine
from models.datasets.paths import LONGEST_SHOWN, inside, relative, shown
from models.errors import DatasetError

HEADER = "file,source,patient,label\n"


def table(tmp_path: Path, lines: str, header: str = HEADER) -> Path:
    path = tmp_path / "labels.csv"
    path.write_text(header + lines, "utf-8")
    return path


def labels_csv(tmp_path: Path, lines: str, header: str = HEADER, **options: object) -> SampleSet:
    return read("labels-csv", {"file": table(tmp_path, lines, header), **options})


TWO = "a.png,s,1,sick\nb.png,s,2,well\n"


def test_one_label_a_row_makes_an_exclusive_set(tmp_path: Path) -> None:
    found = labels_csv(tmp_path, TWO)
    assert (found.labels, found.exclusive, found.problems) == (("sick", "well"), True, ())
    assert found.samples[0] == Sample("a.png", "1", "s", {"sick": 1.0, "well": 0.0})


def test_missing_columns_are_named_beside_those_there(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"lacks the columns source, label; it has 'file', 'patient', 'Label x'"):
        labels_csv(tmp_path, "a,1,x\n", "file,patient,Label x\n")


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="'label' more than once"):
        labels_csv(tmp_path, "a,s,1,x,y\n", "file,source,patient,label,label\n")


@pytest.mark.parametrize("content", [HEADER.encode("utf-16"), HEADER.encode() + "ä.png,s,1,x\n".encode("latin-1")])
def test_other_encodings_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match="not in UTF-8"):
        read("labels-csv", {"file": path})


def test_missing_empty_and_broken_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"there is no file gone\.csv"):
        read("labels-csv", {"file": tmp_path / "gone.csv"})
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(DatasetError, match="is empty"):
        read("labels-csv", {"file": tmp_path / "empty.csv"})
    (tmp_path / "broken.csv.gz").write_bytes(gzip.compress(HEADER.encode())[:-6])
    with pytest.raises(DatasetError, match="cannot be read"):
        read("labels-csv", {"file": tmp_path / "broken.csv.gz"})
    with zipfile.ZipFile(tmp_path / "two.csv.zip", "w") as archive:
        archive.writestr("a.csv", HEADER)
        archive.writestr("b.csv", HEADER)
    with pytest.raises(DatasetError, match="holds 2 files"):
        read("labels-csv", {"file": tmp_path / "two.csv.zip"})


def test_packed_tables_are_read_and_bombs_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "labels.csv.gz").write_bytes(gzip.compress((HEADER + TWO).encode()))
    assert len(read("labels-csv", {"file": tmp_path / "labels.csv.gz"}).samples) == 2
    monkeypatch.setattr(tables, "MOST_BYTES", 1 << 20)
    (tmp_path / "bomb.csv.gz").write_bytes(gzip.compress(b"x" * (1 << 22)))
    with pytest.raises(DatasetError, match="more than 1 MiB"):
        read("labels-csv", {"file": tmp_path / "bomb.csv.gz"})


@pytest.mark.parametrize("cell", ["", "nan", "NaN", "null"])
def test_rows_without_label_are_counted_up_to_the_limit(tmp_path: Path, cell: str) -> None:
    lines = TWO + f"c.png,s,3,{cell}\n"
    with pytest.raises(DatasetError, match=r"1 of 3 cannot be used.*line 4: label is empty"):
        labels_csv(tmp_path, lines)
    found = labels_csv(tmp_path, lines, max_bad_fraction=0.4)
    assert found.problems == (Problem("labels.csv, line 4", "label is empty", left_out=True),)
    assert len(found.samples) == 2


def test_rows_of_another_width_are_counted(tmp_path: Path) -> None:
    found = labels_csv(tmp_path, TWO + "c.png,s\n\n", max_bad_fraction=0.4)
    assert [problem.what for problem in found.problems] == ["the line has 2 cells where the header has 4"]


def test_repeats_are_counted_and_contradictions_refused(tmp_path: Path) -> None:
    found = labels_csv(tmp_path, TWO + "a.png,s,1,sick\n", max_bad_fraction=0.4)
    assert [problem.what for problem in found.problems] == ["the row occurs twice; one was kept"]
    for line in ("a.png,s,1,well\n", "a.png,s,2,sick\n"):
        with pytest.raises(DatasetError, match=r"'a\.png' occurs twice with different"):
            labels_csv(tmp_path, TWO + line)


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../a.png", "x/../../a.png", "C:\\a.png", "..\\a.png", "a\x00.png", "a\x1b[2J.png", "b" * 2000],
)
def test_names_that_leave_the_folder_or_are_none_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DatasetError, match=r"line 4: .*(outside the images' folder|no name for a file)") as refused:
        labels_csv(tmp_path, TWO + f"{name},s,3,sick\n")
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 200


@given(st.text(min_size=1, max_size=40))
def test_no_text_leads_out_of_the_folder_or_garbles_a_message(text: str) -> None:
    assert shown(text).isprintable()
    assert len(shown(text)) <= LONGEST_SHOWN + 2
    name, refusal = "", ""
    try:
        name = relative(text, "here")
    except DatasetError as error:
        refusal = str(error)
    assert refusal.isprintable()
    assert os.path.normpath(f"/images/{name}").startswith("/images")
    assert all(ord(letter) >= 32 for letter in name)


def test_links_out_of_the_folder_and_other_than_files_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    (tmp_path / "secret").write_text("x")
    (folder / "out.png").symlink_to(tmp_path / "secret")
    (folder / "in.png").write_text("x")
    (folder / "link.png").symlink_to(folder / "in.png")
    os.mkfifo(folder / "pipe.png")
    assert inside(folder, "link.png") == (folder / "in.png").resolve()
    for name, why in (("out.png", "leads out"), ("pipe.png", "no regular file"), ("gone.png", "missing")):
        with pytest.raises(DatasetError, match=why):
            inside(folder, name)


def test_missing_images_are_counted_up_to_the_limit(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("")
    with pytest.raises(DatasetError, match=r"1 of 2 cannot be used.*'b\.png': is missing"):
        labels_csv(tmp_path, TWO, images=tmp_path)
    with pytest.raises(DatasetError, match="no images' folder nowhere"):
        labels_csv(tmp_path, TWO, images=tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("written", "lies"),
    [
        ("KERMANY/A.PNG", "kermany/a.png"),
        ("./data/kermany/a.png", "kermany/a.png"),
        ("data\\kermany\\A.png", "kermany/a.png"),
        ("a.png", "kermany/a.png"),
        ("kermany/a.jpg", "kermany/a.png"),
        ("A.TIF", "kermany/a.jpeg"),
    ],
)
def test_images_are_found_under_the_names_of_another_machine(tmp_path: Path, written: str, lies: str) -> None:
    (tmp_path / "kermany").mkdir()
    (tmp_path / lies).write_text("")
    found = labels_csv(tmp_path, f"{written},s,1,sick\n", images=tmp_path)
    assert [sample.file for sample in found.samples] == [lies]
    assert any("another path" in problem.what for problem in found.problems)


def test_two_names_of_one_image_are_one_row_or_a_contradiction(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("")
    again = "a.png,s,1,sick\na.jpg,s,1,sick\n"
    found = labels_csv(tmp_path, again, images=tmp_path, max_bad_fraction=0.5)
    assert [sample.file for sample in found.samples] == ["a.png"]
    with pytest.raises(DatasetError, match="occurs twice with different labels"):
        labels_csv(tmp_path, "a.png,s,1,sick\na.jpg,s,1,well\n", images=tmp_path, max_bad_fraction=0.5)


def test_of_a_part_of_a_set_the_rest_is_counted_and_no_problem(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("")
    found = labels_csv(tmp_path, TWO, images=tmp_path, part_of_set=True)
    assert [sample.file for sample in found.samples] == ["a.png"]
    assert [(p.what, p.count) for p in found.problems if not p.left_out][:1] == [
        ("images of the table are not in this part of the set", 1)
    ]


def test_an_image_that_could_be_either_of_two_is_missing(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_text("")
    with pytest.raises(DatasetError, match="is missing"):
        labels_csv(tmp_path, "a.png,s,1,sick\n", images=tmp_path)


def test_one_class_is_read_and_said_to_be_one(tmp_path: Path) -> None:
    found = labels_csv(tmp_path, "a.png,s,1,sick\nb.png,s,2,sick\n")
    assert [problem.what for problem in found.problems] == ["every sample is 'sick'"]


def test_parts_have_other_names_elsewhere(tmp_path: Path) -> None:
    rows = "".join(f"{i}.png,s,{i},{'sick' if i % 2 else 'well'},{part}\n" for i, part in enumerate(PARTS_AS_WRITTEN))
    found = labels_csv(tmp_path, rows, "file,source,patient,label,split\n", max_bad_fraction=1)
    assert [sample.split for sample in found.samples] == ["train", "validation", "validation", "test", "", ""]
    assert [problem.left_out for problem in found.problems] == [True]


PARTS_AS_WRITTEN = ("Train", "val", "dev", "testing", "", "nan", "somewhere")


THREE = TWO + "c.png,s,3,worse\n"


def test_labels_can_be_merged_dropped_and_ordered(tmp_path: Path) -> None:
    merged = labels_csv(tmp_path, THREE, rename={"worse": "sick"}, labels=["well", "sick"])
    assert [dict(s.targets) for s in merged.samples] == [
        {"well": 0.0, "sick": 1.0},
        {"well": 1.0, "sick": 0.0},
        {"well": 0.0, "sick": 1.0},
    ]
    dropped = labels_csv(tmp_path, THREE, drop=["worse"])
    assert dropped.labels == ("sick", "well")
    assert dropped.problems == (Problem("labels.csv", "samples of dropped labels were left aside", 1),)
    single = labels_csv(tmp_path, THREE, labels=["worse"], exclusive=False)
    assert [s.targets["worse"] for s in single.samples] == [0.0, 0.0, 1.0]


def test_no_class_is_lost_in_silence(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"not in 'labels': 'worse' \(1\)"):
        labels_csv(tmp_path, THREE, labels=["sick", "well"])


def test_a_class_that_is_no_label_is_counted_where_it_stands_for_negative(tmp_path: Path) -> None:
    rows = "a.png,s,1,sick\nb.png,s,2,normal\nc.png,s,3,sikc\nd.png,s,4,normal\n"
    found = labels_csv(tmp_path, rows, labels=["sick"], exclusive=False)
    assert [sample.targets["sick"] for sample in found.samples] == [1.0, 0.0, 0.0, 0.0]
    assert {problem.what: problem.count for problem in found.problems} == {
        "samples of 'normal' count as negative for every label": 2,
        "samples of 'sikc' count as negative for every label": 1,
    }


@pytest.mark.parametrize("option", [{"labels": ["ill"]}, {"drop": ["ill"]}, {"rename": {"ill": "sick"}}])
def test_unknown_label_names_are_refused_with_the_known(tmp_path: Path, option: dict[str, Any]) -> None:
    with pytest.raises(DatasetError, match=r"'ill', which labels\.csv does not have; its labels are 'sick', 'well'"):
        labels_csv(tmp_path, TWO, **option)


def test_a_class_without_samples_is_refused_when_asked_for_and_noted_else(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("f,a,b\nx.png,1,0\ny.png,0,0\n")
    options = {"file": path, "columns": {"file": "f"}, "label_columns": {"a": "a", "b": "b"}}
    assert Problem("t.csv", "no sample is positive for 'b'") in read("csv", options).problems
    with pytest.raises(DatasetError, match="no sample is positive for 'b'"):
        read("csv", {**options, "labels": ["a", "b"]})
    with pytest.raises(DatasetError, match="do not have exactly one positive label"):
        read("csv", {**options, "exclusive": True})


def test_samples_without_any_known_label_stay_aside(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("f,a\nx.png,1\ny.png,\n")
    found = read("csv", {"file": path, "columns": {"file": "f"}, "label_columns": {"a": "a"}})
    assert [s.file for s in found.samples] == ["x.png"]
    assert Problem("t.csv", "samples without any known label were left aside") in found.problems


def test_a_column_of_names_is_not_taken_for_labels(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="1001 different labels"):
        labels_csv(tmp_path, "".join(f"{i}.png,s,{i},name{i}\n" for i in range(1001)))


def test_official_parts_that_share_patients_are_noted(tmp_path: Path) -> None:
    lines = "a.png,s,1,sick,train\nb.png,s,1,well,test\n"
    found = labels_csv(tmp_path, lines, "file,source,patient,label,split\n")
    assert any("two parts of the official split" in problem.what for problem in found.problems)


@pytest.mark.parametrize(
    ("text", "years"), [("058Y", 58), ("58", 58), ("58.0", 58), ("006M", 0.5), ("120", 120), ("", None)]
)
def test_ages(text: str, years: float | None) -> None:
    assert values.age(text) == (years, "")


@pytest.mark.parametrize(("text", "why"), [("411Y", values.ABSURD_AGE), ("50+", values.NO_AGE), ("-1", values.NO_AGE)])
def test_ages_that_are_none(text: str, why: str) -> None:
    assert values.age(text) == (None, why)


def test_sets_combine_with_unknown_for_what_one_does_not_say() -> None:
    one = SampleSet("one", ("a",), False, (Sample("x.png", "1", "one", {"a": 1.0}),), ())
    two = SampleSet("two", ("b",), False, (Sample("x.png", "1", "two", {"b": 0.0}),), ())
    both = combine("both", [("one", one), ("two", two)])
    assert [s.file for s in both.samples] == ["one/x.png", "two/x.png"]
    assert both.labels == ("a", "b")
    assert repr(dict(both.samples[0].targets)) == "{'a': 1.0, 'b': nan}"
    with pytest.raises(DatasetError, match="'one' is a source of two"):
        combine("both", [("one", one), ("again", one)])
    with pytest.raises(DatasetError, match="exclusive"):
        combine("both", [("one", one), ("two", SampleSet("two", ("b", "c"), True, two.samples, ()))])


def test_classes_of_another_set_are_none_of_an_images() -> None:
    one = SampleSet("one", ("a", "b"), True, (Sample("x.png", "1", "one", {"a": 1.0, "b": 0.0}),), ())
    two = SampleSet("two", ("a", "c"), True, (Sample("x.png", "1", "two", {"a": 0.0, "c": 1.0}),), ())
    both = combine("both", [("one", one), ("two", two)])
    assert both.exclusive
    assert [dict(s.targets) for s in both.samples] == [{"a": 1.0, "b": 0.0, "c": 0.0}, {"a": 0.0, "b": 0.0, "c": 1.0}]
