"""Where each number comes from, in lines of (name, value). Only named fields are read: no path, no id."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl

from fmcache.analyze.report.views import View
from fmcache.analyze.report.wording import count, decimal, policy_text, short
from fmcache.errors import FmcacheError

USAGES = {"lp": "linear probe", "external": "predictions brought by the user"}
METHODS = {"erm": "no mitigation (ERM)"}
SPLITS = ("train", "val", "test")


def facts(cache: Any, view: View, predictions: pl.DataFrame, floor: int) -> list[tuple[str, str]]:
    """What was measured, for the head of a section."""
    weights = model_document(cache, view)
    lines = [
        ("Model", view.text("model")),
        ("Weights", _weights(weights)),
        ("Dataset", view.text("dataset")),
        ("Label", view.label),
        ("How the model is used", _explained(view.text("usage"), USAGES)),
        ("Method", _explained(view.text("method"), METHODS)),
        ("Evaluated on", _evaluated(view)),
        ("Images by split", ", ".join(_splits(view, predictions, floor))),
        ("Threshold", f"{decimal(view.threshold)}, {policy_text(view.policy)}"),
    ]
    return [(name, value) for name, value in lines if value]


def provenance(cache: Any, view: View) -> list[tuple[str, str]]:
    """What is needed to get the same numbers again."""
    info = view.info
    versions = info.get("versions")
    lines = [
        ("Run", view.run_id),
        ("Entry key", short(info.get("key"))),
        ("Dataset digest", short(info.get("dataset_digest"))),
        ("Weights SHA-256", str(_find(model_document(cache, view), "weights_sha256") or "")),
        ("Definition of the metrics", " ".join([view.definition, *_others(view)])),
        ("Seeds", _seeds(view)),
        ("Interval", _interval(view)),
        ("Probe", _scalars(info.get("parameters"))),
        ("Versions", _scalars(versions)),
        ("Run created", str(info.get("created") or "")),
    ]
    return [(name, value) for name, value in lines if value]


def model_document(cache: Any, view: View) -> Mapping[str, Any]:
    """The key document of the embeddings behind a run; empty for predictions that came from elsewhere."""
    if not hasattr(cache, "entry") or not view.text("key"):
        return {}
    try:
        entry = cache.entry(
            view.text("model"), view.text("dataset"), view.text("kind") or "image", key=view.text("key")
        )
    except FmcacheError:  # the embeddings may be gone; the run and its results still stand
        return {}
    document = entry.document
    return document if isinstance(document, Mapping) else {}


def _find(document: Any, key: str) -> Any:
    """The first value of `key` in nested mappings."""
    if not isinstance(document, Mapping):
        return None
    if key in document:
        return document[key]
    return next((found for value in document.values() if (found := _find(value, key)) is not None), None)


def _weights(document: Mapping[str, Any]) -> str:
    source, digest = _find(document, "source"), _find(document, "weights_sha256")
    told = str(source) if isinstance(source, str) else ""
    return ", ".join(part for part in (told, f"SHA-256 {short(digest)}…" if digest else "") if part)


def _explained(word: str, words: Mapping[str, str]) -> str:
    return f"{word}: {words[word]}" if word in words else word


def _evaluated(view: View) -> str:
    overall = view.overall
    if overall.why is not None:
        return f"{view.split} split, too small to be shown"
    patients = f" of {count(overall.n_patients)} patients" if overall.n_patients else ""
    positive = f", {count(overall.n_pos)} positive" if overall.n_pos is not None else ""
    return f"{view.split} split: {count(overall.n)} images{patients}{positive}"


def _splits(view: View, predictions: pl.DataFrame, floor: int) -> Iterator[str]:
    known = predictions.filter(
        (pl.col("label") == view.label) & pl.col("y").is_in([0.0, 1.0]) & pl.col("score").is_finite()
    ).unique(["sample_id", "split"])
    names = sorted(
        known["split"].drop_nulls().unique(), key=lambda s: (SPLITS.index(s) if s in SPLITS else 9, s)
    )
    for name in names:
        rows = known.filter(pl.col("split") == name)
        images, patients = rows.height, rows["patient_id"].n_unique()
        small = 0 < min(images, patients) < floor
        yield f"{name} <{floor}" if small else f"{name} {count(images)} ({count(patients)} patients)"


def _others(view: View) -> list[str]:
    return [f"(also stored: {', '.join(view.other_definitions)})"] if view.other_definitions else []


def _seeds(view: View) -> str:
    if len(view.seeds) > 1:
        return f"{', '.join(map(str, view.seeds))}; shown is {view.seed}"
    return "" if view.seed is None else str(view.seed)


def _interval(view: View) -> str:
    if not math.isfinite(view.level):
        return "none was computed"
    draws = view.info.get("draws")
    told = f", {count(draws)} draws" if isinstance(draws, int) else ""
    return f"{100 * view.level:.0f} % bootstrap, patients resampled{told}"


def _scalars(values: Any) -> str:
    if not isinstance(values, Mapping):
        return ""
    plain = {k: v for k, v in values.items() if isinstance(v, (bool, int, float, str))}
    return ", ".join(f"{key} {value}" for key, value in sorted(plain.items()))
