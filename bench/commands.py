"""Whole commands from the shell, against the import of the libraries that they cannot do without.

    python bench/commands.py
    python bench/commands.py --repeats 25

Goals: the first help page in 0.3 s; a query of a small cache in twice the time of importing duckdb and polars; a
published table of 112,120 (NIH ChestX-ray14) or 223,414 images (CheXpert) as samples in 3 s or 5 s, beside what Polars
takes to read it as text and write it as Parquet (with torchxrayvision's copies of the tables; ``make test`` installs
it). Medians; the contenders take turns.
"""

from __future__ import annotations

import argparse
import gzip
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np
import polars as pl
from turns import in_turn, medians

from fmcache.extract.dataset import load_dataset
from fmcache.probe.run import probe_lp
from fmcache.settings import Settings
from fmcache.store.cache import open_cache

TABLES = {  # card → the packed copy, the owner's name, the goal in seconds
    "nih-cxr14": ("Data_Entry_2017_v2020.csv.gz", "Data_Entry_2017_v2020.csv", 3),
    "chexpert": ("chexpert_train.csv.gz", "train.csv", 5),
}


def verdict(name: str, value: float, goal: float) -> None:
    print(f"  {name:<58}{value:6.2f}   goal {goal:4.2f}   {'met' if value <= goal else 'MISSED'}")


def python(*arguments: str) -> Callable[[], object]:
    return lambda: subprocess.run([sys.executable, *arguments], check=True, capture_output=True)


def small_cache(folder: Path) -> Path:
    """600 samples of 64 numbers, one label, one run."""
    rng = np.random.default_rng(0)
    n, d = 600, 64
    x = rng.normal(size=(n, d)).astype(np.float16)
    ids = [f"s{k:04d}" for k in range(n)]
    digests = [f"{k:064x}" for k in range(n)]
    samples = pl.DataFrame(
        {
            "sample_id": ids,
            "patient_id": [f"p{k // 2:04d}" for k in range(n)],
            "path": [f"{name}.png" for name in ids],
        }
    ).with_columns(
        split=pl.lit(""),
        slices=pl.lit(1, pl.Int32),
        input_digest=pl.Series(digests),
        input_error=pl.lit(None, pl.String),
        **{
            "label.finding": pl.Series((x[:, 0] + rng.normal(size=n) > 0).astype(np.float32)),
            "attribute.sex": pl.Series(np.array(["female", "male"])[np.arange(n) // 2 % 2]),
        },
    )
    cache = open_cache(folder, create=True)
    cache.publish_dataset("study", {}, samples)
    units = samples.select("input_digest", slice=pl.lit(0, pl.Int32))
    placed = units.with_columns(samples["sample_id"])
    with cache.segment("numbers", "study", "image", {"model": "numbers"}, units, placed, d=d) as writer:
        for block in writer.blocks:
            writer.write(block.index, x[block.start : block.stop])
        writer.publish({})
    probe_lp(cache)
    return cache.path


def commands(folder: Path, repeats: int) -> None:
    cache = str(small_cache(folder / "cache"))
    query = "SELECT model, auc(y, score) FROM predictions GROUP BY 1"
    told = medians(
        in_turn(
            {
                "nothing": python("-c", "pass"),
                "import": python("-c", "import duckdb, polars, pyarrow"),
                "help": python("-m", "fmcache.cli", "--help"),
                "sql": python("-m", "fmcache.cli", "sql", query, "--cache", cache),
            },
            repeats,
        )
    )
    print(
        f"\npython {told['nothing']:.2f} s, with duckdb, polars and pyarrow {told['import']:.2f} s; "
        f"fmcache --help {told['help']:.2f} s, fmcache sql {told['sql']:.2f} s"
    )
    verdict("fmcache --help, seconds", told["help"], 0.3)
    verdict("fmcache sql / importing duckdb, polars and pyarrow", told["sql"] / told["import"], 2.0)


def tables(folder: Path, repeats: int) -> None:
    try:
        package = metadata.distribution("torchxrayvision")
    except metadata.PackageNotFoundError:
        print(
            "\nPublished tables: torchxrayvision is not installed (pip install --no-deps torchxrayvision==1.5.7)."
        )
        return
    for name, (packed, owners, goal) in TABLES.items():
        root = folder / name
        root.mkdir()
        source = next(
            Path(str(package.locate_file(file))) for file in package.files or () if file.name == packed
        )
        with gzip.open(source) as text, (root / owners).open("wb") as file:
            shutil.copyfileobj(text, file)
        target = root / "samples.parquet"
        told = medians(
            in_turn(
                {
                    "fmcache": lambda name=name, root=root, target=target: (  # type: ignore[misc]
                        load_dataset(name, root=root, settings=Settings()).samples.write_parquet(target)
                    ),
                    "polars": lambda table=root / owners, target=target: (  # type: ignore[misc]
                        pl.read_csv(table, infer_schema_length=0).write_parquet(target)
                    ),
                },
                repeats,
            )
        )
        rows = pl.scan_parquet(target).select(pl.len()).collect().item()
        ratio = told["fmcache"] / told["polars"]
        print(f"\n{name}: {rows:,} samples, {ratio:.1f} x what Polars takes for the table as text to Parquet")
        verdict("samples of the card, seconds", told["fmcache"], goal)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {options.repeats} repeats, medians")
    with tempfile.TemporaryDirectory() as folder:
        commands(Path(folder), options.repeats)
        tables(Path(folder), min(options.repeats, 3))


if __name__ == "__main__":
    main()
