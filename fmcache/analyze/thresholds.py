"""Where the line between yes and no is drawn: named policies, on validation rows, one line for all groups.

``test-`` before a policy chooses on the very rows that are measured, as published code does; the results name the
policy and a finding says that such numbers are too good.
"""

from __future__ import annotations

import difflib
import math
import re

import numpy as np

from fmcache.analyze.areas import Bools, Floats
from fmcache.errors import UsageError

POLICIES: dict[str, str] = {
    "0.5": "a number, as given; no validation rows needed",
    "youden": "largest TPR − FPR on validation rows",
    "f1": "largest F1 on validation rows",
    "sens@0.90": "highest threshold with a sensitivity of at least 0.90 on validation rows",
    "spec@0.90": "lowest threshold with a specificity of at least 0.90 on validation rows",
    "test-youden": "as without test-, but chosen on the measured rows themselves; the same for test-f1, test-sens@…",
}
TEST = "test-"


def fixed_threshold(policy: str) -> float | None:
    """The number that the policy is, or None if it has to be chosen on validation rows.

    Raises
    ------
    UsageError : no such policy.
    """
    try:
        number = float(policy)
    except ValueError:
        number = math.nan
    if math.isfinite(number):
        return number
    named = policy.removeprefix(TEST)
    if named in ("youden", "f1") or _at(named) is not None:
        return None
    close = difflib.get_close_matches(policy, POLICIES, n=1)
    raise UsageError(
        f"There is no threshold policy {policy!r}.",
        f"Policies: {', '.join(POLICIES)}, or any number.",
        f"Did you mean {close[0]}?" if close else "Type: --threshold 0.5",
    )


def chosen_on_test(policy: str) -> bool:
    """Whether the policy chooses on the rows that are measured."""
    return policy.startswith(TEST)


def _at(policy: str) -> tuple[str, float] | None:
    match = re.fullmatch(r"(sens|spec)@(0?\.\d+|1(?:\.0+)?)", policy)
    return (match[1], float(match[2])) if match else None


def choose_threshold(y: Bools, score: Floats, policy: str) -> float:
    """The threshold t (decision: score >= t) that the policy takes on these rows.

    Parameters
    ----------
    y, score : [n], the rows of one label and seed that the policy may look at.

    Returns
    -------
    float : the highest of equally good thresholds (for ``spec@``, the lowest that is enough, possibly just above
    all scores); NaN if the rows hold one class only.
    """
    number = fixed_threshold(policy)
    if number is not None:
        return number
    policy = policy.removeprefix(TEST)
    positives, negatives = int(y.sum()), int((~y).sum())
    if not positives or not negatives:
        return math.nan
    order = np.argsort(-score, kind="stable")
    last = np.append(np.flatnonzero(np.diff(score[order])), len(y) - 1)
    candidates = score[order][last]  # descending; at the k-th, everything down to it is called positive
    tp = np.cumsum(y[order])[last]
    fp = last + 1 - tp
    if policy == "youden":
        return float(candidates[np.argmax(tp / positives - fp / negatives)])
    if policy == "f1":
        return float(candidates[np.argmax(2 * tp / (tp + fp + positives))])
    side, wanted = _at(policy) or ("sens", 1.0)
    slack = 1e-12
    if side == "sens":
        return float(candidates[np.argmax(tp / positives >= wanted - slack)])
    enough = np.flatnonzero(1 - fp / negatives >= wanted - slack)
    return float(candidates[enough[-1]] if len(enough) else np.nextafter(candidates[0], np.inf))


def needs_validation(policy: str, label: str, splits: list[str]) -> UsageError:
    """The refusal to choose a threshold where there are no validation rows."""
    return UsageError(
        f"The threshold policy {policy} needs validation rows, and the label {label} has none.",
        f"Splits of its rows: {', '.join(splits) or 'none'}.",
        "Type: --threshold 0.5   or give a split column with train, val and test",
    )
