"""``fmcache probe lp``: from cached embeddings to predictions, one run for each image entry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from importlib.metadata import version
from typing import Any

import numpy as np
import polars as pl

from fmcache.errors import FmcacheError, MissingEntry, UsageError
from fmcache.probe.centred import centre
from fmcache.probe.logistic import fit_logistic
from fmcache.probe.penalties import GRID, choose
from fmcache.probe.pooling import check, pool, samples_of
from fmcache.probe.splits import SPLITS, make_splits
from fmcache.progress import Progress, Silent
from fmcache.store.cache import Cache
from fmcache.store.entries import Entry
from fmcache.store.schema import ATTRIBUTE, LABEL

_ROWS = 8192


@dataclass(frozen=True)
class _Seed:
    """What one seed gives for the fitted labels (c): probability and logit of every sample (k), and the probe."""

    logits: np.ndarray  # [k, c]
    w: np.ndarray  # [c, d]
    b: np.ndarray  # [c]
    choices: list[dict[str, Any]]


def probe_lp(
    cache: Cache,
    *,
    models: Sequence[str] | None = None,
    datasets: Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
    seeds: int = 1,
    slices: str = "max",
    allow_leakage: bool = False,
    progress: Progress | None = None,
) -> list[str]:
    """L2-regularised logistic regression of every label on every image entry.

    Training patients fit every label under every penalty of `fmcache.probe.penalties.GRID`; validation patients
    choose one penalty a label; nothing is fitted again, and test patients are only scored.

    Parameters
    ----------
    models, datasets, labels : names; None for all. A model may carry the first characters of a key: ``dinov2@3f9a``.
    seeds : how many splits to draw where the dataset does not give all of them.
    slices : how the logits of a volume's slices become one: ``max`` (the paper's) or ``mean``. In training each slice
        has its volume's label.
    allow_leakage : accept patients in two splits; recorded in the run.

    Returns
    -------
    The runs' ids, one an entry; the same inputs give the same ids.

    Raises
    ------
    MissingEntry : nothing was extracted. UsageError : an unknown name, a patient in two splits, a label that is not
    0/1, or no label that can be fitted.
    """
    progress = progress or Silent()
    check(slices)
    if seeds < 1:
        raise UsageError(f"seeds={seeds} means nothing.", "", "Type: --seeds 1")
    entries = _entries(cache, models, datasets)
    names = {entry.dataset: _labels(cache, entry.dataset, labels) for entry in entries}
    progress.start("probe", len(entries), "entries")
    runs = []
    for entry in entries:
        if names[entry.dataset]:
            runs.append(_probe(cache, entry, names[entry.dataset], seeds, slices, allow_leakage, progress))
        else:
            progress.note(f"{entry.dataset} has none of the labels asked for.")
        progress.advance(1, f"{entry.model} on {entry.dataset}")
    return runs


# -------------------------------------------------------------------------------------------------------- one entry


def _probe(
    cache: Cache, entry: Entry, labels: list[str], seeds: int, slices: str, allow_leakage: bool,
    progress: Progress,
) -> str:  # fmt: skip
    embeddings = cache.embeddings(entry.model, entry.dataset, key=entry.key)
    if not embeddings.n:
        raise MissingEntry(
            f"No image of {entry.dataset} as it is now has an embedding of {entry.model}.",
            "Its images changed, or were rejected, since the extraction.",
            f"Type: fmcache extract --model {entry.model} --dataset {entry.dataset}",
        )
    dataset = cache.dataset(entry.dataset)
    x = embeddings.array("float32")
    ids, sample = samples_of(embeddings.samples["sample_id"].to_list())
    # what is told of a sample comes from the dataset's table; splits are drawn over all of it, so models share them
    every = dataset.samples.with_row_index("_position")
    table = pl.DataFrame({"sample_id": ids}).join(every, on="sample_id", how="left", maintain_order="left")
    position = table["_position"].to_numpy()
    y = _truth(table, labels)

    splits = [make_splits(dataset.samples, seed, allow_leakage) for seed in range(seeds)]
    if not splits[0].seeded:
        splits = splits[:1]
        if seeds > 1:
            progress.note(f"{entry.dataset} gives its own splits: one seed says it all.")
    fitted, skipped = _fittable(y, labels, [split.split[position] for split in splits])
    for name, reason in skipped.items():
        progress.note(f"{entry.model} on {entry.dataset}: {name} is skipped, {reason}.")
    if not fitted:
        raise UsageError(
            f"No label of {entry.dataset} can be fitted.",
            "; ".join(f"{name}: {reason}" for name, reason in list(skipped.items())[:3]) + ".",
            "A label needs both classes among the training patients that have an embedding.",
        )
    columns = [labels.index(name) for name in fitted]
    outcomes = [_fit(x, sample, y[:, columns], split.split[position], slices) for split in splits]
    predictions = pl.concat(
        _predictions(table, split.split[position], fitted, y[:, columns], outcome.logits, seed)
        for seed, (split, outcome) in enumerate(zip(splits, outcomes, strict=True))
    )
    info = {
        "model": entry.model,
        "dataset": entry.dataset,
        "usage": "lp",
        "method": "erm",
        "kind": entry.kind,
        "key": entry.key,
        "dataset_digest": dataset.digest,
        "seeds": list(range(len(splits))),
        "labels": fitted,
        "attributes": [name.removeprefix(ATTRIBUTE) for name in table.columns if name.startswith(ATTRIBUTE)],
        "skipped": skipped,
        "protocol": "convex",
        "objective": "mean BCE + lambda/2 |w|^2, intercept free; fitted on train, lambda chosen on val, no refit",
        "penalties": [
            {"seed": seed, "label": name, **choice}
            for seed, outcome in enumerate(outcomes)
            for name, choice in zip(fitted, outcome.choices, strict=True)
        ],
        "slices": slices,
        "split_policy": splits[0].policy,
        "allow_leakage": allow_leakage,
        "leaking_patients": splits[0].leaking_patients,
        "n": [
            {name: int((split.split[position] == name).sum()) for name in SPLITS} for split in splits
        ],
        "n_missing": embeddings.missing.height,
        "d": embeddings.d,
        "source": entry.document.get("source"),
        "versions": {name: version(name) for name in ("fmcache", "jax", "numpy")},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip
    parameters = {
        "w": np.stack([outcome.w for outcome in outcomes]),  # [seeds, labels, d]
        "b": np.stack([outcome.b for outcome in outcomes]),
    }
    return cache.publish_run(info, predictions, parameters)


def _fit(x: np.ndarray, sample: np.ndarray, y: np.ndarray, split: np.ndarray, slices: str) -> _Seed:
    """x [n, d] rows (slices), sample [n] -> 0..k-1, y [k, c], split [k]."""
    of_row = split[sample]
    train, val = np.flatnonzero(of_row == "train"), np.flatnonzero(of_row == "val")
    data = centre(x[train])
    unit = data.scale if data.scale > 0 else 1.0
    penalties = np.array(GRID) * unit
    fit = fit_logistic(data, y[sample[train]], penalties.tolist())
    m, c, d = fit.w.shape
    in_val, of_val = np.unique(sample[val], return_inverse=True)
    every = _score(x, val, fit.w.reshape(m * c, d), fit.b.reshape(m * c))
    choice = choose(pool(every, of_val, slices).reshape(len(in_val), m, c), y[in_val], penalties)
    which = (choice.index, np.arange(c))
    w, b = fit.w[which], fit.b[which]
    logits = pool(_score(x, np.arange(len(x)), w, b), sample, slices)
    choices = [
        {
            "penalty": float(penalties[index]),
            "relative": GRID[index],
            "criterion": choice.criterion[label],
            "value": None if np.isnan(choice.value[label]) else float(choice.value[label]),
            "edge": bool(index in (0, m - 1)),
            "converged": bool(fit.converged[index, label]),
        }
        for label, index in enumerate(choice.index)
    ]
    return _Seed(logits, w, b, choices)


def _score(x: np.ndarray, rows: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Logits of some rows in float64, [len(rows), columns]."""
    out = np.empty((len(rows), len(w)))
    for start in range(0, len(rows), _ROWS):
        part = slice(start, start + _ROWS)
        out[part] = x[rows[part]].astype(np.float64) @ w.T + b
    return out


def _predictions(
    table: pl.DataFrame, split: np.ndarray, labels: list[str], y: np.ndarray, logits: np.ndarray, seed: int
) -> pl.DataFrame:
    """PREDICTION_COLUMNS and the attributes; labels one after another, samples in the order of `table`.

    Samples that the dataset's split column leaves out are not scored.
    """
    attributes = [name for name in table.columns if name.startswith(ATTRIBUTE)]
    kept = np.flatnonzero(split != "")
    head = table[kept].select(
        "sample_id", pl.coalesce("patient_id", "sample_id").alias("patient_id"), *attributes
    )
    head = head.with_columns(pl.Series("split", split[kept].tolist(), dtype=pl.String))
    parts = []
    for column, label in enumerate(labels):
        z = logits[kept, column]
        parts.append(
            head.select(
                "sample_id",
                "patient_id",
                "split",
                pl.lit(label).alias("label"),
                pl.lit(seed, dtype=pl.Int32).alias("seed"),
                pl.Series("y", y[kept, column].astype(np.float32)),
                pl.Series("score", _sigmoid(z)),
                pl.Series("logit", z),
                *attributes,
            )
        )
    return pl.concat(parts)


def _sigmoid(z: np.ndarray) -> np.ndarray:
    small = np.exp(-np.abs(z))
    return np.where(z >= 0, 1, small) / (1 + small)


# ------------------------------------------------------------------------------------------------ what is asked for


def _entries(cache: Cache, models: Sequence[str] | None, datasets: Sequence[str] | None) -> list[Entry]:
    every = cache.entries(kind="image")
    if not every:
        raise MissingEntry(
            "The cache holds no image embeddings.",
            "",
            "Type: fmcache extract --model MODEL --dataset DATASET",
        )
    for dataset in datasets or ():
        if dataset not in {entry.dataset for entry in every}:
            raise _unknown(
                "embeddings of the dataset", dataset, [entry.dataset for entry in every], MissingEntry
            )
    for model in models or ():
        if not any(_is(entry, model) for entry in every):
            raise _unknown("embeddings of the model", model, [entry.model for entry in every], MissingEntry)
    found = [
        entry
        for entry in every
        if (datasets is None or entry.dataset in datasets)
        and (models is None or any(_is(entry, model) for model in models))
    ]
    if not found:
        pairs = sorted({f"{entry.model} on {entry.dataset}" for entry in every})
        raise MissingEntry(
            "The cache holds no embeddings of these models on these datasets.",
            f"It holds {', '.join(pairs[:6])}.",
            "Type: fmcache extract --model MODEL --dataset DATASET",
        )
    return found


def _is(entry: Entry, name: str) -> bool:
    model, _, key = name.rpartition("@")
    return entry.model == name or (entry.model == model and bool(key) and entry.key.startswith(key))


def _labels(cache: Cache, dataset: str, asked: Sequence[str] | None) -> list[str]:
    has = [
        name.removeprefix(LABEL) for name in cache.dataset(dataset).samples.columns if name.startswith(LABEL)
    ]
    if asked is None:
        if not has:
            raise UsageError(
                f"The dataset {dataset} has no labels.",
                "",
                "Add a column label.NAME (0, 1 or empty) and extract again.",
            )
        return has
    names = [name.removeprefix(LABEL) for name in asked]
    everywhere = {
        column.removeprefix(LABEL)
        for other in cache.datasets()
        for column in cache.dataset(other).samples.columns
        if column.startswith(LABEL)
    }
    for name in names:
        if name not in everywhere:
            raise _unknown("label", name, has, UsageError)
    return list(dict.fromkeys(name for name in names if name in has))


def _unknown(
    what: str, name: str, known: Sequence[str], error: Callable[[str, str, str], FmcacheError]
) -> FmcacheError:
    known = sorted(set(known))
    near = get_close_matches(name, known, n=1, cutoff=0.5)
    do = f"Did you mean {near[0]}?" if near else ""
    if not near and error is MissingEntry:
        do = "Type: fmcache extract --model MODEL --dataset DATASET"
    return error(
        f"The cache holds no {what} {name}.",
        f"It holds {', '.join(known[:8])}{' …' if len(known) > 8 else ''}.",
        do,
    )


def _truth(table: pl.DataFrame, labels: list[str]) -> np.ndarray:
    """y [k, c] float32: 0, 1 or NaN."""
    out = np.empty((table.height, len(labels)), np.float32)
    for column, label in enumerate(labels):
        raw = table[LABEL + label]
        values = raw.cast(pl.Float64, strict=False)
        wrong = raw.is_not_null() & values.is_null()
        bad = values.is_not_null() & ~values.is_nan().fill_null(True) & ~values.is_in([0.0, 1.0])
        if wrong.any() or bad.any():
            value = raw.filter(wrong | bad)[0]
            raise UsageError(
                f"The label {label} has the value {value}.", "A label is 0, 1 or empty.",
                "Map it in the dataset's table or card (an uncertain finding is empty, or 0, or 1: decide).",
            )  # fmt: skip
        out[:, column] = values.fill_null(float("nan")).to_numpy()
    return out


def _fittable(y: np.ndarray, labels: list[str], splits: list[np.ndarray]) -> tuple[list[str], dict[str, str]]:
    """The labels with both classes in training under every seed, and why the others are not fitted."""
    fitted, skipped = [], {}
    for column, label in enumerate(labels):
        counts = []
        for split in splits:
            train = y[split == "train", column]
            counts.append((int((train == 0).sum()), int((train == 1).sum())))
        negative, positive = min(counts, key=min)
        if negative and positive:
            fitted.append(label)
        else:
            skipped[label] = f"its training samples have {positive} positives and {negative} negatives"
    return fitted, skipped
