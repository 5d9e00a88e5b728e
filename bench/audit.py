"""How fast is an audit, against fairlearn and scikit-learn in the same run?

50,000 images of 20,000 patients, 14 labels, attributes with 2, 2 and 4 groups: 9 groups × 14 labels = 126 AUCs a
replicate, 1,000 replicates. Scores have 1,000 distinct values (many ties) unless --continuous.

    python bench/audit.py                          the AUCs, the whole default report, and 1,000,000 rows
    python bench/audit.py --only aucs              the AUCs alone
    taskset -c 0,1 python bench/audit.py           on two cores

Peers run a few replicates and are extrapolated in proportion: fairlearn's MetricFrame resamples rows (it knows no
patients), one label and three attributes at a time; scikit-learn's roc_auc_score takes our weights.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
import warnings

import numpy as np
import polars as pl

from fmcache.analyze.areas import areas_of
from fmcache.analyze.bootstrap import Resamples, patient_weights
from fmcache.analyze.evaluate import evaluate
from fmcache.analyze.partitions import Partition

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
    """AUCs [cells, draws], from arrays to replicates: sorting, plans and drawing included."""
    everyone = Partition(np.zeros(data["y"].shape[1], np.int64), 1)
    partitions = [everyone] + [
        Partition(codes, len(p)) for codes, p in zip(data["groups"], LEVELS.values(), strict=True)
    ]
    plans = [
        areas_of(y, score, data["patient"], patients, partitions)
        for y, score in zip(data["y"], data["score"], strict=True)
    ]
    replicates = [
        np.concatenate([part.under(weights, auprc=False)[2] for one in plans for part in one])
        for weights in Resamples(patients, draws, 0)
    ]
    return np.concatenate(replicates, axis=1)


def sklearn_replicate(data: dict[str, np.ndarray], patients: int, replicate: int) -> np.ndarray:
    """The same AUCs of one replicate by scikit-learn with sample weights."""
    from sklearn.metrics import roc_auc_score

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


def fairlearn_seconds(data: dict[str, np.ndarray], replicates: int) -> float | None:
    """Seconds a replicate of all labels, from one label with `replicates`; None without fairlearn."""
    try:
        from fairlearn.metrics import MetricFrame
    except ModuleNotFoundError:
        return None
    from sklearn.metrics import roc_auc_score

    label = len(data["y"]) // 2
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for codes in data["groups"]:
            MetricFrame(
                metrics=roc_auc_score, y_true=data["y"][label], y_pred=data["score"][label], sensitive_features=codes,
                n_boot=replicates, ci_quantiles=[0.025, 0.975], random_state=0,
            )  # fmt: skip
    return (time.perf_counter() - start) / replicates * len(data["y"])


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


def aucs(options: argparse.Namespace) -> dict[str, object]:
    """AUC replicates: ours, scikit-learn's and fairlearn's, in turns."""
    data = study(options.images, options.patients, options.labels, None if options.continuous else 3)
    mine, other, third, difference = [], [], [], 0.0
    for k in range(options.repeat):
        start = time.perf_counter()
        replicates = ours(data, options.patients, options.draws)
        mine.append((time.perf_counter() - start) / options.draws)
        start = time.perf_counter()
        reference = sklearn_replicate(data, options.patients, k)
        other.append(time.perf_counter() - start)
        third.append(fairlearn_seconds(data, 2))
        difference = max(difference, float(np.abs(replicates[:, k] - reference).max()))
    a_replicate = statistics.median(mine)
    known = [one for one in third if one is not None]
    return {
        "aucs_per_replicate": len(reference),
        "seconds_per_1000_replicates": round(1000 * a_replicate, 3),
        "sklearn_seconds_per_replicate": round(statistics.median(other), 3),
        "times_faster_than_sklearn": round(statistics.median(other) / a_replicate),
        "fairlearn_seconds_per_replicate": round(statistics.median(known), 3) if known else "not installed",
        "times_faster_than_fairlearn": round(statistics.median(known) / a_replicate) if known else None,
        "largest_difference_to_sklearn": difference,
    }


def report(options: argparse.Namespace, images: int, patients: int, labels: int) -> dict[str, object]:
    """Every metric, difference, disparity, interval and null gap of the default report."""
    data = study(images, patients, labels, None if options.continuous else 3)
    table = predictions(data)
    del data
    start, busy = time.perf_counter(), time.process_time()
    rows = len(evaluate(table, draws=options.draws).results)
    return {
        "prediction_rows": images * labels,
        "seconds": round(time.perf_counter() - start, 2),
        "cpu_seconds": round(time.process_time() - busy, 2),
        "result_rows": rows,
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def main() -> None:
    """Print one JSON object a part; times are medians in seconds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--patients", type=int, default=20_000)
    parser.add_argument("--labels", type=int, default=14)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--continuous", action="store_true")
    parser.add_argument("--only", choices=("aucs", "report", "million"))
    options = parser.parse_args()
    if options.only is None:
        for part in ("aucs", "report", "million"):  # a process each, so that peak memory is a part's own
            subprocess.run([sys.executable, __file__, *sys.argv[1:], "--only", part], check=True)
        return
    if options.only == "aucs":
        found = aucs(options)
    elif options.only == "report":
        found = report(options, options.images, options.patients, options.labels)
    else:
        found = report(options, 1_000_000, 400_000, 1)
    print(json.dumps({"part": options.only} | found))


if __name__ == "__main__":
    main()
