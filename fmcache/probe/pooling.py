"""From the slices of a volume to one score a sample (2.5D: each slice is scored, then the logits are pooled)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fmcache.errors import UsageError
from fmcache.shapes import Float, Int

POOLS = ("max", "mean")


def samples_of(sample_ids: Sequence[str]) -> tuple[list[str], Int[np.ndarray, " n"]]:
    """The distinct ids in order of first appearance, and for every row the position of its id among them."""
    position: dict[str, int] = {}
    rows = np.fromiter((position.setdefault(name, len(position)) for name in sample_ids), np.int64)
    return list(position), rows


def pool(
    logits: Float[np.ndarray, "n c"], sample: Int[np.ndarray, " n"], how: str
) -> Float[np.ndarray, "k c"]:
    """Max or mean over the rows of each sample; `sample` counts 0..k-1 and misses none.

    Raises
    ------
    UsageError : an unknown way of pooling.
    """
    check(how)
    count = int(sample.max()) + 1 if sample.size else 0
    if how == "max":
        out = np.full((count, *logits.shape[1:]), -np.inf)
        np.maximum.at(out, sample, logits)
        return out
    out = np.zeros((count, *logits.shape[1:]))
    np.add.at(out, sample, logits)
    return out / np.bincount(sample, minlength=count).reshape(-1, *[1] * (logits.ndim - 1))


def check(how: str) -> None:
    """Refuse an unknown way of pooling."""
    if how not in POOLS:
        raise UsageError(
            f"volume={how!r} means nothing.", "It is max (the paper's) or mean.", "Type: --volume max"
        )
