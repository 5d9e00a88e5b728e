"""The audit record: everything the report says, for machines. ``audit_record.schema.json`` is its contract.

Numbers are {value, low, high, reason}; null stands for what is undefined, and ``suppressed`` for what is hidden.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from importlib import metadata, resources
from typing import Any

from fmcache.analyze.report.provenance import provenance_document
from fmcache.analyze.report.sentences import finding, verdict
from fmcache.analyze.report.truth import planted, truth
from fmcache.analyze.report.views import Attribute, Group, Number, View

FORMAT, VERSION = "fmcache-audit-record", 1
SCHEMA = "audit_record.schema.json"


def schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of the record."""
    return dict(json.loads((resources.files(__package__) / SCHEMA).read_text(encoding="utf-8")))


def audit_record(
    cache: Any, views: Sequence[View], warnings: Sequence[tuple[str, str, str]], min_cell: int
) -> dict[str, Any]:
    """The record of these views; the same cache gives the same record."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "generator": {"name": "fmcache", "version": metadata.version("fmcache")},
        "min_cell": min_cell,
        "warnings": [
            {"about": about, "severity": severity, "text": text} for about, severity, text in warnings
        ],
        "evaluations": [_evaluation(cache, view) for view in views],
    }


def _evaluation(cache: Any, view: View) -> dict[str, Any]:
    known = truth(view, rows) if (rows := planted(cache, view)) else None
    return {
        "run_id": view.run_id,
        "model": view.text("model"),
        "dataset": view.text("dataset"),
        "usage": view.text("usage"),
        "method": view.text("method"),
        "label": view.label,
        "split": view.split,
        "seed": view.seed,
        "definition": view.definition,
        "threshold": {"value": _finite(view.threshold), "policy": view.policy},
        "interval_level": _finite(view.level),
        "provenance": provenance_document(cache, view),
        "overall": _group(view.overall),
        "attributes": [_attribute(view, attribute) for attribute in view.attributes],
        "planted_truth": known.sentence if known else None,
    }


def _attribute(view: View, attribute: Attribute) -> dict[str, Any]:
    told = finding(view, attribute)
    return {
        "name": attribute.name,
        "finding": {"text": told.text, "verdict": told.verdict},
        "groups": [_group(group) for group in attribute.groups],
        "groups_not_named": attribute.unnamed,
        "reference": attribute.reference or None,
        "differences": [
            {
                "group": one.group,
                "metric": one.metric,
                **_number(one.number),
                "p": _finite(one.p),
                "p_holm": _finite(one.holm),
                "equivalence": one.equivalence or None,
            }
            for one in attribute.differences
        ],
        "disparities": [
            {
                "metric": one.metric,
                "numbers": {name: _number(number) for name, number in one.numbers.items()},
                "gap_by_chance": _finite(one.null),
                "p": _finite(one.p),
                "verdict": verdict(one),
                "equivalence": one.equivalence or None,
            }
            for one in attribute.disparities
        ],
    }


def _group(group: Group) -> dict[str, Any]:
    return {
        "name": group.name,
        "suppressed": group.why,
        "n": group.n,
        "n_pos": group.n_pos,
        "n_patients": group.n_patients,
        "metrics": {name: _number(number) for name, number in group.numbers.items() if name != "finding"},
    }


def _number(number: Number) -> dict[str, Any]:
    found: dict[str, Any] = {name: _finite(getattr(number, name)) for name in ("value", "low", "high")}
    return {**found, "reason": "suppressed" if number.hidden else number.reason or None}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def plain(value: Any) -> Any:
    """`value` with what JSON cannot hold as text, and NaN as null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return _finite(value)
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)
