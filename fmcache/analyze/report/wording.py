"""Words and numbers as the report prints them; every text from data passes through `clean`."""

from __future__ import annotations

import math
import re
import unicodedata
from typing import Any

from markupsafe import Markup

DASH = "–"
LONGEST = 2000  # characters of one printed text
LONGEST_NAME = 80  # of one name that comes from data
# control, surrogate, unassigned-for-text characters, bidirectional overrides and invisible marks: they can make a
# name read as something else, or break out of the line they are printed on
_BIDI = {*map(chr, range(0x202A, 0x202F)), *map(chr, range(0x2066, 0x206A)), "\u200e", "\u200f", "\u061c"}
_INVISIBLE = {"\u200b", "\u2060", "\ufeff", "\u2028", "\u2029", "\u00ad"}
_DROPPED = frozenset(_BIDI | _INVISIBLE)
_SPACE = re.compile(r"[^\S\u00a0]+")  # a no-break space is ours: it keeps "p = 0.03" on one line

METRIC_NAMES = {
    "auc": "AUC",
    "auprc": "AUPRC",
    "tpr": "Sensitivity (TPR)",
    "fpr": "False alarms (FPR)",
    "ece": "Calibration error (ECE)",
    "prevalence": "Prevalence",
    "selection_rate": "Flagged (selection rate)",
    "eqodds": "Equalised odds",
    "eqopp": "Equal opportunity",
    "dp": "Demographic parity",
    "accuracy": "Accuracy",
    "brier": "Brier score",
    "balanced_accuracy": "Balanced accuracy",
    "f1": "F1",
    "fnr": "Missed cases (FNR)",
    "tnr": "Specificity (TNR)",
    "ppv": "PPV",
    "npv": "NPV",
    "log_loss": "Log loss",
    "dsc": "Dice",
    "iou": "IoU",
    "nsd": "Surface Dice (NSD)",
    "hd95": "Hausdorff distance (HD95)",
    "asd": "Surface distance (ASD)",
    "auc_macro": "AUC, mean over classes",
    "f1_macro": "F1, mean over classes",
    "ece_adaptive": "Calibration error, equal-mass bins",
}
DISPARITY_NAMES = {
    "gap": "Gap",
    "ratio": "Ratio",
    "worst": "Worst group",
    "std": "Std",
    "skew": "Skew",
    "es": "Equity-scaled",
}
POLICIES = {
    "youden": "chosen on validation data to maximise sensitivity + specificity (Youden)",
    "f1": "chosen on validation data to maximise F1",
    "0.5": "fixed at 0.5 before looking at the data",
}


def clean(text: str, longest: int = LONGEST) -> str:
    """`text` on one line without control, bidirectional and invisible characters, at most `longest` characters."""
    kept = "".join(
        " "
        if character.isspace() and character != "\u00a0"
        else ""
        if character in _DROPPED or _hostile(character)
        else character
        for character in text
    )
    kept = _SPACE.sub(" ", kept).strip()
    return kept if len(kept) <= longest else kept[: longest - 1] + "…"


def _hostile(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs")


def printed(value: Any) -> Any:
    """What a template expression prints: markup as it is, text cleaned, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, Markup):
        return value
    return clean(value if isinstance(value, str) else str(value))


def decimal(value: float, digits: int = 3) -> str:
    """``0.873``; a dash for NaN; a real minus sign."""
    return DASH if not math.isfinite(value) else f"{value:.{digits}f}".replace("-", "−")


def interval(low: float, high: float, digits: int = 3) -> str:
    """``0.812–0.931``; empty when a bound is not finite."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return ""
    joint = " to " if low < 0 or high < 0 else DASH
    return f"{decimal(low, digits)}{joint}{decimal(high, digits)}"


def count(value: int | None) -> str:
    """``1,234``; a dash when not known."""
    return DASH if value is None else f"{value:,}"


def percent(value: float) -> str:
    """``31.4 %``; a dash for NaN."""
    return DASH if not math.isfinite(value) else f"{100 * value:.1f} %"


def p_value(value: float) -> str:
    """``0.03``, ``< 0.001``; a dash for NaN."""
    if not math.isfinite(value):
        return DASH
    return "<\u00a00.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def spoken(name: str) -> str:
    """``sex*age_group`` → ``sex × age group``."""
    return clean(name.replace("_", " ").replace("*", " × "), LONGEST_NAME)


def metric_name(metric: str) -> str:
    return METRIC_NAMES.get(metric, metric.replace("_", " "))


def disparity_name(disparity: str) -> str:
    return DISPARITY_NAMES.get(disparity, disparity.replace("_", " "))


def policy_text(policy: str) -> str:
    return POLICIES.get(policy, policy or "not recorded")


def short(digest: Any) -> str:
    """The first twelve characters of a digest."""
    return str(digest)[:12] if digest else "not recorded"
