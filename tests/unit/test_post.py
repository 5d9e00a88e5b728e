"""Post-processing: hulls, thresholds and decisions by hand; what is stored of a random decision."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fmcache.errors import UsageError
from fmcache.probe.methods import METHODS
from fmcache.probe.mitigation.post import (
    Mixture,
    common_threshold,
    decided,
    equal_odds,
    equal_tpr,
    lots,
    roc_hull,
)
from tests.mitigation_study import problem

Z = np.array([4.0, 3.0, 2.0, 1.0])


def test_a_hull_by_hand() -> None:
    hull = roc_hull(Z, np.array([True, False, True, False]))
    assert hull.fpr.tolist() == [0, 0.5, 1]
    assert hull.tpr.tolist() == [0.5, 1, 1]  # (0, 0) lies below (0, ½), (½, ½) below the line
    assert hull.threshold.tolist() == [3.5, 1.5, -np.inf]


def test_the_common_threshold_is_the_highest_of_the_best() -> None:
    assert common_threshold(Z, np.array([True, False, True, False])) == 4  # 4 and 2 are equally good
    assert common_threshold(np.array([1.0, 1.0, 0.0]), np.array([True, False, False])) == 1


def test_every_group_reaches_the_sensitivity_of_all() -> None:
    z = np.array([5.0, 4, 1, 0, 2.0, 1.5, 0.5, -1])
    y = np.array([1, 1, 0, 0, 1, 1, 0, 0], bool)
    group = np.repeat([0, 1], 4)
    assert equal_tpr(z, y, group, 3).tolist() == [4, 1.5, 1.5, 1.5]  # a group without rows: that of all
    assert equal_tpr(z, np.zeros(8, bool), group, 2).tolist() == [0, 0, 0]


def test_a_group_of_one_class_and_the_unknown_get_the_mixture_of_all() -> None:
    z, y = np.r_[Z, Z + 1], np.array([1, 0, 1, 0, 0, 0, 0, 0], bool)
    mixtures = equal_odds(z, y, np.repeat([0, 1], 4), 2)
    assert mixtures[1] == mixtures[2] == equal_odds(z, y, np.full(8, -1), 0)[-1]
    assert equal_odds(z, y & False, np.repeat([0, 1], 4), 2)[0](np.array([-1.0, 1.0])).tolist() == [0, 1]


def test_a_mixture_never_falls() -> None:
    mixture = Mixture(0.2, 0.3, 0.4, 1.0, -1.0)
    np.testing.assert_allclose(mixture(np.array([-2.0, 0, 2])), [0.06, 0.06 + 0.8 * 0.6, 0.86])


def test_the_sign_of_a_stored_logit_is_the_decision_and_equal_decisions_keep_their_order() -> None:
    z = np.array([-800.0, -3, 0, 3, 800])
    for yes in (True, False):
        stored = decided(z, np.full(5, yes))
        score = 1 / (1 + np.exp(-np.clip(stored, -700, 700)))
        assert ((score >= 0.5) == yes).all()
        assert (np.diff(stored) >= 0).all()


def test_lots_depend_on_the_embedding_and_the_seed_alone() -> None:
    x = np.random.default_rng(0).normal(size=(2000, 3)).astype(np.float32)
    first = lots(x, 0)
    np.testing.assert_array_equal(lots(x[::-1], 0), first[::-1])
    assert abs(np.corrcoef(first, lots(x, 1))[0, 1]) < 0.1
    assert np.histogram(first, 4, (0, 1))[0].min() > 430


def test_group_thresholds_shift_the_scores_of_erm_by_group_and_zero_is_the_line() -> None:
    given = problem(METHODS["group-thresholds"])
    solution = METHODS["group-thresholds"].fit(given)
    erm = METHODS["erm"].fit(given)
    assert solution.logits is not None
    assert erm.w is not None
    assert erm.b is not None
    z = np.einsum("nd,mcd->nmc", given.val.x.astype(float), erm.w) + erm.b
    moved = solution.logits(given.val.x, given.val.group) - z
    thresholds = solution.parameters["thresholds"]
    for g in (0, 1, 2, -1):
        own = moved[given.val.group == g]
        np.testing.assert_allclose(own, -np.broadcast_to(thresholds[:, :, g], own.shape), atol=1e-9)
    yes = solution.logits(given.val.x, given.val.group)[:, 0, 0] >= 0
    ill = given.val.y[:, 0] == 1
    assert np.ptp([yes[ill & (given.val.group == g)].mean() for g in range(3)]) < 0.1
    assert np.ptp([(z[ill & (given.val.group == g), 0, 0] >= 0).mean() for g in range(3)]) > 0.12


def test_decisions_of_eqodds_post_have_equal_rates_in_all_groups() -> None:
    given = problem(METHODS["eqodds-post"], n_val=4000)
    solution = METHODS["eqodds-post"].fit(given)
    assert solution.logits is not None
    yes = solution.logits(given.val.x, given.val.group)[:, 0, 0] >= 0
    for truth in (0, 1):
        rates = [yes[(given.val.group == g) & (given.val.y[:, 0] == truth)].mean() for g in range(3)]
        assert np.ptp(rates) < 0.12  # drawn: about 2 standard errors of the smallest group


def test_eqodds_post_refuses_slices() -> None:
    given = problem(METHODS["eqodds-post"])
    slices = replace(given.val, sample=given.val.sample // 2)
    with pytest.raises(UsageError, match="one decision a sample"):
        METHODS["eqodds-post"].fit(replace(given, val=slices))
