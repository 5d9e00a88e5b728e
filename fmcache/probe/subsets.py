"""Training on fewer samples: a share of the patients, or equally many of every group, beside a control of that size.

All draws are by a seeded order of the sorted ids, so they do not depend on the order of rows or on the model; a larger
fraction contains the smaller ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fmcache.shapes import Bool, Float, Int


@dataclass(frozen=True)
class Subset:
    """One way to choose training samples.

    Attributes
    ----------
    fraction : of the training patients. balance : "", an attribute, or ``label*attribute``.
    control : draw as many samples as the balanced set has, without balancing (from the same known groups).
    """

    fraction: float = 1.0
    balance: str = ""
    control: bool = False

    @property
    def parts(self) -> list[str]:
        """What tells it from all training samples: ``fraction=0.05``, ``balance=sex``."""
        parts = [f"fraction={self.fraction:g}"] if self.fraction < 1 else []
        if self.balance:
            parts.append(f"{'control' if self.control else 'balance'}={self.balance}")
        return parts

    @property
    def name(self) -> str:
        """``[fraction=0.05]``; "" for all training samples."""
        return bracketed(self.parts)

    @property
    def attribute(self) -> str:
        """Of the balance, without ``label*``."""
        return self.balance.removeprefix("label*")


def bracketed(parts: Sequence[str]) -> str:
    """What stands behind a method's name: ``[fraction=0.05,protocol=paper]``; "" for nothing."""
    return f"[{','.join(parts)}]" if parts else ""


def subsets_of(fractions: Sequence[float], balance: str) -> list[Subset]:
    """Every fraction; with a balance, the balanced set and its control for each."""
    kinds = [(balance, False), (balance, True)] if balance else [("", False)]
    return [Subset(fraction, *kind) for fraction in dict.fromkeys(fractions) for kind in kinds]


def choose_samples(
    subset: Subset,
    train: Bool[np.ndarray, " k"],
    y: Float[np.ndarray, "k c"],
    sample_ids: Sequence[str],
    patients: Sequence[str],
    group: Int[np.ndarray, " k"],
    seed: int,
) -> Bool[np.ndarray, "k c"]:
    """Which samples train each label.

    Parameters
    ----------
    train : of the split. y : labels, NaN unknown. group : of the balance's attribute, -1 unknown.

    Notes
    -----
    Samples of unknown group are not drawn; those of unknown label do not train that label, and do not count. Balanced
    on a group: as many known samples of each group as the smallest has; on ``label*group``: as many of every label
    and group. Khan et al. 2023 balance so before they compare.
    """
    chosen = np.repeat(train[:, None], y.shape[1], axis=1) & ~np.isnan(y)
    if subset.fraction < 1:
        chosen &= _some_patients(subset.fraction, train, patients, seed)[:, None]
    if subset.balance:
        place = _order(sample_ids, seed)
        for column in range(y.shape[1]):
            chosen[:, column] = _balanced(subset, chosen[:, column], y[:, column], group, place)
    return chosen


def _some_patients(
    fraction: float, train: np.ndarray, patients: Sequence[str], seed: int
) -> Bool[np.ndarray, " k"]:
    names = np.asarray(patients, dtype=object)
    training = sorted(set(names[train]))
    order = np.random.default_rng([seed, 1]).permutation(len(training))
    count = max(1, round(fraction * len(training)))
    kept = {training[index] for index in order[:count]}
    return np.fromiter((name in kept for name in names), bool, len(names))


def _order(sample_ids: Sequence[str], seed: int) -> Int[np.ndarray, " k"]:
    """The place of each sample in a random order of the sorted ids."""
    by_name = np.argsort(np.asarray(sample_ids, dtype=object), kind="stable")
    place = np.empty(len(by_name), np.int64)
    place[by_name] = np.random.default_rng([seed, 2]).permutation(len(by_name))
    return place


def _balanced(
    subset: Subset, chosen: np.ndarray, y: np.ndarray, group: np.ndarray, place: np.ndarray
) -> Bool[np.ndarray, " k"]:
    pool = chosen & (group >= 0)
    by_label = subset.balance.startswith("label*")
    cell = group * 2 + (y > 0) if by_label else group
    present = np.unique(group[pool])
    wanted = [g * 2 + value for g in present for value in (0, 1)] if by_label else list(present)
    smallest = min((int((pool & (cell == one)).sum()) for one in wanted), default=0)
    out = np.zeros_like(chosen)
    if subset.control:
        rows = np.flatnonzero(pool)
        out[rows[np.argsort(place[rows])][: smallest * len(wanted)]] = True
        return out
    for one in wanted:
        rows = np.flatnonzero(pool & (cell == one))
        out[rows[np.argsort(place[rows])][:smallest]] = True
    return out
