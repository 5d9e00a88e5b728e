"""A table of predictions as an auditor gets it, with what can go wrong: ids, a hostile name, a tiny group."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from fmcache.analyze.audit import audit
from fmcache.store.cache import Cache, open_cache

HOSTILE = "<script>document.title='hit'</script>"
CANARY = "MRN-7734"  # begins every id
TINY = "Tinyton"  # seven rows, in no other text


def predictions(n: int = 3000, seed: int = 0) -> pl.DataFrame:
    """pid, sample_id, y, p, sex (the score is better for men), race with HOSTILE and TINY."""
    rng = np.random.default_rng(seed)
    people = n // 3
    pid = np.arange(n) % people
    sex = np.where(rng.random(people) < 0.5, "female", "male")[pid]
    race = rng.choice(["White", "Black", HOSTILE], people, p=[0.5, 0.15, 0.35])
    race = race.astype(object)[pid]
    race[:7] = TINY
    y = (rng.random(people) < 0.3).astype(int)[pid]
    z = y * np.where(sex == "male", 2.2, 1.1) + rng.normal(0, 1, n) - 1.3
    return pl.DataFrame(
        {
            "sample_id": [f"{CANARY}-s{i:05d}" for i in range(n)],
            "pid": [f"{CANARY}-p{i:05d}" for i in pid],
            "y": y,
            "p": 1 / (1 + np.exp(-z)),
            "sex": sex,
            "race": race.tolist(),
        }
    )


def audited(
    folder: Path, table: pl.DataFrame | None = None, draws: int = 50, model: str = "external"
) -> Cache:
    """A cache with the audit of the table."""
    cache = open_cache(folder, create=True)
    audit(
        predictions() if table is None else table, label="y", score="p", by=["sex", "race", "sex*race"],
        patient="pid", threshold="0.5", draws=draws, cache=cache, model=model, dataset="clinic",
    )  # fmt: skip
    return cache
