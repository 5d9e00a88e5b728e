"""Where each number comes from. Only named fields are read, so that no path and no id gets out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import polars as pl

from fmcache.analyze.report.views import View
from fmcache.analyze.report.wording import count, decimal, policy_text, short
from fmcache.errors import FmcacheError

USAGES = {
    "lp": "linear probe on frozen embeddings",
    "clip-zs": "zero-shot, by the similarity of image and text",
    "clip-adapt": "CLIP-Adapter",
    "external": "predictions brought by the user",
}
METHODS = {"erm": "no mitigation (ERM)"}
SPLITS = ("train", "val", "test")
JOULE_PER_WH = 3600
# of a run's info: what goes into the machine-readable record as it is
RECORDED = (
    "usage", "method", "kind", "key", "keys", "dataset_digest", "data_digest", "train_dataset", "protocol", "objective",
    "attribute", "attribute_in_training", "attribute_at_test", "configuration", "split_policy", "leaking_patients",
    "allow_leakage", "seeds", "n", "n_missing", "n_synthetic", "d", "seconds", "versions", "created",
)  # fmt: skip


def facts(cache: Any, view: View, predictions: pl.DataFrame, floor: int) -> list[tuple[str, str]]:
    """What was measured, for the head of a section."""
    entry = _entry(cache, view)
    lines = [
        ("Model", view.text("model")),
        ("Weights", _weights(entry)),
        ("Dataset", view.text("dataset")),
        ("Label", view.label),
        ("How the model is used", _explained(view.text("usage"), USAGES)),
        ("Method", _explained(view.text("method"), METHODS)),
        ("Evaluated on", _evaluated(view)),
        ("Images by split", ", ".join(_splits(view, predictions, floor))),
        ("Threshold", _threshold(view)),
        ("Extraction", _extraction(entry)),
    ]
    return [(name, value) for name, value in lines if value]


def provenance(cache: Any, view: View, floor: int) -> list[tuple[str, str]]:
    """What is needed to get the same numbers again."""
    info, entry = view.info, _entry(cache, view)
    lines = [
        ("Run", view.run_id),
        ("Entry key", short(info.get("key")) if info.get("key") else ""),
        ("Weights SHA-256", str(_find(_document(entry), "weights_sha256") or "")),
        ("Dataset digest", str(info.get("dataset_digest") or "")),
        ("Data digest", str(info.get("data_digest") or "")),
        ("Split", _split(info)),
        ("Definition of the metrics", " ".join([view.definition, *_others(view)])),
        ("Threshold", _threshold(view)),
        ("Seeds", _seeds(view)),
        ("Interval", _interval(view)),
        ("Small cells", _suppression(view, floor)),
        ("Protocol", ": ".join(str(info[k]) for k in ("protocol", "objective") if info.get(k))),
        ("Sensitive attribute in training", _attribute_use(info)),
        ("Images without an embedding", count(info["n_missing"]) if info.get("n_missing") else ""),
        ("Versions, evaluation", _scalars(info.get("versions"))),
        ("Versions, extraction", _scalars(_sources(entry).get("versions"))),
        ("Device", str(_sources(entry).get("device_name") or _sources(entry).get("device") or "")),
        ("Time and energy of the extraction", _extraction(entry)),
        ("Run created", str(info.get("created") or "")),
    ]
    return [(name, value) for name, value in lines if value]


def provenance_document(cache: Any, view: View) -> dict[str, Any]:
    """The same for machines: the run's own fields, the embeddings' key document, and how they were made."""
    entry = _entry(cache, view)
    made = _sources(entry)
    return {
        "run": {name: view.info[name] for name in RECORDED if name in view.info},
        "weights_sha256": _find(_document(entry), "weights_sha256"),
        "model_document": dict(_document(entry)),
        "extraction": {
            name: made[name] for name in ("device", "device_name", "energy_joule", "seconds", "images", "versions")
            if name in made
        },
    }  # fmt: skip


def _entry(cache: Any, view: View) -> Any:
    """The embeddings behind a run; None for predictions that came from elsewhere."""
    if not hasattr(cache, "entry") or not view.text("key"):
        return None
    try:
        return cache.entry(
            view.text("model"), view.text("dataset"), view.text("kind") or "image", key=view.text("key")
        )
    except FmcacheError:  # the embeddings may be gone; the run and its results still stand
        return None


def _document(entry: Any) -> Mapping[str, Any]:
    document = getattr(entry, "document", None)
    return document if isinstance(document, Mapping) else {}


def _sources(entry: Any) -> dict[str, Any]:
    """How the embeddings were made: of the first segment, with images, seconds and joules of all."""
    made: list[Mapping[str, Any]] = [
        segment.published.content.get("provenance") or {} for segment in getattr(entry, "segments", ())
    ]
    if not made:
        return {}
    sums = {
        name: sum(float(one.get(name) or 0) for one in made) or None
        for name in ("images", "seconds", "energy_joule")
    }
    return {**made[0], **sums}


def _extraction(entry: Any) -> str:
    made = _sources(entry)
    parts = []
    if made.get("images"):
        parts.append(f"{count(int(made['images']))} images")
    if made.get("seconds"):
        parts.append(f"{made['seconds']:,.0f} s")
    if made.get("energy_joule"):
        parts.append(f"{made['energy_joule'] / JOULE_PER_WH:,.1f} Wh on the device")
    elif parts:
        parts.append("energy not measured")
    return ", ".join(parts)


def _find(document: Any, key: str) -> Any:
    """The first value of `key` in nested mappings."""
    if not isinstance(document, Mapping):
        return None
    if key in document:
        return document[key]
    return next((found for value in document.values() if (found := _find(value, key)) is not None), None)


def _weights(entry: Any) -> str:
    source, digest = str(_sources(entry).get("source") or ""), _find(_document(entry), "weights_sha256")
    if PurePath(source).is_absolute():  # a path tells of the machine
        source = PurePath(source).name
    return ", ".join(part for part in (source, f"SHA-256 {short(digest)}…" if digest else "") if part)


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
        images, patients = rows.height, rows.select(pl.coalesce("patient_id", "sample_id").n_unique()).item()
        small = 0 < min(images, patients) < floor
        yield f"{name} <{floor}" if small else f"{name} {count(images)} ({count(patients)} patients)"


def _split(info: Mapping[str, Any]) -> str:
    policy = str(info.get("split_policy") or "")
    leaking = info.get("leaking_patients")
    if policy and isinstance(leaking, int):
        policy += (
            "; no patient is on both sides"
            if not leaking
            else f"; {count(leaking)} patients are on both sides"
        )
    return policy


def _threshold(view: View) -> str:
    if not math.isfinite(view.threshold):
        return ""
    return f"{decimal(view.threshold)}, {policy_text(view.policy)}"


def _suppression(view: View, floor: int) -> str:
    if floor <= 1:
        return "nothing is hidden"
    whys: Sequence[str] = list(view.hidden.values())
    small, others = whys.count("small"), whys.count("complement")
    if not whys:
        return f"below {floor} hidden: none here"
    told = f"below {floor} hidden: {count(small)} group{'s' if small != 1 else ''}"
    return f"{told}, and {count(others)} more so that these cannot be worked out" if others else told


def _attribute_use(info: Mapping[str, Any]) -> str:
    if not info.get("attribute"):
        return ""
    used = [
        word
        for word, key in (("training", "attribute_in_training"), ("prediction", "attribute_at_test"))
        if info.get(key)
    ]
    return f"{info['attribute']}: {'used in ' + ' and '.join(used) if used else 'not used'}"


def _others(view: View) -> list[str]:
    return [f"(also stored: {', '.join(view.other_definitions)})"] if view.other_definitions else []


def _seeds(view: View) -> str:
    if len(view.seeds) > 1:
        return f"{', '.join(map(str, view.seeds))}; shown is {view.seed}"
    return "" if view.seed is None else str(view.seed)


def _interval(view: View) -> str:
    if not math.isfinite(view.level):
        return "none was computed"
    return f"{100 * view.level:.0f} %, bootstrap over patients"


def _scalars(values: Any) -> str:
    if not isinstance(values, Mapping):
        return ""
    plain = {k: v for k, v in values.items() if isinstance(v, (bool, int, float, str))}
    return ", ".join(f"{key} {value}" for key, value in sorted(plain.items()))
