"""Make the archive of a format version: a small cache with one of everything.

    python tests/archives/make.py tests/archives/format-1

An archive is made once, when its version is released, and never again: the test is that old bytes stay readable.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np
import polars as pl

from fmcache.store.cache import open_cache
from fmcache.store.schema import MASK_COLUMNS, PROMPT_COLUMNS, RESULT_COLUMNS
from fmcache.store.segment import Rejected

MODEL, DATASET = "timm/archive_net", "clinic"
IMAGES = [f"image {i}" for i in range(7)]


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def embedding(name: str, d: int = 6) -> np.ndarray:
    """A pure function of the digest, so that the test knows every value."""
    return (np.frombuffer(bytes.fromhex(name)[:d], np.uint8).astype(np.float32) - 128) / 64


def samples(contents: list[str], title: str) -> pl.DataFrame:
    n = len(contents)
    return pl.DataFrame(
        {
            "sample_id": [f"{i:03}" for i in range(n)],
            "patient_id": [f"p{i // 2}" for i in range(n)],
            "path": [f"{i}.png" for i in range(n)],
            "split": [("train", "val", "test")[i % 3] for i in range(n)],
            "slices": [1] * n,
            "input_digest": [sha(text) for text in contents],
            "input_error": [None] * n,
            "label.effusion": [float(i % 2) for i in range(n)],
            "attribute.sex": [("female", "male", None)[i % 3] for i in range(n)],
            "ward": [title] * n,
        },
        schema_overrides={"input_error": pl.String, "slices": pl.Int32},
    )


def links(table: pl.DataFrame) -> pl.DataFrame:
    return table.select("sample_id", pl.lit(0, pl.Int32).alias("slice"), "input_digest")


def make(where: Path) -> None:
    """Two dataset versions; an image entry of two segments with a duplicate and a rejected input; a text and a mask
    entry; a run with parameters and results; two maps of the image entry."""
    cache = open_cache(where, create=True)
    document = {"model": {"id": MODEL, "weights_sha256": sha("weights")}, "dtype": "float16"}
    for contents, title in (
        (IMAGES[:4], "first"),
        ([*IMAGES[:3], "image 3, retouched", *IMAGES[4:], "image 0"], "second"),
    ):
        table = samples(contents, title)
        cache.publish_dataset(DATASET, {"title": f"archive, {title} version"}, table)
        rows = links(table)
        units = rows.select("input_digest", "slice").unique(maintain_order=True)
        with cache.segment(MODEL, DATASET, "image", document, units, rows, d=6, block_rows=2) as writer:
            for block in writer.blocks:
                names = writer.units["input_digest"][block.start : block.stop].to_list()
                rejected = [Rejected("decode", "truncated", name) for name in names if name == sha("image 2")]
                writer.write(block.index, np.stack([embedding(name) for name in names]), rejected)
            writer.publish({"device": "cpu", "versions": {"fmcache": "0.1.0"}})

    sentences = [["no effusion", "effusion"]]
    texts = {
        "kind": "text",
        "model": document["model"],
        "prompts": {"effusion": {"classes": ["no", "yes"], "templates": ["{}"], "sentences": sentences}},
        "zero_shot": {"logit_scale": 100.0, "logit_bias": 0.0, "image_pool": "projected", "image_tokens": 1},
    }
    flat = [sentence for row in sentences for sentence in row]
    units = pl.DataFrame({"input_digest": [sha(text) for text in flat], "slice": [0] * len(flat)})
    rows = units.with_columns(sample_id=pl.Series(["effusion|0|0", "effusion|0|1"]))
    rows = rows.select("sample_id", "slice", "input_digest")
    with cache.segment(MODEL, DATASET, "text", texts, units, rows, d=6, dtype="float32") as writer:
        writer.write(0, np.stack([embedding(name) for name in units["input_digest"]]))
        writer.publish({})

    masks = {
        "kind": "mask",
        "model": {
            **document["model"],
            "preprocess": {"geometry": {"fit": "longest", "side": 8}},
            "segmenter": {"upsample": "logits"},
        },
        "classes": ["lung"],
        "prompts": ["bbox"],
        "multimask": "best",
    }
    from fmcache.store.masks import pack_mask

    truth = np.zeros((6, 8), bool)
    truth[1:4, 2:7] = True
    pictures = [sha(text) for text in IMAGES[:2]]
    units = pl.DataFrame(
        {"input_digest": [sha(f"{name} with its mask") for name in pictures], "slice": [0, 0]}
    )
    rows = units.with_columns(sample_id=pl.Series(["000", "001"])).select(
        "sample_id", "slice", "input_digest"
    )
    known = pl.DataFrame(
        [(unit, 0, picture, "lung", "6x8", int(truth.sum()), pack_mask(truth))
         for unit, picture in zip(units["input_digest"], pictures, strict=True)],
        schema=dict(MASK_COLUMNS), orient="row",
    )  # fmt: skip
    asked = pl.DataFrame(
        [(unit, 0, "lung", "bbox", "[[2, 1], [6, 3]]", 0, 0.75, None, None) for unit in units["input_digest"]],
        schema=dict(PROMPT_COLUMNS), orient="row",
    )  # fmt: skip
    logits = np.where(np.pad(truth, ((0, 2), (0, 0))), 4.0, -4.0).astype(np.float32)
    with cache.segment(
        MODEL, DATASET, "mask", masks, units, rows, d=(1, 1, 1, 8, 8), block_rows=16, compressed=True
    ) as writer:
        block = np.broadcast_to(logits, (2, 1, 1, 1, 8, 8)).copy()
        writer.write(0, block, tables={"masks": known, "prompts": asked})
        writer.publish({})

    version = cache.dataset(DATASET)
    table = version.samples
    run_id = cache.publish_run(
        {"model": MODEL, "dataset": DATASET, "usage": "lp", "method": "erm", "dataset_digest": version.digest,
         "labels": ["effusion"], "attributes": ["sex"], "created": "2026-01-01T00:00:00+00:00"},
        table.select(
            "sample_id", "patient_id", "split", label=pl.lit("effusion"), seed=pl.lit(0), y="label.effusion",
            score=pl.int_range(pl.len()) * 0.125, logit=pl.lit(None, pl.Float64), **{"attribute.sex": "attribute.sex"},
        ),
        {"w": np.arange(6.0), "b": np.zeros(1)},
    )  # fmt: skip
    row = dict.fromkeys(RESULT_COLUMNS) | {
        "run_id": run_id, "model": MODEL, "dataset": DATASET, "metric": "auc", "value": 0.5, "n": 8,
    }  # fmt: skip
    cache.publish_results(run_id, pl.DataFrame([row], schema=dict(RESULT_COLUMNS)))
    entry = cache.entry(MODEL, DATASET)
    for projection in ("pca", "tsne"):
        mapped = table.select(
            model=pl.lit(entry.model), dataset=pl.lit(entry.dataset), key=pl.lit(entry.key),
            projection=pl.lit(projection), sample_id="sample_id", patient_id="patient_id", split="split",
            x=pl.int_range(pl.len()) * 0.25, y=pl.lit(1.0), x_share=pl.lit(0.5), y_share=pl.lit(0.25),
            kl_divergence=pl.lit(None, pl.Float64), seed=pl.lit(0), parameters=pl.lit("{}"),
            **{"attribute.sex": "attribute.sex"},
        )  # fmt: skip
        cache.publish_coordinates(mapped)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
