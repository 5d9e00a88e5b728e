"""The front: what is measured of each coefficient, which one is chosen, which nothing beats."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fmcache.analyze.thresholds import choose_threshold
from fmcache.probe.mitigation.front import Reached, _choose, choose_front, front_rows, pareto, reached, youden
from fmcache.probe.problem import Column

Z = np.array([[3.0], [1.0], [-1.0], [2.0], [0.0], [-2.0], [5.0]])
Y = np.array([1, 0, 0, 1, 1, 0, np.nan])
GROUP = np.array([0, 0, 0, 1, 1, 1, 0])


def test_what_is_reached_by_hand() -> None:
    of = reached(Z, Y, GROUP, 2, np.array([0.5]))
    assert of.n == 6
    assert of.auc[0] == pytest.approx(8 / 9)  # of 9 pairs one is wrong: 0 below 1
    assert of.auc_worst[0] == of.auc_worst.min() == 1.0
    assert of.auc_gap[0] == 0
    # z >= 0.5: group 0 says yes to 3, 1 of (1, 0, 0); group 1 to 2 of (1, 1, 0)
    assert of.eqodds_gap[0] == pytest.approx((abs(1 - 1 / 2) + abs(1 / 2 - 0)) / 2)
    assert of.dp_gap[0] == pytest.approx(2 / 3 - 1 / 3)


def test_unknown_groups_count_in_the_auc_of_all_and_nowhere_else() -> None:
    wider = reached(np.r_[Z, [[9.0]]], np.r_[Y, 0], np.r_[GROUP, -1], 2, np.array([0.5]))
    assert wider.auc[0] < 8 / 9
    assert wider.auc_worst[0] == 1.0
    assert wider.dp_gap[0] == pytest.approx(1 / 3)


def test_one_group_or_one_class_is_undefined_and_not_zero() -> None:
    alone = reached(Z, Y, np.zeros(7, int), 1, np.array([0.5]))
    assert np.isnan([alone.auc_gap[0], alone.eqodds_gap[0], alone.dp_gap[0]]).all()
    assert np.isnan(reached(Z, np.ones(7), GROUP, 2, np.array([0.5])).auc[0])


@pytest.mark.parametrize("seed", range(5))
def test_the_threshold_is_that_of_the_metrics(seed: int) -> None:
    rng = np.random.default_rng(seed)
    z, y = rng.integers(-3, 4, (40, 2)).astype(float), (rng.random(40) < 0.4).astype(float)
    for column in range(2):
        assert youden(z, y)[column] == choose_threshold(y > 0, z[:, column], "youden")


def test_pareto_keeps_what_nothing_beats() -> None:
    utility, gap = np.array([0.9, 0.8, 0.85, 0.9, np.nan]), np.array([0.2, 0.1, 0.15, 0.3, 0.0])
    assert pareto(utility, gap).tolist() == [True, True, True, False, False]
    assert pareto(np.array([0.5, 0.5]), np.array([0.1, 0.1])).tolist() == [True, True]


def _of(auc: list[float], **more: list[float]) -> Reached:
    names = ("auc_worst", "auc_gap", "eqodds_gap", "dp_gap")
    return Reached(9, np.array(auc), **{name: np.array(more.get(name, [0.0] * len(auc))) for name in names})


def test_the_criterion_chooses_and_gaps_may_not_cost_more_than_a_hundredth() -> None:
    of = _of([0.80, 0.795, 0.70], auc_worst=[0.6, 0.7, 0.65], dp_gap=[0.3, 0.2, 0.0])
    loss = np.array([0.3, 0.2, 0.5])
    assert _choose(of, loss, "auc") == (0, "auc")
    assert _choose(of, loss, "auc_worst") == (1, "auc_worst")
    assert _choose(of, loss, "dp_gap") == (1, "dp_gap")
    undefined = _of([0.8, 0.8], auc_worst=[np.nan, 0.5])
    assert _choose(undefined, loss[:2], "auc_worst") == (1, "auc")  # ties to the larger
    one_class = _of([np.nan] * 3, dp_gap=[0.3, 0.2, 0.0])
    assert _choose(one_class, loss, "dp_gap") == (1, "log_loss")
    assert _choose(one_class, np.full(3, np.nan), "dp_gap") == (0, "none")


def test_one_class_in_validation_chooses_by_log_loss_and_not_the_gap_of_scores_that_say_nothing() -> None:
    y, group = np.zeros((50, 2)), np.arange(50) % 2
    y[:, 1] = np.nan
    z = np.tile([-3.0, -1.0, -2.0, 0.0], (50, 1))[:, :, None].repeat(2, axis=2)
    hyper = [{"penalty": p, "coefficient": c} for c in (0.0, 1000.0) for p in (0.1, 1.0)]
    front = choose_front(z, y, group, 2, hyper, "dp_gap")
    assert front.kept[:, 0].tolist() == [0, 2]
    assert (front.chosen.tolist(), front.criterion) == ([0, 1], ("log_loss", "none"))
    np.testing.assert_allclose(front.value, [np.log1p(np.exp(-3)), np.nan])


def test_each_coefficient_gets_its_best_penalty_and_rows_say_all() -> None:
    rng = np.random.default_rng(0)
    y = (rng.random((200, 1)) < 0.5).astype(float)
    group = rng.integers(0, 2, 200)
    noise = np.array([2.0, 1.0, 9.0, 3.0])  # of both coefficients the second penalty is better
    z = 2 * y[:, None, :] + rng.normal(size=(200, 4, 1)) * noise[None, :, None]
    hyper = [{"penalty": p, "coefficient": c} for c in (0.0, 1.0) for p in (0.1, 1.0)]
    front = choose_front(z, y, group, 2, hyper, "auc")
    assert front.kept[:, 0].tolist() == [1, 3]
    assert front.chosen.tolist() == [1]
    rows = front_rows(front, [Column("effusion", 3)], hyper, z[:, [1, 3]], y, group, 2)
    assert len(rows) == 4
    assert [row["split"] for row in rows] == ["val", "val", "test", "test"]
    assert [row["coefficient"] for row in rows] == [0, 1, 0, 1]
    assert [row["chosen"] for row in rows] == [True, False, True, False]
    assert {row["penalty"] for row in rows} == {1.0}
    assert rows[0]["auc"] == rows[2]["auc"] > rows[1]["auc"]
    assert (rows[0]["label"], rows[0]["seed"], rows[0]["n"]) == ("effusion", 3, 200)
    json.dumps(rows, allow_nan=False)


def test_an_undefined_number_is_stored_as_none() -> None:
    hyper = [{"coefficient": 0.0}]
    z, y = np.zeros((4, 1, 1)), np.array([[0.0], [1], [0], [1]])
    rows = front_rows(
        choose_front(z, y, np.zeros(4, int), 1, hyper, "auc_worst"),
        [Column("a", 0)],
        hyper,
        z,
        y,
        np.zeros(4, int),
        1,
    )
    assert rows[0]["auc_gap"] is None
    assert rows[0]["penalty"] is None
    assert rows[0]["auc"] == 0.5
