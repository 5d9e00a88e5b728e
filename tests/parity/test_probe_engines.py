"""Ridge, neighbours, minibatch recipes, prototypes and prior shift against independent implementations."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fmcache.probe.centred import centre
from fmcache.probe.logistic import fit_logistic
from fmcache.probe.minibatch import RECIPES, Recipe, fit_minibatches, start, streams_of
from fmcache.probe.neighbours import fit as fit_neighbours
from fmcache.probe.prior import estimate, move
from fmcache.probe.problem import Column, Problem, Prototypes, Rows
from fmcache.probe.ridge import fit_ridge, platt


def _problem(
    n: int = 400,
    d: int = 12,
    labels: int = 2,
    seeds: tuple[int, ...] = (0,),
    unknown: float = 0.0,
    **more: object,
) -> Problem:
    rng = np.random.default_rng(n + d)
    x = (rng.normal(size=(n, d)) * np.arange(1, d + 1.0) ** -0.3 + 2).astype(np.float32)
    z = x @ rng.normal(size=(d, labels))
    y = (z - z.mean(axis=0) + rng.logistic(size=z.shape) > 0.4).astype(np.float32)
    y[rng.random(y.shape) < unknown] = np.nan
    y = np.tile(y, (1, len(seeds)))
    every = np.arange(n)

    def rows(part: slice) -> Rows:
        return Rows(x[part], y[part], np.full(n, -1)[part], every[part], every[part])

    train = rows(slice(0, n * 3 // 4))
    columns = tuple(Column(f"label{l}", seed) for seed in seeds for l in range(labels))
    made = {"penalties": np.logspace(-3, 0, 3), "grid": {}, "groups": (), "attribute": "", **more}
    return Problem(train, rows(slice(n * 3 // 4, n)), np.ones_like(train.y), centre(train.x), columns, **made)  # type: ignore[arg-type]


def test_rows_from_disk_block_by_block_reach_the_same_optimum() -> None:
    problem = _problem(n=24_000, d=10)  # three blocks of the disk
    whole = fit_logistic(problem.data, problem.train.y, [1e-3, 1e-1])
    streamed = fit_logistic(centre(problem.train.x, stream=True), problem.train.y, [1e-3, 1e-1])
    assert streamed.converged.all()
    np.testing.assert_allclose(streamed.w, whole.w, atol=1e-5)
    np.testing.assert_allclose(streamed.b, whole.b, atol=1e-5)


def test_bfloat16_rows_say_what_they_cost() -> None:
    problem = _problem()
    x, y = problem.train.x.astype(np.float64), problem.train.y[:, 0]
    exact, coarse = (
        fit_logistic(problem.data, problem.train.y, [1e-2], precision=p) for p in ("float32", "bfloat16")
    )

    def objective(w: np.ndarray, b: float) -> float:
        z = x @ w + b
        return float((np.logaddexp(0, z) - y * z).mean() + 0.005 * w @ w)

    lost = objective(coarse.w[0, 0], coarse.b[0, 0]) - objective(exact.w[0, 0], exact.b[0, 0])
    assert (exact.excess == 0).all()
    assert 0 < lost < 3 * coarse.excess[0, 0] + 1e-7
    assert lost < 1e-3


@pytest.mark.parametrize("unknown", [0.0, 0.3])
def test_ridge_is_scikit_learns_in_all_penalties(unknown: float) -> None:
    from sklearn.linear_model import Ridge

    problem = _problem(unknown=unknown)
    solution = fit_ridge(problem, problem.weights)
    slope = solution.parameters["slope"]
    for m, lam in enumerate(problem.penalties):
        for c in range(2):
            known = ~np.isnan(problem.train.y[:, c])
            peer = Ridge(alpha=lam * known.sum()).fit(
                problem.train.x[known].astype(float), problem.train.y[known, c]
            )
            np.testing.assert_allclose(solution.w[m, c] / slope[m, c], peer.coef_, atol=1e-9)


def test_calibration_is_the_least_log_loss() -> None:
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    z = rng.normal(size=(3000, 2)) * [0.1, 3] + [0.4, -1]
    y = (z[:, 0] * 10 - 4 + rng.logistic(size=3000) > 0).astype(float)
    a, b = platt(z, y)
    for column in range(2):
        peer = LogisticRegression(C=1e8, tol=1e-10, max_iter=1000).fit(z[:, column : column + 1], y)
        assert a[column] == pytest.approx(peer.coef_[0, 0], rel=0.02, abs=0.02)
        assert b[column] == pytest.approx(peer.intercept_[0], rel=0.02, abs=0.02)


@pytest.mark.parametrize("unknown", [0.0, 0.3])
def test_neighbours_vote_as_in_a_loop(unknown: float) -> None:
    problem = _problem(unknown=unknown, grid={"neighbours": (3, 20)})
    z = fit_neighbours(problem).logits(problem.val.x, problem.val.group)
    train = problem.train.x / np.linalg.norm(problem.train.x, axis=1, keepdims=True)
    val = problem.val.x / np.linalg.norm(problem.val.x, axis=1, keepdims=True)
    cosine = val.astype(float) @ train.astype(float).T
    for m, k in enumerate((3, 20)):
        for c in range(2):
            y = problem.train.y[:, c]
            near = np.where(np.isnan(y), -np.inf, cosine)
            for row in range(10):
                best = np.argsort(-near[row])[:k]
                weight = np.exp(near[row, best] / 0.07)
                share = np.clip((weight * y[best]).sum() / weight.sum(), 1e-6, 1 - 1e-6)
                assert z[row, m, c] == pytest.approx(math.log(share / (1 - share)), abs=2e-3)


def _by_hand(problem: Problem, recipe: Recipe) -> np.ndarray:
    """Two logits under cross-entropy, one column after another, in float64: their difference, [c, d]."""
    x = problem.train.x.astype(np.float64)
    out = []
    for stream in streams_of(problem, problem.weights):
        orders = list(stream.orders(recipe.epochs))
        for column in stream.columns:
            y = problem.train.y[:, column]
            w, b = start(x.shape[1], stream.seed, problem.columns[column].label)
            heads = np.stack([np.zeros_like(w), w]).astype(float)  # only the difference counts
            biases = np.array([0.0, b])
            first, second = np.zeros((2, x.shape[1])), np.zeros((2, x.shape[1]))
            first_b, second_b, t = np.zeros(2), np.zeros(2), 0
            for epoch, order in enumerate(orders):
                rate = recipe.rate_of(epoch)
                for at in range(0, len(order), recipe.batch):
                    rows = order[at : at + recipe.batch]
                    z = x[rows] @ heads.T + biases
                    p = np.exp(z - z.max(axis=1, keepdims=True))
                    p /= p.sum(axis=1, keepdims=True)
                    p[np.arange(len(rows)), y[rows].astype(int)] -= 1
                    g, g_b, t = p.T @ x[rows] / len(rows), p.mean(axis=0), t + 1
                    if recipe.adam:
                        first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
                        first_b, second_b = 0.9 * first_b + 0.1 * g_b, 0.999 * second_b + 0.001 * g_b**2
                        one, two = 1 - 0.9**t, 1 - 0.999**t
                        g = first / one / (np.sqrt(second / two) + 1e-8)
                        g_b = first_b / one / (np.sqrt(second_b / two) + 1e-8)
                    heads = heads - rate * (g + recipe.decay * heads)
                    biases = biases - rate * g_b
            out.append((column, heads[1] - heads[0]))
    return np.stack([w for _, w in sorted(out, key=lambda pair: pair[0])])


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(adam=True, rate=1e-2, least=0.0, decay=0.05, batch=64, epochs=5),
        Recipe(adam=False, rate=1e-2, least=1e-3, decay=1e-2, batch=64, warmup=2, epochs=5),
    ],
)
def test_a_recipe_is_two_logits_trained_by_hand(recipe: Recipe) -> None:
    problem = _problem(seeds=(0, 3), unknown=0.2)
    solution = fit_minibatches(problem, problem.weights, recipe)
    assert [one["epoch"] for one in solution.hyper] == [5.0]
    np.testing.assert_allclose(solution.w[0], _by_hand(problem, recipe), atol=2e-4)


def test_adamw_is_torchs() -> None:
    torch = pytest.importorskip("torch")
    problem = _problem(labels=1)
    recipe = Recipe(adam=True, rate=1e-2, least=0.0, decay=0.05, batch=64, epochs=3)
    (stream,) = streams_of(problem, problem.weights)
    layer = torch.nn.Linear(12, 2)
    w, b = start(12, 0, "label0")
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(np.stack([np.zeros_like(w), w])))
        layer.bias.copy_(torch.tensor([0.0, b]))
    groups = [{"params": [layer.weight], "weight_decay": 0.05}, {"params": [layer.bias], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-2)
    x, y = torch.tensor(problem.train.x), torch.tensor(problem.train.y[:, 0]).long()
    for epoch, order in enumerate(stream.orders(3)):
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate_of(epoch)
        for at in range(0, len(order), 64):
            rows = order[at : at + 64]
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(layer(x[rows]), y[rows]).backward()
            optimizer.step()
    ours = fit_minibatches(problem, problem.weights, recipe)
    theirs = (layer.weight[1] - layer.weight[0]).detach().numpy()
    np.testing.assert_allclose(ours.w[0, 0], theirs, atol=1e-4)


def test_the_published_schedules() -> None:
    paper, code = RECIPES["paper"], RECIPES["fairmedfm"]
    assert paper.rate_of(0) == 2.5e-4
    assert paper.rate_of(50) == pytest.approx(1.25e-4)
    assert code.rate_of(0) == pytest.approx(2e-5)  # a fifth of the way
    assert code.rate_of(4) == pytest.approx(1e-4)
    assert code.rate_of(99) == pytest.approx(1e-5)


def test_prototypes_follow_the_gradient_of_the_unit_vectors() -> None:
    problem = _problem(labels=1)
    texts = np.random.default_rng(1).normal(size=(1, 1, 2, 12))
    with_texts = Problem(**{**vars(problem), "prototypes": Prototypes(texts, (-1,), 4.0, 1)})
    recipe = Recipe(adam=False, rate=0.5, least=0.0, decay=0.0, batch=1000, epochs=1)
    solution = fit_minibatches(with_texts, problem.weights, recipe)

    x = problem.train.x.astype(float)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    y = problem.train.y[:, 0]

    def loss(flat: np.ndarray) -> float:
        p = flat.reshape(2, 12)
        u = p / np.linalg.norm(p, axis=1, keepdims=True)
        z = 4 * (x @ (u[1] - u[0]))
        return float((np.logaddexp(0, z) - y * z).mean())

    begin = texts[0, 0].ravel()
    step = 1e-5
    gradient = np.array([(loss(begin + step * e) - loss(begin - step * e)) / (2 * step) for e in np.eye(24)])
    p = (begin - 0.5 * gradient).reshape(2, 12)
    u = p / np.linalg.norm(p, axis=1, keepdims=True)
    assert solution.unit_norm
    np.testing.assert_allclose(solution.w[0, 0], 4 * (u[1] - u[0]), atol=1e-4)


def test_prior_shift_recovers_the_prevalence_and_the_probabilities() -> None:
    rng = np.random.default_rng(3)
    y = rng.random(40_000) < 0.1
    x = rng.normal(size=40_000) + 2 * y
    trained_at_half = 2 * x - 2  # the exact log odds of these Gaussians at equal priors
    share = estimate(trained_at_half, 0.5)
    assert share == pytest.approx(0.1, abs=0.01)
    moved = move(trained_at_half, 0.5, 0.1)
    np.testing.assert_allclose(moved, 2 * x - 2 + np.log(0.1 / 0.9))
    assert 1 / (1 + np.exp(-moved)).mean() > 0
    assert (1 / (1 + np.exp(-moved))).mean() == pytest.approx(y.mean(), abs=0.01)
