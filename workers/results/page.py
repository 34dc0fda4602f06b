"""A report as a page for people: no script, nothing loaded, every value escaped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from html import escape

from pydicom.dataset import Dataset

from workers.results.sr import read_report

_MEASUREMENT_GROUP, _FINDING, _PROBABILITY = "125007", "121071", "122157"
_TRACKING, _SUMMARY, _COMMENT = "112039", "111017", "121106"
_PRESENCE = frozenset({"52101004", "272519000", "373068000"})
_DEEPEST = 32

_STYLE = """
body{font:1rem/1.5 system-ui,sans-serif;margin:0 auto;max-width:60rem;padding:1rem;color:#16181d;background:#fff}
.warning{border-left:.5rem solid #b45309;background:#fef3c7;padding:.75rem 1rem;font-weight:600}
table{border-collapse:collapse;width:100%;margin:.5rem 0 1.5rem}caption{text-align:left;font-weight:600}
th,td{border:1px solid #6b7280;padding:.35rem .6rem;text-align:left;vertical-align:top}th{background:#eef0f4}
ul{padding-left:1.25rem}summary{cursor:pointer}.type{color:#4b5563;font-size:.85em}code{overflow-wrap:anywhere}
@media (prefers-color-scheme:dark){body{color:#e8eaee;background:#15171b}th{background:#262a31}
.warning{background:#4a3206}.type{color:#b6bcc8}}
"""


def readable_html(data: bytes) -> str:
    """A self-contained page of a structured report.

    Raises:
        UnreadableError: no structured report.
    """
    report = read_report(data)
    flags = f"{_text(report, 'CompletionFlag')}, {_text(report, 'VerificationFlag')}"
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
            f"<title>AI results (unverified)</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>",
            f"<h1>{escape(_meaning(report, 'ConceptNameCodeSequence')) or 'Report'}</h1>",
            f'<p class="warning" role="note">Written by software, {escape(flags.lower())}. Not for clinical use.</p>',
            _facts(report),
            _findings(report),
            _remarks(report),
            "<details>\n<summary>Whole content tree</summary>",
            f"<ul>{_tree(_children(report), 0)}</ul>",
            "</details>\n</main>\n</body>\n</html>\n",
        ]
    )


def _facts(report: Dataset) -> str:
    rows = [
        ("Patient", "PatientName"),
        ("Patient ID", "PatientID"),
        ("Accession number", "AccessionNumber"),
        ("Study date", "StudyDate"),
        ("Study Instance UID", "StudyInstanceUID"),
        ("Written", "ContentDate"),
        ("Software", "SoftwareVersions"),
        ("SOP Instance UID", "SOPInstanceUID"),
    ]
    cells = "".join(
        f'<tr><th scope="row">{name}</th><td>{escape(_text(report, keyword)) or "&mdash;"}</td></tr>'
        for name, keyword in rows
    )
    return f"<table>\n<caption>Study</caption>\n<tbody>{cells}</tbody>\n</table>"


def _findings(report: Dataset) -> str:
    rows = []
    for group in _all(report, _MEASUREMENT_GROUP):
        items = _children(group)
        found = any(_concept(item) == _FINDING for item in items)
        numbers = [_value(item) for item in items if _concept(item) == _PROBABILITY]
        for item in items:
            if _code_value(item) in _PRESENCE:
                name = _meaning(item, "ConceptNameCodeSequence")
                rows.append((_group_name(items), name, _value(item), numbers[0] if found and numbers else ""))
    if not rows:
        return "<h2>Findings</h2>\n<p>No image was analysed; nothing is said about any finding.</p>"
    cells = "".join("<tr>" + "".join(f"<td>{escape(c) or '&mdash;'}</td>" for c in row) + "</tr>" for row in rows)
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("Group", "Label", "Presence", "Probability"))
    return f"<table>\n<caption>Findings</caption>\n<thead><tr>{heads}</tr></thead>\n<tbody>{cells}</tbody>\n</table>"


def _group_name(items: Sequence[Dataset]) -> str:
    return next((_value(item) for item in items if _concept(item) == _TRACKING), "")


def _remarks(report: Dataset) -> str:
    said = [_value(item) for code in (_SUMMARY, _COMMENT) for item in _all(report, code)]
    return "<h2>Remarks</h2>\n<ul>" + "".join(f"<li>{escape(text)}</li>" for text in said) + "</ul>"


def _tree(items: Sequence[Dataset], depth: int) -> str:
    # A hostile report may nest without end; a browser and Python's stack may not.
    if depth > _DEEPEST:
        return "<li>(deeper items left out)</li>"
    parts = []
    for item in items:
        name, kind, value = _meaning(item, "ConceptNameCodeSequence"), _text(item, "ValueType"), _value(item)
        below = _children(item)
        inner = f"<ul>{_tree(below, depth + 1)}</ul>" if below else ""
        shown = f": <code>{escape(value)}</code>" if value else ""
        parts.append(f'<li>{escape(name) or "(no name)"} <span class="type">{escape(kind)}</span>{shown}{inner}</li>')
    return "".join(parts)


def _value(item: Dataset) -> str:
    read = _VALUES.get(_text(item, "ValueType"))
    return read(item) if read else ""


def _references(item: Dataset) -> str:
    return ", ".join(_text(ref, "ReferencedSOPInstanceUID") for ref in item.get("ReferencedSOPSequence") or [])


_VALUES: dict[str, Callable[[Dataset], str]] = {
    "CODE": lambda item: _meaning(item, "ConceptCodeSequence"),
    "NUM": lambda item: "".join(_text(part, "NumericValue") for part in item.get("MeasuredValueSequence") or []),
    "TEXT": lambda item: _text(item, "TextValue"),
    "UIDREF": lambda item: _text(item, "UID"),
    "IMAGE": _references,
    "COMPOSITE": _references,
    "SCOORD": lambda item: f"{_text(item, 'GraphicType')} of {len(item.get('GraphicData') or []) // 2} points",
}


def _all(item: Dataset, code: str, depth: int = 0) -> Iterator[Dataset]:
    """Items below ``item`` whose concept name has this value."""
    for child in _children(item) if depth <= _DEEPEST else ():
        if _concept(child) == code:
            yield child
        yield from _all(child, code, depth + 1)


def _children(item: Dataset) -> Sequence[Dataset]:
    return item.get("ContentSequence") or []


def _concept(item: Dataset) -> str:
    return next((_text(code, "CodeValue") for code in item.get("ConceptNameCodeSequence") or []), "")


def _code_value(item: Dataset) -> str:
    return next((_text(code, "CodeValue") for code in item.get("ConceptCodeSequence") or []), "")


def _meaning(item: Dataset, keyword: str) -> str:
    return next((_text(code, "CodeMeaning") for code in item.get(keyword) or []), "")


def _text(item: Dataset, keyword: str) -> str:
    value = item.get(keyword)
    return "" if value is None else str(value)
