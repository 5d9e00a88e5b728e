"""LEACE: the least change of the embedding after which no linear probe can read the attribute.

Source: Belrose et al., "LEACE: perfect linear concept erasure in closed form", NeurIPS 2023, theorem 4.2. With z the
one-hot attribute, Σ the covariances over rows whose group is known, and W = (Σ_xx^½)⁺::

    x' = x - W⁺ P W (x - E x)         P: orthogonal projection onto the columns of W Σ_xz;  rank ≤ G - 1

so that Cov(x', z) = 0: every linear probe of the group predicts its base rates, whatever the convex loss (theorem 3.1).
The map is affine: the head fitted on x' is a head on x, and nobody's attribute is needed at test. All in float64.
Rows whose group is unknown are mapped like all others and teach the map nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fmcache.errors import UsageError
from fmcache.probe.erm import prevalence_of
from fmcache.probe.logistic import fit_logistic
from fmcache.probe.problem import Method, Problem, Solution
from fmcache.shapes import Float, Int

_ROWS = 8192


@dataclass(frozen=True)
class Eraser:
    """x' = x - (x - mean) @ read.T @ write.T.

    Attributes
    ----------
    read : [k, d] float64, what is removed is read here. write : [d, k], and taken off here. mean : [d].
    """

    read: Float[np.ndarray, "k d"]
    write: Float[np.ndarray, "d k"]
    mean: Float[np.ndarray, " d"]

    def __call__(self, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
        """Erase, in float64."""
        return x - ((x - self.mean) @ self.read.T) @ self.write.T

    def pull_back(
        self, w: Float[np.ndarray, "*k d"], b: Float[np.ndarray, "*k"]
    ) -> tuple[Float[np.ndarray, "*k d"], Float[np.ndarray, "*k"]]:
        """The head on x that equals the head (w, b) on x'."""
        along = w @ self.write
        return w - along @ self.read, b + along @ (self.read @ self.mean)


def fit_leace(x: Float[np.ndarray, "n d"], group: Int[np.ndarray, " n"]) -> Eraser:
    """Fit the eraser on the rows whose group is not -1.

    Raises
    ------
    ValueError : fewer than two groups have rows.
    """
    group = np.asarray(group)
    rows = np.flatnonzero(group >= 0)
    names, code = np.unique(group[rows], return_inverse=True)
    if names.size < 2:
        raise ValueError("erasing an attribute needs rows of two groups")
    n, d = rows.size, x.shape[1]
    mean = x[rows].mean(axis=0, dtype=np.float64)
    cov, sums = np.zeros((d, d)), np.zeros((names.size, d))
    for start in range(0, n, _ROWS):
        part = x[rows[start : start + _ROWS]].astype(np.float64) - mean
        cov += part.T @ part
        np.add.at(sums, code[start : start + _ROWS], part)
    variances, basis = np.linalg.eigh(cov / n)
    real = variances > variances[-1] * d * np.finfo(np.float64).eps
    root = np.sqrt(variances[real])
    basis = basis[:, real]
    # Σ_xz has one column a group: n_g (mean_g - mean) / n; in the whitened basis its span is what must go
    whitened = (sums / n @ basis / root).T  # [rank, groups]
    left, strength, _ = np.linalg.svd(whitened, full_matrices=False)
    span = left[:, strength > strength[0] * 1e-10] if strength[0] > 0 else left[:, :0]
    return Eraser(((basis / root) @ span).T, (basis * root) @ span, mean)


def _fit(problem: Problem) -> Solution:
    """Erase the attribute, fit on what is left; m = penalties. Columns that train on the same rows share an eraser.

    The heads apply to the embedding as it is in the cache; `parameters` holds eraser_read [c, k, d], …
    """
    train, m, (c, d) = problem.train, len(problem.penalties), (len(problem.columns), problem.train.x.shape[1])
    w, b, converged = np.empty((m, c, d)), np.empty((m, c)), np.empty((m, c), bool)
    rank = len(problem.groups) - 1
    read, write, mean = np.zeros((c, rank, d)), np.zeros((c, d, rank)), np.zeros((c, d))
    known = ~np.isnan(train.y)
    sets: dict[bytes, list[int]] = {}
    for column in range(c):
        sets.setdefault(known[:, column].tobytes(), []).append(column)
    for same in sets.values():
        own, rows = np.array(same), np.flatnonzero(known[:, same[0]])
        if len(set(train.group[rows]) - {-1}) < 2:
            raise UsageError(
                f"Erasing {problem.attribute} needs training rows of two groups.",
                f"Groups: {', '.join(problem.groups)}.",
                "Choose another attribute.",
            )
        eraser = fit_leace(train.x[rows], train.group[rows])
        erased = eraser(train.x[rows]).astype(np.float32)
        weights = problem.weights[np.ix_(rows, own)]
        fit = fit_logistic(erased, train.y[np.ix_(rows, own)], problem.penalties.tolist(), weights=weights)
        w[:, own], b[:, own] = eraser.pull_back(fit.w, fit.b)
        converged[:, own] = fit.converged
        k = len(eraser.read)
        read[own, :k], write[own, :, :k], mean[own] = eraser.read, eraser.write, eraser.mean
    return Solution(
        tuple({"penalty": float(value)} for value in problem.penalties),
        w,
        b,
        converged=converged,
        prevalence=prevalence_of(train.y, problem.weights),
        facts={"erased_directions": (np.abs(read).sum(axis=2) > 0).sum(axis=1).tolist()},
        parameters={"eraser_read": read, "eraser_write": write, "eraser_mean": mean},
    )


LEACE = Method(
    name="leace",
    fit=_fit,
    summary="The attribute is erased from the embedding, so that no linear probe can read it; then erm.",
    source="Belrose et al., NeurIPS 2023, theorem 4.2",
    has_prior=True,
)
