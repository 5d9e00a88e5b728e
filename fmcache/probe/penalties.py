"""Which penalty each label gets: the one whose scores rank the validation samples best."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from fmcache.shapes import Float, Int

GRID = tuple(float(value) for value in np.logspace(-5, 1, 13))
"""Penalties in units of the mean variance of a feature of the training rows."""
DEFAULT = 6  # 1e-2, where no validation sample can tell
_TIE = 1e-9


@dataclass(frozen=True)
class Choice:
    """One penalty a label.

    Attributes
    ----------
    index : [c], into the penalties. value : [c], the criterion there (NaN where there was none).
    criterion : per label ``auc``, ``log_loss`` (one class in validation) or ``none`` (no known label there).
    """

    index: Int[np.ndarray, " c"]
    value: Float[np.ndarray, " c"]
    criterion: tuple[str, ...]


def choose(
    logits: Float[np.ndarray, "n m c"], y: Float[np.ndarray, "n c"], penalties: Float[np.ndarray, " m"]
) -> Choice:
    """Choose on validation samples.

    Parameters
    ----------
    logits : of every sample, penalty and label. y : 0, 1 or NaN. penalties : ascending.

    Notes
    -----
    The highest AUC; among equals the larger penalty. Where validation holds one class only, the lowest log loss;
    where it holds no known label, the penalty at `DEFAULT`.
    """
    if not (np.diff(penalties) > 0).all():
        raise ValueError("penalties must ascend")
    index = np.full(y.shape[1], min(DEFAULT, len(penalties) - 1))
    value = np.full(y.shape[1], np.nan)
    criterion = []
    for label in range(y.shape[1]):
        known = ~np.isnan(y[:, label])
        truth, z = y[known, label], logits[known, :, label]
        if not truth.size:
            criterion.append("none")
            continue
        ranked = 0 < truth.sum() < truth.size
        quality = auc(z, truth) if ranked else -log_loss(z, truth)
        best = int(np.flatnonzero(quality >= quality.max() - _TIE)[-1])
        index[label], value[label] = best, quality[best] if ranked else -quality[best]
        criterion.append("auc" if ranked else "log_loss")
    return Choice(index, value, tuple(criterion))


def auc(z: Float[np.ndarray, "n m"], y: Float[np.ndarray, " n"]) -> Float[np.ndarray, " m"]:
    """Area under the ROC curve of every column, in [0, 1], ties count half; `y` holds both classes."""
    positive = y > 0
    n_positive = int(positive.sum())
    ranks = rankdata(z, axis=0)[positive].sum(axis=0)
    return (ranks - n_positive * (n_positive + 1) / 2) / (n_positive * (len(y) - n_positive))


def log_loss(z: Float[np.ndarray, "n m"], y: Float[np.ndarray, " n"]) -> Float[np.ndarray, " m"]:
    """Mean negative log likelihood of every column of logits, in nats."""
    return (np.logaddexp(0, z) - y[:, None] * z).mean(axis=0)
