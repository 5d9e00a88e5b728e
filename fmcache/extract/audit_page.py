"""The audit of a dataset as one self-contained HTML file: no script, no network, every text escaped."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import fmcache
from fmcache.extract.dataset import Dataset
from fmcache.extract.dataset_audit import AuditRow

_BAR = 160  # pixels of the longest bar
_GROUP = ("group", "samples", "people", "share")
_TEXTS = {
    "representation": (
        "Who is in it",
        "Samples and people of each group, and of pairs of attributes.",
        _GROUP,
    ),
    "missingness": (
        "What is not known",
        "Samples without a value. Unknown is never counted as a group.",
        ("of", "samples", "people", "share"),
    ),
    "prevalence": (
        "What is labelled in whom",
        "Share of positives among the labelled samples of a group, with a 95 % interval that counts samples as "
        "independent.",
        (*_GROUP, "interval"),
    ),
    "association": (
        "What goes together",
        "Cramér's V: 0 is independent, 1 is the same. A strong association between attributes, or with the split, "
        "makes a gap hard to attribute.",
        ("pair", "samples", "people", "V"),
    ),
    "shift": (
        "Compared with the reference population",
        "Share here less share there, in percentage points of those whose group is known.",
        ("group", "samples", "people", "difference"),
    ),
}
_FACTS = ("owner", "version", "licence", "modality", "body_part", "dimension", "task", "citation")


def write_audit_page(dataset: Dataset, rows: Sequence[AuditRow], out: Path, *, min_cell: int) -> Path:
    """Write the page and return its path."""
    import jinja2

    folder = Path(__file__).parent / "datasets"
    engine = jinja2.Environment(loader=jinja2.FileSystemLoader(folder), autoescape=True)
    card = dict(dataset.card)
    page = engine.get_template("audit.html.j2").render(
        card=card,
        counts={name: f"{card['counts'][name]:,}" for name in ("samples", "patients")},
        unit=card.get("patient_is", "patient"),
        version=fmcache.__version__,
        facts=[(name.replace("_", " "), card[name]) for name in _FACTS if card.get(name)],
        notes=[*card.get("notes", []), *dataset.notes],
        least=min_cell,
        sections=[_section(name, rows) for name in _TEXTS if any(row.section == name for row in rows)],
    )  # fmt: skip
    out.write_text(page, encoding="utf-8")
    return out


def _section(name: str, rows: Sequence[AuditRow]) -> dict[str, Any]:
    title, text, heads = _TEXTS[name]
    several = name in ("representation", "prevalence", "shift")  # a table for each attribute (and label)
    tables = []
    mine = [row for row in rows if row.section == name]
    for (label, attribute), part in groupby(
        mine, key=lambda row: (row.label, row.attribute) if several else ("", "")
    ):
        caption = f"{label} by {attribute}" if label else attribute
        tables.append({"name": caption, "rows": [_row(name, row) for row in part]})
    return {"title": title, "text": text, "heads": heads, "tables": tables}


def _row(section: str, row: AuditRow) -> dict[str, Any]:
    what = row.group or row.label or row.attribute
    if section == "missingness":
        what = f"{'label' if row.label else 'attribute'} {row.label or row.attribute}"
    share = (
        "" if row.value is None else (f"{row.value:.3f}" if section == "association" else f"{row.value:.1%}")
    )
    cells = [what, _count(row.samples, row.hidden), _count(row.patients, row.hidden), share]
    if section == "prevalence":
        cells.append("" if row.low is None or row.high is None else f"{row.low:.1%} to {row.high:.1%}")
    return {
        "cells": cells,
        "bar": _pixels(row.value),
        "low": _pixels(row.low),
        "high": _pixels(row.high),
        "label": share,
    }


def _count(value: int | None, hidden: bool) -> str:
    return "hidden" if hidden else ("" if value is None else f"{value:,}")


def _pixels(share: float | None) -> float | None:
    return None if share is None else round(_BAR * min(1.0, abs(share)), 1)
