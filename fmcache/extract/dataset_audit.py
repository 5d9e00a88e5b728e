"""``fmcache datasets NAME --audit``: who is in a dataset, what is missing of whom, and what is labelled in whom.

The documentation that reviews of fairness in medical imaging ask for, as one tidy table. Sections:

representation    samples, patients and share of each group, of each pair of attributes too ("sex*age_group")
missingness       samples without a value, per attribute and label
prevalence        positives among the labelled samples of each group, with a Wilson 95 % interval
association       Cramér's V of every pair of attributes, and of attributes with the split: 0 independent, 1 the same
shift             share of a group among the samples with a known group, less its share in a reference population;
                  and per attribute the total variation distance, half the sum of the absolute differences
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl

from fmcache.errors import DatasetError
from fmcache.extract.dataset import Dataset, group_order
from fmcache.extract.dataset_tables import read_table
from fmcache.extract.sample_counts import UNKNOWN, group_columns
from fmcache.extract.samples import ATTRIBUTE, LABEL

_Z = 1.959963984540054  # 97.5 % of the normal distribution
SECTIONS = ("representation", "missingness", "prevalence", "association", "shift")


@dataclass(frozen=True)
class AuditRow:
    """One number of the audit; None where it does not apply or is hidden.

    Attributes
    ----------
    attribute, group, label : what it is about. samples, patients : counts, or the base of `value`.
    value : share, prevalence, V or difference, in [0, 1] ([-1, 1] for a difference). low, high : its interval.
    """

    section: str
    attribute: str = ""
    group: str = ""
    label: str = ""
    samples: int | None = None
    patients: int | None = None
    value: float | None = None
    low: float | None = None
    high: float | None = None
    hidden: bool = False

    def row(self) -> dict[str, object]:
        """As printed; a hidden count says so."""
        return dict(vars(self))


def audit_dataset(
    dataset: Dataset, *, reference: pl.DataFrame | None = None, min_cell: int = 1
) -> list[AuditRow]:
    """The audit of a dataset's samples; no image is opened.

    Parameters
    ----------
    reference : see `read_reference`. min_cell : groups with fewer samples are hidden, and a second one where the
        hidden number would follow from the total.
    """
    samples = dataset.samples
    columns = group_columns(samples)
    names = [column.removeprefix(ATTRIBUTE) for column in columns]
    filled = samples.with_columns(pl.col(column).fill_null(UNKNOWN) for column in columns)
    order = group_order(dataset.card)
    rows: list[AuditRow] = []
    for part in [[name] for name in names] + [list(pair) for pair in combinations(_main(names), 2)]:
        rows += _hide(list(_representation(filled, part, order)), min_cell)
    rows += _missingness(samples)
    for label in [column for column in samples.columns if column.startswith(LABEL)]:
        for name in names:
            rows += [_hide_prevalence(row, min_cell) for row in _prevalence(filled, label, name, order)]
    rows += _associations(samples, names)
    if reference is not None:
        rows += _shift(samples, reference)
    return rows


def read_reference(path: str) -> pl.DataFrame:
    """A reference population: a CSV with the columns attribute, group and share (or count).

    Raises
    ------
    DatasetError : a column is missing, or a share is no number or negative.
    """
    from pathlib import Path

    table = read_table(Path(path))
    number = next((name for name in ("share", "count") if name in table.columns), None)
    if number is None or not {"attribute", "group"} <= set(table.columns):
        raise DatasetError(
            f"The reference {Path(path).name} lacks a column.", f"It has: {', '.join(table.columns)}.",
            "It needs attribute, group and share (or count), one row a group.",
        )  # fmt: skip
    values = table[number].cast(pl.Float64, strict=False)
    if values.is_null().any() or (values < 0).any():
        raise DatasetError(
            f"The reference {Path(path).name} holds a {number} that is no number from 0.",
            "A share or a count is 0 or more.",
            f"Correct the column {number}.",
        )
    table = table.select("attribute", "group").with_columns(share=values)
    return table.with_columns(pl.col("share") / pl.col("share").sum().over("attribute"))


def _main(names: Sequence[str]) -> list[str]:
    """Attributes whose pairs are shown: not decades, nor a second coding of the same."""
    return [name for name in names if not name.endswith(("_decade", "_binary", "anchor_age_group"))][:5]


def _representation(
    samples: pl.DataFrame, names: list[str], order: dict[str, list[str]]
) -> Iterator[AuditRow]:
    columns = [ATTRIBUTE + name for name in names]
    table = samples.group_by(columns).agg(n=pl.len(), patients=pl.col("patient_id").n_unique())
    rows = list(table.iter_rows())

    def place(row: tuple[Any, ...]) -> list[tuple[bool, int, str]]:
        return [_place(group, order.get(name, [])) for name, group in zip(names, row, strict=False)]

    for row in sorted(rows, key=place):
        group, (n, patients) = "*".join(row[:-2]), row[-2:]
        yield AuditRow("representation", "*".join(names), group, "", n, patients, n / samples.height)


def _place(group: str, order: list[str]) -> tuple[bool, int, str]:
    return group == UNKNOWN, order.index(group) if group in order else len(order), group


def _missingness(samples: pl.DataFrame) -> Iterator[AuditRow]:
    for column in samples.columns:
        if column.startswith((ATTRIBUTE, LABEL)):
            lacking = samples.filter(pl.col(column).is_null())
            kind, name = column.split(".", 1)
            attribute, label = (name, "") if kind == "attribute" else ("", name)
            people, share = lacking["patient_id"].n_unique(), lacking.height / samples.height
            yield AuditRow("missingness", attribute, "", label, lacking.height, people, share)


def _prevalence(
    samples: pl.DataFrame, label: str, name: str, order: dict[str, list[str]]
) -> Iterator[AuditRow]:
    known = samples.drop_nulls(label)
    table = known.group_by(ATTRIBUTE + name).agg(
        n=pl.len(), k=pl.col(label).cast(pl.Int64).sum(), patients=pl.col("patient_id").n_unique()
    )
    for group, n, k, patients in sorted(
        table.iter_rows(), key=lambda row: _place(row[0], order.get(name, []))
    ):
        low, high = wilson(k, n)
        yield AuditRow("prevalence", name, group, label.removeprefix(LABEL), n, patients, k / n, low, high)


def wilson(k: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share by Wilson's score (JASA 22, 1927); it counts samples as independent.

    Examples
    --------
    >>> [round(x, 4) for x in wilson(8, 10)]
    [0.4902, 0.9433]
    """
    p, z2 = k / n, _Z * _Z
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def _associations(samples: pl.DataFrame, names: Sequence[str]) -> Iterator[AuditRow]:
    columns = [ATTRIBUTE + name for name in names] + (["split"] if samples["split"].n_unique() > 1 else [])
    for one, other in combinations(columns, 2):
        table = samples.select(one, other).drop_nulls()
        value = cramers_v(table[one], table[other])
        pair = f"{one.removeprefix(ATTRIBUTE)}*{other.removeprefix(ATTRIBUTE)}"
        yield AuditRow("association", pair, samples=table.height, value=value)


def cramers_v(one: pl.Series, other: pl.Series) -> float | None:
    """√(χ² / (n · min(rows − 1, columns − 1))), in [0, 1]; None where either has a single value (Cramér 1946).

    Examples
    --------
    >>> cramers_v(pl.Series(["a", "a", "b", "b"]), pl.Series(["x", "x", "y", "y"]))
    1.0
    """
    rows, columns = one.n_unique(), other.n_unique()
    if min(rows, columns) < 2:
        return None
    x = one.rank("dense").to_numpy() - 1
    y = other.rank("dense").to_numpy() - 1
    counts = np.zeros((rows, columns))
    np.add.at(counts, (x, y), 1)
    expected = counts.sum(1, keepdims=True) * counts.sum(0) / counts.sum()
    chi2 = ((counts - expected) ** 2 / expected).sum()
    return float(np.sqrt(chi2 / (counts.sum() * (min(rows, columns) - 1))))


def _shift(samples: pl.DataFrame, reference: pl.DataFrame) -> Iterator[AuditRow]:
    for name in reference["attribute"].unique(maintain_order=True):
        column = ATTRIBUTE + name
        if column not in samples.columns:
            have = ", ".join(c.removeprefix(ATTRIBUTE) for c in group_columns(samples))
            raise DatasetError(
                f"The reference has the attribute {name!r}, the dataset has not.",
                f"It has: {have}.",
                f"Name it as there, or take {name!r} out of the reference.",
            )
        wanted = dict(reference.filter(pl.col("attribute") == name).select("group", "share").iter_rows())
        known = samples.drop_nulls(column)[column].cast(pl.String)
        found = {group: n / len(known) for group, n in known.value_counts().iter_rows()}
        distance = 0.0
        for group in [*wanted, *sorted(set(found) - set(wanted))]:
            difference = found.get(group, 0.0) - wanted.get(group, 0.0)
            distance += abs(difference) / 2
            yield AuditRow("shift", name, group, samples=int((known == group).sum()), value=difference)
        yield AuditRow("shift", name, "total variation", samples=len(known), value=distance)


def _hide(rows: list[AuditRow], least: int) -> list[AuditRow]:
    """Without counts below `least`; never a single one, which the total would give away."""
    small = {
        i for i, row in enumerate(rows) if (row.samples or 0) < least or (row.patients or 0) < min(least, 2)
    }
    if len(small) == 1 and len(rows) > 1:
        small.add(min((i for i in range(len(rows)) if i not in small), key=lambda i: rows[i].samples or 0))
    return [_blank(row) if i in small else row for i, row in enumerate(rows)]


def _hide_prevalence(row: AuditRow, least: int) -> AuditRow:
    n, positive = row.samples or 0, round((row.value or 0) * (row.samples or 0))
    hidden = n < least or 0 < positive < least or 0 < n - positive < least
    return _blank(row) if hidden else row


def _blank(row: AuditRow) -> AuditRow:
    return replace(row, samples=None, patients=None, value=None, low=None, high=None, hidden=True)
