"""From the names a user typed to entries and labels, with the nearest name where there is none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import get_close_matches

from fmcache.errors import FmcacheError, MissingEntry, UsageError
from fmcache.store.cache import Cache
from fmcache.store.entries import Entry
from fmcache.store.schema import LABEL


def entries_of(
    cache: Cache, models: Sequence[str] | None, datasets: Sequence[str] | None, kind: str = "image"
) -> list[Entry]:
    """The entries of these models on these datasets; None for all.

    Raises
    ------
    MissingEntry : nothing was extracted, or a name is unknown.
    """
    every = cache.entries(kind=kind)
    if not every:
        option = "" if kind == "image" else f" --kind {kind}"
        raise MissingEntry(
            f"The cache holds no {kind} embeddings.",
            "",
            f"Type: fmcache extract --model MODEL --dataset DATASET{option}",
        )
    for dataset in datasets or ():
        if dataset not in {entry.dataset for entry in every}:
            raise unknown(
                "embeddings of the dataset", dataset, [entry.dataset for entry in every], MissingEntry
            )
    for model in models or ():
        if not any(is_called(entry, model) for entry in every):
            raise unknown("embeddings of the model", model, [entry.model for entry in every], MissingEntry)
    found = [
        entry
        for entry in every
        if (datasets is None or entry.dataset in datasets)
        and (models is None or any(is_called(entry, model) for model in models))
    ]
    if not found:
        pairs = sorted({f"{entry.model} on {entry.dataset}" for entry in every})
        raise MissingEntry(
            "The cache holds no embeddings of these models on these datasets.",
            f"It holds {', '.join(pairs[:6])}.",
            "Type: fmcache extract --model MODEL --dataset DATASET",
        )
    return found


def is_called(entry: Entry, name: str) -> bool:
    """Whether a model's name, or ``name@first-characters-of-a-key``, means this entry."""
    model, _, key = name.rpartition("@")
    return entry.model == name or (entry.model == model and bool(key) and entry.key.startswith(key))


def labels_of(cache: Cache, dataset: str, asked: Sequence[str] | None) -> list[str]:
    """The labels asked for that the dataset has; all of them for None.

    Raises
    ------
    UsageError : it has none, or no dataset has one of the names.
    """
    has = _has(cache, dataset)
    if asked is None:
        if not has:
            raise UsageError(
                f"The dataset {dataset} has no labels.",
                "",
                "Add a column label.NAME (0, 1 or empty) and extract again.",
            )
        return has
    names = [name.removeprefix(LABEL) for name in asked]
    if all(name in has for name in names):
        return list(dict.fromkeys(names))
    everywhere = {label for other in cache.datasets() for label in _has(cache, other)}
    for name in names:
        if name not in everywhere:
            raise unknown("label", name, has, UsageError)
    return list(dict.fromkeys(name for name in names if name in has))


def _has(cache: Cache, dataset: str) -> list[str]:
    columns = cache.dataset(dataset).samples.columns
    return [name.removeprefix(LABEL) for name in columns if name.startswith(LABEL)]


def unknown(
    what: str, name: str, known: Sequence[str], error: Callable[[str, str, str], FmcacheError]
) -> FmcacheError:
    """The error for a name that is not there, with the nearest that is."""
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
