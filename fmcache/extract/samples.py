"""Rows of a table or a query → the checked samples of a dataset.

Ids are text. Outer white space of sample_id, patient_id, study_id, split, labels and attributes is removed; nothing
else of an id is touched, so that ``007``, ``7`` and ``A``, ``a`` stay different. No message shows an id: rows are named
by their number, the header being row 1.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any

import polars as pl

from fmcache.errors import DatasetError
from fmcache.extract.attribute_card import POLICIES, AttributeCard, LabelCard, look_up
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
_LASTING = ("sex", "race", "ethnicity")


def check_samples(
    table: pl.DataFrame,
    what: str,
    attributes: Mapping[str, AttributeCard],
    *,
    labels: Mapping[str, LabelCard] | None = None,
    uncertain: str | None = None,
    allow_leakage: bool = False,
) -> tuple[pl.DataFrame, list[str]]:
    """The samples and what the user should know of them.

    Parameters
    ----------
    uncertain : what becomes of codes that a label's card calls uncertain; None: what the card says.

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
        raise DatasetError(
            f"{what} has no rows.",
            f"It has the columns {', '.join(table.columns[:12])}.",
            "Give a table with one row a sample; docs/datasets.md says which columns.",
        )
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
    cards = labels or {}
    if uncertain is not None and uncertain not in POLICIES:
        raise DatasetError(
            f"There is no uncertainty policy {uncertain!r}.",
            f"Policies: {', '.join(POLICIES)}.",
            "Type: --uncertain and one of them.",
        )
    columns = []
    doubts: dict[str, dict[str, int]] = {}
    flags: list[pl.Series] = []
    for name in [name for name in table.columns if name.startswith(LABEL)]:
        card = cards.get(name.removeprefix(LABEL), LabelCard())
        if card.uncertain:
            flags.append(_perhaps(table[name], card))
        if card.codes or card.uncertain:
            columns.append(_coded_label(table[name], what, card, uncertain or card.policy, doubts))
        else:
            columns.append(_blank(_label(table[name], what), card))
    for policy, counts in doubts.items():
        became = {"u-ignore": "unknown", "u-zero": "0", "u-one": "1"}[policy]
        each = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        notes.append(f"Uncertain values count as {became} ({policy}): {each}.")
    values = _attributes(table, what, attributes, notes)
    _note_changing(table["patient_id"], values, notes)
    head = [*_TEXT[:2], "path", "split", *(["study_id"] if "study_id" in table.columns else [])]
    taken = {*head, *(column.name for column in (*columns, *values, *flags))}
    rest = [column for column in table.get_columns() if column.name not in taken]
    return pl.DataFrame([*(table[name] for name in head), *columns, *values, *flags, *rest]), notes


def check_codes(column: pl.Series, known: Collection[str], what: str, separator: str = "") -> None:
    """Stop at a code that the card does not name, with the list of all codes found and how often.

    Raises
    ------
    DatasetError : see above. Codes are what groups are called, never an id, so they are shown.
    """
    texts = column.cast(pl.String).str.strip_chars().drop_nulls()
    if separator:
        texts = texts.str.split(separator).explode().str.strip_chars()
    counts = texts.filter(texts != "").value_counts(sort=True)
    names = dict.fromkeys(known, "")
    unknown = [code for code in counts[column.name] if not _is_known(code, names)]
    if unknown:
        raise unknown_code(column.name, unknown, dict(counts.iter_rows()), known, what)


def unknown_code(
    name: str, unknown: list[str], counts: Mapping[str, int], known: Collection[str], what: str
) -> DatasetError:
    """The error for codes that a card does not name."""
    shown = ", ".join(f"{code!r} ({count:,})" for code, count in list(counts.items())[:_MANY_VALUES])
    more = f" and {len(counts) - _MANY_VALUES:,} more" if len(counts) > _MANY_VALUES else ""
    return DatasetError(
        f"{what}: `{name}` holds {', '.join(map(repr, unknown[:5]))}, which the card does not know.",
        f"Found: {shown}{more}. Known: {', '.join(map(repr, known))}.",
        f"Is it another release? If you know what it means, copy the card and add it to codes of {name}.",
    )


def _is_known(code: str, names: Mapping[str, str]) -> bool:
    try:
        look_up(code, names)
    except KeyError:
        return False
    return True


def _coded_label(
    column: pl.Series, what: str, card: LabelCard, policy: str, doubts: dict[str, dict[str, int]]
) -> pl.Series:
    """Raw codes → 0, 1 or null, by the card's table and its rule for uncertain ones."""
    texts = column.cast(pl.String).str.strip_chars().replace("", None)
    counts = texts.drop_nulls().value_counts(sort=True)
    check_codes(texts.alias(column.name), [*card.codes, *card.uncertain], what)
    meaning = {code: card.value(code, policy) for code in counts[column.name]}
    perhaps = sum(
        count for code, count in counts.iter_rows() if _is_known(code, dict.fromkeys(card.uncertain, ""))
    )
    if perhaps:
        doubts.setdefault(policy, {})[column.name.removeprefix(LABEL)] = perhaps
    values = texts.replace_strict(list(meaning), list(meaning.values()), default=None, return_dtype=pl.Int8)
    return _blank(values, card, texts.is_null())


def _perhaps(column: pl.Series, card: LabelCard) -> pl.Series:
    """``uncertain.NAME``: where the raw code means "perhaps"; a probe can then use another policy than the card's."""
    texts = column.cast(pl.String).str.strip_chars().fill_null("")
    known = dict.fromkeys(card.uncertain, "")
    codes = [code for code in texts.unique().to_list() if code and _is_known(code, known)]
    return texts.is_in(codes).alias("uncertain." + column.name.removeprefix(LABEL))


def _blank(values: pl.Series, card: LabelCard, empty: pl.Series | None = None) -> pl.Series:
    if card.blank is None:
        return values
    empty = values.is_null() if empty is None else empty
    return pl.select(
        pl.when(empty).then(pl.lit(card.blank, pl.Int8)).otherwise(values).alias(values.name)
    ).to_series()


def _note_changing(patients: pl.Series, values: list[pl.Series], notes: list[str]) -> None:
    """Say how many patients have two values of an attribute that a person does not change."""
    for column in values:
        if column.name.removeprefix(ATTRIBUTE) not in _LASTING:
            continue
        pairs = pl.DataFrame([patients, column]).drop_nulls().unique()
        several = int((pairs["patient_id"].value_counts()["count"] > 1).sum())
        if several:
            name = column.name.removeprefix(ATTRIBUTE)
            notes.append(f"{several:,} patients have more than one value of {name}; each row keeps its own.")


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
            others = [of for of in table.columns if of not in _TEXT]  # those are what they say
            near = get_close_matches(name, others, n=1, cutoff=0.5)
            shown = ", ".join(table.columns[:12]) + (" …" if len(table.columns) > 12 else "")
            do = f"Did you mean `{near[0]}`? Rename it to {name}." if near else f"Add a column {name}."
            raise DatasetError(f"{what} has no column `{name}`.", f"It has: {shown}.", do)
    for name in _RESERVED:
        if name in table.columns:
            raise DatasetError(
                f"{what} has a column `{name}`.", "fmcache fills it itself.", "Rename or remove it."
            )


def _check_paths(paths: pl.Series, what: str) -> None:
    # nearly every path is harmless, and there are hundreds of thousands: only the others are looked at one by one
    odd = paths.fill_null("").str.contains(r"^$|\x00|^[/\\]|^[A-Za-z]:|\.\.").arg_true().to_list()
    found = {row: path_problem(paths[row] or "") for row in odd}
    for problem in sorted(set(found.values()) - {""}):
        rows = [row for row, of in found.items() if of == problem]
        bad = pl.int_range(len(paths), eager=True).is_in(rows)
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
        if card.codes:
            columns.append(_coded(text, what, card))
            continue
        if not card.is_number:
            columns.append(text)
            continue
        number = text.cast(pl.Float64, strict=False)
        bad = text.is_not_null() & (number.is_null() | ~number.is_finite())
        _refuse(bad, what, f"a value of `{ATTRIBUTE}{name}` that is no number", "Empty is unknown.")
        if card.cut and min(card.cut) > 1 and set(number.drop_nulls().unique()) == {0.0, 1.0}:
            raise DatasetError(
                f"{what}: `{ATTRIBUTE}{name}` holds only 0 and 1: a group, not a number of {card.unit or 'its unit'}.",
                f"Cut at {', '.join(f'{cut:g}' for cut in card.cut)} it would put everyone into one group.",
                f"Rename it to {ATTRIBUTE}{name}_group.",
            )
        if card.range is not None:
            low, high = card.range
            outside = int(((number < low) | (number > high)).sum())
            if outside:
                notes.append(
                    f"{outside:,} values of {name} are outside {low:g} to {high:g} and count as unknown."
                )
            number = pl.select(pl.when((number >= low) & (number <= high)).then(number)).to_series()
        if card.unknown:
            stands = number.is_in([float(value) for value in card.unknown])
            hidden = int(stands.sum())
            if hidden:
                meant = ", ".join(f"{value:g}" for value in card.unknown)
                notes.append(f"{hidden:,} values of {name} are {meant}, which stands for unknown.")
            number = pl.select(pl.when(~stands).then(number)).to_series()
        columns.append(number.alias(ATTRIBUTE + name))
        if card.cut and f"{name}_group" not in present:
            columns.append(_cut(number, card).alias(f"{ATTRIBUTE}{name}_group"))
        if card.decades and f"{name}_decade" not in present:
            columns.append(_decade(number).alias(f"{ATTRIBUTE}{name}_decade"))
    return columns


def _coded(text: pl.Series, what: str, card: AttributeCard) -> pl.Series:
    """Raw codes → groups; "" becomes null, that is unknown."""
    check_codes(text, list(card.codes), what)
    meaning = {code: look_up(code, card.codes) or None for code in text.drop_nulls().unique()}
    return text.replace_strict(list(meaning), list(meaning.values()), default=None, return_dtype=pl.String)


def _decade(number: pl.Series) -> pl.Series:
    """ "50-59"; null stays null."""
    low = (number // 10 * 10).cast(pl.Int64)
    return pl.select(pl.when(low.is_not_null()).then(pl.format("{}-{}", low, low + 9))).to_series()


def _cut(number: pl.Series, card: AttributeCard) -> pl.Series:
    """The group between the cuts; a value equal to a cut is in the upper group, null stays null."""
    names = card.group_names()
    group: Any = pl.when(number.is_null()).then(None)
    for name, upper in zip(names, card.cut, strict=False):
        group = group.when(number < upper).then(pl.lit(name))
    return pl.select(group.otherwise(pl.lit(names[-1]))).to_series().cast(pl.String)


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
