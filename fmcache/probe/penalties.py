"""Which hyper-parameter each column gets: the one whose scores rank the validation samples best."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from fmcache.shapes import Float, Int

GRID = tuple(float(value) for value in np.logspace(-6, 1, 16))
"""Penalties in units of the mean variance of a feature of the training rows."""
_TIE = 1e-9


@dataclass(frozen=True)
class Choice:
    """One hyper-parameter a column.

    Attributes
    ----------
    index : [c], into the hyper-parameters. value : [c], the criterion there (NaN where there was none).
    criterion : per column ``auc``, ``worst_auc``, ``log_loss`` (one class in validation) or ``none`` (no known label).
    """

    index: Int[np.ndarray, " c"]
    value: Float[np.ndarray, " c"]
    criterion: tuple[str, ...]


def choose(
    logits: Float[np.ndarray, "n m c"],
    y: Float[np.ndarray, "n c"],
    group: Int[np.ndarray, " n"] | None = None,
) -> Choice:
    """Choose on validation samples.

    Parameters
    ----------
    logits : of every sample, hyper-parameter (least to most regularised) and column. y : 0, 1 or NaN.
    group : to choose by the worst group's AUC (over the groups that hold both classes); -1 unknown. None: by the AUC.

    Notes
    -----
    The highest AUC; among equals the last. Where validation holds one class only, the lowest log loss; where it holds
    no known label, the one in the middle.
    """
    m = logits.shape[1]
    index = np.full(y.shape[1], m // 2)
    value = np.full(y.shape[1], np.nan)
    criterion = []
    for column in range(y.shape[1]):
        known = ~np.isnan(y[:, column])
        truth, z = y[known, column], logits[known, :, column]
        if not truth.size:
            criterion.append("none")
            continue
        ranked = 0 < truth.sum() < truth.size
        quality = auc(z, truth) if ranked else -log_loss(z, truth)
        name = "auc" if ranked else "log_loss"
        worst = None if group is None or not ranked else worst_auc(z, truth, group[known])
        if worst is not None:
            quality, name = worst, "worst_auc"
        best = int(np.flatnonzero(quality >= quality.max() - _TIE)[-1])
        index[column], value[column] = best, quality[best] if ranked else -quality[best]
        criterion.append(name)
    return Choice(index, value, tuple(criterion))


def worst_auc(
    z: Float[np.ndarray, "n m"], y: Float[np.ndarray, " n"], group: Int[np.ndarray, " n"]
) -> Float[np.ndarray, " m"] | None:
    """The lowest AUC over the groups that hold both classes; None if there is none. -1 is no group."""
    each = group_aucs(z, y, group)
    return np.min(list(each.values()), axis=0) if each else None


def group_aucs(
    z: Float[np.ndarray, "n m"], y: Float[np.ndarray, " n"], group: Int[np.ndarray, " n"]
) -> dict[int, Float[np.ndarray, " m"]]:
    """The AUC of every group that holds both classes."""
    masks = {int(g): group == g for g in np.unique(group[group >= 0])}
    return {g: auc(z[mask], y[mask]) for g, mask in masks.items() if 0 < y[mask].sum() < mask.sum()}


def auc(z: Float[np.ndarray, "n m"], y: Float[np.ndarray, " n"]) -> Float[np.ndarray, " m"]:
    """Area under the ROC curve of every column, in [0, 1], ties count half; `y` holds both classes."""
    positive = y > 0
    n_positive = int(positive.sum())
    ranks = rankdata(z, axis=0)[positive].sum(axis=0)
    return (ranks - n_positive * (n_positive + 1) / 2) / (n_positive * (len(y) - n_positive))


def log_loss(z: Float[np.ndarray, "n m"], y: Float[np.ndarray, " n"]) -> Float[np.ndarray, " m"]:
    """Mean negative log likelihood of every column of logits, in nats."""
    return (np.logaddexp(0, z) - y[:, None] * z).mean(axis=0)
