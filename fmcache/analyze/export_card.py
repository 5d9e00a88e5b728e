"""The ``model-index`` block of a Hugging Face model card: what was measured, overall and by group.

Specification: huggingface/hub-docs, modelcard.md (results: task, dataset, metrics). Strings are written as
JSON, which YAML reads, so that no name can break the block.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from fmcache.analyze.report.views import Number, View
from fmcache.analyze.report.wording import clean, metric_name, spoken

# our metric → the identifier that the hub knows
IDENTIFIERS = {
    "auc": "roc_auc",
    "auprc": "average_precision",
    "brier": "brier_score",
    "tpr": "recall",
    "ppv": "precision",
}
TOLD = ("auc", "auprc", "tpr", "fpr", "ppv", "ece", "brier")
BY_GROUP = ("auc", "tpr", "fpr", "ece")
GAPS = ("auc", "tpr", "fpr", "ece", "eqodds", "dp")


def model_index(views: Sequence[View]) -> str:
    """The block, between ``---`` lines, with one result a view; hidden groups are left out."""
    lines = ["---", "model-index:"]
    for model in dict.fromkeys(view.text("model") for view in views):
        lines += [f"- name: {_quoted(model)}", "  results:"]
        for view in views:
            if view.text("model") == model:
                lines += _result(view)
    return "\n".join([*lines, "---", ""])


def _result(view: View) -> list[str]:
    usage, method = view.text("usage"), view.text("method")
    task = f"{spoken(view.label)} ({', '.join(part for part in (usage, method) if part) or 'predictions'})"
    lines = [
        "  - task:",
        "      type: image-classification",
        f"      name: {_quoted(task)}",
        "    dataset:",
        f"      type: {_quoted(view.text('dataset'))}",
        f"      name: {_quoted(view.text('dataset'))}",
        f"      split: {_quoted(view.split)}",
    ]
    digest = view.info.get("dataset_digest")
    if digest:
        lines.append(f"      revision: {_quoted(str(digest)[:12])}")
    lines.append("    metrics:")
    for kind, name, number in _numbers(view):
        lines += [
            f"    - type: {_quoted(kind)}",
            f"      name: {_quoted(name)}",
            f"      value: {number.value!r}",
        ]
    if view.overall.why is not None:
        lines[-1] = "    metrics: []"
    return lines


def _numbers(view: View) -> Iterator[tuple[str, str, Number]]:
    """(identifier, name, known number) of the overall row, then of groups and gaps."""
    for metric in TOLD:
        number = view.overall.numbers.get(metric, Number())
        if number.known:
            yield IDENTIFIERS.get(metric, metric), metric_name(metric), number
    for attribute in view.attributes:
        for group in attribute.shown:
            for metric in BY_GROUP:
                number = group.numbers.get(metric, Number())
                if number.known:
                    where = f"{spoken(attribute.name)} = {spoken(group.name)}"
                    yield IDENTIFIERS.get(metric, metric), f"{metric_name(metric)}, {where}", number
        for one in attribute.disparities:
            if one.metric in GAPS and one.gap.known:
                name = f"{metric_name(one.metric)} gap by {spoken(attribute.name)}"
                yield f"{one.metric}_gap", name, one.gap


def _quoted(text: str) -> str:
    return json.dumps(clean(text), ensure_ascii=False)
