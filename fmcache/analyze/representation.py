"""Can the groups of an attribute be told apart in the embeddings? Silhouette and MMD.

Both numbers are compared with the same embeddings under groups dealt anew, for neither is 0 by chance. One image a
patient is used (the first by sample_id), at most `most` patients, so that images are independent and n² fits.
How well a probe predicts the attribute is `fmcache probe attribute`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from fmcache.analyze.areas import Floats, Ints
from fmcache.analyze.cases import patient_codes
from fmcache.analyze.permutation import chance
from fmcache.store.groups import attribute_names, group_by

MOST = 2000  # patients; a seeded choice of them beyond
PERMUTATIONS = 199
FEWEST = 10  # patients of a group
REPRESENTATION_COLUMNS = {
    "attribute": pl.String(), "group": pl.String(), "metric": pl.String(), "value": pl.Float64(),
    "null": pl.Float64(), "null_low": pl.Float64(), "null_high": pl.Float64(), "p": pl.Float64(),
    "n_patients": pl.Int64(), "reason": pl.String(),
}  # fmt: skip


def chosen_rows(samples: pl.DataFrame, most: int = MOST, seed: int = 0) -> Ints:
    """The positions of one image of each of at most `most` patients, rising."""
    patient = patient_codes(samples)
    order = np.lexsort((samples["sample_id"].to_numpy(), patient))
    first = order[np.unique(patient[order], return_index=True)[1]]
    if len(first) > most:
        first = np.random.default_rng([seed, 4]).choice(first, most, replace=False)
    return np.sort(first)


def separability(
    x: Floats, samples: pl.DataFrame, by: Sequence[str] | None = None, *, seed: int = 0,
    permutations: int = PERMUTATIONS,
) -> pl.DataFrame:  # fmt: skip
    """Silhouette over all groups of each attribute, and MMD of each group against the others.

    Parameters
    ----------
    x : [n, d], one row a patient (`chosen_rows`). samples : [n] rows with ``attribute.*``.
    by : attributes; None: all that have groups.

    Returns
    -------
    REPRESENTATION_COLUMNS : ``silhouette`` in [−1, 1], 0 = groups are mixed, 1 = apart (Rousseeuw 1987, Euclidean,
    mean over samples); ``mmd2``, the unbiased squared maximum mean discrepancy with a Gaussian kernel whose width is
    the median distance (Gretton et al. 2012), 0 = alike, may be negative. `null` and its 95 % band are those of
    permuted groups; p is one-sided. Groups below 10 patients and ``unknown`` are left out, with a reason.
    """
    x = np.asarray(x, np.float64)
    x = x - x.mean(axis=0)
    squared = (x**2).sum(axis=1)
    d2 = np.maximum(squared[:, None] + squared[None, :] - 2 * (x @ x.T), 0)
    rows: list[dict[str, Any]] = []
    for name in attribute_names(samples) if by is None else by:
        grouping = group_by(samples, name)
        sizes = np.bincount(grouping.codes, minlength=len(grouping.names))
        use = [g for g in grouping.known if sizes[g] >= FEWEST]
        small = [grouping.names[g] for g in grouping.known if sizes[g] < FEWEST]
        left = f"fewer than {FEWEST} patients, left out: {', '.join(small)}" if small else ""
        if len(use) < 2:
            reason = "; ".join(part for part in ("fewer than two groups", left) if part)
            where = {
                "attribute": name,
                "group": "",
                "metric": "silhouette",
                "n_patients": int(sizes[use].sum()),
            }
            rows.append({**where, "value": float("nan"), "reason": reason})
            continue
        keep = np.flatnonzero(np.isin(grouping.codes, use))
        codes = np.searchsorted(use, grouping.codes[keep])
        here = d2[np.ix_(keep, keep)]
        dealt = np.stack(
            [codes, *(np.random.default_rng([seed, 5, k]).permutation(codes) for k in range(permutations))],
            axis=1,
        )
        where = {"attribute": name, "n_patients": len(keep), "reason": left}
        distance = np.sqrt(here)
        found = np.array([silhouette(distance, dealt[:, k], len(use)) for k in range(dealt.shape[1])])
        rows.append({**where, "group": "", "metric": "silhouette", **_against_chance(found)})
        median = float(np.median(here[np.triu_indices(len(keep), 1)]))
        kernel = np.exp(-here / median) if median > 0 else np.ones_like(here)
        for g, code in enumerate(use):
            found = mmd2(kernel, dealt == g)
            rows.append({**where, "group": grouping.names[code], "metric": "mmd2", **_against_chance(found)})
    columns = {name: [row.get(name) for row in rows] for name in REPRESENTATION_COLUMNS}
    return pl.DataFrame(columns, schema=REPRESENTATION_COLUMNS)


def _against_chance(found: Floats) -> dict[str, float]:
    """The first is that of the groups, the others those of permutations."""
    value, null = float(found[0]), found[1:]
    low, high = np.quantile(null, [0.025, 0.975])
    # `chance` wants gaps, which are positive: shift by the least
    shift = float(null.min())
    p = chance(value - shift, null - shift)
    return {
        "value": value,
        "null": float(null.mean()),
        "null_low": float(low),
        "null_high": float(high),
        "p": p,
    }


def silhouette(distance: Floats, codes: Ints, groups: int) -> float:
    """Mean over samples of (b − a) / max(a, b): a the mean distance to the own group, b to the nearest other one.

    Parameters
    ----------
    distance : [n, n]. codes : [n] in 0 … groups − 1, each with at least two samples.
    """
    member = codes[:, None] == np.arange(groups)
    size = member.sum(axis=0)
    mean = distance @ member.astype(np.float64)
    own = mean[np.arange(len(codes)), codes] / (size[codes] - 1)
    mean = mean / size
    mean[np.arange(len(codes)), codes] = np.inf
    nearest = mean.min(axis=1)
    return float(np.mean((nearest - own) / np.maximum(np.maximum(nearest, own), 1e-300)))


def mmd2(kernel: Floats, inside: np.ndarray) -> Floats:
    """The unbiased MMD² of a group against the rest, for many groups: inside [n, k] → [k]."""
    m = inside.astype(np.float64)
    size, total, diagonal = m.sum(axis=0), float(kernel.sum()), np.diag(kernel)
    within = np.einsum("nk,nk->k", m, kernel @ m)
    row = m.T @ kernel.sum(axis=1)
    rest = len(kernel) - size
    across = row - within
    outside = total - 2 * row + within
    first = (within - m.T @ diagonal) / (size * (size - 1))
    second = (outside - (diagonal.sum() - m.T @ diagonal)) / (rest * (rest - 1))
    return np.asarray(first + second - 2 * across / (size * rest))
