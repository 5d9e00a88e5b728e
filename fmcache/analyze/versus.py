"""Two models on the same patients: paired differences of metrics and of gaps.

Both models' numbers come from the same resamples of the same patients, so what the patients have in common cancels.
Without that, two overlapping intervals say little about the difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from fmcache.analyze.areas import Floats
from fmcache.analyze.bootstrap import Resamples
from fmcache.analyze.cases import Case, Setting, cases_of, threshold_columns
from fmcache.analyze.differences import UNDECIDED, equivalence, two_sided
from fmcache.analyze.disparities import COMPOSITES, mean_gap
from fmcache.analyze.findings import Finding, finding_rows
from fmcache.analyze.metrics import DEFINITION, METRICS, why_undefined
from fmcache.analyze.multiplicity import benjamini_hochberg, holm
from fmcache.analyze.rows import NAN, Rows
from fmcache.analyze.run import check_attributes, chosen_runs, present
from fmcache.analyze.weighted import plan
from fmcache.errors import MissingEntry, UsageError
from fmcache.progress import Progress, Silent
from fmcache.store.cache import Cache
from fmcache.store.groups import attribute_names
from fmcache.store.runs import Run
from fmcache.store.schema import RESULT_COLUMNS


def run_versus(
    cache: Cache,
    baseline: str,
    *,
    models: list[str] | None = None,
    datasets: list[str] | None = None,
    by: Sequence[str] | None = None,
    threshold_policy: str = "youden",
    progress: Progress | None = None,
    **options: Any,
) -> pl.DataFrame:
    """The differences of every other run to the run of the model `baseline` with the same dataset, usage and method.

    Returns
    -------
    RESULT_COLUMNS : model is that of the other run, `reference` the baseline; disparity ``difference`` and
    ``difference_p`` for groups, ``gap_difference`` and ``gap_difference_p`` for gaps (negative = smaller gap than the
    baseline's). The family of Holm's and Benjamini and Hochberg's p-values is that of all printed auc differences.
    """
    progress = progress or Silent()
    options.pop("definition", None)
    setting = replace(Setting(), policy=threshold_policy, **options)
    runs = chosen_runs(cache.runs(), None, datasets)
    bases = [run for run in runs if run.info.get("model") == baseline]
    if not bases:
        known = sorted({str(run.info.get("model")) for run in runs})
        raise MissingEntry(
            f"No run is of the model {baseline}.", f"Runs are of: {', '.join(known)}.", "Name one of them."
        )
    others = [
        run
        for run in runs
        if run.info.get("model") != baseline and (not models or run.info.get("model") in models)
    ]
    pairs = [
        (base, other)
        for other in others
        for base in bases
        if all(base.info.get(k) == other.info.get(k) for k in SAME)
    ]
    if not pairs:
        raise UsageError(
            f"No other run can be compared with {baseline}.",
            "Compared are runs of the same dataset, usage and method.",
            "Type: fmcache probe lp --model OTHER",
        )
    check_attributes([run for pair in pairs for run in pair], by, options)
    progress.start("versus", len(pairs), "pairs")
    tables = []
    for base, other in pairs:
        tables.append(_pair(base, other, by, setting))
        progress.advance(1, str(other.info.get("model")))
    return pl.concat(tables)


SAME = ("dataset", "usage", "method")


def _pair(base: Run, other: Run, by: Sequence[str] | None, setting: Setting) -> pl.DataFrame:
    mine, theirs = other.predictions(), base.predictions()
    return versus(
        mine, theirs, by=present(mine, by), baseline=str(base.info.get("model")),
        info={**other.info, "run_id": other.run_id}, setting=setting,
    )  # fmt: skip


def versus(
    mine: pl.DataFrame, theirs: pl.DataFrame, *, by: Sequence[str] | None = None, baseline: str = "baseline",
    split: str = "test", info: Mapping[str, Any] | None = None, setting: Setting | None = None, **options: Any,
) -> pl.DataFrame:  # fmt: skip
    """mine − theirs, on the samples that both have; see `run_versus`.

    Raises
    ------
    UsageError : no label and seed in common, or no sample.
    """
    setting = replace(setting or Setting(), **options)
    keys = ["sample_id", "label", "seed"]
    other = theirs.select(*keys, pl.col("score").alias("_score"), pl.col("y").alias("_y"))
    usable = pl.col("score").is_finite() & pl.col("_score").is_finite() & pl.col("y").is_in([0.0, 1.0])
    joined = mine.join(other, on=keys, how="inner", maintain_order="left").filter(usable.fill_null(False))
    if not (joined["split"] == split).any():
        raise UsageError(
            "The two runs have no measured sample, label and seed in common.",
            "Only cases that both have measured can be compared.",
            'Choose runs of one dataset, label and split; list them with: fmcache sql "SELECT * FROM runs"',
        )
    different = int((joined["y"] != joined["_y"]).sum())
    if different:
        raise UsageError(
            f"{different:,} labels differ between the two runs.",
            "They were made from two versions of the dataset.",
            "Probe both models on the newest version: fmcache probe lp",
        )
    bare = joined.drop("_score", "_y")
    both = [bare, bare.with_columns(joined["_score"].alias("score"))]
    names = list(by) if by is not None else attribute_names(both[0], setting.bins)
    left, patients = cases_of(both[0], names, split, setting)
    right, _ = cases_of(both[1], names, split, setting)
    resamples = Resamples(patients, setting.draws, setting.seed)
    rows: list[dict[str, Any]] = []
    for a, b in zip(left, right, strict=True):
        rows += _rows(a, b, patients, resamples, baseline, setting)
    _adjust(rows)
    common = {
        key: str((info or {}).get(key, "") or "") for key in ("run_id", "model", "dataset", "usage", "method")
    }
    common |= {"split": split, "definition": DEFINITION}
    dropped = [len(t) - len(joined) for t in (mine, theirs)]
    findings = [
        Finding("warning", f"{dropped[0]:,} and {dropped[1]:,} predictions have no counterpart; left out.")
    ]
    told = finding_rows(findings if any(dropped) else [], left[0].label, left[0].seed, DEFINITION)
    filled = [{**row, **common} for row in [*told, *rows]]
    return pl.DataFrame(
        {name: [row.get(name) for row in filled] for name in RESULT_COLUMNS}, schema=dict(RESULT_COLUMNS)
    )


def _rows(
    a: Case, b: Case, patients: int, resamples: Resamples, baseline: str, setting: Setting
) -> list[dict[str, Any]]:
    drawn, value = [], []
    for case in (a, b):
        prepared = plan(
            case.y, case.score, case.patient, patients, case.partitions(), threshold=case.limits,
            probability=case.probability, exact=setting.exact,
        )  # fmt: skip
        tally = resamples.tally(prepared)
        drawn.append({name: metric.of(tally) for name, metric in METRICS.items()})
        points = {name: np.full(len(case.points), np.nan) for name in METRICS}
        for k, point in enumerate(case.points):
            for name, metric in METRICS.items():
                if not why_undefined(metric, point, setting.floor):
                    points[name][k] = float(metric.of(point))
        value.append(points)
    rows = Rows(setting.level)
    for k, i, grouping, g in a.cells():
        for name, metric in METRICS.items():
            where = {
                "attribute": grouping.attribute, "group": grouping.names[g], "metric": name,
                **a.size(grouping, [g]), **threshold_columns(a, setting, i, g, metric.threshold),
            }  # fmt: skip
            at = float(value[0][name][k] - value[1][name][k])
            _note(rows, where, "difference", at, drawn[0][name][k] - drawn[1][name][k], setting)
    for i, start in list(enumerate(a.starts()))[1:]:
        grouping = a.groupings[i]
        cells = start + np.array(grouping.known, np.int64)
        for name, parts in {
            **{name: (name,) for name in METRICS},
            **{n: c[2] for n, c in COMPOSITES.items()},
        }.items():
            use = cells[~np.isnan(sum(v[part][cells] for v in value for part in parts))]
            where = {
                "attribute": grouping.attribute, "group": "", "metric": name,
                **a.size(grouping, [int(c - start) for c in use]),
                **threshold_columns(a, setting, i, None, METRICS[parts[0]].threshold),
            }  # fmt: skip
            if len(use) < 2:
                continue
            gaps = [mean_gap([v[part][use][:, None] for part in parts])[0] for v in value]
            spread = [mean_gap([d[part][use] for part in parts]) for d in drawn]
            _note(rows, where, "gap_difference", float(gaps[0] - gaps[1]), spread[0] - spread[1], setting)
    fixed = {"label": a.label, "seed": a.seed, "reference": baseline}
    return [row | fixed for row in rows.finish()]


def _note(rows: Rows, where: dict[str, Any], title: str, at: float, apart: Floats, setting: Setting) -> None:
    reason = "" if at == at else "undefined for one of the two models"
    rows.add({**where, "disparity": title}, at, apart, reason)
    kept = apart[~np.isnan(apart)]
    se = float(np.std(kept, ddof=1)) if at == at and len(kept) > 1 else NAN
    rows.plain({**where, "disparity": f"{title}_p"}, two_sided(at, se), None, reason)
    if setting.tolerance is not None and at == at:
        p, verdict = equivalence(at, se, setting.tolerance, 1 - setting.level)
        said = f"difference {verdict} {setting.tolerance:g}" if verdict != UNDECIDED else UNDECIDED
        rows.plain({**where, "disparity": f"{title}_equivalence"}, p, None, said)


def _adjust(rows: list[dict[str, Any]]) -> None:
    family = [row for row in rows if row["metric"] == "auc" and row["disparity"] == "difference_p"]
    p = np.array([row["value"] for row in family])
    for title, adjusted in (("difference_p_holm", holm(p)), ("difference_p_bh", benjamini_hochberg(p))):
        reason = f"one of {len(family)} in the family"
        rows += [
            {**row, "disparity": title, "value": float(q), "reason": reason}
            for row, q in zip(family, adjusted, strict=True)
        ]
