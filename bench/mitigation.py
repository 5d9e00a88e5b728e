"""What mitigation repairs and what it does not, on three phantom studies with another planted cause each.

    python bench/mitigation.py WORK --model dinov2-small --side 224 --images 1200 --seeds 10

Makes the studies and extracts them (once; WORK keeps them), probes every method under every seed (a new 60/20/20 split
by patient), and prints the tables of docs/mitigation.md. Intervals are 95 %, of means over splits, by the corrected
resampled t-test (Nadeau & Bengio, 2003): splits overlap, so a mean has the variance s² (1/seeds + n_test/n_train).
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import polars as pl
from scipy.stats import t as student

from fmcache.probe.methods import METHODS
from fmcache.probe.mitigation.front import reached, youden
from fmcache.probe.options import Options
from fmcache.probe.run import probe
from fmcache.store.cache import open_cache

STUDIES = {
    "visibility": [],
    "prevalence": [
        *("--visible-male", "0.9", "--visible-female", "0.9"),
        *("--prevalence-male", "0.8", "--prevalence-female", "0.2"),
    ],
    "minority": [
        *("--visible-male", "0.95", "--visible-female", "0.95", "--women", "0.15", "--lucent", "female"),
    ],
}
SPLITS = 1 / 3  # n_test / n_train of 60/20/20
NUMBERS = ("auc", "auc_worst", "auc_gap", "eqodds_gap")


def fmcache(*arguments: str) -> None:
    """Run the command; its messages go to this one's."""
    subprocess.run([sys.executable, "-m", "fmcache.cli", *arguments], check=True, stdout=sys.stderr)


def prepare(work: Path, study: str, model: str, side: int, images: int) -> None:
    """Make a study and extract it; its card is the phantom's without the given split, so that seeds draw their own."""
    patients = str(images * 7 // 12)
    fmcache("phantom", str(work / study), "--patients", patients, "--images", str(images), *STUDIES[study])
    text = files("fmcache.extract.datasets").joinpath("phantom.toml").read_text(encoding="utf-8")
    text = re.sub(r"p\.split +AS", "NULL AS", text.replace('name = "phantom"', f'name = "phantom-{study}"'))
    card = work / f"phantom-{study}.toml"
    card.write_text(text, encoding="utf-8")
    more = ["--side", str(side)] if side else []
    fmcache(
        "extract", "--model", model, "--dataset", str(card), "--root", str(work / study),
        "--cache", str(work / "cache"), *more,
    )  # fmt: skip


def measure(predictions: pl.DataFrame, at_zero: bool) -> dict[str, float]:
    """Of one seed: the test rows at the threshold that the validation rows give (or 0, where the method sets it)."""
    rows = {name: predictions.filter(pl.col("split") == name) for name in ("val", "test")}
    z = {name: of["logit"].to_numpy()[:, None] for name, of in rows.items()}
    y = {name: of["y"].to_numpy().astype(float) for name, of in rows.items()}
    threshold = np.zeros(1) if at_zero else youden(z["val"], y["val"])
    group = (rows["test"]["attribute.sex"] == "female").to_numpy().astype(int)
    of = reached(z["test"], y["test"], group, 2, threshold)
    return {name: float(getattr(of, name)[0]) for name in NUMBERS}


def interval(values: np.ndarray) -> tuple[float, float]:
    """Mean and half the width of its interval."""
    half = student.ppf(0.975, len(values) - 1) * np.sqrt((1 / len(values) + SPLITS) * values.var(ddof=1))
    return float(values.mean()), float(half)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--model", default="dinov2-small")
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--images", type=int, default=1200)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--study", choices=STUDIES, action="append")
    given = parser.parse_args()
    for study in given.study or STUDIES:
        prepare(given.work, study, given.model, given.side, given.images)
        cache = open_cache(given.work / "cache")
        options = Options(
            datasets=(f"phantom-{study}",), methods=tuple(METHODS), attribute="sex", seeds=given.seeds
        )
        found = {}
        for run_id in probe(cache, options):
            run = cache.run(run_id)
            table = run.predictions()
            post = bool(run.info["attribute_at_test"])
            found[run.info["method"]] = [
                measure(part, post) for _, part in sorted(table.group_by("seed"), key=lambda item: item[0])
            ]
        report(study, found)


def report(study: str, found: dict[str, list[dict[str, float]]]) -> None:
    """A Markdown table: erm as it is, every other method as its paired difference from erm."""
    print(f"\n### {study}\n\n| method | AUC | worst AUC | AUC gap | EqOdds gap |\n|---|---|---|---|---|")
    columns = {
        name: np.array([[row[key] for key in NUMBERS] for row in rows]) for name, rows in found.items()
    }
    for name, values in columns.items():
        cells = []
        for k in range(len(NUMBERS)):
            difference = values[:, k] if name == "erm" else values[:, k] - columns["erm"][:, k]
            mean, half = interval(difference)
            clear = name != "erm" and abs(mean) > half
            text = f"{mean:.3f} ± {half:.3f}" if name == "erm" else f"{mean:+.3f} ± {half:.3f}"
            cells.append(f"**{text}**" if clear else text)
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
