"""What mitigation repairs and what it does not, on four phantom studies with another planted cause each.

    python bench/mitigation.py WORK --side 112 --images 2000 --study drain

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

from fmcache.errors import UsageError
from fmcache.probe.methods import METHODS
from fmcache.probe.mitigation.front import reached, youden
from fmcache.probe.options import Options
from fmcache.probe.penalties import auc
from fmcache.probe.run import probe
from fmcache.store.cache import open_cache
from fmcache.store.runs import Run

STUDIES = {
    "drain": [
        *("--visible-male", "0.7", "--visible-female", "0.7", "--women", "0.15"),
        *("--drain-male", "0.9", "--drain-female", "0.1"),
    ],
    "visibility": [],
    "shortcut": [
        *("--visible-male", "0.7", "--visible-female", "0.7"),
        *("--prevalence-male", "0.85", "--prevalence-female", "0.15"),
    ],
    "minority": [
        *("--visible-male", "0.95", "--visible-female", "0.95", "--women", "0.15", "--lucent", "female"),
    ],
}
SPLITS = 1 / 3  # n_test / n_train of 60/20/20
NUMBERS = ("auc", "auc_worst", "auc_gap", "eqodds_gap", "separation")


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
    told = {name: float(getattr(of, name)[0]) for name in NUMBERS if name != "separation"}
    return told | {"separation": separation(z["test"][:, 0], y["test"], group)}


def separation(z: np.ndarray, y: np.ndarray, group: np.ndarray) -> float:
    """How well the score tells women from men of the same label: mean over labels of |2 AUC - 1|; 0 is equalised odds.

    At every threshold at once, and so much less noisy than TPR and FPR at one.
    """
    return float(np.mean([abs(2 * auc(z[y == label, None], group[y == label])[0] - 1) for label in (0, 1)]))


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
    parser.add_argument(
        "--pca", type=int, default=0, help="keep so many components of the embedding (0: all)"
    )
    parser.add_argument("--method", choices=METHODS, action="append", help="erm and these; default: all")
    parser.add_argument("--study", choices=STUDIES, action="append")
    given = parser.parse_args()
    for study in given.study or STUDIES:
        prepare(given.work, study, given.model, given.side, given.images)
        cache = open_cache(given.work / "cache")
        found = {}
        for name in given.method or METHODS:
            options = Options(
                datasets=(f"phantom-{study}",),
                methods=(name,),
                attribute="sex",
                seeds=given.seeds,
                pca=given.pca,
            )
            try:
                (run_id,) = probe(cache, options)
            except UsageError as refused:
                print(f"{study}: {name} is refused. {refused}", file=sys.stderr)
                continue
            found[name] = by_seed(cache.run(run_id))
            print(f"{study}: {name}", file=sys.stderr)
        report(study, found)


def by_seed(run: Run) -> list[dict[str, float]]:
    """`measure`, of every seed of a run."""
    at_zero = bool(run.info["attribute_at_test"])
    parts = sorted(run.predictions().group_by("seed"), key=lambda item: item[0])
    return [measure(part, at_zero) for _, part in parts]


def report(study: str, found: dict[str, list[dict[str, float]]]) -> None:
    """A Markdown table: erm as it is, every other method as its paired difference from erm."""
    print(
        f"\n### {study}\n\n| method | AUC | worst AUC | AUC gap | EqOdds gap | separation |\n|---|---|---|---|---|---|"
    )
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
