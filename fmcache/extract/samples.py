"""Rows of a table or a query → the checked samples of a dataset.

Ids are text. Outer white space of sample_id, patient_id, study_id, split, labels and attributes is removed; nothing
else of an id is touched, so that ``007``, ``7`` and ``A``, ``a`` stay different. No message shows an id: rows are named
by their number, the header being row 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from difflib import get_close_matches

import polars as pl

from fmcache.errors import DatasetError
from fmcache.extract.dataset_card import AttributeCard
from fmcache.extract.inputs import path_problem

LABEL, ATTRIBUTE = "label.", "attribute."
SPLITS = ("train", "val", "test")
SPLIT_ALIASES = {
    "training": "train",
    **dict.fromkeys(("valid", "validation", "validate", "dev"), "val"),
    "testing": "test",
}
_RESERVED = ("slices", "input_digest", "input_error")
_TEXT = ("sample_id", "patient_id", "study_id", "path", "split")
_MANY_VALUES = 20


def check_samples(
    table: pl.DataFrame,
    what: str,
    attributes: Mapping[str, AttributeCard],
    *,
    allow_leakage: bool = False,
) -> tuple[pl.DataFrame, list[str]]:
    """The samples and what the user should know of them.

    Returns
    -------
    samples : sample_id, patient_id, path, split (train, val, test or null) as text, then study_id if given, ``label.*``
        (Int8 0, 1 or null), ``attribute.*`` (text, or Float64 where a number), then the other columns as they were.
    notes : sentences such as "patient_id is not given; …".

    Raises
    ------
    DatasetError : see the module's tests; always three lines, never an id.
    """
    _check_columns(table, what)
    if table.is_empty():
        raise DatasetError(f"{what} has no rows.", f"It has the columns {', '.join(table.columns[:12])}.")
    notes = []
    table = table.with_columns(
        pl.col(name).cast(pl.String) for name in _TEXT if name in table.columns
    ).with_columns(_stripped(name) for name in _TEXT if name in table.columns and name != "path")
    _refuse(table["sample_id"].is_null(), what, "an empty sample_id", "Give every row an id.")
    _refuse(
        table["sample_id"].is_duplicated(),
        what,
        "a sample_id that another row has too",
        "Ids must be unique.",
    )
    if "patient_id" not in table.columns or table["patient_id"].is_null().all():
        notes.append("patient_id is not given: every sample counts as a patient of its own.")
        table = table.with_columns(patient_id=pl.col("sample_id"))
    _refuse(table["patient_id"].is_null(), what, "an empty patient_id", "Give it in every row or in none.")
    _check_paths(table["path"], what)
    table = _split(table, what)
    _check_leakage(table, what, allow_leakage, notes)
    labels = [_label(table[name], what) for name in table.columns if name.startswith(LABEL)]
    values = _attributes(table, what, attributes, notes)
    head = [*_TEXT[:2], "path", "split", *(["study_id"] if "study_id" in table.columns else [])]
    taken = {*head, *(column.name for column in labels), *(column.name for column in values)}
    rest = [column for column in table.get_columns() if column.name not in taken]
    return pl.DataFrame([*(table[name] for name in head), *labels, *values, *rest]), notes


def numbers_among(table: pl.DataFrame) -> dict[str, AttributeCard]:
    """The attributes of a table without a card that are numbers, by the documented rule.

    A column is a number when all its non-empty cells are numbers and it is named ``attribute.age``, has a value with a
    decimal point, or has more than 20 different values. ``attribute.age`` is cut at 40 and 60 unless the table has its
    own ``attribute.age_group``; ages outside 0 to 120 are unknown.
    """
    found = {}
    for name in table.columns:
        if not name.startswith(ATTRIBUTE):
            continue
        short = name.removeprefix(ATTRIBUTE)
        given = table[name].drop_nulls()
        texts = given.cast(pl.String).str.strip_chars()
        texts = texts.filter(texts != "")
        numbers = texts.cast(pl.Float64, strict=False)
        if texts.is_empty() or numbers.is_null().any() or given.dtype == pl.Boolean:
            continue
        if short == "age":
            own = f"{ATTRIBUTE}age_group" in table.columns
            cut = () if own else (40, 60)
            names = () if own else ("0-39", "40-59", "60+")
            found[short] = AttributeCard(unit="years", range=(0.0, 120.0), cut=cut, names=names)
        elif texts.n_unique() > _MANY_VALUES or texts.str.contains(".", literal=True).any():
            found[short] = AttributeCard(unit="as given")
    return found


def _check_columns(table: pl.DataFrame, what: str) -> None:
    for name in ("sample_id", "path"):
        if name not in table.columns:
            near = get_close_matches(name, table.columns, n=1, cutoff=0.5)
            shown = ", ".join(table.columns[:12]) + (" …" if len(table.columns) > 12 else "")
            do = f"Did you mean `{near[0]}`? Rename it to {name}." if near else f"Add a column {name}."
            raise DatasetError(f"{what} has no column `{name}`.", f"It has: {shown}.", do)
    for name in _RESERVED:
        if name in table.columns:
            raise DatasetError(
                f"{what} has a column `{name}`.", "fmcache fills it itself.", "Rename or remove it."
            )


def _check_paths(paths: pl.Series, what: str) -> None:
    problems = [path_problem(path or "") for path in paths]
    for problem in sorted(set(problems) - {""}):
        bad = pl.Series([one == problem for one in problems])
        _refuse(bad, what, f"a path that {problem}", "Paths are relative to the root and stay below it.")


def _split(table: pl.DataFrame, what: str) -> pl.DataFrame:
    if "split" not in table.columns:
        return table.with_columns(split=pl.lit(None, pl.String))
    split = table["split"].str.to_lowercase().replace(SPLIT_ALIASES)
    unknown = split.is_not_null() & ~split.is_in(SPLITS)
    names = (
        ", ".join(sorted({name for name in table["split"].filter(unknown) if name.isalpha()})[:5]) or "a code"
    )
    aliases = ", ".join(f"{alias} = {name}" for alias, name in SPLIT_ALIASES.items())
    _refuse(
        unknown,
        what,
        f"an unknown split ({names})",
        f"Splits are train, val, test ({aliases}); empty is allowed.",
    )
    return table.with_columns(split)


def _check_leakage(table: pl.DataFrame, what: str, allowed: bool, notes: list[str]) -> None:
    several = (
        table.filter(pl.col("split").is_not_null())
        .group_by("patient_id")
        .agg(pl.col("split").n_unique() > 1)
        .filter(pl.col("split"))
    )
    if several.is_empty():
        return
    bad = table["patient_id"].is_in(several["patient_id"].implode()) & table["split"].is_not_null()
    if allowed:
        notes.append(f"{len(several):,} patients are in more than one split; the card allows it.")
        return
    _refuse(
        bad,
        what,
        f"a patient who is in two splits ({len(several):,} patients)",
        "Split by patient; a card (FILE.toml) with allow_leakage = true accepts it.",
    )


def _label(column: pl.Series, what: str) -> pl.Series:
    texts = column.cast(pl.Int8).cast(pl.String) if column.dtype == pl.Boolean else column.cast(pl.String)
    texts = texts.str.strip_chars().replace("", None)
    numbers = texts.cast(pl.Float64, strict=False)
    numbers = pl.select(
        pl.when(numbers.is_nan()).then(None).otherwise(numbers).alias(column.name)
    ).to_series()
    given = texts.is_not_null() & ~texts.str.to_lowercase().is_in(["nan"])
    bad = (given & numbers.is_null()) | (numbers.is_not_null() & ~numbers.is_in([0.0, 1.0]))
    examples = ", ".join(sorted(set(texts.filter(bad & numbers.is_not_null())))[:3]) or "a word"
    _refuse(
        bad,
        what,
        f"a value of `{column.name}` other than 0, 1 and empty (such as {examples})",
        "Say in the table or the card's query what it means; empty is unknown.",
    )
    return numbers.cast(pl.Int8).alias(column.name)


def _attributes(
    table: pl.DataFrame, what: str, cards: Mapping[str, AttributeCard], notes: list[str]
) -> list[pl.Series]:
    columns = []
    present = [name.removeprefix(ATTRIBUTE) for name in table.columns if name.startswith(ATTRIBUTE)]
    for name in present:
        card, column = cards.get(name, AttributeCard()), table[ATTRIBUTE + name]
        text = column.cast(pl.String).str.strip_chars()
        text = text.replace({"": None, "nan": None, "NaN": None})
        if not card.is_number:
            columns.append(text)
            continue
        number = text.cast(pl.Float64, strict=False)
        bad = text.is_not_null() & (number.is_null() | ~number.is_finite())
        _refuse(bad, what, f"a value of `{ATTRIBUTE}{name}` that is no number", "Empty is unknown.")
        if card.range is not None:
            low, high = card.range
            outside = int(((number < low) | (number > high)).sum())
            if outside:
                notes.append(
                    f"{outside:,} values of {name} are outside {low:g} to {high:g} and count as unknown."
                )
            number = pl.select(pl.when((number >= low) & (number <= high)).then(number)).to_series()
        columns.append(number.alias(ATTRIBUTE + name))
        if card.cut and f"{name}_group" not in present:
            columns.append(_cut(number, card).alias(f"{ATTRIBUTE}{name}_group"))
    return columns


def _cut(number: pl.Series, card: AttributeCard) -> pl.Series:
    """The group between the cuts; a value equal to a cut is in the upper group, null stays null."""
    edges = [-math.inf, *card.cut, math.inf]
    names = card.group_names()
    group = [
        None if value is None else next(n for n, upper in zip(names, edges[1:], strict=True) if value < upper)
        for value in number
    ]
    return pl.Series(group, dtype=pl.String)


def _stripped(name: str) -> pl.Expr:
    return pl.col(name).str.strip_chars().replace("", None)


def _refuse(bad: pl.Series, what: str, trouble: str, do: str) -> None:
    rows = bad.fill_null(False).arg_true()
    if len(rows) == 0:
        return
    shown = ", ".join(str(row + 2) for row in rows[:5]) + (" …" if len(rows) > 5 else "")
    plural = "row" if len(rows) == 1 else "rows"
    raise DatasetError(
        f"{what} has {trouble}.", f"{len(rows):,} {plural}: {shown} (the header is row 1).", do
    )
