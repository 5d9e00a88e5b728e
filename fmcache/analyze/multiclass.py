"""Several classes, one label: what one-vs-rest metrics do not say.

Every class is measured one against the rest by `evaluate`, under the label ``dx=melanoma``. The label ``dx`` itself
gets the numbers that need all classes: the decision is the class with the largest score (the first of equals).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from fmcache.analyze.areas import Floats, areas_of
from fmcache.analyze.bootstrap import Resamples
from fmcache.analyze.calibration import BINS, SMALLEST, bin_of
from fmcache.analyze.cases import OVERALL, Setting, patient_codes
from fmcache.analyze.differences import family_rows
from fmcache.analyze.findings import Finding, family_findings
from fmcache.analyze.metrics import DEFINITION, Metric, ratio
from fmcache.analyze.metrics import auc as area
from fmcache.analyze.partitions import Partition
from fmcache.analyze.permutation import dealing
from fmcache.analyze.references import named_references
from fmcache.analyze.rows import in_order
from fmcache.analyze.scores import SumCase, Values, sum_rows
from fmcache.analyze.weighted import plan
from fmcache.errors import UsageError
from fmcache.store.groups import Bins, Grouping, group_by
from fmcache.store.schema import RESULT_COLUMNS

_NONE: Any = None  # these metrics are functions of sums, not of a Tally
MULTICLASS: dict[str, Metric] = {
    "accuracy": Metric("accuracy over classes", "share of samples whose largest score is the truth", "higher",
                       "samples", _NONE),
    "balanced_accuracy": Metric("macro recall", "mean over classes of the share of its samples that are recognised",
                                "higher", "samples", _NONE),
    "f1_macro": Metric("macro F1", "mean over classes of 2 TP / (2 TP + FP + FN)", "higher", "samples", _NONE),
    "auc_macro": Metric("macro AUC", "mean over classes of the AUC of one against the rest", "higher", "samples",
                        _NONE),
    "brier": Metric("Brier score over classes", "mean of Σ_classes (p − [y = class])², 0 to 2", "lower", "samples",
                    _NONE, probability=True, high=2.0),
    "log_loss": Metric("log loss over classes", "mean of −log(p of the truth), in nats", "lower", "samples", _NONE,
                       probability=True, high=36.05),
    "ece": Metric("top-label calibration error", "Σ over 10 bins of the largest p of n_bin/n · |mean p − share right|",
                  "lower", "samples", _NONE, probability=True),
}  # fmt: skip
MACRO = {"auc": "auc_macro", "f1": "f1_macro"}  # of a binary metric → its mean over classes


def class_columns(table: pl.DataFrame, labels: Sequence[str], scores: Sequence[str]) -> dict[str, str]:
    """class → score column, if one label has several scores; empty for binary labels.

    A score column belongs to the class it is named after (``melanoma``, ``p_melanoma``, ``prob.melanoma``), or to
    the one written before it (``melanoma=p1``).

    Raises
    ------
    UsageError : numbers of labels and scores that do not fit; a class without a score.
    """
    if len(labels) > 1 or len(scores) == 1:
        if len(labels) != len(scores):
            raise UsageError(
                f"There are {len(labels)} labels and {len(scores)} scores.",
                f"Labels: {', '.join(labels)}. Scores: {', '.join(scores)}.",
                "Give one score a label; or one label that holds class names, and one score a class.",
            )
        return {}
    said = table[labels[0]].cast(pl.String).str.strip_chars()
    classes = sorted(said.filter(said != "").drop_nulls().unique().to_list())
    found: dict[str, str] = {}
    for one in scores:
        before, equals, column = one.rpartition("=")
        ends = [name for name in classes if column.lower().endswith(name.lower())]
        name = before if equals else max(ends, key=len, default="")
        if name not in classes or name in found:
            close = difflib.get_close_matches(name or column, classes, n=1, cutoff=0.4)
            raise UsageError(
                f"The score {column} belongs to no class of {labels[0]}, or to one that has a score already.",
                f"Classes: {', '.join(classes[:20])}.",
                f"Type: --score {close[0] if close else 'CLASS'}={column},…",
            )
        found[name] = column
    if missing := [name for name in classes if name not in found]:
        raise UsageError(
            f"The class {missing[0]} of {labels[0]} has no score.",
            f"Classes: {', '.join(classes[:20])}. Scores: {', '.join(scores)}.",
            f"Type: --score {missing[0]}=COLUMN,…",
        )
    return found


def multiclass_rows(
    predictions: pl.DataFrame, label: str, classes: list[str], by: list[str], info: Mapping[str, Any], *,
    bins: Mapping[str, Bins] | None = None, split: str = "test", setting: Setting | None = None, **options: Any,
) -> tuple[pl.DataFrame, list[Finding]]:  # fmt: skip
    """The rows of the label as a whole, and over which family of differences they are adjusted.

    The family is that of the setting, where ``auc`` and ``f1`` mean their means over classes.

    Parameters
    ----------
    predictions : one-vs-rest predictions with the labels ``label=class``, in the same order of samples for each.
    """
    setting = replace(setting or Setting(), **options)
    parts = [predictions.filter(label=f"{label}={name}") for name in classes]
    keep = (parts[0]["split"] == split) & parts[0]["y"].is_not_nan()
    for part in parts:
        keep &= part["score"].is_finite()
    parts = [part.filter(keep) for part in parts]
    first = parts[0]
    truth = np.argmax(np.stack([part["y"].to_numpy() for part in parts], axis=1), axis=1)
    score = np.stack([part["score"].to_numpy() for part in parts], axis=1)
    patient = patient_codes(first)
    patients = int(patient.max()) + 1
    everyone = Grouping("", (OVERALL,), np.zeros(len(first), np.int64))
    groupings = [everyone] + [group_by(first, name, bins or {}) for name in by]
    probability = bool(
        (score >= 0).all() and (score <= 1).all() and np.allclose(score.sum(axis=1), 1, atol=1e-3)
    )
    resamples = Resamples(patients, setting.draws, setting.seed)
    extra = [_macro_auc(truth, score, patient, patients, one, resamples, setting) for one in groupings]
    dealt = [_macro_auc_of_permuted(truth, score, patient, one, setting) for one in groupings]
    columns = _columns(truth, score, probability)
    case = SumCase(
        label, 0, columns, lambda s: _values(s, len(classes), probability), MULTICLASS, patient, groupings,
        np.zeros(len(first), bool), extra, dealt, [MACRO.get(name, name) for name in setting.family],
    )  # fmt: skip
    references = named_references(groupings, patient, setting.reference)
    keys = ("run_id", "model", "dataset", "usage", "method")
    common = {key: str(info.get(key, "") or "") for key in keys} | {"split": split, "definition": DEFINITION}
    rows, family = sum_rows(case, patients, resamples, references, setting)
    rows = [row | common for row in in_order(rows + family_rows(family, setting.level))]
    table = pl.DataFrame(
        {name: [row.get(name) for row in rows] for name in RESULT_COLUMNS}, schema=dict(RESULT_COLUMNS)
    )
    return table, family_findings(family)


def _columns(truth: Any, score: Floats, probability: bool) -> Floats:
    """[n, 3c + 1 (+ 2 + 10)]: truth, calls and hits a class; right; Brier, log loss, residual a confidence bin."""
    n, c = score.shape
    rows = np.arange(n)
    called = np.argmax(score, axis=1)
    right = called == truth
    out = np.zeros((n, 3 * c + 1 + (2 + BINS if probability else 0)))
    out[rows, truth] = 1
    out[rows, c + called] = 1
    out[rows[right], 2 * c + truth[right]] = 1
    out[:, 3 * c] = right
    if probability:
        onehot = out[:, :c]
        out[:, 3 * c + 1] = ((score - onehot) ** 2).sum(axis=1)
        out[:, 3 * c + 2] = -np.log(np.clip(score[rows, truth], SMALLEST, 1))
        top = score[rows, called]
        out[rows, 3 * c + 3 + bin_of(top)] = top - right
    return out


def _values(s: Floats, c: int, probability: bool) -> Values:
    truth, called, hits = s[:, :c], s[:, c : 2 * c], s[:, 2 * c : 3 * c]
    n = truth.sum(axis=1)
    found = {
        "accuracy": ratio(s[:, 3 * c], n),
        "balanced_accuracy": ratio(hits, truth).mean(axis=1),  # NaN if a class is absent
        "f1_macro": ratio(2 * hits, truth + called).mean(axis=1),
    }
    if probability:
        found["brier"], found["log_loss"] = ratio(s[:, 3 * c + 1], n), ratio(s[:, 3 * c + 2], n)
        found["ece"] = ratio(np.abs(s[:, 3 * c + 3 :]).sum(axis=1), n)
    return found


def _macro_auc(
    truth: Any, score: Floats, patient: Any, patients: int, grouping: Grouping, resamples: Resamples, setting: Setting
) -> Values:  # fmt: skip
    part = Partition(grouping.codes, len(grouping.names))
    total: Any = 0.0
    for k in range(score.shape[1]):
        y = truth == k
        mine = [grouping.codes == g for g in range(part.size)]
        small = [min(int(y[m].sum()), int((~y[m]).sum())) < setting.floor for m in mine]
        points = [np.nan if few else area(y[m], score[m, k]) for few, m in zip(small, mine, strict=True)]
        drawn = resamples.tally(plan(y, score[:, k], patient, patients, [part], auprc=False)).auc
        total = total + np.concatenate([np.array(points)[:, None], drawn], axis=1)
    return {"auc_macro": total / score.shape[1]}


def _macro_auc_of_permuted(
    truth: Any, score: Floats, patient: Any, grouping: Grouping, setting: Setting
) -> Values:
    """[groups, permutations], of the groups that the other metrics' null gaps are of."""
    if setting.permutations < 1 or len(grouping.known) < 2:
        return {}
    rows, size = np.isin(grouping.codes, grouping.known), len(grouping.names)
    truth, score = truth[rows], score[rows]
    unit, units, chunks, deal = dealing(
        np.zeros(len(truth), bool),
        patient[rows],
        grouping.codes[rows],
        size,
        setting.permutations,
        setting.seed,
    )
    everyone = Partition(np.zeros(len(truth), np.int64), 1)
    areas = [
        areas_of(truth == k, score[:, k].astype(np.float64), unit, units, [everyone])[0]
        for k in range(score.shape[1])
    ]
    pieces = []
    for some in chunks:
        weights = deal(some)
        mean = np.mean([one.under(weights, auprc=False)[2][0] for one in areas], axis=0)
        pieces.append(mean.reshape(size, -1))
    return {"auc_macro": np.concatenate(pieces, axis=1)}
