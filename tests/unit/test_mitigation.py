"""The methods' own promises, on numbers that can be checked by hand or against a general optimiser."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize

from fmcache.errors import UsageError
from fmcache.probe.logistic import fit_logistic
from fmcache.probe.methods import METHODS
from fmcache.probe.mitigation import dfr, leace, minibatch, resampling, reweighing
from fmcache.probe.mitigation.cells import cells_of
from fmcache.probe.penalties import auc
from fmcache.probe.problem import Column, Problem, Rows
from tests.mitigation_study import problem, rows

Y = np.array([[1.0], [0.0], [0.0], [0.0], [1.0], [0.0], [1.0], [np.nan]], np.float32)
GROUP = np.array(
    [0, 0, 0, 0, 1, 1, -1, 0]
)  # 4 and 2 rows with a label, one of no known group, one unlabelled


def test_cells_count_rows_whose_label_and_group_are_known() -> None:
    cells = cells_of(Y, GROUP, 3)
    assert cells.code[:, 0].tolist() == [1, 0, 0, 0, 3, 2, -1, -1]
    assert cells.size[0].tolist() == [[3, 1], [1, 1], [0, 0]]
    with pytest.raises(ValueError, match="group codes"):
        cells_of(Y, GROUP + 2, 3)


def test_resampling_by_group_gives_each_group_half_and_unknown_rows_the_mean() -> None:
    weights = resampling.group_weights(cells_of(Y, GROUP, 3))[:7, 0]
    np.testing.assert_allclose(weights, [0.75] * 4 + [1.5] * 2 + [1])  # 6 / (2·4), 6 / (2·2)


def test_resampling_by_group_and_label_gives_each_cell_a_quarter() -> None:
    weights = resampling.cell_weights(cells_of(Y, GROUP, 3))[:7, 0]
    np.testing.assert_allclose(weights, [1.5, 0.5, 0.5, 0.5, 1.5, 1.5, 1])


def test_reweighing_is_the_ratio_of_expected_to_observed_counts() -> None:
    weights = reweighing.weights(cells_of(Y, GROUP, 3))[:7, 0]
    np.testing.assert_allclose(weights[:6], [4 * 2 / 6, *[4 * 4 / 18] * 3, 2 * 2 / 6, 2 * 4 / 6])
    assert weights[6] == 1
    cell = [weights[[1, 2, 3]].sum(), weights[0], weights[5], weights[4]]
    assert cell[0] / cell[1] == pytest.approx(cell[2] / cell[3])  # label and group are independent


# ------------------------------------------------------------------------------------------------- grouped objectives


def _losses(given: Problem, w: np.ndarray, b: float) -> np.ndarray:
    z = given.train.x.astype(float) @ w + b
    y = np.nan_to_num(given.train.y[:, 0])
    return np.where(np.isnan(given.train.y[:, 0]), np.nan, np.logaddexp(0, z) - y * z)


@pytest.mark.parametrize("name", ["group-dro", "group-dro-label"])
def test_group_dro_is_the_minimax_of_a_general_optimiser(name: str) -> None:
    lam, adjustment = 0.05, 1.0
    given = problem(
        METHODS[name],
        seeds=(0,),
        penalties=np.array([lam]),
        grid={"coefficient": (adjustment,), "step": (0.01,)},
    )
    solution = METHODS[name].fit(given)
    assert solution.w is not None
    assert solution.b is not None
    members = _members(given, by_label=name == "group-dro-label")
    n = np.array([part.size for part in members])

    def groups(p: np.ndarray) -> np.ndarray:
        loss = _losses(given, p[:-1], p[-1])
        return np.array([loss[part].mean() for part in members]) + adjustment / np.sqrt(n)

    def slopes(p: np.ndarray) -> np.ndarray:
        x = np.c_[given.train.x, np.ones(len(given.train.x))].astype(float)
        residual = 1 / (1 + np.exp(-(x @ p))) - given.train.y[:, 0]
        return np.stack([(residual[rows_, None] * x[rows_]).mean(axis=0) for rows_ in members])

    mine = np.append(solution.w[0, 0], solution.b[0, 0])
    top = groups(mine).max() + lam / 2 * mine[:-1] @ mine[:-1]
    start = np.append(mine * 0, 1.0)
    best = minimize(
        lambda p: p[-1] + lam / 2 * p[:-2] @ p[:-2],
        start,
        jac=lambda p: np.concatenate([lam * p[:-2], [0, 1]]),
        constraints={
            "type": "ineq",
            "fun": lambda p: p[-1] - groups(p[:-1]),
            "jac": lambda p: np.c_[-slopes(p[:-1]), np.ones(n.size)],
        },
        method="SLSQP",
        options={"maxiter": 500, "ftol": 1e-10},
    )
    assert best.success
    assert best.fun - 1e-6 <= top <= best.fun + 0.004 * np.log(n.size)
    plain = fit_logistic(given.data, given.train.y, [lam])
    erm = np.append(plain.w[0, 0], plain.b[0, 0])
    assert top < groups(erm).max() + lam / 2 * erm[:-1] @ erm[:-1] - 0.01


def _members(given: Problem, by_label: bool = False) -> list[np.ndarray]:
    """The labelled rows of each group, or of each group × label."""
    y, group = given.train.y[:, 0], given.train.group
    if by_label:
        return [np.flatnonzero((y == truth) & (group == g)) for g in range(3) for truth in (0, 1)]
    return [np.flatnonzero(~np.isnan(y) & (group == g)) for g in range(3)]


@pytest.mark.parametrize("name", ["dp", "eqodds"])
def test_a_constraint_is_at_a_minimum_and_closes_its_gap_along_the_path(name: str) -> None:
    lam = 0.02
    given = problem(
        METHODS[name], seeds=(0,), penalties=np.array([lam]), grid={"coefficient": (0.0, 10.0, 1000.0)}
    )
    solution = METHODS[name].fit(given)
    assert solution.w is not None
    assert solution.b is not None
    plain = fit_logistic(given.data, given.train.y, [lam])
    np.testing.assert_allclose(solution.w[0, 0], plain.w[0, 0], atol=1e-4)
    y = given.train.y[:, 0]

    def penalty(p: np.ndarray) -> float:
        score = 1 / (1 + np.exp(-(given.train.x.astype(float) @ p[:-1] + p[-1])))
        wanted = [[0, 1]] if name == "dp" else [[0], [1]]
        return sum(
            float(np.var([score[(given.train.group == g) & np.isin(y, of)].mean() for g in range(3)]))
            for of in wanted
        )

    def whole(p: np.ndarray, coefficient: float) -> float:
        loss = np.nanmean(_losses(given, p[:-1], p[-1]))
        return float(loss + coefficient / 2 * penalty(p) + lam / 2 * p[:-1] @ p[:-1])

    found = [np.append(solution.w[k, 0], solution.b[k, 0]) for k in range(3)]
    gaps = [penalty(p) for p in found]
    assert gaps[0] > 3 * gaps[1] > 9 * gaps[2]
    for p, coefficient in zip(found, (0.0, 10.0, 1000.0), strict=True):
        better = minimize(whole, p, args=(coefficient,), method="BFGS", options={"gtol": 1e-7})
        assert whole(p, coefficient) <= better.fun + 1e-5


@pytest.mark.parametrize("name", ["group-dro-label", "eqodds"])
def test_where_classes_come_apart_every_probe_is_at_its_optimum(name: str) -> None:
    """Fewer rows than features, small penalties: float32 cannot; the finish in float64 must."""
    few = rows(60, 3, d=80, labels=1)
    given = problem(
        METHODS[name], seeds=(0,), train=few, weights=np.ones(few.y.shape), penalties=np.array([1e-6, 1e-3]),
        grid={"coefficient": (1.0, 30.0), "step": (0.01,)},
    )  # fmt: skip
    solution = METHODS[name].fit(given)
    assert solution.converged is not None
    assert solution.w is not None
    assert solution.b is not None
    assert solution.converged.all()
    y, group = few.y[:, 0], few.group
    parts = _members(given, by_label=True)

    def whole(p: np.ndarray, coefficient: float, lam: float) -> float:
        loss, shrunk = _losses(given, p[:-1], p[-1]), lam / 2 * p[:-1] @ p[:-1]
        if name == "group-dro-label":
            each = np.array([loss[part].mean() + coefficient / np.sqrt(part.size) for part in parts])
            return float(0.004 * np.log(np.mean(np.exp((each - each.max()) / 0.004))) + each.max() + shrunk)
        score = 1 / (1 + np.exp(-(few.x.astype(float) @ p[:-1] + p[-1])))
        gap = sum(np.var([score[(group == g) & (y == truth)].mean() for g in range(3)]) for truth in (0, 1))
        return float(np.nanmean(loss) + coefficient / 2 * gap + shrunk)

    for hyper, w, b in zip(solution.hyper, solution.w[:, 0], solution.b[:, 0], strict=True):
        p, told = np.append(w, b), (hyper["coefficient"], hyper["penalty"])
        better = minimize(whole, p, args=told, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-10})
        assert whole(p, *told) <= better.fun + 1e-8


# ------------------------------------------------------------------------------------------------------------ the rest


def test_ind_is_the_sum_of_the_heads_of_the_groups() -> None:
    given = problem(METHODS["ind"], seeds=(0,), penalties=np.array([0.05]))
    solution = METHODS["ind"].fit(given)
    heads = [fit_logistic(given.train.x[part], given.train.y[part], [0.05]) for part in _members(given)]
    assert solution.w is not None
    np.testing.assert_allclose(solution.w[0, 0], sum(head.w[0, 0] for head in heads), atol=1e-4)
    np.testing.assert_allclose(solution.parameters["head_w"][0, 0, 2], heads[2].w[0, 0], atol=1e-4)


def test_ind_leaves_out_a_group_without_positives_and_refuses_a_label_without_any_head() -> None:
    given = problem(METHODS["ind"], seeds=(0,))
    y = given.train.y.copy()
    y[given.train.group == 2] *= 0
    assert METHODS["ind"].fit(replace(given, train=replace(given.train, y=y))).facts["heads"] == [2]
    y = np.where(given.train.group == 0, 1.0, 0.0)[:, None].astype(np.float32)
    with pytest.raises(UsageError, match="No group of site has both classes of finding0"):
        METHODS["ind"].fit(replace(given, train=replace(given.train, y=y)))


def test_jtt_trains_again_on_what_the_first_model_got_wrong() -> None:
    given = problem(
        METHODS["jtt"],
        seeds=(0,),
        penalties=np.array([0.05]),
        grid={"coefficient": (1.0, 7.0), "first_penalty": (2.0,)},
    )
    solution = METHODS["jtt"].fit(given)
    first = fit_logistic(given.data, given.train.y, [2.0 * given.data.scale])
    guess = given.train.x @ first.w[0, 0] + first.b[0, 0] >= 0
    known = ~np.isnan(given.train.y[:, 0])
    wrong = known & (guess != (given.train.y[:, 0] > 0))
    assert solution.facts["first_model_errors"] == [wrong.sum()]
    repeated = np.repeat(np.arange(len(wrong)), np.where(wrong, 7, 1))
    again = fit_logistic(given.train.x[repeated], given.train.y[repeated], [0.05])
    assert solution.w is not None
    np.testing.assert_allclose(solution.w[1, 0], again.w[0, 0], atol=1e-4)
    np.testing.assert_allclose(
        solution.w[0, 0], fit_logistic(given.data, given.train.y, [0.05]).w[0, 0], atol=1e-4
    )


def test_dfr_draws_equal_cells_of_half_of_the_validation_patients() -> None:
    given = problem(METHODS["dfr"])
    half = dfr.half_of(given.val.patient)
    assert abs(half.mean() - 0.5) < 0.01
    assert not set(given.val.patient[half]) & set(given.val.patient[~half])
    cells = cells_of(given.val.y[half], given.val.group[half], 3)
    draws = [dfr.balanced(cells, [0, 1], draw) for draw in range(2)]
    smallest = cells.size.reshape(2, -1).min(axis=1)
    for part in draws:
        for column in range(2):
            counts = np.bincount(cells.code[part[:, column], column], minlength=6)
            assert counts.tolist() == [smallest[column]] * 6
    assert (draws[0] != draws[1]).any()
    solution = METHODS["dfr"].fit(given)
    np.testing.assert_array_equal(solution.val_used, half)
    assert solution.facts["rows_in_a_draw"] == (6 * smallest).tolist()


def test_dfr_names_the_cells_that_it_lacks() -> None:
    given = problem(METHODS["dfr"], seeds=(0,))
    y = np.where(given.val.group[:, None] == 2, 0, given.val.y).astype(np.float32)
    with pytest.raises(UsageError) as caught:
        METHODS["dfr"].fit(replace(given, val=replace(given.val, y=y)))
    text = str(caught.value).splitlines()
    assert text[0] == "dfr needs validation rows with and without finding0 in every group of site."
    assert text[1].endswith("+0.")
    assert "resampling-label" in text[2]


def test_after_leace_no_linear_probe_reads_the_group() -> None:
    study = rows(900, 3, d=20)
    x, group = study.x, study.group
    eraser = leace.fit_leace(x, group)
    erased, known = eraser(x), group >= 0
    z = np.eye(3)[group[known]]
    before = (x[known] - x[known].mean(axis=0)).T @ (z - z.mean(axis=0)) / known.sum()
    after = (erased[known] - erased[known].mean(axis=0)).T @ (z - z.mean(axis=0)) / known.sum()
    assert np.abs(after).max() < 1e-6 * np.abs(before).max()
    for g in range(3):  # nearly without a penalty, still the base rate
        own = (group[known] == g).astype(np.float32)[:, None]
        read = fit_logistic(x[known], own, [1e-6])
        told = fit_logistic(erased[known].astype(np.float32), own, [1e-6])
        base = _entropy(own.mean())
        assert _log_loss(erased[known], own, told) > base - 1e-6
        assert _log_loss(x[known], own, read) < base - 0.05
    assert eraser.read.shape == (2, 20)  # three groups: two directions
    direction = np.linalg.svd(before)[0][:, :2]
    orthogonal = x - (x - eraser.mean) @ direction @ direction.T
    assert ((erased - x)[known] ** 2).sum() < (
        (orthogonal - x)[known] ** 2
    ).sum()  # least change (theorem 4.2)


def _entropy(p: float) -> float:
    return float(-(p * np.log(p) + (1 - p) * np.log(1 - p)))


def _log_loss(x: np.ndarray, y: np.ndarray, fit: object) -> float:
    z = x.astype(float) @ fit.w[0, 0] + fit.b[0, 0]  # type: ignore[attr-defined]
    return float((np.logaddexp(0, z) - y[:, 0] * z).mean())


def test_leace_survives_features_that_are_constant_or_copies() -> None:
    study = rows(300, 4, d=12)
    x = np.c_[study.x, study.x[:, :3], np.full(300, 7)].astype(np.float32)
    erased = leace.fit_leace(x, study.group)(x)[study.group >= 0]
    means = np.stack([erased[study.group[study.group >= 0] == g].mean(axis=0) for g in range(3)])
    assert np.ptp(means, axis=0).max() < 1e-6


def test_the_head_of_leace_on_the_embedding_is_the_head_on_what_was_erased() -> None:
    given = problem(METHODS["leace"])
    solution = METHODS["leace"].fit(given)
    assert solution.w is not None
    assert solution.b is not None
    has_label = ~np.isnan(given.train.y[:, 0])
    eraser = leace.fit_leace(given.train.x[has_label], given.train.group[has_label])
    z = given.val.x.astype(float) @ solution.w[0, 0] + solution.b[0, 0]
    moved = eraser(given.val.x.astype(float)) @ solution.w[0, 0] + solution.b[0, 0]
    np.testing.assert_allclose(z, moved, atol=1e-8)  # the head reads nothing that was erased


def test_leace_refuses_one_group() -> None:
    given = problem(METHODS["leace"], seeds=(0,))
    one = replace(given.train, group=np.minimum(given.train.group, 0))
    with pytest.raises(UsageError, match="training rows of two groups"):
        METHODS["leace"].fit(replace(given, train=one))


def _readable(z: np.ndarray, group: np.ndarray) -> float:
    """How well a fresh probe tells group 0 from the others, AUC on the second half of the rows."""
    from sklearn.metrics import roc_auc_score

    known = np.flatnonzero(group >= 0)
    z = ((z - z[known].mean(axis=0)) / (z[known].std(axis=0) + 1e-12)).astype(np.float32)
    first, second = known[: known.size // 2], known[known.size // 2 :]
    fit = fit_logistic(z[first], (group[first] == 0).astype(np.float32)[:, None], [1e-3])
    return float(roc_auc_score(group[second] == 0, z[second] @ fit.w[0, 0]))


def _told_everywhere(study: Rows) -> Rows:
    """The group is in many features, so that hardly any eight directions miss it."""
    x = study.x.copy()
    x[:, 8:40] += 0.6 * np.maximum(study.group, 0)[:, None]
    return replace(study, x=x)


def test_the_adversary_of_laftr_makes_the_group_less_readable_and_its_wrong_sign_more() -> None:
    train, other = (_told_everywhere(rows(1500, seed, d=64, labels=1)) for seed in (1, 8))
    given = problem(
        METHODS["laftr"],
        seeds=(0,),
        train=train,
        weights=np.ones(train.y.shape),
        grid={"coefficient": (-1.0, 0.0, 1.0)},
    )
    solution = METHODS["laftr"].fit(given)
    encoder, shift = (solution.parameters[f"laftr_{name}"][:, 0] for name in ("encoder", "shift"))
    z = [other.x.astype(float) @ encoder[k].T + shift[k] for k in range(3)]
    wrong_sign, without, right_sign = (_readable(each, other.group) for each in z)
    assert right_sign < without - 0.04
    assert wrong_sign > without + 0.05
    assert solution.w is not None
    assert solution.b is not None
    known = ~np.isnan(other.y[:, 0])
    told = (other.x.astype(float) @ solution.w[:, 0].T + solution.b[:, 0])[known]
    assert auc(told, other.y[known, 0])[2] > 0.65  # it still tells the label


def test_minibatch_draws() -> None:
    rng = np.random.default_rng(0)
    group = np.array([0] * 90 + [1] * 9 + [-1] * 50)
    drawn = group[minibatch.draw_equal_groups(group, rng, 4000)]
    assert set(drawn) == {0, 1}
    assert abs((drawn == 1).mean() - 0.5) < 0.03
    shuffled = minibatch.draw_shuffled(np.arange(7), rng, 17)
    assert sorted(shuffled[:7]) == sorted(shuffled[7:14]) == list(range(7))
    assert shuffled.size == 17


def test_standardise_takes_each_columns_own_rows() -> None:
    x = np.array([[0.0, 5.0], [2.0, 5.0], [100.0, 5.0]], np.float32)
    y = np.array([[0, 1], [1, np.nan], [np.nan, 0]], np.float32)
    mean, width = minibatch.standardise(x, y)
    np.testing.assert_allclose(mean, [[1, 5], [50, 5]])
    np.testing.assert_allclose(width, [[1, 1], [50, 1]])


def test_columns_with_other_rows_have_their_own_eraser() -> None:
    given = problem(METHODS["leace"])
    first = np.arange(len(given.train.x)) % 2 == 0
    y = np.where(np.stack([first, ~first], axis=1), given.train.y, np.nan).astype(np.float32)
    seeds = replace(
        given, columns=(Column("finding0", 0), Column("finding1", 1)), train=replace(given.train, y=y)
    )
    read = METHODS["leace"].fit(seeds).parameters["eraser_read"]
    rows_ = np.flatnonzero(~np.isnan(y[:, 1]))
    alone = leace.fit_leace(given.train.x[rows_], given.train.group[rows_])
    np.testing.assert_allclose(read[1], alone.read, atol=1e-12)
    assert np.abs(read[0] - read[1]).max() > 1e-3
