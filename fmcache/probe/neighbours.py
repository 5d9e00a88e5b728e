"""k nearest neighbours on frozen embeddings, as DINO and DINOv2 evaluate (Caron et al. 2021, appendix F.1).

Rows are scaled to unit norm; the k training rows of the largest cosine s_i vote for their label with the weight
exp(s_i / 0.07). The score is the weighted share of positive votes, and the logit its log-odds. A row whose label is
unknown never votes: each column has its own neighbours. k is chosen among 10, 20, 100 and 200 on validation patients.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fmcache.probe.erm import prevalence_of
from fmcache.probe.problem import Method, Problem, Solution
from fmcache.shapes import Float

NEIGHBOURS = (10, 20, 100, 200)
TEMPERATURE = 0.07
_QUERIES = 256  # at once
_LEAST = 1e-6  # a share of 0 or 1 has no finite logit


def fit(problem: Problem) -> Solution:
    """Keep the training rows; hyper-parameters are the numbers of neighbours (the largest one last)."""
    sizes = tuple(int(k) for k in problem.grid.get("neighbours", NEIGHBOURS))
    if problem.precision == "bfloat16":
        keys = jnp.asarray(_unit(problem.train.x), jnp.bfloat16)
    else:
        keys = jnp.asarray(_unit(problem.train.x))
    y = problem.train.y
    # columns with the same known rows (all of them, often) share their neighbours
    patterns, which = np.unique(~np.isnan(y), axis=1, return_inverse=True)
    tables = []
    for at in range(patterns.shape[1]):
        columns = np.flatnonzero(which.ravel() == at)
        known = patterns[:, at]
        tables.append((columns, jnp.asarray(known), jnp.asarray(np.nan_to_num(y[:, columns]))))

    def logits(x: np.ndarray, group: np.ndarray) -> np.ndarray:
        out = np.empty((len(x), len(sizes), y.shape[1]))
        for start in range(0, len(x), _QUERIES):
            part = _unit(x[start : start + _QUERIES])
            here = slice(start, start + len(part))
            queries = np.zeros((_QUERIES, part.shape[1]), np.float32)  # one shape, compiled once
            queries[: len(part)] = part
            for columns, known, votes in tables:
                n = int(min(max(sizes), int(known.sum())))
                shares = _shares(keys, known, votes, jnp.asarray(queries, keys.dtype), sizes=sizes, most=n)
                share = np.clip(np.asarray(shares, np.float64)[: len(part)], _LEAST, 1 - _LEAST)
                out[here][:, :, columns] = np.log(share / (1 - share))
        return out

    hyper = tuple({"neighbours": float(k)} for k in sizes)
    return Solution(hyper, logits=logits, prevalence=prevalence_of(y))


@partial(jax.jit, static_argnames=("sizes", "most"))
def _shares(keys: Any, known: Any, votes: Any, queries: Any, *, sizes: tuple[int, ...], most: int) -> Any:
    """Weighted share of positive votes, [q, m, c]."""
    near = jnp.matmul(queries, keys.T, preferred_element_type=jnp.float32)
    near, at = jax.lax.top_k(jnp.where(known[None, :], near, -jnp.inf), most)
    weight = jnp.exp((near - near[:, :1]) / TEMPERATURE)  # only ratios count
    total = jnp.cumsum(weight, axis=1)
    positive = jnp.cumsum(weight[:, :, None] * votes[at], axis=1)
    last = jnp.asarray([min(k, most) - 1 for k in sizes], jnp.int32)
    return positive[:, last] / total[:, last][:, :, None]


def _unit(x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    return np.asarray(x / np.where(norm > 0, norm, 1), np.float32)


KNN = Method(
    name="knn",
    fit=fit,
    summary="Weighted vote of the nearest training embeddings by cosine.",
    source="Caron et al. 2021, Emerging properties in self-supervised vision transformers; Oquab et al. 2023, DINOv2",
    needs_attribute=False,
    protocols=("convex",),
    has_prior=True,
    class_weights=False,
)
