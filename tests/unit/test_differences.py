"""Differences to a reference: by hand, with tests that reject as often as they may, corrected for their number."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from scipy.stats import false_discovery_control, norm

from fmcache.analyze.cases import Setting, cases_of
from fmcache.analyze.differences import equivalence, gap_equivalence, standard_errors, two_sided
from fmcache.analyze.evaluate import evaluate
from fmcache.analyze.metrics import auc
from fmcache.analyze.multiplicity import benjamini_hochberg, holm, simultaneous


def table(n: int, seed: int, worse: float = 0.0, images: int = 2) -> pl.DataFrame:
    """Groups a (half), b, c; `worse` lowers the signal in c."""
    random = np.random.default_rng(seed)
    patient = np.arange(n) // images
    group = random.choice(["a", "b", "c"], patient[-1] + 1, p=[0.5, 0.3, 0.2])[patient]
    y = random.random(n) < 0.4
    signal = 1.2 - worse * (group == "c")
    score = 1 / (1 + np.exp(-(signal * y - 0.6 + random.normal(size=n))))
    return pl.DataFrame(
        {
            "sample_id": [f"s{k:05d}" for k in range(n)],
            "patient_id": [f"p{k:05d}" for k in patient],
            "split": ["test"] * n,
            "label": ["finding"] * n,
            "seed": [0] * n,
            "y": y.astype(float),
            "score": score.round(3),
            "logit": pl.Series([None] * n, dtype=pl.Float64),
            "attribute.group": group,
        }
    )


def run(data: pl.DataFrame, **options: object) -> pl.DataFrame:
    chosen = {"threshold_policy": "0.5", "draws": 200, "permutations": 0} | options
    return evaluate(data, **chosen).results  # type: ignore[arg-type]


def one(results: pl.DataFrame, metric: str, disparity: str, **where: object) -> dict[str, object]:
    rows = results.filter(metric=metric, disparity=disparity, **where)
    assert len(rows) == 1
    return rows.row(0, named=True)


def test_a_difference_is_the_group_minus_the_reference() -> None:
    data = table(1200, 0, worse=0.8)
    results = run(data)
    value = {
        g: auc(mine["y"].to_numpy() == 1, mine["score"].to_numpy())
        for (g,), mine in data.group_by("attribute.group")
    }
    for group in ("b", "c"):
        row = one(results, "auc", "difference", group=group)
        assert row["reference"] == "a"  # the largest group
        assert row["value"] == pytest.approx(value[group] - value["a"])
        assert row["ci_low"] < row["value"] < row["ci_high"]  # type: ignore[operator]
    named = run(data, reference={"group": "c"})
    assert one(named, "auc", "difference", group="a")["value"] == pytest.approx(value["a"] - value["c"])
    assert one(results, "auc", "difference_p", group="c")["value"] < 0.01  # type: ignore[operator]


def test_differences_come_before_gaps_and_groups_before_both() -> None:
    results = run(table(600, 0)).filter(pl.col("metric") != "finding")
    kind = np.where(results["reference"] != "", 1, np.where(results["group"] == "", 2, 0))
    assert (np.diff(kind) >= 0).all()
    assert set(kind.tolist()) == {0, 1, 2}


def test_p_values_do_not_shrink_with_the_number_of_draws() -> None:
    data = table(600, 3, worse=0.3)
    for metric in ("auc", "tpr", "ece"):
        p = [one(run(data, draws=draws), metric, "difference_p", group="c")["value"] for draws in (300, 3000)]
        assert p[0] == pytest.approx(p[1], rel=0.6, abs=0.03), metric


def p_of_auc(data: pl.DataFrame) -> float:
    """The p-value of group b against a, by the functions that `evaluate` takes it from, without its other numbers."""
    (case,), _ = cases_of(data, ["group"], "test", Setting(policy="0.5"))
    assert case.groupings[1].names == ("a", "b", "c")
    a, b = (float(case.points[1 + g].auc) for g in (0, 1))
    return two_sided(b - a, standard_errors(case, 1, "auc", [0, 1], np.zeros((2, 0)))[0, 1])


def test_without_a_difference_a_test_rejects_in_one_of_twenty() -> None:
    p = [p_of_auc(table(400, seed)) for seed in range(300)]
    whole = run(table(400, 0), draws=20, reference={"group": "a"})
    assert one(whole, "auc", "difference_p", group="b")["value"] == pytest.approx(p[0], rel=1e-3)
    assert 0.0 < np.mean(np.array(p) < 0.05) < 0.05 + 4 * math.sqrt(0.05 * 0.95 / 300)
    assert 0.38 < np.mean(np.array(p) < 0.5) < 0.62


def test_adjusted_p_values_by_hand() -> None:
    p = np.array([0.01, 0.04, np.nan, 0.03, 0.5])
    assert holm(p) == pytest.approx([0.04, 0.09, np.nan, 0.09, 0.5], nan_ok=True)
    kept = p[~np.isnan(p)]
    assert benjamini_hochberg(p)[~np.isnan(p)] == pytest.approx(false_discovery_control(kept))
    assert np.isnan(holm(np.array([np.nan]))).all()


def test_the_family_is_printed_and_corrected_over() -> None:
    outcome = evaluate(
        table(1200, 0, worse=0.8), threshold_policy="0.5", draws=200, permutations=0, family=["auc", "tpr"]
    )
    assert any(
        "over 4 differences to the reference: auc, tpr, by group, 1 label." in f.text
        for f in outcome.findings
    )
    results = outcome.results
    rows = results.filter(pl.col("disparity") == "difference_p_holm")
    assert len(rows) == 4
    assert set(rows["reason"]) == {"one of 4 in the family"}
    raw = results.filter((pl.col("disparity") == "difference_p") & pl.col("metric").is_in(["auc", "tpr"]))
    assert rows["value"].to_list() == pytest.approx(holm(raw["value"].to_numpy()).tolist())
    band, alone = (one(results, "auc", kind, group="c") for kind in ("difference_band", "difference"))
    width = [row["ci_high"] - row["ci_low"] for row in (band, alone)]  # type: ignore[operator]
    assert width[0] > width[1]


def test_simultaneous_bands_cover_all_together() -> None:
    random = np.random.default_rng(0)
    correlated = np.linalg.cholesky(0.5 * np.eye(6) + 0.5)
    covered, alone = [], []
    for _ in range(400):
        at = correlated @ random.normal(size=6)
        replicates = at[:, None] + correlated @ random.normal(size=(6, 600))
        low, high = simultaneous(at, replicates, 0.95)
        covered.append(((low <= 0) & (high >= 0)).all())
        alone.append((np.abs(at) < 1.96).all())
    assert 0.9 < np.mean(covered) < 0.985
    assert np.mean(alone) < 0.86


def test_equivalence_by_hand() -> None:
    p, verdict = equivalence(0.01, 0.005, 0.02, 0.05)
    assert p == pytest.approx(norm.sf(2))
    assert verdict == "shown to be below"
    assert equivalence(0.05, 0.005, 0.02, 0.05)[1] == "shown to be above"
    assert equivalence(0.01, 0.05, 0.02, 0.05)[1] == "undecided"
    assert two_sided(0.0196, 0.01) == pytest.approx(0.05, abs=1e-3)
    se = np.full((3, 3), 0.004)
    assert gap_equivalence(np.array([0.80, 0.805, 0.81]), se, 0.02, 0.05)[1] == "shown to be below"
    assert gap_equivalence(np.array([0.80, 0.805, 0.85]), se, 0.02, 0.05)[1] == "shown to be above"
    assert gap_equivalence(np.array([0.80, 0.805, 0.818]), se, 0.02, 0.05)[1] == "undecided"


def test_the_tolerance_gives_verdicts_in_words() -> None:
    results = run(table(6000, 0), tolerance=0.2)
    assert (
        one(results, "auc", "difference_equivalence", group="b")["reason"]
        == "difference shown to be below 0.2"
    )
    assert one(results, "auc", "gap_equivalence")["reason"] == "gap shown to be below 0.2"
    assert one(run(table(400, 0), tolerance=0.01), "auc", "gap_equivalence")["reason"] == "undecided"


def test_the_design_effect_is_one_for_independent_images_and_two_for_four_equal_ones() -> None:
    independent = one(run(table(2000, 0, images=1)), "auc", "design_effect", group="overall")["value"]
    assert independent == pytest.approx(1, abs=0.05)
    data = table(800, 0, images=1)
    four = pl.concat([data.with_columns(sample_id=pl.col("sample_id") + f"-{k}") for k in range(4)])
    results = run(four)
    assert one(results, "auc", "design_effect", group="overall")["value"] == pytest.approx(2, rel=0.05)
    assert one(results, "tpr", "design_effect", group="overall")["value"] == pytest.approx(2, rel=0.25)
