"""Maps of embeddings: where each patient's image lies in two dimensions, by principal components and by t-SNE.

Principal components are linear: distances and overlap on the map are those along the two directions that vary most.
t-SNE keeps neighbours together and nothing else: the distance between two of its islands, their size and their density
mean nothing, it shows islands in noise, and another seed gives another picture. A map is made once and stored, so that
every report draws the same one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import polars as pl
from scipy.linalg import eigh
from threadpoolctl import threadpool_limits

from fmcache.analyze.areas import Floats
from fmcache.errors import MissingExtra, UsageError
from fmcache.store.entries import Entry
from fmcache.store.schema import ATTRIBUTE, COORDINATE_COLUMNS

PROJECTIONS = ("pca", "tsne")
FEWEST = 5  # patients
PERPLEXITY = 30.0  # or less than a third of the patients
COMPONENTS = 50  # principal components that t-SNE looks at


def available() -> tuple[str, ...]:
    """The projections that this installation can make: t-SNE is scikit-learn's, of the extra ``maps``."""
    return tuple(name for name in PROJECTIONS if name != "tsne" or find_spec("sklearn") is not None)


def parse_projections(text: str | None) -> tuple[str, ...]:
    """``pca,tsne`` → its parts; None: all that are available.

    Raises
    ------
    UsageError : an unknown name, with the nearest one. MissingExtra : t-SNE without scikit-learn.
    """
    if text is None:
        return available()
    names = tuple(
        dict.fromkeys(part.strip().lower().replace("-", "") for part in text.split(",") if part.strip())
    )
    if unknown := [name for name in names if name not in PROJECTIONS] or ([""] if not names else []):
        raise UsageError(
            f"There is no projection {unknown[0]!r}.",
            f"Projections: {', '.join(PROJECTIONS)}.",
            "Type: --projection pca,tsne",
        )
    if missing := [name for name in names if name not in available()]:
        raise MissingExtra(
            f"The projection {missing[0]} needs scikit-learn.",
            "It is not installed; pca works without it.",
            'Type: pip install "fmcache[maps]"   or: --projection pca',
        )
    return names


def coordinates(
    x: Floats, samples: pl.DataFrame, entry: Entry, projections: Sequence[str] = PROJECTIONS, seed: int = 0
) -> pl.DataFrame:
    """The maps of an entry, as `Cache.publish_coordinates` takes them.

    Parameters
    ----------
    x : [n, d], one row a patient (`representation.chosen_rows`). samples : [n], its rows in the same order.

    Returns
    -------
    COORDINATE_COLUMNS, then ``attribute.*``: for each projection n rows. ``pca`` is exact, its signs such that the
    largest loading is positive; `x_share` and `y_share` are the shares of the variance of its two components. ``tsne``
    (van der Maaten and Hinton, JMLR 2008) starts from the principal components and sees the first 50 of them, with a
    perplexity of 30 or less than a third of n; `kl_divergence` is what its optimiser reached, ≥ 0, comparable between
    maps of the same n and perplexity only.

    Raises
    ------
    UsageError : fewer than five patients, or all have the same embedding. MissingExtra : t-SNE without scikit-learn.
    """
    n = len(x)
    if n < FEWEST:
        raise UsageError(
            f"{entry.model} on {entry.dataset} has {n} patients.",
            f"A map needs {FEWEST}.",
            "Choose an entry with more patients.",
        )
    centred = np.asarray(x, np.float64) - np.mean(x, axis=0, dtype=np.float64)
    total = float((centred**2).sum())
    if total <= 1e-20 * float((np.asarray(x, np.float64) ** 2).sum()):
        raise UsageError(
            f"All {n:,} patients of {entry.model} on {entry.dataset} have the same embedding.",
            "There is nothing to draw, and nothing that a probe could learn.",
            f"Type: fmcache sql \"SELECT * FROM entries WHERE key = '{entry.key}'\"   to see how it was extracted",
        )
    scores = principal(centred, COMPONENTS if "tsne" in projections else 2)
    told = [_pca(scores, total) if name == "pca" else _tsne(scores, seed) for name in projections]
    identity = {"model": entry.model, "dataset": entry.dataset, "key": entry.key, "seed": seed}
    people = samples.select("sample_id", "patient_id", "split", pl.selectors.starts_with(ATTRIBUTE))
    tables = [
        people.with_columns(
            pl.Series("x", xy[:, 0]), pl.Series("y", xy[:, 1]), projection=pl.lit(name),
            **{key: pl.lit(value) for key, value in {**identity, **facts}.items()},
        )
        for name, (xy, facts) in zip(projections, told, strict=True)
    ]  # fmt: skip
    rest = [name for name in people.columns if name.startswith(ATTRIBUTE)]
    typed = [pl.col(name).cast(kind) for name, kind in COORDINATE_COLUMNS.items()]
    return pl.concat([table.select(*typed, *rest) for table in tables])


def principal(centred: Floats, most: int) -> Floats:
    """The first principal components of [n, d] with column means 0, [n, k] with k = min(n, d, most), largest first.

    From the smaller one of x xᵀ [n, n] and xᵀx [d, d], whose leading eigenvectors are all that is needed. A component
    has no sign of its own: its largest loading is made positive, or a library could turn the picture round.
    """
    n, d = centred.shape
    k = min(n, d, most)
    if n <= d:
        values, vectors = eigh(centred @ centred.T, subset_by_index=(n - k, n - 1))
        scores = vectors * np.sqrt(np.maximum(values, 0))
        loadings = centred.T @ scores
    else:
        _, loadings = eigh(centred.T @ centred, subset_by_index=(d - k, d - 1))
        scores = centred @ loadings
    sign = np.sign(loadings[np.abs(loadings).argmax(axis=0), np.arange(k)])
    return np.asarray((scores * np.where(sign == 0, 1, sign))[:, ::-1])


def _pca(scores: Floats, total: float) -> tuple[Floats, dict[str, Any]]:
    xy = np.zeros((len(scores), 2))
    width = min(2, scores.shape[1])
    xy[:, :width] = scores[:, :width]
    share = (xy**2).sum(axis=0) / total
    facts = {"x_share": float(share[0]), "y_share": float(share[1]), "kl_divergence": None}
    return xy, {**facts, "parameters": json.dumps({"n": len(xy)})}


def _tsne(scores: Floats, seed: int) -> tuple[Floats, dict[str, Any]]:
    import sklearn
    from sklearn.manifold import TSNE

    n = len(scores)
    perplexity = min(PERPLEXITY, (n - 1) / 3)
    fit = TSNE(perplexity=perplexity, init="pca", random_state=seed)
    with threadpool_limits(
        limits=1
    ):  # sums in one order, whatever the number of cores; and two are hardly faster
        xy = np.asarray(fit.fit_transform(scores), np.float64)
    made = {
        "n": n,
        "perplexity": perplexity,
        "components": scores.shape[1],
        "iterations": int(fit.n_iter_),
        "scikit-learn": sklearn.__version__,
    }
    facts = {"x_share": None, "y_share": None, "kl_divergence": float(fit.kl_divergence_)}
    return xy, {**facts, "parameters": json.dumps(made)}
