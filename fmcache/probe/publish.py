"""What a run leaves in the cache: its predictions, its parameters, and all that made them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import numpy as np

from fmcache.probe.penalties import auc, worst_auc
from fmcache.probe.plan import Job
from fmcache.probe.predictions import nothing, predictions_of
from fmcache.probe.prior import estimate, move
from fmcache.probe.problem import Column
from fmcache.shapes import Float
from fmcache.store.cache import Cache
from fmcache.store.groups import attributes_in


@dataclass(frozen=True)
class Done:
    """What one block of labels gave: arrays (logits, w, b, …) and JSON-able remarks."""

    arrays: Mapping[str, np.ndarray]
    remarks: Mapping[str, Any]


def publish(cache: Cache, job: Job, blocks: Sequence[Done], seconds: float) -> str:
    """Publish a run from its blocks of labels; returns its id."""
    study, options, source = job.study, job.study.options, job.study.source
    logits = np.concatenate([block.arrays["logits"] for block in blocks], axis=1)  # [seeds, labels, k]
    at = [study.labels.index(name) for name in job.labels]
    y = np.tile(study.y[:, at], (1, len(job.seeds)))
    columns = [Column(label, seed) for seed in job.seeds for label in job.labels]
    flat = logits.reshape(len(columns), -1).T.copy()
    priors = _move_priors(job, flat, columns, blocks)
    summary = _summary(job, flat, columns, y)
    choices = {(row["seed"], row["label"]): row for block in blocks for row in block.remarks["penalties"]}
    parameters = {
        name: np.concatenate([block.arrays[name] for block in blocks], axis=1)
        for name in ("w", "b")
        if all(name in block.arrays for block in blocks)
    }
    for number, block in enumerate(blocks):
        parameters |= {
            f"{name}@{number}" if len(blocks) > 1 else name: value
            for name, value in block.arrays.items()
            if name.startswith("method.")
        }
    table = source.table
    info = {
        "model": source.model,
        "dataset": source.dataset,
        "usage": options.usage,
        "method": job.name,
        "kind": source.entries[0].kind,
        "key": source.entries[0].key,
        "keys": [entry.key for entry in source.entries],
        "train_dataset": source.train_dataset or source.dataset,
        "dataset_digest": source.dataset_digest,
        "data_digest": source.digest,
        "configuration": dict(job.config),
        "seeds": list(job.seeds),
        "labels": list(job.labels),
        "attributes": attributes_in(table),
        "skipped": dict(job.skipped),
        "protocol": _trained_how(job),
        "unit_norm": bool(study.texts and study.texts.image_tokens == 1),
        "objective": _objective(job),
        "attribute": job.config["attribute"],
        "attribute_in_training": bool(job.config["attribute"] and job.method.needs_attribute),
        "attribute_at_test": job.method.attribute_at_test,
        "penalties": [choices[column.seed, column.label] for column in columns],
        "priors": priors,
        "summary": summary,
        "front": [row for block in blocks for row in block.remarks["front"]],
        "baseline": [row for block in blocks for row in block.remarks["baseline"]],
        "facts": [row for block in blocks for row in block.remarks["facts"]],
        "volume": options.volume,
        "split_policy": source.policy,
        "allow_leakage": options.allow_leakage,
        "leaking_patients": source.leaking,
        "n": source.counts[: len(job.seeds)],
        "n_missing": source.n_missing,
        "n_synthetic": source.n_synthetic,
        "d": source.x.shape[1],
        "source": source.entries[0].document.get("source"),
        "seconds": round(seconds, 3),
        "versions": {name: version(name) for name in ("fmcache", "jax", "numpy")},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip
    if options.save == "scores":
        rows = predictions_of(table, source.splits, columns, y, flat, job.name)
    else:
        rows, parameters = nothing(job.name), {}
    return cache.publish_run(info, rows, parameters, key=job.key)


def _trained_how(job: Job) -> str:
    if job.method.name in ("none", "knn"):
        return job.method.name
    return "ridge" if job.study.options.solver == "ridge" else job.study.options.protocol


_OBJECTIVES = {
    "knn": "weighted vote of the nearest training rows by cosine; k chosen on val",
    "convex": "mean BCE + lambda/2 |w|^2, intercept free; fitted on train, lambda chosen on val, no refit",
    "ridge": "mean squared error/2 + lambda/2 |w|^2, intercept free; the logit calibrated on val, lambda chosen on val",
    "none": "text prompts, nothing trained",
    "paper": "BCE by AdamW, cosine, 100 epochs, batch 128, weight decay 0.05; the epoch chosen on val",
    "fairmedfm": "BCE by SGD as that code has it; the epoch chosen on val",
}


def _objective(job: Job) -> str:
    """What was minimised, and what chose; a mitigation's own line, since it is none of the plain ones."""
    if job.method.name in ("erm", "none", "knn"):
        return _OBJECTIVES[_trained_how(job)]
    return f"{job.method.summary} ({job.method.source}); hyper-parameters chosen on val, no refit"


def _move_priors(
    job: Job, logits: Float[np.ndarray, "k c"], columns: Sequence[Column], blocks: Sequence[Done]
) -> list[dict[str, Any]]:
    """Move the test rows' logits (in place) to the prevalence that was asked for; what was done."""
    study = job.study
    if not study.options.prior:
        return []
    told = []
    prevalence = np.concatenate([block.arrays["prevalence"] for block in blocks], axis=1).ravel()
    for at, column in enumerate(columns):
        trained, test = float(prevalence[at]), study.source.splits[column.seed] == "test"
        if study.options.prior == "em":
            wanted = estimate(logits[test, at], trained)
        else:
            wanted = float(study.options.prior)
        logits[test, at] = move(logits[test, at], trained, wanted)
        told.append({"seed": column.seed, "label": column.label, "trained": trained, "moved_to": wanted})
    return told


def _summary(
    job: Job, logits: Float[np.ndarray, "k c"], columns: Sequence[Column], y: Float[np.ndarray, "k c"]
) -> list[dict[str, Any]]:
    """AUC on validation and test (and its worst group, where an attribute is named), a row a label and seed."""
    study = job.study
    rows = []
    for at, column in enumerate(columns):
        split = study.source.splits[column.seed]
        row: dict[str, Any] = {"label": column.label, "seed": column.seed}
        for name in ("val", "test"):
            mine = (split == name) & ~np.isnan(y[:, at])
            truth, z = y[mine, at], logits[mine, at][:, None]
            ranked = 0 < truth.sum() < len(truth)
            row[f"{name}_auc"] = float(auc(z, truth)[0]) if ranked else None
            known = ranked and study.groups and job.config["attribute"]
            worst = worst_auc(z, truth, study.group[mine]) if known else None
            row[f"{name}_worst_auc"] = None if worst is None else float(worst[0])
        used = study.training(job.subset, column.seed, study.y)[:, study.labels.index(column.label)]
        row["n_train"] = int(used.sum()) if job.method.trains else 0
        rows.append(row)
    return rows
