"""Post-processing: decisions that depend on the group, made from the scores of erm.

**Nobody can be scored without their group**: `attribute_at_test` is true, and the run records it.

group-thresholds
    One threshold a group. On validation rows t is the threshold of all (largest TPR - FPR) and r its TPR; group g gets
    the highest t_g whose TPR is at least r (equal opportunity; Hardt, Price & Srebro, "Equality of opportunity in
    supervised learning", NeurIPS 2016, section 3.2). The stored logit is z - t_g: the decision is logit ≥ 0, that is,
    score ≥ 0.5, and within a group the ranking is that of erm.

eqodds-post
    Equalised odds (the same paper, section 4): every group gets the same point (FPR, TPR), the best one below the
    convex hulls of all ROC curves, reached by a random choice between two thresholds and a constant. See `Mixture`.

Where the validation rows of a group lack a class, and for rows whose group is unknown, the threshold of all is used
(the mixture of all, for eqodds-post). The penalty is the one that erm chooses: the stored decisions choose nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from fmcache.errors import UsageError
from fmcache.probe.erm import fit_weighted
from fmcache.probe.pooling import pool
from fmcache.probe.problem import Method, Problem, Solution
from fmcache.shapes import Bool, Float, Int

GRID = np.linspace(0, 1, 1001)
"""False positive rates among which the common point is chosen."""


@dataclass(frozen=True)
class Roc:
    """The upper convex hull of a ROC curve: points from (0, 0) to (1, 1), and the threshold of each (score > t)."""

    fpr: Float[np.ndarray, " k"]
    tpr: Float[np.ndarray, " k"]
    threshold: Float[np.ndarray, " k"]


def roc_hull(z: Float[np.ndarray, " n"], y: Bool[np.ndarray, " n"]) -> Roc:
    """Of scores and labels; both classes must be there. A threshold lies midway between two scores."""
    order = np.argsort(-z, kind="stable")
    last = np.append(np.flatnonzero(np.diff(z[order])), len(z) - 1)
    tp, fp = np.cumsum(y[order])[last], np.cumsum(~y[order])[last]
    below = np.append(z[order][last[1:]], -np.inf)
    tpr = np.concatenate([[0.0], tp / tp[-1]])
    fpr = np.concatenate([[0.0], fp / fp[-1]])
    threshold = np.concatenate([[np.inf], (z[order][last] + below) / 2])
    kept: list[int] = []
    for at in np.lexsort((tpr, fpr)):
        while len(kept) > 1:
            a, b = kept[-2], kept[-1]
            if (tpr[b] - tpr[a]) * (fpr[at] - fpr[a]) <= (tpr[at] - tpr[a]) * (fpr[b] - fpr[a]):
                kept.pop()
            else:
                break
        if len(kept) == 1 and fpr[kept[0]] == fpr[at]:
            kept.pop()
        kept.append(int(at))
    return Roc(fpr[kept], tpr[kept], threshold[kept])


@dataclass(frozen=True)
class Mixture:
    """P(decide yes | z) = stay · constant + (1 - stay) · (p · 1[z > low] + (1 - p) · 1[z > high])."""

    stay: float
    constant: float
    p: float
    first: float
    second: float

    def __call__(self, z: Float[np.ndarray, "*s"]) -> Float[np.ndarray, "*s"]:
        """The probability of yes, which does not fall as z rises."""
        mixed = self.p * (z > self.first) + (1 - self.p) * (z > self.second)
        return self.stay * self.constant + (1 - self.stay) * mixed

    def numbers(self) -> tuple[float, ...]:
        """For the run's arrays."""
        return self.stay, self.constant, self.p, self.first, self.second


def equalise_odds(curves: list[Roc]) -> list[Mixture]:
    """The mixture of each group that gives all the same (FPR, TPR), with the largest TPR - FPR on `GRID`."""
    rows = []
    for curve in curves:
        left = np.searchsorted(curve.fpr, GRID, side="right") - 1
        left[1:] = np.where(GRID[1:] == curve.fpr[left[1:]], left[1:] - 1, left[1:])
        p = (curve.fpr[left + 1] - GRID) / (curve.fpr[left + 1] - curve.fpr[left])
        rows.append((left, p, p * curve.tpr[left] + (1 - p) * curve.tpr[left + 1]))
    lowest = np.min([tpr for _, _, tpr in rows], axis=0)
    best = int(np.argmax(np.around(lowest - GRID, 12)))
    fpr, tpr = float(GRID[best]), float(lowest[best])
    out = []
    for curve, (left, p, own) in zip(curves, rows, strict=True):
        above = own[best] - fpr
        stay = float((own[best] - tpr) / above) if above > 0 else 0.0
        at = left[best]
        first, second = curve.threshold[at], curve.threshold[at + 1]
        out.append(Mixture(stay, fpr, float(p[best]), float(first), float(second)))
    return out


def common_threshold(z: Float[np.ndarray, " n"], y: Bool[np.ndarray, " n"]) -> float:
    """The highest t with the largest TPR - FPR of z >= t."""
    order = np.argsort(-z, kind="stable")
    last = np.append(np.flatnonzero(np.diff(z[order])), len(z) - 1)
    tp, fp = np.cumsum(y[order])[last], np.cumsum(~y[order])[last]
    return float(z[order][last][np.argmax(np.around(tp / tp[-1] - fp / fp[-1], 12))])


def equal_tpr(
    z: Float[np.ndarray, " n"], y: Bool[np.ndarray, " n"], code: Int[np.ndarray, " n"], groups: int
) -> Float[np.ndarray, " g+1"]:
    """t_g of each group, and last the threshold of all; decision z >= t."""
    if not 0 < y.sum() < y.size:
        return np.zeros(groups + 1)
    whole = common_threshold(z, y)
    wanted = (z[y] >= whole).mean()
    out = np.full(groups + 1, whole)
    for g in range(groups):
        own = np.sort(z[y & (code == g)])[::-1]
        if own.size and (~y & (code == g)).any():
            out[g] = own[max(int(np.ceil(wanted * own.size - 1e-9)), 1) - 1]
    return out


def equal_odds(
    z: Float[np.ndarray, " n"], y: Bool[np.ndarray, " n"], code: Int[np.ndarray, " n"], groups: int
) -> list[Mixture]:
    """The mixture of each group, and last that of all rows (the best point of their hull)."""
    if not 0 < y.sum() < y.size:
        return [Mixture(0.0, 0.0, 1.0, 0.0, 0.0)] * (groups + 1)
    there = [g for g in range(groups) if 0 < y[code == g].sum() < (code == g).sum()]
    (whole,) = equalise_odds([roc_hull(z, y)])
    out = [whole] * (groups + 1)
    if there:
        curves = [roc_hull(z[code == g], y[code == g]) for g in there]
        for g, mixture in zip(there, equalise_odds(curves), strict=True):
            out[g] = mixture
    return out


def lots(x: Float[np.ndarray, "n d"], seed: int) -> Float[np.ndarray, " n"]:
    """A number in [0, 1) for each row, from its embedding and the seed alone: the order of rows does not matter."""
    key = seed.to_bytes(8, "little")
    rows = np.ascontiguousarray(x, np.float32)
    drawn = [
        int.from_bytes(blake2b(row.tobytes(), digest_size=8, key=key).digest(), "little") for row in rows
    ]
    return np.array(drawn, np.float64) / 2**64


# ------------------------------------------------------------------------------------------------------ the methods


@dataclass(frozen=True)
class _Validated:
    """erm, and what the validation samples (k) say of it: logits [k, m, c], y [k, c], group [k]."""

    base: Solution
    z: np.ndarray
    y: np.ndarray
    group: np.ndarray

    def known(self, setting: int, column: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rows = ~np.isnan(self.y[:, column])
        return self.z[rows, setting, column], self.y[rows, column] > 0, self.group[rows]


def _logits(base: Solution, x: np.ndarray) -> np.ndarray:
    assert base.w is not None
    assert base.b is not None
    m, c, d = base.w.shape
    flat = base.w.reshape(m * c, d).T
    out = np.empty((x.shape[0], m * c))
    for start in range(0, len(out), 8192):
        out[start : start + 8192] = x[start : start + 8192].astype(np.float64) @ flat
    return out.reshape(-1, m, c) + base.b


def _validated(problem: Problem) -> _Validated:
    base, val = fit_weighted(problem, problem.weights), problem.val
    _, first, sample = np.unique(val.sample, return_index=True, return_inverse=True)
    z = pool(_logits(base, val.x), sample, problem.volume)
    return _Validated(base, z, val.y[first], val.group[first])


def _fit_thresholds(problem: Problem) -> Solution:
    seen, g = _validated(problem), len(problem.groups)
    _, m, c = seen.z.shape
    threshold = np.array(
        [[equal_tpr(*seen.known(j, l), g) for l in range(c)] for j in range(m)]
    )  # [m, c, g+1]

    def logits(x: np.ndarray, group: np.ndarray) -> np.ndarray:
        return _logits(seen.base, x) - threshold[:, :, group].transpose(2, 0, 1)

    return Solution(
        seen.base.hyper,
        seen.base.w,
        seen.base.b,
        logits,
        converged=seen.base.converged,
        facts={"decision": "score >= 0.5", "equal_on_validation": "TPR"},
        parameters=_arrays(seen.base, thresholds=threshold),
    )


def _fit_eqodds(problem: Problem) -> Solution:
    if len(np.unique(problem.val.sample)) < len(problem.val.sample):
        raise UsageError(
            "eqodds-post draws one decision a sample, and these samples have several slices.",
            "",
            "Use group-thresholds, or extract one embedding a sample.",
        )
    seen, g = _validated(problem), len(problem.groups)
    _, m, c = seen.z.shape
    mixtures = [[equal_odds(*seen.known(j, l), g) for l in range(c)] for j in range(m)]
    seeds = [at.seed for at in problem.columns]

    def logits(x: np.ndarray, group: np.ndarray) -> np.ndarray:
        z = _logits(seen.base, x)
        out = np.empty_like(z)
        lot = {seed: lots(x, seed) for seed in set(seeds)}
        for code in np.unique(group):
            rows = np.flatnonzero(group == code)
            for j in range(m):
                for l in range(c):
                    yes = mixtures[j][l][code](z[rows, j, l]) > lot[seeds[l]][rows]
                    out[rows, j, l] = decided(z[rows, j, l], yes)
        return out

    numbers = np.array([[[each.numbers() for each in row] for row in rows] for rows in mixtures])
    return Solution(
        seen.base.hyper,
        seen.base.w,
        seen.base.b,
        logits,
        converged=seen.base.converged,
        facts={"decision": "score >= 0.5", "equal_on_validation": "TPR and FPR", "randomised": True},
        parameters=_arrays(seen.base, mixtures=numbers),
    )


def decided(z: Float[np.ndarray, " n"], yes: Bool[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """A logit whose sign is the decision and that rises with z among equal decisions."""
    return np.where(yes, np.logaddexp(0, z), np.minimum(-np.logaddexp(0, -z), -1e-9))


def _arrays(base: Solution, **more: np.ndarray) -> dict[str, np.ndarray]:
    assert base.w is not None
    assert base.b is not None
    return {"erm_w": base.w, "erm_b": base.b, **more}


GROUP_THRESHOLDS = Method(
    name="group-thresholds",
    fit=_fit_thresholds,
    summary="erm, then a threshold for each group with the same sensitivity (TPR) on validation.",
    source="Hardt et al., NeurIPS 2016, section 3.2",
    attribute_at_test=True,
    protocols=("convex", "paper", "fairmedfm"),
    streams=True,
    version=2,
)
EQODDS_POST = Method(
    name="eqodds-post",
    fit=_fit_eqodds,
    stochastic=True,
    summary="erm, then randomised thresholds with the same TPR and FPR in every group on validation.",
    source="Hardt et al., NeurIPS 2016, section 4",
    attribute_at_test=True,
    protocols=("convex", "paper", "fairmedfm"),
    streams=True,
    version=2,
)
