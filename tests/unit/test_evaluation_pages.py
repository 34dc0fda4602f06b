"""The report and the card: everything foreign is text, nothing is fetched, every picture has words."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Tree

import numpy as np
import pytest

from models.contracts import GreyImage
from models.evaluation import svg
from models.evaluation.card import model_card
from models.evaluation.compare import compare
from models.evaluation.curves import curves_by_source
from models.evaluation.figures import Rules, figures_by_source, sizes
from models.evaluation.html import name_of, render
from models.evaluation.judging import Judged
from models.evaluation.pictures import Picture, data_uri, worst
from models.evaluation.sources import source_test
from tests.support.bundles import document, hollow_bundle
from tests.unit.test_evaluation_figures import data_of

HOSTILE = '<script>alert("x")</script>|`'
VOID = {"meta", "img", "br", "link", "input", "hr"}
RULES = Rules(resamples=20)


class Page(HTMLParser):
    """Open tags with their attributes, and whether they were closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.crossed: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.crossed.append(tag)


def judged(*, exclusive: bool = False) -> Judged:
    random = np.random.default_rng(0)
    truth = np.eye(3)[random.integers(0, 3, 180)]
    chances = 0.6 * truth + 0.4 * random.dirichlet(np.ones(3), 180)
    data = data_of(truth, chances, threshold=0.55, exclusive=exclusive, sources=2)
    sources = np.where(data.sources == "s0", HOSTILE, "b")
    return Judged(**{**vars(data), "sources": sources})


def found(*, exclusive: bool = False) -> dict[str, Any]:
    data = judged(exclusive=exclusive)
    rate = {"value": 0.9, "low": 0.8, "high": 0.95}
    point = {"name": HOSTILE, "threshold": 0.55, "undetermined_low": None, "sensitivity": rate, "specificity": rate}
    return {
        "name": HOSTILE,
        "model": "m",
        "version": "1.0.0",
        "bundle_digest": "0" * 64,
        "data": HOSTILE,
        "labels": list(data.labels),
        "exclusive": exclusive,
        **sizes(data),
        "skipped": {HOSTILE: 3},
        "unreadable": [{"file": HOSTILE, "reason": HOSTILE}],
        "refused_by_gate": [],
        "left_out": {"rows": 0, "unreadable": 1, "refused_by_gate": 0},
        "problems": [{"where": HOSTILE, "what": "odd", "count": 2}],
        "resamples": 20,
        "thresholds_chosen_here": False,
        "operating_points": [{**point, "label": label} for label in data.labels],
        **figures_by_source(data, RULES),
        "source_test": source_test(data),
        "curves": curves_by_source(data),
        "comparison": {"against": {"name": HOSTILE, "version": "2.0.0"}, **compare(data, data, RULES)},
        "explanations": {
            "localisation": {"all": located(), "labels": {"l0": located()}},
            "deletion_and_insertion": {
                "images": 3,
                "deletion": {"map": rate, "random_map": rate},
                "insertion": {"map": rate, "random_map": rate},
            },
            "weight_randomisation": {
                "images": 3,
                "layers": [{"layer": "logits", "correlation": 0.123, "ssim": 0.2, "flat": 0.0}],
                "random_map": {"correlation": 0.0, "ssim": 0.1, "flat": 0.0},
            },
        },
    }


def located() -> dict[str, Any]:
    rate = {"value": 0.4321, "low": 0.3, "high": 0.5}
    return {
        "pairs": 7,
        **{name: {"map": rate, "box_area": rate} for name in ("pointing_game", "overlap", "mass_inside")},
    }


PICTURE = Picture(HOSTILE, "s", "l0", "missed", 0.1, 0.55, "data:image/png;base64,AAAA")


@pytest.mark.parametrize("exclusive", [False, True])
def test_the_page_is_whole_and_nothing_foreign_becomes_markup(exclusive: bool) -> None:
    text = render(found(exclusive=exclusive), [PICTURE])
    page = Page(text)
    assert page.crossed == []
    assert page.open == []
    assert "script" not in {tag for tag, _ in page.tags}
    assert "&lt;script&gt;" in text
    assert "nan" not in re.sub(r"<[^>]*>", " ", text).lower().split()


def test_figures_on_what_thresholds_were_chosen_on_say_so() -> None:
    own = {**found(), "thresholds_chosen_here": True}
    assert "chosen on these very images" in render(own, [])
    assert "chosen on these very images" not in render(found(), [])


def test_the_page_fetches_nothing() -> None:
    text = render(found(), [PICTURE])
    for _, attributes in Page(text).tags:
        for name in ("src", "href", "action", "data", "srcset", "poster"):
            assert (attributes.get(name) or "data:").startswith("data:")
    assert not re.search(r"url\(|@import|https?://", text)
    assert "default-src 'none'" in text


def test_every_picture_has_words_and_every_plot_a_table() -> None:
    page = Page(render(found(exclusive=True), [PICTURE]))
    plots = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert len(plots) >= 3 * 3 + 2
    assert all(plot["role"] == "img" and len(plot["aria-label"] or "") > 30 for plot in plots)
    assert all(attributes.get("alt") for tag, attributes in page.tags if tag == "img")
    tables = sum(tag == "table" for tag, _ in page.tags)
    assert tables >= len(plots)
    assert sum(tag == "caption" for tag, _ in page.tags) == tables
    assert all(attributes.get("scope") for tag, attributes in page.tags if tag == "th")


def test_the_page_tells_the_figures_of_the_document() -> None:
    one = found()
    text = render(one)
    for part in one["sources"].values():
        assert f"{part['auroc']['value']:.3f}" in text
        assert f"{part['labels']['l1']['specificity']['low']:.3f}" in text
    assert "0.432" in text
    assert "0.123" in text


def test_labels_without_positive_images_leave_dashes_not_errors() -> None:
    data = judged()
    data.truth[:, 0] = 0
    document_ = {**found(), **figures_by_source(data, RULES), "curves": curves_by_source(data)}
    document_["comparison"] |= compare(data, data, RULES)
    assert "\N{EN DASH}" in render(document_)


def test_figures_of_a_handful_of_images_carry_a_warning() -> None:
    data = judged()
    whole = render(found())
    first = np.flatnonzero((data.truth[:, 0] == 0) & (data.sources == "b"))[:5]
    kept = data.take(np.r_[np.flatnonzero((data.truth[:, 0] == 1) | (data.sources != "b")), first])
    few = render({**found(), **figures_by_source(kept, RULES), "curves": curves_by_source(kept)})
    assert "b (5 negative)" in few
    assert "b (5 negative)" not in whole


def test_figures_have_names_people_understand() -> None:
    assert name_of("ppv_at_prevalence_0.05") == "PPV where 5 % are ill"
    assert name_of("sensitivity_at_specificity_0.95") == "Sensitivity at 95 % specificity"
    assert name_of("kappa") == "Cohen's kappa"


def test_plots_are_well_formed_whatever_their_names() -> None:
    line = svg.Line(HOSTILE + "\0\n", [(0, 0), (1, 1)], [(0.5, 0.5, 0.4, 0.6)], [(1, 1)])
    drawn = (
        svg.curves(HOSTILE, "x", "y", [line], diagonal=True),
        svg.forest(HOSTILE, [(HOSTILE, 0.5, 0.4, 0.6)], "x"),
        svg.matrix(HOSTILE, [HOSTILE, "b"], [[1, 2], [0, 0]]),
    )
    for text in drawn:
        root = Tree.fromstring(text)
        assert root.get("aria-label") == HOSTILE
        assert root.findall(".//script") == []


def test_the_worst_errors_come_first() -> None:
    truth = np.array([[1.0], [1], [0], [0], [1]])
    chances = np.array([[0.4], [0.1], [0.9], [0.6], [0.9]])
    assert worst(data_of(truth, chances), each=5) == [
        (1, 0, "missed"),
        (0, 0, "missed"),
        (2, 0, "false alarm"),
        (3, 0, "false alarm"),
    ]
    assert len(worst(data_of(truth, chances), each=1)) == 2


def test_a_picture_is_a_png_within_the_page() -> None:
    image = GreyImage(np.random.default_rng(0).random((90, 120)).astype(np.float32), inverted=True)
    assert data_uri(image, np.zeros((48, 64), np.float32)).startswith("data:image/png;base64,iVBOR")


def card_of(tmp_path: Path, evaluation: dict[str, Any] | None) -> str:
    hollow_bundle(tmp_path / "bundle")
    manifest = document(tmp_path / "bundle")
    manifest |= {
        "name": HOSTILE,
        "training": {"seed": 1, "split": {"sha256": "ab"}, "note": HOSTILE},
        "contraindications": ["children"],
        "changelog": [{"version": "1.0.0", "text": "first"}],
    }
    return model_card(manifest, evaluation, notes=[("Robustness", "None was tested.")])


def test_a_card_tells_what_the_model_is_and_how_well_it_does(tmp_path: Path) -> None:
    one = found()
    card = card_of(tmp_path, one)
    for part in one["sources"].values():
        figure = part["auroc"]
        assert f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]" in card
    for words in (
        "not a medical device",
        "children",
        "Pleural effusion",
        "0.600",
        "None was tested.",
        "first",
        "sha256",
    ):
        assert words in card
    assert "does the source give the label away" in card.lower()


def test_a_card_holds_no_foreign_markup(tmp_path: Path) -> None:
    card = card_of(tmp_path, found(exclusive=True))
    assert not re.search(r"(?<!\\)<", card)
    widths: dict[str, set[int]] = {}
    for block in card.split("\n\n"):
        if block.startswith("|"):
            widths[block[:60]] = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
    assert widths
    assert all(len(width) == 1 for width in widths.values())


def test_a_card_can_be_written_before_the_model_is_measured(tmp_path: Path) -> None:
    card = card_of(tmp_path, None)
    assert "Figures on" not in card
    assert "Operating points" in card


@pytest.mark.parametrize(
    "record", [{"pneumonia": {"slope": 2.5}}, {"pneumonia": "by hand"}, {"pneumonia": {"method": "none", "images": 3}}]
)
def test_a_card_tells_another_trainers_record_of_calibration_as_it_stands(
    tmp_path: Path, record: dict[str, Any]
) -> None:
    hollow_bundle(tmp_path / "bundle")
    card = model_card(document(tmp_path / "bundle") | {"evaluation": {"calibration": record}})
    (told,) = (part for part in card.split("\n## ") if part.startswith("Calibration"))
    assert "pneumonia" in told
    assert str(next(iter(record["pneumonia"].values())) if isinstance(record["pneumonia"], dict) else "by hand") in told
