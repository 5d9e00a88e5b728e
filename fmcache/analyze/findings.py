"""What a reader should know before believing the numbers, and the largest differences, in plain sentences.

The checks of the data are the mistakes that this field's code is known to make. No sentence holds a patient or
sample id.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl

from fmcache.analyze.cases import Setting
from fmcache.analyze.differences import Member
from fmcache.analyze.thresholds import chosen_on_test
from fmcache.store.groups import UNKNOWN, Bins, bmi_can_be_cut, group_names
from fmcache.store.schema import ATTRIBUTE

Severity = Literal["note", "warning", "problem"]
ORDER: dict[Severity, int] = {"problem": 0, "warning": 1, "note": 2}
MOST_MISSING = 0.05  # share of missing values of an attribute that passes without a word
PERFECT = 0.9995  # an AUC from here on is looked at
SEXES = frozenset(
    [
        "f",
        "m",
        "female",
        "male",
        "woman",
        "man",
        "women",
        "men",
        "w",
        "girl",
        "boy",
        "0",
        "1",
        "2",
        "other",
        "intersex",
        "nonbinary",
        "non-binary",
        "diverse",
        "d",
        "x",
    ]
)  # codes of sex that need no question; anything else may be a coding error, or mean "not known"
MEAN_MISSING = frozenset(
    ["9", "99", "999", "-9", "-99", "u", "unspecified", "undefined", "refused", "declined", "prefer"]
)  # … often do
GAPS_TOLD = 3  # largest gaps told in words


@dataclass(frozen=True)
class Finding:
    """One sentence. note: good to know; warning: look at it; problem: do not publish before it is resolved."""

    severity: Severity
    text: str

    @property
    def rank(self) -> int:
        """Problems come first."""
        return ORDER[self.severity]


def finding_rows(findings: Sequence[Finding], label: str, seed: int, definition: str) -> list[dict[str, Any]]:
    """Findings as rows of the results: metric ``finding``, no value, severity and sentence in `reason`."""
    return [
        {
            "label": label, "seed": seed, "attribute": "", "group": "", "reference": "", "metric": "finding",
            "disparity": "", "definition": definition, "threshold_policy": "",
            "reason": f"{finding.severity}: {finding.text}",
        }
        for finding in findings
    ]  # fmt: skip


def setting_findings(
    setting: Setting, references: Mapping[str, str], family: Sequence[Member]
) -> list[Finding]:
    """What was chosen: where the threshold comes from, the reference groups, the family of tests."""
    found = []
    if chosen_on_test(setting.policy):
        found.append(
            Finding(
                "warning",
                f"The threshold policy {setting.policy} chose on the labels of the measured rows, so everything that "
                "needs a threshold is better than it would be on new patients.",
            )
        )
    if setting.per_group:
        found.append(
            Finding(
                "warning",
                "Every group has its own threshold, which is a mitigation: rates are not those of one rule for all.",
            )
        )
    if references:
        named = ", ".join(f"{attribute} = {group}" for attribute, group in references.items())
        found.append(
            Finding("note", f"Groups are compared with a reference: {named}. Others by --reference sex=….")
        )
    found += family_findings(family)
    if not setting.exact:
        found.append(Finding("note", "Intervals of auc and auprc are to first order (--engine fast)."))
    return found


def family_findings(family: Sequence[Member]) -> list[Finding]:
    """The differences over which p-values are adjusted and bands are simultaneous."""
    if not family:
        return []
    metrics, attributes = (dict.fromkeys(one.where[k] for one in family) for k in ("metric", "attribute"))
    labels = {(member.where["label"], member.where["seed"]) for member in family}
    text = (
        f"Holm's and Benjamini and Hochberg's p-values and the simultaneous bands are over "
        f"{_count(len(family), 'difference', 'differences')} to the reference: {', '.join(metrics)}, "
        f"by {', '.join(attributes)}, {_count(len(labels), 'label', 'labels (or seeds of one)')}."
    )
    return [Finding("note", text)]


def data_findings(
    table: pl.DataFrame, measured: pl.DataFrame, by: list[str], bins: Mapping[str, Bins] | None = None
) -> list[Finding]:
    """What the predictions themselves show.

    Parameters
    ----------
    table : all predictions. measured : those of the split that is measured. by : attributes and intersections.
    """
    found = [*_labels(measured), *_scores(measured), *group_findings(table, measured, by, bins)]
    return sorted(found, key=lambda finding: finding.rank)


def group_findings(
    table: pl.DataFrame, measured: pl.DataFrame, by: list[str], bins: Mapping[str, Bins] | None = None
) -> list[Finding]:
    """Those about patients, splits and attributes, which need no label."""
    found = [*_ids(table, measured)]
    for name in dict.fromkeys(part.strip().removeprefix(ATTRIBUTE) for one in by for part in one.split("*")):
        found += _attribute(measured, name, bins or {})
    return [*found, *_ages(measured, bins or {})]


def _ids(table: pl.DataFrame, measured: pl.DataFrame) -> Iterator[Finding]:
    patients = table.filter(pl.col("patient_id").is_not_null() & (pl.col("patient_id") != ""))
    split = patients.group_by("patient_id", "seed").agg(pl.col("split").n_unique().alias("splits"))
    leaked = split.filter(pl.col("splits") > 1)["patient_id"].n_unique()
    if leaked:
        yield Finding(
            "problem",
            f"{_count(leaked, 'patient is', 'patients are')} in more than one split: a model that has seen a "
            "patient is tested on that patient.",
        )
    named = measured["patient_id"].is_not_null() & (measured["patient_id"] != "")
    if not named.any():
        yield Finding(
            "warning",
            "There are no patient ids, so every row counts as its own patient; if patients have several images, the "
            "intervals are too short.",
        )
    elif not named.all():
        yield Finding(
            "warning", f"{_share(~named)} of the rows have no patient id and count as their own patients."
        )
    keys = measured.select(pl.struct("sample_id", "label", "seed").hash().alias("key"))["key"]
    twice = len(keys) - keys.n_unique()
    if twice:
        yield Finding("problem", f"{twice:,} predictions are repetitions of the same sample and label.")


def _labels(measured: pl.DataFrame) -> Iterator[Finding]:
    for (label,), rows in measured.group_by("label", maintain_order=True):
        y = rows["y"].fill_nan(None)
        classes = y.drop_nulls().unique().to_list()
        if len(classes) == 1:
            yield Finding(
                "problem", f"{label}: all labels are {classes[0]:g}, so most metrics are undefined."
            )
        if y.null_count():
            yield Finding(
                "note", f"{label}: {_share(y.is_null())} of the rows have no label and are left out."
            )


def _scores(measured: pl.DataFrame) -> Iterator[Finding]:
    for (label,), rows in measured.group_by("label", maintain_order=True):
        score = rows["score"].fill_nan(None)
        finite = score.is_finite().fill_null(False)
        if not finite.all():
            yield Finding(
                "warning",
                f"{label}: {_share(~finite)} of the rows have no finite score and are left out; if some groups lack "
                "more scores than others, the comparison is not fair.",
            )
        values = score.filter(finite)
        if values.is_empty():
            continue
        low, high = float(values.min()), float(values.max())  # type: ignore[arg-type]
        if low < 0 or high > 1:
            yield Finding(
                "warning",
                f"{label}: scores run from {low:.3g} to {high:.3g} and are no probabilities, so brier and ece are "
                "undefined; check that the threshold is on the same scale.",
            )
        elif values.n_unique() <= 2 and values.is_in([0.0, 1.0]).all():
            yield Finding(
                "note", f"{label}: the scores are decisions (0 or 1), so auc is the mean of tpr and tnr."
            )


def _attribute(measured: pl.DataFrame, name: str, bins: Mapping[str, Bins]) -> Iterator[Finding]:
    groups = group_names(measured, name, bins)
    if name not in bins and bmi_can_be_cut(measured, name):
        yield Finding("note", "bmi was cut at 18.5, 25 and 30 (WHO); elsewhere by --bins bmi=25:35.")
    known = sorted(group for group in groups.unique().to_list() if group != UNKNOWN)
    missing = groups == UNKNOWN
    if len(known) == 1:
        yield Finding(
            "problem",
            f"{name}: everyone whose {name} is known is in one group ({known[0]}), so no disparity can be seen. Was "
            "the attribute coded as expected?",
        )
    elif not known:
        yield Finding("problem", f"{name}: no row has a value.")
    elif float(missing.mean() or 0) > MOST_MISSING:  # type: ignore[arg-type]
        yield Finding(
            "warning",
            f"{name}: {_share(missing)} of the rows have no value; they are the group {UNKNOWN}, shown but left out of "
            "disparities.",
        )
    odd = [group for group in known if group.lower() in MEAN_MISSING]
    if name in ("sex", "gender"):
        odd += [group for group in known if group.lower() not in SEXES | MEAN_MISSING]
    if odd:
        yield Finding(
            "warning",
            f"{name}: {', '.join(odd[:5])} {'is no known code' if len(odd) == 1 else 'are no known codes'}, and "
            "measured as they stand; if they mean that nothing is known, leave the cells empty.",
        )
    by_spelling: dict[str, list[str]] = {}
    for group in known:
        by_spelling.setdefault("".join(group.lower().split()), []).append(group)
    for same in by_spelling.values():
        if len(same) > 1:
            yield Finding(
                "problem", f"{name}: the groups {' and '.join(same)} differ in spelling only; merge them."
            )
    for group in known:
        short = [
            other
            for other in known
            if len(group) == 1 < len(other) and other.lower().startswith(group.lower())
        ]
        if len(short) == 1:
            yield Finding(
                "warning", f"{name}: {group} may be an abbreviation of {short[0]}; merge them if so."
            )


def _ages(measured: pl.DataFrame, bins: Mapping[str, Bins]) -> Iterator[Finding]:
    column = ATTRIBUTE + "age"
    if column not in measured.columns or not measured[column].dtype.is_numeric():
        return
    age = measured[column].cast(pl.Float64).fill_nan(None).drop_nulls()
    if age.is_empty():
        return
    if age.n_unique() <= 2 and age.is_in([0.0, 1.0]).all():
        yield Finding("warning", "age: all values are 0 or 1, so it is grouped already; do not cut it again.")
    elif float((age == 0).mean() or 0) > MOST_MISSING:  # type: ignore[arg-type]
        yield Finding(
            "warning",
            f"age: {_share(age == 0)} of the rows have age 0; missing ages may have been stored as 0.",
        )
    if ATTRIBUTE + "age_group" not in measured.columns and age.n_unique() > 10 and "age" not in bins:
        yield Finding("note", "age was cut at 40 and 60; elsewhere by --bins age=18:65.")


def result_findings(results: pl.DataFrame, floor: int) -> list[Finding]:
    """What the numbers show: undefined groups, implausible areas, the largest gaps."""
    found = [*_small_groups(results, floor), *_implausible(results), *_largest_gaps(results)]
    return sorted(found, key=lambda finding: finding.rank)


def _small_groups(results: pl.DataFrame, floor: int) -> Iterator[Finding]:
    small = results.filter(
        (pl.col("metric") == "auc") & (pl.col("disparity") == "") & (pl.col("attribute") != "")
        & (pl.col("group") != UNKNOWN) & pl.col("value").is_nan() & (pl.col("n") > 0)
        & (pl.col("definition") == "fmcache")
    )  # fmt: skip
    for (label, attribute), rows in small.group_by("label", "attribute", maintain_order=True):
        groups = sorted(rows["group"].unique().to_list())
        named = ", ".join(groups[:5]) + (f" and {len(groups) - 5} more" if len(groups) > 5 else "")
        yield Finding(
            "warning",
            f"{label}, {attribute}: fewer than {floor} positives or negatives in {named}; what needs them is "
            "undefined and left out of disparities.",
        )


def _implausible(results: pl.DataFrame) -> Iterator[Finding]:
    overall = results.filter(metric="auc", group="overall", disparity="", definition="fmcache")
    for row in overall.iter_rows(named=True):
        if row["value"] >= PERFECT:
            yield Finding(
                "warning",
                f"{row['label']}: an AUC of {row['value']:.4f} is suspicious; does the score know the label?",
            )
        elif row["ci_high"] < 0.5:
            yield Finding(
                "problem",
                f"{row['label']}: the AUC is {row['value']:.2f}, below chance; high scores may mean a negative.",
            )
        elif row["value"] < 0.5:
            yield Finding("warning", f"{row['label']}: the AUC is {row['value']:.2f}, below 0.5.")
    groups = results.filter(
        (pl.col("metric") == "auc") & (pl.col("disparity") == "") & (pl.col("attribute") != "")
        & (pl.col("value") < 0.5) & (pl.col("definition") == "fmcache")
    )  # fmt: skip
    for (label, attribute), rows in groups.group_by("label", "attribute", maintain_order=True):
        named = ", ".join(sorted(rows["group"].unique().to_list())[:5])
        yield Finding("warning", f"{label}, {attribute}: the AUC is below 0.5 in {named}.")


def _largest_gaps(results: pl.DataFrame) -> Iterator[Finding]:
    """The largest AUC gaps over labels and attributes (tpr where no AUC gap is defined), first seed."""
    ours = results.filter(definition="fmcache")
    first = ours.filter(pl.col("seed") == pl.col("seed").min().over("label"))
    keys = ["label", "attribute", "metric"]
    gaps = first.filter((pl.col("disparity") == "gap") & pl.col("value").is_not_nan())
    told = gaps.filter(pl.col("metric") == "auc")
    told = told if not told.is_empty() else gaps.filter(pl.col("metric") == "tpr")
    told = told.filter(~pl.col("attribute").str.contains("*", literal=True)).sort(
        "value", *keys, descending=[True, False, False, False]
    )
    for row in told.head(GAPS_TOLD).iter_rows(named=True):
        mine = first.filter(pl.all_horizontal(pl.col(key) == row[key] for key in keys))
        groups = mine.filter(
            (pl.col("disparity") == "") & pl.col("value").is_not_nan() & (pl.col("group") != UNKNOWN)
        ).sort("value", "group")
        low, high = groups.row(0, named=True), groups.row(-1, named=True)
        expected = {r["disparity"]: r["value"] for r in mine.iter_rows(named=True) if r["disparity"]}
        p, null = expected.get("gap_p", float("nan")), expected.get("gap_null", float("nan"))
        metric = {"auc": "AUC", "tpr": "sensitivity"}[row["metric"]]
        text = (
            f"{row['label']}, {row['attribute']}: the {metric} is lowest for {low['group']} ({low['value']:.2f}) and "
            f"highest for {high['group']} ({high['value']:.2f}), a gap of {row['value']:.2f} "
            f"({row['ci_level']:.0%} interval {row['ci_low']:.2f} to {row['ci_high']:.2f})"
        )
        if null == null:
            text += f"; chance alone would show about {null:.2f} (p = {p:.2g})"
        yield Finding("warning" if p < 0.05 and not row["ci_low"] <= 0 else "note", text + ".")


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


def _share(mask: pl.Series) -> str:
    return f"{100 * int(mask.sum()) / max(len(mask), 1):.2g} %"
