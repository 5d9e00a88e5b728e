"""One small extraction, probe and metrics' worth of writes, as its own process, for the faults to hit.

    python tests/fault/worker.py CACHE [--no-lock] [--jitter] [--slow SECONDS] [--units N]

Prints ``computed reused published`` blocks; the values are a pure function of the unit.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import time
from functools import cache as once
from pathlib import Path

import numpy as np
import polars as pl

from fmcache.errors import FmcacheError
from fmcache.store.cache import Cache, open_cache
from fmcache.store.schema import RESULT_COLUMNS

UNITS, D, BLOCK = 300, 32, 64
DOCUMENT = {"model": "fault-model", "weights": "0" * 64}
ATTRIBUTES = ["female", "male"]


def digests(n: int = UNITS) -> list[str]:
    return list(_digests(n))


@once
def _digests(n: int) -> tuple[str, ...]:
    return tuple(hashlib.sha256(f"unit {i}".encode()).hexdigest() for i in range(n))


def value(digest: str, jitter: int = 0) -> np.ndarray:
    """[D] float32 that float16 has to round. By a hash: numpy.random alone takes half of such a process's time."""
    drawn = hashlib.shake_128(f"{digest} {jitter}".encode()).digest(4 * D)
    return np.frombuffer(drawn, "<i4").astype(np.float32) / np.float32(3 << 29)


def samples(n: int = UNITS) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "sample_id": [f"s{i:04d}" for i in range(n)],
            "patient_id": [f"p{i // 2:04d}" for i in range(n)],
            "path": [f"{i}.png" for i in range(n)],
            "split": [("train", "val", "test")[i // 2 % 3] for i in range(n)],
            "slices": [1] * n,
            "input_digest": digests(n),
            "input_error": [None] * n,
            "label.a": [float(i % 3 == 0) for i in range(n)],
            "attribute.sex": [ATTRIBUTES[i // 2 % 2] for i in range(n)],
        },
        schema_overrides={"input_error": pl.String},
    )


def predictions() -> pl.DataFrame:
    table = samples().select("sample_id", "patient_id", "split", "label.a", "attribute.sex")
    score = [float(value(digest)[0]) for digest in digests()]
    return table.select(
        "sample_id",
        "patient_id",
        "split",
        label=pl.lit("a"),
        seed=pl.lit(0),
        y="label.a",
        score=pl.Series(score),
        logit=pl.lit(None, pl.Float64),
        **{"attribute.sex": "attribute.sex"},
    )


def results(run_id: str) -> pl.DataFrame:
    row = dict.fromkeys(RESULT_COLUMNS, None) | {"run_id": run_id, "metric": "auc", "value": 0.5}
    return pl.DataFrame([row], schema=dict(RESULT_COLUMNS))


def extract(cache: Cache, options: argparse.Namespace) -> str:
    jitter = os.getpid() % 97 + 1 if options.jitter else 0
    n = options.units
    names = digests(n)
    units = pl.DataFrame({"input_digest": names, "slice": [0] * n})
    rows = units.select(pl.Series("sample_id", samples(n)["sample_id"]), "slice", "input_digest")
    cache.publish_dataset("study", {"title": "fault study"}, samples(n))
    if cache.stored("fault-model", "study", "image", _key()).units.height != n:
        with cache.segment(
            "fault-model", "study", "image", DOCUMENT, units, rows, d=D, block_rows=BLOCK, lock=not options.no_lock
        ) as writer:  # fmt: skip
            for block in writer.blocks:
                if not block.done:
                    time.sleep(options.slow)
                    order = writer.units["input_digest"][block.start : block.stop]
                    writer.write(block.index, np.stack([value(name, jitter) for name in order]))
            published = writer.publish({"device": "none"})
            return f"{writer.written} {writer.reused} {int(published is not None)}"
    return "0 0 0"


def _key() -> str:
    from fmcache.store.keys import digest

    return digest(DOCUMENT)


def work(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("cache", type=Path)
    parser.add_argument("--no-lock", action="store_true")
    parser.add_argument("--jitter", action="store_true")
    parser.add_argument("--slow", type=float, default=0.0)
    parser.add_argument("--units", type=int, default=UNITS)
    parser.add_argument("--only-extract", action="store_true")
    options = parser.parse_args(arguments)
    try:
        cache = open_cache(options.cache, create=True)
        print(extract(cache, options), flush=True)
        if not options.only_extract:
            run_id = cache.publish_run(
                {"model": "fault-model", "labels": ["a"]}, predictions(), {"w": np.ones(3)}
            )
            cache.publish_results(run_id, results(run_id))
    except FmcacheError as error:
        print(type(error).__name__, str(error), file=sys.stderr, flush=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(work(sys.argv[1:]))
