"""probe → metrics → sql → report with torch and its kin refused, and without a network."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl

from fmcache.store.cache import open_cache
from fmcache.store.keys import digest
from tests.e2e.command import environment

STAGE_TWO = '''
import socket
import sys

REFUSED = {"torch", "timm", "open_clip", "transformers", "segment_anything"}


class Refuse:
    """sys.modules["torch"] = None would break SciPy, which looks the name up there."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in REFUSED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def refuse_network(*arguments, **options):
    raise AssertionError("stage two opened a socket")


sys.meta_path.insert(0, Refuse())
socket.socket.connect = refuse_network
socket.create_connection = refuse_network
socket.getaddrinfo = refuse_network

from fmcache.cli import main

for line in (
    ["probe", "--cache", "cache"],
    ["metrics", "--cache", "cache"],
    ["sql", "--cache", "cache",
     "SELECT sex, auc(y, score) AS auc, count(*) AS n FROM predictions GROUP BY sex ORDER BY sex"],
    ["represent", "--cache", "cache", "--projection", "pca,tsne"],
    ["report", "--cache", "cache", "--out", "report.html"],
    ["audit", "foreign.csv", "--label", "y", "--score", "p", "--by", "sex"],
    ["cache", "verify", "--cache", "cache"],
):
    sys.argv = ["fmcache", *line]
    try:
        main()
    except SystemExit as stop:
        assert not stop.code, (line, stop.code)
assert not REFUSED & {name.partition(".")[0] for name in sys.modules}
try:
    import torch
except ModuleNotFoundError:
    print("REFUSED AS INTENDED")
'''


def _cache(path: Path, n: int = 400) -> None:
    """Embeddings of images that never existed: only the cache is there."""
    rng = np.random.default_rng(0)
    patient = np.arange(n) // 2
    y = (rng.random(n) < 0.4).astype(np.float64)
    x = rng.normal(size=(n, 16))
    x[:, 0] += 2 * y
    table = pl.DataFrame(
        {
            "sample_id": [f"s{i:03d}" for i in range(n)],
            "patient_id": [f"p{i:03d}" for i in patient],
            "path": [f"{i}.png" for i in range(n)],
            "split": [("train", "train", "val", "test")[p % 4] for p in patient],
            "slices": [1] * n,
            "input_digest": [digest([i]) for i in range(n)],
            "input_error": [None] * n,
            "label.finding": y,
            "attribute.sex": [("female", "male")[p // 4 % 2] for p in patient],
        },
        schema_overrides={"input_error": pl.String},
    )
    cache = open_cache(path, create=True)
    cache.publish_dataset("study", {}, table)
    units = pl.DataFrame({"input_digest": table["input_digest"], "slice": [0] * n})
    rows = units.with_columns(table["sample_id"])
    with cache.segment("some-model", "study", "image", {"model": "some-model"}, units, rows, d=16) as writer:
        for block in writer.blocks:
            writer.write(block.index, x[block.start : block.stop].astype(np.float16))
        writer.publish({"device": "none"})


def test_everything_after_the_extraction_runs_without_torch_and_without_a_network(tmp_path: Path) -> None:
    _cache(tmp_path / "cache")
    rng = np.random.default_rng(1)
    y = rng.integers(0, 2, 300)
    pl.DataFrame({"y": y, "p": np.clip(0.3 + 0.3 * y + 0.2 * rng.random(300), 0, 1),
                  "sex": [("F", "M")[i % 2] for i in range(300)]}).write_csv(tmp_path / "foreign.csv")  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", STAGE_TWO], cwd=tmp_path, env=environment(), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.rstrip().endswith("REFUSED AS INTENDED")
    assert '"sex": "female"' in done.stdout
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "some-model" in page
    assert "finding" in page
    assert "Neighbours in the embedding (t-SNE)" in page
