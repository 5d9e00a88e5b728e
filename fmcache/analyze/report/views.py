"""The results table, turned into what one section of the report shows. Suppression is applied here, once.

A view is one run × label × split. Nothing behind a hidden group leaves this module: its counts and metrics are not in
the view, so that no template or figure can print them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl

from fmcache.analyze.called import PLAIN_USAGES
from fmcache.analyze.report.wording import LONGEST_NAME, clean, spoken
from fmcache.analyze.suppression import Cell, Place, Why, suppress
from fmcache.store.groups import UNKNOWN

GROUP_METRICS = ("auc", "tpr", "fpr", "ece")
# where there is no AUC (segmentation, several classes): these before others
PREFERRED = (
    "dsc",
    "iou",
    "nsd",
    "hd95",
    "asd",
    "auc_macro",
    "accuracy",
    "balanced_accuracy",
    "f1_macro",
    "ece",
    "brier",
)
# rows that hold what a gap would be without any true difference, and its p-value
NULL_GAP, P_VALUE, EQUIVALENCE = "gap_null", "gap_p", "gap_equivalence"
NAMED_HIDDEN = (
    8  # more hidden groups than this are counted, not named: many tiny groups can be as good as an id
)
COMPONENTS = {"eqodds": ("tpr", "fpr"), "eqopp": ("tpr",), "dp": ("selection_rate",)}
OVERALL: Place = ("", "overall")
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Number:
    """A value with its interval; NaN with a reason when undefined, NaN and `hidden` when withheld."""

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    reason: str = ""
    hidden: bool = False

    @property
    def known(self) -> bool:
        return math.isfinite(self.value)


HIDDEN = Number(hidden=True)


@dataclass(frozen=True)
class Group:
    """One row of the table of groups; a hidden one has no counts and no numbers."""

    name: str
    n: int | None
    n_pos: int | None
    n_patients: int | None
    numbers: Mapping[str, Number]
    why: Why | None = None

    @property
    def prevalence(self) -> Number:
        if "prevalence" in self.numbers:
            return self.numbers["prevalence"]
        if self.n and self.n_pos is not None:
            return Number(self.n_pos / self.n)
        return Number(reason="no image with a known label")


@dataclass(frozen=True)
class Disparities:
    """One metric's spread over the groups of an attribute."""

    metric: str
    numbers: Mapping[str, Number]  # gap, ratio, worst, std, es
    null: float
    p: float
    equivalence: str = ""  # "gap shown to be below 0.02", where a tolerance was named

    @property
    def gap(self) -> Number:
        return self.numbers.get("gap", Number())


@dataclass(frozen=True)
class Difference:
    """One metric of one group less that of the reference group."""

    group: str
    metric: str
    number: Number
    p: float
    holm: float  # p adjusted over the declared family; NaN outside of it
    equivalence: str = ""


@dataclass(frozen=True)
class Attribute:
    """The groups of one attribute or intersection, and their disparities.

    differences : of the shown groups to `reference`, if that is shown too.
    """

    name: str
    groups: Sequence[Group]
    disparities: Sequence[Disparities]
    unnamed: int = 0  # hidden groups that are not even named
    reference: str = ""
    differences: Sequence[Difference] = ()

    @property
    def hidden(self) -> int:
        return sum(group.why is not None for group in self.groups) + self.unnamed

    @property
    def shown(self) -> list[Group]:
        return [group for group in self.groups if group.why is None]


@dataclass(frozen=True)
class View:
    """One run × label × split."""

    run_id: str
    info: Mapping[str, Any]
    label: str
    split: str
    seed: int | None
    seeds: Sequence[int]
    definition: str
    other_definitions: Sequence[str]
    overall: Group
    attributes: Sequence[Attribute]
    threshold: float
    policy: str
    level: float
    hidden: Mapping[Place, Why] = field(default_factory=dict)
    tell: str = ""  # what tells it from another run that is called the same

    def text(self, key: str) -> str:
        return clean(str(self.info.get(key) or ""), LONGEST_NAME)

    @property
    def measured(self) -> Sequence[str]:
        """The metrics of the tables, at most four; the first one is drawn and compared."""
        there = dict.fromkeys(
            [*self.overall.numbers, *(one.metric for a in self.attributes for one in a.disparities)]
        )
        if "auc" in there or not there:
            return GROUP_METRICS
        ranked = [
            *(name for name in PREFERRED if name in there),
            *(name for name in there if name not in PREFERRED),
        ]
        return tuple(name for name in ranked if name not in ("prevalence", "finding"))[:4]

    @property
    def what(self) -> str:
        """The one line that tells this view from the others."""
        return " · ".join(
            part
            for part in (
                self.text("model"),
                self.text("dataset"),
                spoken(self.label),
                self.text("usage") if self.text("usage") not in PLAIN_USAGES else "",
                self.text("method") if self.text("method") != "erm" else "",
                self.tell,
            )
            if part
        )


def told_apart(found: Sequence[View]) -> list[View]:
    """The views, and beside those of two runs with one name the attribute that a method knew, or the run's id."""
    told = list(found)
    for more in (lambda view: spoken(view.text("attribute")), lambda view: view.run_id[:6]):
        runs: dict[str, set[str]] = {}
        for view in told:
            runs.setdefault(view.what, set()).add(view.run_id)
        told = [
            replace(view, tell=" · ".join(part for part in (view.tell, more(view)) if part))
            if len(runs[view.what]) > 1
            else view
            for view in told
        ]
    return told


def views(results: pl.DataFrame, run_id: str, info: Mapping[str, Any], floor: int) -> list[View]:
    """All views of one run, by label and split.

    Parameters
    ----------
    results : RESULT_COLUMNS, of any runs.
    floor : see `suppression.suppress`.
    """
    mine = results.filter(pl.col("run_id") == run_id)
    return [
        _view(mine.filter((pl.col("label") == label) & (pl.col("split") == split)), run_id, info, floor)
        for label, split in mine.select("label", "split").unique().sort("label", "split").iter_rows()
    ]


def _view(table: pl.DataFrame, run_id: str, info: Mapping[str, Any], floor: int) -> View:
    definitions = sorted(
        table["definition"].drop_nulls().unique(), key=lambda name: (name != "fmcache", name)
    )
    definition = definitions[0] if definitions else ""
    seeds = sorted(table["seed"].drop_nulls().unique())
    rows = list(
        table.filter(
            (pl.col("definition").fill_null("") == definition)
            & (pl.lit(not seeds) | (pl.col("seed") == (seeds[0] if seeds else 0)))
        ).iter_rows(named=True)
    )
    policies = list(dict.fromkeys(row["threshold_policy"] for row in rows if row["threshold_policy"]))
    policy = policies[0] if policies else ""
    rows = [row for row in rows if not row["threshold_policy"] or row["threshold_policy"] == policy]
    by_group = _by_group(rows)
    hidden = hidden_places(rows, floor)
    overall = by_group.pop(OVERALL, [])
    names = list(dict.fromkeys(row["attribute"] for row in rows if row["attribute"]))
    names.sort(key=lambda name: name.count("*"))
    attributes = [_attribute(name, rows, by_group, hidden) for name in names]
    thresholds = [row["threshold"] for row in rows if _finite(row["threshold"])]
    return View(
        run_id=run_id,
        info=info,
        label=rows[0]["label"],
        split=rows[0]["split"],
        seed=seeds[0] if seeds else None,
        seeds=seeds,
        definition=definition,
        other_definitions=definitions[1:],
        overall=_group("overall", overall, hidden.get(OVERALL)),
        attributes=attributes,
        threshold=thresholds[0] if thresholds else math.nan,
        policy=policy,
        level=next((row["ci_level"] for row in rows if _finite(row["ci_level"])), math.nan),
        hidden=hidden,
    )


def hidden_places(rows: Iterable[Row], floor: int) -> dict[Place, Why]:
    """The groups of one run, label, split and seed that must not leave the machine, with why; see `suppress`."""
    by_group = _by_group(rows)
    total = _cell(*OVERALL, by_group.pop(OVERALL, []))
    return suppress(total, [_cell(*place, of) for place, of in by_group.items()], floor)


def warnings(results: pl.DataFrame, of_run: Sequence[View]) -> list[tuple[str, str]]:
    """(``problem`` or ``warning``, sentence) of what the evaluation of a run found wrong with its data.

    Gaps are told by the report itself. A sentence that names a hidden group is left out: it may say its number.
    """
    names = {group for view in of_run for _, group in view.hidden if group}
    rows = results.filter(
        (pl.col("metric") == "finding") & pl.col("run_id").is_in([v.run_id for v in of_run])
    )
    found = []
    for reason in rows["reason"].drop_nulls().unique(maintain_order=True):
        severity, _, text = reason.partition(": ")
        told = severity in ("problem", "warning") and ", a gap of " not in text
        if told and not any(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) for name in names):
            found.append((severity, text))
    return sorted(found, key=lambda one: one[0] != "problem")


def _by_group(rows: Iterable[Row]) -> dict[Place, list[Row]]:
    found: dict[Place, list[Row]] = {}
    for row in rows:
        if not row["disparity"] and row["group"]:
            found.setdefault((row["attribute"] or "", row["group"]), []).append(row)
    return found


def _cell(attribute: str, group: str, rows: Sequence[Row]) -> Cell:
    return Cell(attribute, group, *(_largest(rows, key) for key in ("n", "n_pos", "n_patients")))


def _largest(rows: Iterable[Row], key: str) -> int | None:
    return max((row[key] for row in rows if row[key] is not None), default=None)


def _finite(value: Any) -> bool:
    return value is not None and math.isfinite(value)


def _number(row: Row) -> Number:
    value, low, high = (
        row[key] if row[key] is not None else math.nan for key in ("value", "ci_low", "ci_high")
    )
    reason = row["reason"] or ("" if math.isfinite(value) else "undefined; no reason was recorded")
    return Number(value, low, high, reason)


def _group(name: str, rows: Sequence[Row], why: Why | None) -> Group:
    if why is not None:
        return Group(name, None, None, None, {}, why)
    n, n_pos, n_patients = (_largest(rows, key) for key in ("n", "n_pos", "n_patients"))
    return Group(name, n, n_pos, n_patients, {row["metric"]: _number(row) for row in rows})


def _attribute(
    name: str, rows: Sequence[Row], by_group: Mapping[Place, list[Row]], hidden: Mapping[Place, Why]
) -> Attribute:
    places = [place for place in by_group if place[0] == name]
    groups = [_group(group, by_group[place], hidden.get(place)) for place in places for group in place[1:]]
    groups.sort(key=lambda group: group.name == UNKNOWN)
    mine = [row for row in rows if row["attribute"] == name and row["disparity"]]
    disparities = _disparities([row for row in mine if not row["group"]])
    reference, differences = _differences([row for row in mine if row["group"]], name, hidden)
    small = [by_group[p] for p in places if hidden.get(p) == "small" and p[1] != UNKNOWN]
    disparities = [_withhold(one, small) for one in disparities]
    covered = [group for group in groups if group.why is not None]
    if len(covered) > NAMED_HIDDEN:
        groups = [group for group in groups if group.why is None]
        return Attribute(name, groups, disparities, len(covered), reference, differences)
    return Attribute(name, groups, disparities, 0, reference, differences)


def _differences(rows: Sequence[Row], name: str, hidden: Mapping[Place, Why]) -> tuple[str, list[Difference]]:
    """The reference group and the differences to it; nothing of a hidden group, nothing if the reference is hidden."""
    reference = next((row["reference"] for row in rows if row.get("reference")), "")
    if not reference or (name, reference) in hidden:
        return "", []
    found: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        if row["disparity"].startswith("difference") and (name, row["group"]) not in hidden:
            found.setdefault((row["group"], row["metric"]), {})[row["disparity"]] = row
    differences = [
        Difference(
            group=group,
            metric=metric,
            number=_number(of["difference"]),
            p=_value(of, "difference_p"),
            holm=_value(of, "difference_p_holm"),
            equivalence=(of["difference_equivalence"]["reason"] if "difference_equivalence" in of else ""),
        )
        for (group, metric), of in found.items()
        if "difference" in of
    ]
    return reference, differences


def _value(of: Mapping[str, Row], disparity: str) -> float:
    value = of[disparity]["value"] if disparity in of else None
    return math.nan if value is None else float(value)


def _disparities(rows: Sequence[Row]) -> list[Disparities]:
    found = []
    for metric in dict.fromkeys(row["metric"] for row in rows):
        of = {row["disparity"]: row for row in rows if row["metric"] == metric}
        numbers = {name: _number(row) for name, row in of.items()}
        null, p = (numbers.pop(name, Number()).value for name in (NULL_GAP, P_VALUE))
        equivalence = numbers.pop(EQUIVALENCE, Number()).reason
        found.append(Disparities(metric, numbers, null, p, equivalence))
    return found


def gives_away(metric: str, small: Iterable[Row]) -> bool:
    """Whether a small group's number went into a spread of the metric: beside the shown groups it would be known.

    Parameters
    ----------
    small : the plain rows of the attribute's small groups, ``unknown`` left out.
    """
    parts = COMPONENTS.get(metric, (metric,))
    return any(row["metric"] in parts and _finite(row["value"]) for row in small)


def _withhold(one: Disparities, small: Sequence[Sequence[Row]]) -> Disparities:
    if not gives_away(one.metric, (row for rows in small for row in rows)):
        return one
    numbers = dict.fromkeys(one.numbers, HIDDEN)
    return replace(one, numbers=numbers, null=math.nan, p=math.nan, equivalence="")
