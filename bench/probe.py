"""The linear probe against scikit-learn on the same rows in the same run; prints seconds, distances and ratios.

    python bench/probe.py            20,000 x 384, 14 labels: a minute or two
    python bench/probe.py --full     100,000 x 768, 14 labels, then 16 penalties x 14 labels: about ten minutes

Both minimise  sum over labels of  mean BCE + lambda/2 |w|^2, intercept free, lambda = 1e-4. The rows are correlated
(power-law spectrum) and not centred, as embeddings are. scikit-learn is run as users run it (lbfgs, tol 1e-4), with
rows centred first, and for the path on a few of the penalties, extrapolated and said so. Our seconds contain the Gram
matrix and all compilation (cold) or not the compilation (warm).
"""

from __future__ import annotations

import argparse
import resource
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

LAM = 1e-4
LABELS = 14


def make(n: int, d: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows [n, d] float32 with a power-law spectrum, and labels [n, 14] of 1 % to 40 % prevalence."""
    rng = np.random.default_rng(seed)
    variances = np.arange(1, d + 1.0) ** -0.9
    variances *= d / variances.sum()
    basis, _ = np.linalg.qr(rng.normal(size=(d, d)))
    x = rng.standard_normal((n, d), dtype=np.float32) @ (np.sqrt(variances)[:, None] * basis).astype(
        np.float32
    )
    x += (0.3 * rng.normal(size=d)).astype(np.float32)
    z = x @ (basis.T @ (rng.normal(size=(d, LABELS)) / np.sqrt(variances)[:, None] ** 0.6)).astype(np.float32)
    z = (z - z.mean(axis=0)) / z.std(axis=0) * np.linspace(1.0, 1.9, LABELS)
    prevalence = np.geomspace(0.01, 0.40, LABELS)
    shift = np.array([np.quantile(z[:, l] + rng.logistic(size=n), 1 - prevalence[l]) for l in range(LABELS)])
    return x, (rng.random((n, LABELS)) < 1 / (1 + np.exp(shift - z))).astype(np.float32)


def objective(x: np.ndarray, y: np.ndarray, w: np.ndarray, b: np.ndarray, lam: float) -> float:
    """Summed over labels, float64. w [c, d], b [c]."""
    total = np.zeros(len(b))
    for start in range(0, len(x), 10_000):
        z = x[start : start + 10_000].astype(np.float64) @ w.T + b
        total += (np.logaddexp(0, z) - y[start : start + 10_000] * z).sum(axis=0)
    return float((total / len(x) + lam / 2 * (w**2).sum(axis=1)).sum())


def sklearn_fit(x: np.ndarray, y: np.ndarray, lam: float, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    """One fit a label, as scikit-learn has it."""
    from sklearn.linear_model import LogisticRegression

    fits = [
        LogisticRegression(C=1 / (lam * len(x)), max_iter=5000, **options).fit(x, y[:, l])
        for l in range(y.shape[1])
    ]
    return np.stack([fit.coef_[0] for fit in fits]), np.array([fit.intercept_[0] for fit in fits])


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """The result and the seconds."""
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="100,000 x 768")
    parser.add_argument("--ours", action="store_true", help="without scikit-learn")
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    x, y = make(*((100_000, 768) if options.full else (20_000, 384)))

    from fmcache.probe.logistic import fit_logistic

    print(f"{x.shape[0]:,} x {x.shape[1]} float32, {LABELS} labels, lambda {LAM:g}")
    fit, cold = timed(lambda: fit_logistic(x, y, [LAM]))
    warm = float(np.median([timed(lambda: fit_logistic(x, y, [LAM]))[1] for _ in range(options.repeat)]))
    best = objective(x, y, fit.w[0], fit.b[0], LAM)
    print(
        f"fmcache             cold {cold:7.2f} s   warm {warm:7.2f} s   {fit.passes} passes,"
        f" largest gradient {fit.gradient.max():.1e}"
    )
    if not options.ours:
        centred = x - x.mean(axis=0)
        peers: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
            "sklearn lbfgs": (x, {}),
            "  rows centred": (centred, {}),
            "  newton-cholesky": (x, {"solver": "newton-cholesky"}),
        }
        for name, (rows, how) in peers.items():
            (w, b), seconds = timed(lambda rows=rows, how=how: sklearn_fit(rows, y, LAM, **how))
            gap = objective(rows, y, w, b, LAM) - best
            print(
                f"{name:19s}      {seconds:7.2f} s   {seconds / warm:6.1f} x warm, {seconds / cold:6.1f} x cold,"
                f"   objective {gap:+.1e} from ours"
            )

    path = np.logspace(-6, -1, 16)
    fit, cold = timed(lambda: fit_logistic(x, y, path))
    _, warm = timed(lambda: fit_logistic(x, y, path))
    print(f"16 penalties x {LABELS} labels")
    print(
        f"fmcache             cold {cold:7.2f} s   warm {warm:7.2f} s   {fit.passes} passes,"
        f" {int(fit.converged.sum())} of {fit.converged.size} below the tolerance"
    )
    if not options.ours:
        some = path[[3, 12]]
        gaps, seconds = [], 0.0
        for index, lam in zip((3, 12), some, strict=True):
            (w, b), more = timed(lambda lam=lam: sklearn_fit(centred, y, lam))
            seconds += more
            gaps.append(objective(centred, y, w, b, lam) - objective(x, y, fit.w[index], fit.b[index], lam))
        whole = seconds * len(path) / len(some)
        print(
            f"sklearn, centred         {whole:7.2f} s   {whole / warm:6.1f} x warm, {whole / cold:6.1f} x cold,"
            f"   extrapolated from {len(some)} penalties; objective {min(gaps):+.1e} to {max(gaps):+.1e} from ours"
        )
    print(
        f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB; rows {x.nbytes / 1e9:.2f} GB"
    )


if __name__ == "__main__":
    main()
