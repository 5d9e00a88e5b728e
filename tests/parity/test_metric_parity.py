"""Against independent implementations: scikit-learn, fairlearn, SciPy, statsmodels, torchmetrics, scikit-posthocs."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy.stats import binomtest, friedmanchisquare
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    brier_score_loss,
    confusion_matrix,
    f1_score,
    log_loss,
    roc_auc_score,
)

from fmcache.analyze.calibration import equal_mass_bin_of, logit, recalibrate
from fmcache.analyze.disparities import COMPOSITES, gap, mean_gap
from fmcache.analyze.intervals import wilson
from fmcache.analyze.metrics import METRICS, tally
from fmcache.analyze.multiclass import MULTICLASS
from fmcache.analyze.rank import friedman_p, nemenyi_cd


def seeded(seed: int, n: int = 500) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """y, score with many ties, group of four (the last without positives)."""
    random = np.random.default_rng(seed)
    group = random.choice(4, n, p=[0.4, 0.3, 0.2, 0.1])
    y = (random.random(n) < 0.35) & (group != 3)
    score = (1 / (1 + np.exp(-(1.3 * y - 0.8 + random.normal(size=n))))).round(2)
    return y, score, group


@pytest.mark.parametrize("seed", range(4))
def test_group_metrics_are_those_of_scikit_learn(seed: int) -> None:
    y, score, group = seeded(seed)
    for g in range(4):
        mine, p = y[group == g], score[group == g]
        ours = {
            name: float(metric.of(tally(mine, p, 0.5, probability=True))) for name, metric in METRICS.items()
        }
        called = p >= 0.5
        assert ours["brier"] == pytest.approx(brier_score_loss(mine, p))
        assert ours["log_loss"] == pytest.approx(log_loss(mine, p, labels=[False, True]))
        tn, fp, fn, tp = confusion_matrix(mine, called, labels=[False, True]).ravel()
        assert ours["accuracy"] == pytest.approx((tp + tn) / len(mine))
        assert ours["fpr"] == pytest.approx(fp / (fp + tn))
        if g == 3:
            assert all(np.isnan(ours[name]) for name in ("auc", "auprc", "tpr", "fnr", "balanced_accuracy"))
            continue
        assert ours["auc"] == pytest.approx(roc_auc_score(mine, p), abs=1e-12)
        assert ours["auprc"] == pytest.approx(average_precision_score(mine, p), abs=1e-12)
        assert ours["f1"] == pytest.approx(f1_score(mine, called))
        assert ours["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(mine, called))
        assert ours["tpr"] == pytest.approx(tp / (tp + fn))


@pytest.mark.parametrize("seed", range(4))
def test_recalibration_is_unpenalised_logistic_regression(seed: int) -> None:
    y, score, _ = seeded(seed)
    large, intercept, slope = recalibrate(y, score)
    fit = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(logit(score)[:, None], y)
    assert slope == pytest.approx(fit.coef_[0, 0], rel=1e-4)
    assert intercept == pytest.approx(fit.intercept_[0], abs=1e-4)
    # calibration in the large: as many positives as the shifted probabilities announce
    shifted = 1 / (1 + np.exp(-(logit(score) + large)))
    assert shifted.sum() == pytest.approx(y.sum())


def test_equal_mass_bins_are_the_quantile_bins_of_scikit_learn_without_ties() -> None:
    random = np.random.default_rng(0)
    p = random.random(1000)
    y = random.random(1000) < p
    share, mean = calibration_curve(y, p, n_bins=10, strategy="quantile")
    bins = equal_mass_bin_of(p)
    assert np.bincount(bins).tolist() == [100] * 10
    assert [p[bins == b].mean() for b in range(10)] == pytest.approx(mean)
    assert [y[bins == b].mean() for b in range(10)] == pytest.approx(share)
    ours = float(METRICS["ece_adaptive"].of(tally(y, p, 0.5, probability=True)))
    assert ours == pytest.approx(np.abs(share - mean).mean())


@pytest.mark.parametrize("seed", range(3))
def test_ece_is_that_of_torchmetrics(seed: int) -> None:
    torch = pytest.importorskip("torch")
    from fmcache.extract.torchvision_fix import make_torchvision_importable

    make_torchvision_importable()
    torchmetrics = pytest.importorskip("torchmetrics")
    random = np.random.default_rng(seed)
    # a score on a bin's edge may fall on either side; and torchmetrics takes the confidence of the called class,
    # so the scores are those of called positives
    p = 0.5 + 0.5 * random.random(700)
    y = random.random(700) < p
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = torchmetrics.functional.classification.binary_calibration_error(
            torch.tensor(p), torch.tensor(y.astype(int)), n_bins=10, norm="l1"
        )
    ours = float(METRICS["ece"].of(tally(y, p, 0.5, probability=True)))
    assert ours == pytest.approx(float(theirs), abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_composites_are_those_of_fairlearn(seed: int) -> None:
    fairlearn = pytest.importorskip("fairlearn.metrics")
    y, score, group = seeded(seed)
    keep = group != 3  # where a group has no positives, fairlearn says TPR 0 and we say undefined
    y, called, group = y[keep], score[keep] >= 0.5, group[keep]
    points = [tally(y[group == g], called[group == g].astype(float), 0.5, probability=True) for g in range(3)]
    rate = {
        name: np.array([[float(METRICS[name].of(t))] for t in points])
        for name in ("tpr", "fpr", "selection_rate")
    }
    options = {"sensitive_features": group}
    assert gap(rate["selection_rate"])[0] == pytest.approx(
        fairlearn.demographic_parity_difference(y, called, **options)
    )
    assert gap(rate["tpr"])[0] == pytest.approx(fairlearn.equal_opportunity_difference(y, called, **options))
    mean = fairlearn.equalized_odds_difference(y, called, agg="mean", **options)
    assert mean_gap([rate[name] for name in COMPOSITES["eqodds"][2]])[0] == pytest.approx(mean)
    worst = fairlearn.equalized_odds_difference(y, called, agg="worst_case", **options)
    assert max(gap(rate["tpr"])[0], gap(rate["fpr"])[0]) == pytest.approx(worst)
    frame = fairlearn.MetricFrame(
        metrics=fairlearn.false_negative_rate, y_true=y, y_pred=called, sensitive_features=group
    )
    fnr = np.array([[float(METRICS["fnr"].of(t))] for t in points])
    assert gap(fnr)[0] == pytest.approx(frame.difference())


@pytest.mark.parametrize(("hits", "trials"), [(0, 20), (3, 20), (20, 20), (411, 1000)])
def test_wilson_is_that_of_scipy(hits: int, trials: int) -> None:
    theirs = binomtest(hits, trials).proportion_ci(0.95, method="wilson")
    assert wilson(hits, trials, 0.95) == pytest.approx((theirs.low, theirs.high))


def test_friedman_and_nemenyi_are_those_of_scipy_and_scikit_posthocs() -> None:
    random = np.random.default_rng(0)
    values = random.normal(size=(12, 5)) + np.array([0, 0.2, 0.4, 1.5, 3.0])
    ranks = np.argsort(np.argsort(values, axis=1), axis=1) + 1.0
    assert friedman_p(ranks) == pytest.approx(friedmanchisquare(*values.T).pvalue)
    # Demšar 2006, table 5: q at 0.05 for 5 models is 2.728
    assert nemenyi_cd(5, 12) == pytest.approx(2.728 * np.sqrt(5 * 6 / (6 * 12)), abs=1e-3)
    posthocs = pytest.importorskip("scikit_posthocs", exc_type=ImportError)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        p = posthocs.posthoc_nemenyi_friedman(values).to_numpy()
    average = ranks.mean(axis=0)
    apart = np.abs(average[:, None] - average[None, :]) >= nemenyi_cd(5, 12)
    assert (apart == (p < 0.05)).all()


def test_multiclass_numbers_are_those_of_scikit_learn() -> None:
    from fmcache.analyze.multiclass import _columns, _values

    random = np.random.default_rng(0)
    truth = random.choice(4, 600, p=[0.4, 0.3, 0.2, 0.1])
    z = random.normal(size=(600, 4)) + 1.3 * np.eye(4)[truth]
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    sums = _columns(truth, p, True).sum(axis=0)[None, :, None]
    ours = {name: float(values[0, 0]) for name, values in _values(sums, 4, True).items()}
    called = p.argmax(axis=1)
    assert ours["accuracy"] == pytest.approx((called == truth).mean())
    assert ours["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, called))
    assert ours["f1_macro"] == pytest.approx(f1_score(truth, called, average="macro"))
    assert ours["log_loss"] == pytest.approx(log_loss(truth, p))
    assert ours["brier"] == pytest.approx(((p - np.eye(4)[truth]) ** 2).sum(axis=1).mean())
    assert set(ours) | {"auc_macro"} == set(MULTICLASS)
