"""Are the numbers of a group what one gets by hand, and is what is undefined said to be so?"""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest

from fmcache.analyze.bootstrap import patient_weights
from fmcache.analyze.evaluate import evaluate
from fmcache.analyze.intervals import interval
from fmcache.analyze.metrics import METRICS, auc, auprc, brier, ece, tally, why_undefined
from fmcache.analyze.metrics_page import metrics_page
from fmcache.analyze.thresholds import choose_threshold
from fmcache.errors import UsageError
from fmcache.store.groups import as_groups, attribute_names, group_by
from fmcache.store.schema import RESULT_COLUMNS

Y = np.array([0, 0, 0, 0, 1, 1, 1, 0, 1, 1], bool)
P = np.array([0.05, 0.15, 0.35, 0.35, 0.35, 0.55, 0.75, 0.85, 0.95, 1.0])


def predictions(**columns: object) -> pl.DataFrame:
    """Predictions of one label; what is not given is filled in."""
    n = len(columns["y"])  # type: ignore[arg-type]
    filled = {
        "sample_id": [f"s{k:04d}" for k in range(n)],
        "patient_id": [f"p{k:04d}" for k in range(n)],
        "split": ["test"] * n,
        "label": ["finding"] * n,
        "seed": [0] * n,
        "logit": [None] * n,
    } | {name.replace("attribute_", "attribute."): values for name, values in columns.items()}
    return pl.DataFrame(filled).with_columns(pl.col("logit").cast(pl.Float64))


def study(n: int = 400, seed: int = 0) -> pl.DataFrame:
    """200 patients with two images each, sex, a val half, and a useful score."""
    random = np.random.default_rng(seed)
    patient = np.arange(n) // 2
    y = random.random(n) < 0.4
    score = np.round(1 / (1 + np.exp(-(1.5 * y - 0.7 + random.normal(size=n)))), 2)
    return predictions(
        y=y.astype(float),
        score=score,
        patient_id=[f"p{k:04d}" for k in patient],
        split=["val" if k % 3 == 0 else "test" for k in patient],
        attribute_sex=["female" if k % 2 else "male" for k in patient],
    )


def value(results: pl.DataFrame, metric: str, disparity: str = "", **where: str) -> dict[str, object]:
    """The one row of a metric."""
    rows = results.filter(metric=metric, disparity=disparity, **where)
    assert len(rows) == 1
    return rows.row(0, named=True)


def test_kernels_by_hand() -> None:
    # 25 pairs; 0.35 beats 2, ties 2 → 3; 0.55 and 0.75 beat 4 each; 0.95 and 1.0 beat 5 each → 21
    assert auc(Y, P) == 21 / 25
    # from the top: 1/1, 2/2, then a negative, 3/4, 4/5, and the tie block with 1 of 3: 5/8
    assert auprc(Y, P) == pytest.approx((1 + 1 + 3 / 4 + 4 / 5 + 5 / 8) / 5)
    assert brier(Y, P) == pytest.approx(np.mean((P - Y) ** 2))
    # bins: 0: .05|0  1: .15|0  3: 3 × .35, one positive  5: .55|1  7: .75|1  8: .85|0  9: .95, 1.0|1
    off = [0.05, 0.15, abs(3 * 0.35 - 1), 0.45, 0.25, 0.85, 0.05]
    assert ece(Y, P) == pytest.approx(sum(off) / 10)


def test_rates_by_hand_with_a_threshold_that_a_score_equals() -> None:
    t = tally(Y, P, 0.55, probability=True)
    assert (t.tp, t.fp, t.fn, t.tn) == (4, 1, 1, 4)
    by_hand = {
        "prevalence": 0.5, "tpr": 0.8, "fpr": 0.2, "tnr": 0.8, "fnr": 0.2, "ppv": 0.8, "npv": 0.8, "accuracy": 0.8,
        "balanced_accuracy": 0.8, "f1": 8 / 10, "selection_rate": 0.5,
    }  # fmt: skip
    for name, expected in by_hand.items():
        assert METRICS[name].of(t) == pytest.approx(expected), name


@pytest.mark.parametrize(
    ("policy", "threshold"),
    # J: 1.0 → .2, .95 → .4, .85 → .2, .75 → .4, .55 → .6, .35 → .4; F1 at .55: .8, at .35: 10/13
    [
        ("youden", 0.55),
        ("f1", 0.55),
        ("sens@0.90", 0.35),
        ("spec@0.90", 0.95),
        ("spec@0.80", 0.55),
        ("0.3", 0.3),
    ],
)
def test_thresholds_by_hand(policy: str, threshold: float) -> None:
    assert choose_threshold(Y, P, policy) == threshold


def test_a_threshold_above_all_scores_when_no_other_is_specific_enough() -> None:
    y, p = np.array([False, True]), np.array([0.9, 0.2])
    chosen = choose_threshold(y, p, "spec@0.90")
    assert chosen > 0.9
    assert not (p >= chosen).any()


def test_one_class_on_validation_gives_no_threshold() -> None:
    assert math.isnan(choose_threshold(np.ones(5, bool), np.linspace(0, 1, 5), "youden"))


def test_an_unknown_policy_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError) as error:
        choose_threshold(Y, P, "yoden")
    assert str(error.value).splitlines() == [
        "There is no threshold policy 'yoden'.",
        "Policies: 0.5, youden, f1, sens@0.90, spec@0.90, test-youden, or any number.",
        "Did you mean youden?",
    ]


@pytest.mark.parametrize(
    ("metric", "positives", "negatives", "reason"),
    [
        ("auc", 0, 0, "empty group"),
        ("auc", 0, 50, "one class only"),
        ("auc", 9, 50, "fewer than 10 positives"),
        ("auc", 50, 9, "fewer than 10 negatives"),
        ("tpr", 0, 50, "no positives"),
        ("tpr", 9, 50, "fewer than 10 positives"),
        ("fpr", 50, 3, "fewer than 10 negatives"),
        ("fpr", 0, 50, ""),
        ("accuracy", 4, 5, "fewer than 10 samples"),
        ("prevalence", 4, 6, ""),
        ("ece", 40, 60, "score is no probability"),
        ("auc", 10, 10, ""),
    ],
)
def test_what_is_undefined_says_why(metric: str, positives: int, negatives: int, reason: str) -> None:
    y = np.arange(positives + negatives) < positives
    t = tally(y, np.linspace(0, 1, len(y)), 0.5, probability=False)
    assert why_undefined(METRICS[metric], t, 10) == reason


def test_no_positive_call_leaves_ppv_undefined_not_zero() -> None:
    t = tally(Y, P / 10, 0.5, probability=True)
    assert np.isnan(METRICS["ppv"].of(t))
    assert why_undefined(METRICS["ppv"], t, 1) == "no positive calls"


def test_evaluate_gives_the_kernels_values_of_every_group() -> None:
    table = study()
    results = evaluate(table, by=["sex"], draws=20, permutations=5).results
    assert dict(results.schema) == dict(RESULT_COLUMNS)
    test, val = (table.filter(split=name) for name in ("test", "val"))
    threshold = choose_threshold(val["y"].to_numpy() == 1, val["score"].to_numpy(), "youden")
    for sex in ("female", "male"):
        mine = test.filter(pl.col("attribute.sex") == sex)
        y, score = mine["y"].to_numpy() == 1, mine["score"].to_numpy()
        row = value(results, "auc", attribute="sex", group=sex)
        assert row["value"] == auc(y, score)
        assert (row["n"], row["n_pos"], row["n_patients"]) == (len(y), y.sum(), len(y) / 2)
        assert (row["threshold"], row["threshold_policy"]) == (None, "")
        row = value(results, "tpr", attribute="sex", group=sex)
        assert row["value"] == np.mean(score[y] >= threshold)
        assert (row["threshold"], row["threshold_policy"]) == (threshold, "youden")
        assert row["ci_low"] <= row["value"] <= row["ci_high"]  # type: ignore[operator]


def test_the_threshold_is_never_chosen_on_test_rows() -> None:
    with pytest.raises(UsageError) as error:
        evaluate(study().filter(split="test"), by=["sex"], draws=5)
    assert str(error.value).splitlines()[:2] == [
        "The threshold policy youden needs validation rows, and the label finding has none.",
        "Splits of its rows: test.",
    ]


def test_labels_of_the_test_rows_do_not_move_the_threshold() -> None:
    table = study()
    flipped = table.with_columns(y=pl.when(pl.col("split") == "test").then(1 - pl.col("y")).otherwise("y"))
    first, second = (evaluate(t, by=[], draws=5).results.filter(metric="tpr") for t in (table, flipped))
    assert first["threshold"].to_list() == second["threshold"].to_list()
    assert first["value"].to_list() != second["value"].to_list()


def test_seeds_and_labels_are_measured_apart() -> None:
    other = study(seed=1).with_columns(pl.lit(1, pl.Int64).alias("seed"))
    third = study(seed=2).with_columns(pl.lit("another").alias("label"))
    results = evaluate(pl.concat([study(), other, third]), by=["sex"], draws=20, permutations=5).results
    aucs = results.filter(metric="auc", group="overall", disparity="").select("label", "seed", "value").rows()
    assert [row[:2] for row in aucs] == [("another", 0), ("finding", 0), ("finding", 1)]
    for (label, seed, shown), table in zip(aucs, (study(seed=2), study(), study(seed=1)), strict=True):
        mine = table.filter(split="test")
        assert shown == auc(mine["y"].to_numpy() == 1, mine["score"].to_numpy()), (label, seed)


def test_rows_without_label_or_score_are_left_out_and_said() -> None:
    table = study()
    holes = table.with_columns(
        y=pl.when(pl.col("sample_id") == "s0002").then(float("nan")).otherwise("y"),
        score=pl.when(pl.col("sample_id") == "s0004").then(float("nan")).otherwise("score"),
    )
    outcome = evaluate(holes, by=[], draws=5)
    rest = evaluate(table.filter(~pl.col("sample_id").is_in(["s0002", "s0004"])), by=[], draws=5)
    assert value(outcome.results, "auc")["value"] == value(rest.results, "auc")["value"]
    assert {f.text.split(": ")[1][:40] for f in outcome.findings} == {
        "0.38 % of the rows have no label and are"[:40],
        "0.38 % of the rows have no finite score "[:40],
    }


def test_scores_that_are_no_probabilities_have_no_calibration() -> None:
    outcome = evaluate(study().with_columns(score=pl.col("score") * 20 - 10), by=["sex"], draws=20)
    for metric in ("ece", "brier"):
        row = value(outcome.results, metric, group="overall")
        assert math.isnan(row["value"])  # type: ignore[arg-type]
        assert row["reason"] == "score is no probability"
    assert not math.isnan(value(outcome.results, "auc", group="overall")["value"])  # type: ignore[arg-type]
    assert any("are no probabilities" in f.text for f in outcome.findings)


def test_replicates_depend_on_their_number_and_the_seed_only() -> None:
    together = patient_weights(50, range(10), 3)
    assert np.array_equal(together[:, 4:6], patient_weights(50, range(4, 6), 3))
    assert not np.array_equal(together, patient_weights(50, range(10), 4))
    assert (together.sum(axis=0) == 50).all()


def test_undefined_replicates_are_counted_and_too_many_leave_no_interval() -> None:
    replicates = np.linspace(0, 1, 1000)
    assert interval(replicates, 0.9) == (pytest.approx(0.05), pytest.approx(0.95), "")
    replicates[:30] = np.nan
    low, _, remark = interval(replicates, 0.9)
    assert low > 0.05
    assert remark == "undefined in 3 % of the resamples"
    replicates[:60] = np.nan
    low, high, remark = interval(replicates, 0.9)
    assert math.isnan(low)
    assert math.isnan(high)
    assert remark == "no interval: undefined in 6 % of the resamples"


def test_intervals_over_patients_are_wider_than_over_images_that_repeat() -> None:
    one = study(200).with_columns(pl.Series("patient_id", [f"p{k:04d}" for k in range(200)]))
    many = pl.concat([one.with_columns(sample_id=pl.col("sample_id") + f"-{k}") for k in range(8)])
    wrong = many.with_columns(patient_id=pl.col("sample_id"))
    width = {}
    for name, table in {"one image": one, "eight": many, "eight, images resampled": wrong}.items():
        row = value(evaluate(table, by=[], threshold_policy="0.5", draws=400).results, "auc")
        width[name] = row["ci_high"] - row["ci_low"]  # type: ignore[operator]
    assert width["eight"] == pytest.approx(width["one image"], rel=0.01)
    assert width["eight, images resampled"] < 0.5 * width["eight"]


def test_intervals_cover_a_known_truth() -> None:
    # binormal: AUC = Φ(1 / √2) = 0.7602
    covered = 0
    for trial in range(60):
        random = np.random.default_rng(trial)
        y = np.repeat([0.0, 1.0], 80)
        table = predictions(y=y, score=y + random.normal(size=160))
        row = value(evaluate(table, by=[], threshold_policy="0.5", draws=200).results, "auc")
        covered += row["ci_low"] <= 0.7602 <= row["ci_high"]  # type: ignore[operator]
    assert 51 <= covered <= 60  # 57 expected; fewer than 51 happens by chance in 1 of 250 runs


def test_groups_of_attribute_columns() -> None:
    missing = ["", " NA ", "Unknown", "nan", None, "-1", "?"]
    assert as_groups(pl.Series(["M", *missing])).to_list() == ["M"] + ["unknown"] * 7
    assert as_groups(pl.Series([0.0, 1.0, None])).to_list() == ["0", "1", "unknown"]
    assert as_groups(pl.Series([True, False])).to_list() == ["true", "false"]
    assert as_groups(pl.Series(["Other"])).to_list() == ["Other"]


def test_a_numeric_age_is_cut_and_a_missing_one_is_not_young() -> None:
    ages = [0.0, 39.9, 40.0, 59.0, 60.0, 88.0, -1.0, 155.0, float("nan"), None, 1.0, 2.0, 3.0]
    table = pl.DataFrame({"attribute.age": ages})
    assert attribute_names(table) == ["age_group"]
    grouping = group_by(table, "age_group")
    assert [grouping.names[code] for code in grouping.codes] == (
        ["0-39"] * 2 + ["40-59"] * 2 + ["60+"] * 2 + ["unknown"] * 4 + ["0-39"] * 3
    )
    assert group_by(table, "age").names == grouping.names
    grouped = table.with_columns(pl.lit("x").alias("attribute.age_group"))
    with pytest.raises(UsageError, match="different numbers") as error:
        group_by(grouped, "age")
    assert error.value.do == "Type: --by age_group   (a column of the dataset), or --bins age=40:60"


def test_intersections_and_unknown_attributes() -> None:
    table = pl.DataFrame({"attribute.sex": ["f", "m", None], "attribute.race": ["b", None, "w"]})
    grouping = group_by(table, "sex*race")
    assert grouping.names == ("f*b", "unknown")
    assert grouping.codes.tolist() == [0, 1, 1]
    assert grouping.known == [0]
    with pytest.raises(UsageError) as error:
        group_by(table, "sx")
    assert str(error.value) == "There is no attribute sx.\nAttributes: sex, race.\nDid you mean sex?"


def test_the_page_of_metrics_names_every_metric_once() -> None:
    page = metrics_page()
    metrics = page.split("## Metrics")[1].split("##")[0]
    for name in METRICS:
        assert metrics.count(f"\n| {name} |") == 1
    assert "{" not in page
