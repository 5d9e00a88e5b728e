"""Scores for another prevalence than that of training (prior shift, also called label shift).

If P(x | y) stays and P(y) moves from π to π', the logit moves by a constant (Saerens, Latinne & Decaestecker 2002,
Neural Computation 14(1), eq. 2.4)::

    logit' = logit + log(π' / (1 - π')) - log(π / (1 - π))
"""

from __future__ import annotations

import numpy as np

from fmcache.probe.predictions import sigmoid
from fmcache.shapes import Float

_ROUNDS, _TOLERANCE = 1000, 1e-8


def move(logits: Float[np.ndarray, " n"], trained: float, wanted: float) -> Float[np.ndarray, " n"]:
    """Logits of a model trained at one prevalence, at another one; both in (0, 1)."""
    return logits + (np.log(wanted) - np.log1p(-wanted)) - (np.log(trained) - np.log1p(-trained))


def estimate(logits: Float[np.ndarray, " n"], trained: float) -> float:
    """The prevalence in rows without labels, by expectation maximisation (the same paper, eq. 2.9)."""
    share = trained
    for _ in range(_ROUNDS):
        fresh = float(np.clip(sigmoid(move(logits, trained, share)).mean(), 1e-6, 1 - 1e-6))
        if abs(fresh - share) < _TOLERANCE:
            return fresh
        share = fresh
    return share
