"""A small study in a cache: two images (or volumes) a patient, a label that the embedding tells."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import polars as pl

from fmcache.store.cache import Cache
from fmcache.store.keys import digest

PATIENTS, D = 120, 8


def samples(slices: int = 1, split: bool = True, seed: int = 0) -> tuple[pl.DataFrame, np.ndarray]:
    """Two images a patient (or one volume's slices), and embeddings [images, slices, D] that tell `finding`."""
    rng = np.random.default_rng(seed)
    n = 2 * PATIENTS
    patient = np.arange(n) // 2
    y = (rng.random(n) < 0.4).astype(np.float32)
    x = rng.normal(size=(n, slices, D))
    x[np.arange(n), rng.integers(0, slices, n), 0] += 4 * y
    finding = y.copy()
    finding[::17] = np.nan
    names = np.array(["train", "train", "train", "val", "test"])[patient % 5]
    table = pl.DataFrame(
        {
            "sample_id": [f"s{i:03d}" for i in range(n)],
            "patient_id": [f"p{i:03d}" for i in patient],
            "path": [f"{i}.png" for i in range(n)],
            "split": pl.Series(names.tolist() if split else [None] * n, dtype=pl.String),
            "slices": pl.Series([slices] * n, dtype=pl.Int32),
            "input_digest": [digest([slices, seed, i]) for i in range(n)],
            "input_error": pl.Series([None] * n, dtype=pl.String),
            "label.finding": finding,
            "label.never": np.zeros(n, np.float32),
            "attribute.sex": np.array(["female", "male"])[patient % 2],
            "attribute.age": rng.integers(20, 90, n).astype(np.float64),
        }
    )
    return table, x


def store(cache: Cache, model: str, table: pl.DataFrame, x: np.ndarray, dataset: str = "cohort") -> None:
    cache.publish_dataset(dataset, {}, table)
    n, slices, d = x.shape
    units = pl.DataFrame(
        {
            "input_digest": np.repeat(table["input_digest"].to_numpy(), slices),
            "slice": np.tile(np.arange(slices, dtype=np.int32), n),
        }
    )
    rows = units.with_columns(sample_id=pl.Series(np.repeat(table["sample_id"].to_numpy(), slices)))
    with cache.segment(
        model, dataset, "image", {"model": model, "source": "test"}, units, rows, d=d
    ) as writer:
        flat = x.reshape(n * slices, d).astype(np.float16)
        for block in writer.blocks:
            writer.write(block.index, flat[block.start : block.stop])
        writer.publish({})


def store_texts(
    cache: Cache, model: str, dataset: str, labels: Sequence[str], *, d: int = D, templates: int = 2,
    scale: float = 20.0, tokens: int = 1, prompt_set: str = "dataset",
) -> None:  # fmt: skip
    """Text prompts whose first value tells the finding from its absence, laid out as extraction lays them out."""
    rng = np.random.default_rng(4)
    prompts = {
        label: {
            "classes": [f"no {label}", label],
            "templates": [f"t{t} {{}}" for t in range(templates)],
            "sentences": [[f"t{t} no {label}", f"t{t} {label}"] for t in range(templates)],
        }
        for label in labels
    }
    document = {
        "version": 1, "kind": "text", "model": {"id": model}, "prompt_set": prompt_set, "prompts": prompts,
        "zero_shot": {
            "logit_scale": scale, "logit_bias": 0.0, "image_pool": "projected", "image_tokens": tokens,
        },
        "dtype": "float32",
    }  # fmt: skip
    rows, values = [], {}
    for label, of in prompts.items():
        for t, sentences in enumerate(of["sentences"]):
            for k, sentence in enumerate(sentences):
                name = hashlib.sha256(sentence.encode()).hexdigest()
                rows.append((f"{label}|{t}|{k}", 0, name))
                values[name] = (rng.normal(size=d) * 0.3 + np.eye(d)[0] * (2 * k - 1) * 1.5).astype(
                    np.float32
                )
    schema = {"sample_id": pl.String, "slice": pl.Int32, "input_digest": pl.String}
    table = pl.DataFrame(rows, schema=schema, orient="row")
    units = table.select("input_digest", "slice").unique(maintain_order=True)
    with cache.segment(model, dataset, "text", document, units, table, d=d, dtype="float32") as writer:
        for block in writer.blocks:
            names = writer.units["input_digest"][block.start : block.stop]
            writer.write(block.index, np.stack([values[name] for name in names]))
        writer.publish({})
