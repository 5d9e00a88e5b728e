"""How fast are exact patient-clustered bootstrap AUCs of groups, against scikit-learn in the same run?

50,000 images of 20,000 patients, 14 labels, attributes with 2, 2 and 4 groups: 9 groups × 14 labels = 126 AUCs a
replicate. Scores have 1,000 distinct values (many ties) unless --continuous.

    python bench/bootstrap.py                       the AUCs alone, against sklearn.metrics.roc_auc_score
    python bench/bootstrap.py --everything          also all metrics, all disparities and the gap of chance (evaluate)
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import numpy as np
import polars as pl
from sklearn.metrics import roc_auc_score

from fmcache.analyze.bootstrap import patient_weights, resample
from fmcache.analyze.evaluate import evaluate
from fmcache.analyze.weighted import Partition, plan

LEVELS = {"sex": [0.45, 0.55], "insurance": [0.35, 0.65], "race": [0.62, 0.20, 0.12, 0.06]}


def study(images: int, patients: int, labels: int, decimals: int | None) -> dict[str, np.ndarray]:
    """patient [n], groups [3, n], y [labels, n], score [labels, n] in [0, 1]; scores are noisier in some groups."""
    random = np.random.default_rng(0)
    patient = random.permutation(
        np.concatenate([np.arange(patients), random.integers(0, patients, images - patients)])
    )
    of_patient = np.stack([random.choice(len(p), patients, p=p) for p in LEVELS.values()])
    groups = of_patient[:, patient]
    illness = 0.7 * random.normal(size=(labels, patients))[:, patient] + 0.7 * random.normal(
        size=(labels, images)
    )
    prevalence = np.geomspace(0.01, 0.40, labels)
    y = illness > np.array([[np.quantile(x, 1 - q)] for x, q in zip(illness, prevalence, strict=True)])
    noise = 1 + 0.25 * groups[0] + 0.15 * groups[2]
    score = 1 / (1 + np.exp(-illness - noise * random.normal(size=(labels, images))))
    return {
        "patient": patient,
        "groups": groups,
        "y": y,
        "score": score if decimals is None else score.round(decimals),
    }


def ours(data: dict[str, np.ndarray], patients: int, draws: int) -> np.ndarray:
    """AUCs [cells, draws], from arrays to replicates: plans included."""
    everyone = Partition(np.zeros(data["y"].shape[1], np.int64), 1)
    partitions = [everyone] + [
        Partition(codes, len(p)) for codes, p in zip(data["groups"], LEVELS.values(), strict=True)
    ]
    plans = [
        plan(y, score, data["patient"], patients, partitions, auprc=False)
        for y, score in zip(data["y"], data["score"], strict=True)
    ]
    return np.concatenate([replicate.auc for replicate in resample(plans, patients, draws=draws)])


def theirs(data: dict[str, np.ndarray], patients: int, replicate: int) -> np.ndarray:
    """The same AUCs of one replicate by scikit-learn with sample weights."""
    weight = patient_weights(patients, range(replicate, replicate + 1), 0)[:, 0].astype(float)[
        data["patient"]
    ]
    groupings = [np.zeros(data["y"].shape[1], int), *data["groups"]]
    drawn = weight > 0
    return np.array([
        roc_auc_score(y[mine], score[mine], sample_weight=weight[mine])
        for y, score in zip(data["y"], data["score"], strict=True)
        for codes in groupings
        for mine in [drawn & (codes == g) for g in range(codes.max() + 1)]
    ])  # fmt: skip


def predictions(data: dict[str, np.ndarray]) -> pl.DataFrame:
    """The study as a table of predictions; the first tenth of the patients is the validation split."""
    n = data["y"].shape[1]
    split = np.where(data["patient"] < data["patient"].max() // 10, "val", "test")
    attributes = {
        f"attribute.{name}": pl.Series(codes).cast(pl.String)
        for name, codes in zip(LEVELS, data["groups"], strict=True)
    }
    one = {
        "sample_id": pl.Series(range(n)).cast(pl.String), "patient_id": pl.Series(data["patient"]).cast(pl.String),
        "split": split, "seed": np.zeros(n, np.int32), "logit": np.full(n, np.nan), **attributes,
    }  # fmt: skip
    return pl.concat(
        pl.DataFrame({**one, "label": [f"label{k}"] * n, "y": y.astype(np.float32), "score": score})
        for k, (y, score) in enumerate(zip(data["y"], data["score"], strict=True))
    )


def main() -> None:
    """Print one JSON object; times are medians in seconds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--patients", type=int, default=20_000)
    parser.add_argument("--labels", type=int, default=14)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--continuous", action="store_true")
    parser.add_argument("--everything", action="store_true")
    options = parser.parse_args()
    data = study(options.images, options.patients, options.labels, None if options.continuous else 3)
    mine, other, difference = [], [], 0.0
    for k in range(options.repeat):
        start = time.perf_counter()
        replicates = ours(data, options.patients, options.draws)
        mine.append(time.perf_counter() - start)
        start = time.perf_counter()
        reference = theirs(data, options.patients, k)
        other.append(time.perf_counter() - start)
        difference = max(difference, float(np.abs(replicates[:, k] - reference).max()))
    per_replicate = statistics.median(other)
    result = {
        "aucs_per_replicate": len(reference),
        "replicates": options.draws,
        "seconds": round(statistics.median(mine), 3),
        "sklearn_seconds_per_replicate": round(per_replicate, 3),
        "times_faster": round(per_replicate * options.draws / statistics.median(mine)),
        "largest_difference": difference,
    }
    if options.everything:
        start = time.perf_counter()
        table = predictions(data)
        made = time.perf_counter()
        rows = len(evaluate(table, draws=options.draws).results)
        result |= {"evaluate_seconds": round(time.perf_counter() - made, 2), "evaluate_rows": rows}
        result["table_seconds"] = round(made - start, 2)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
