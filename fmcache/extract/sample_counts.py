"""How many samples and patients of each group a dataset has: told at extraction and kept in the dataset's card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from fmcache.extract.samples import ATTRIBUTE, LABEL

MOST_GROUPS = 40  # a text attribute with more different values is not told group by group
UNKNOWN = "unknown"


def group_columns(samples: pl.DataFrame) -> list[str]:
    """The attribute columns that hold groups: text with few enough values."""
    names = [name for name in samples.columns if name.startswith(ATTRIBUTE)]
    return [
        name for name in names if samples[name].dtype == pl.String and samples[name].n_unique() <= MOST_GROUPS
    ]


def count_groups(samples: pl.DataFrame, order: Mapping[str, Sequence[str]] | None = None) -> dict[str, Any]:
    """samples, patients, per attribute and group both numbers, per label the numbers of 0, 1 and unknown.

    Parameters
    ----------
    order : attribute → its groups in order; others follow, `unknown` last.
    """
    attributes = {}
    for name in group_columns(samples):
        table = (
            samples.group_by(pl.col(name).fill_null(UNKNOWN).alias("group"))
            .agg(samples=pl.len(), patients=pl.col("patient_id").n_unique())
            .sort("group")
        )
        known = list((order or {}).get(name.removeprefix(ATTRIBUTE), ()))
        rows = sorted(table.iter_rows(), key=lambda row: (row[0] == UNKNOWN, _rank(row[0], known), row[0]))
        attributes[name.removeprefix(ATTRIBUTE)] = {
            row[0]: {"samples": row[1], "patients": row[2]} for row in rows
        }
    labels = {}
    for name in (name for name in samples.columns if name.startswith(LABEL)):
        column = samples[name]
        labels[name.removeprefix(LABEL)] = {
            "0": int((column == 0).sum()), "1": int((column == 1).sum()), UNKNOWN: int(column.null_count())
        }  # fmt: skip
    return {
        "samples": samples.height,
        "patients": samples["patient_id"].n_unique(),
        "attributes": attributes,
        "labels": labels,
    }


def _rank(group: str, known: Sequence[str]) -> int:
    return known.index(group) if group in known else len(known)


def _people(n: int) -> str:
    return f"{n:,} patient{'' if n == 1 else 's'}"


def count_lines(counts: dict[str, Any]) -> list[str]:
    """One line a fact, for people: ``sex: female 90,777 (38,201 patients), …``."""
    lines = [f"{counts['samples']:,} samples of {_people(counts['patients'])}"]
    for name, groups in counts["attributes"].items():
        parts = [f"{group} {of['samples']:,} ({_people(of['patients'])})" for group, of in groups.items()]
        lines.append(f"{name}: {', '.join(parts)}")
    for name, of in counts["labels"].items():
        lines.append(f"{name}: {of['1']:,} positive, {of['0']:,} negative, {of[UNKNOWN]:,} unknown")
    return lines
