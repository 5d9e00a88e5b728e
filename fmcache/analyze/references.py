"""Which group the others are compared with."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

import numpy as np

from fmcache.analyze.areas import Ints
from fmcache.errors import UsageError
from fmcache.store.groups import Grouping


def named_references(
    groupings: Sequence[Grouping], patient: Ints, wanted: Mapping[str, str]
) -> dict[str, str]:
    """attribute → reference group: the named one, or the one with most patients (the first by name of equals).

    An intersection whose attributes are all named gets the intersection of their references.

    Parameters
    ----------
    groupings : their codes are [n], the same rows as `patient`; everyone (attribute "") is passed over.

    Raises
    ------
    UsageError : a named attribute or group that is not there.
    """
    patients: dict[str, dict[str, int]] = {}
    for grouping in groupings:
        if grouping.attribute:
            counts = patients.setdefault(grouping.attribute, {})
            for g in grouping.known:
                mine = patient[grouping.codes == g]
                counts[grouping.names[g]] = int(np.count_nonzero(np.bincount(mine))) if len(mine) else 0
    return choose(patients, wanted)


def choose(patients: Mapping[str, Mapping[str, int]], wanted: Mapping[str, str]) -> dict[str, str]:
    """See `named_references`; patients : attribute → group → how many."""
    chosen: dict[str, str] = {}
    for attribute, groups in patients.items():
        joined = "*".join(wanted.get(part, "") for part in attribute.split("*"))
        if attribute in wanted:
            chosen[attribute] = wanted[attribute]
        elif joined in groups:
            chosen[attribute] = joined
        elif groups:
            chosen[attribute] = max(sorted(groups), key=lambda name: groups[name])
    for attribute, group in wanted.items():
        _check(attribute, group, patients)
    return chosen


def parse_references(texts: Sequence[str]) -> dict[str, str]:
    """``["sex=male", "race=white"]`` as a mapping.

    Raises
    ------
    UsageError : not of that form.
    """
    found = {}
    for one in texts:
        attribute, equals, group = one.partition("=")
        if not equals or not attribute.strip() or not group.strip():
            raise UsageError(
                f"The reference {one!r} cannot be read.", "", "Type: --reference sex=male,race=white"
            )
        found[attribute.strip()] = group.strip()
    return found


def _check(attribute: str, group: str, patients: Mapping[str, Mapping[str, int]]) -> None:
    there: set[str] = set(patients.get(attribute, {}))
    for name, groups in patients.items():
        parts = name.split("*")
        if not there and attribute in parts:
            there |= {
                one.split("*")[parts.index(attribute)] for one in groups if one.count("*") == len(parts) - 1
            }
    if not there:
        close = difflib.get_close_matches(attribute, [*patients], n=1)
        raise UsageError(
            f"The reference {attribute}={group} names no attribute of --by.",
            f"Attributes: {', '.join(patients) or 'none'}.",
            f"Did you mean {close[0]}?" if close else "",
        )
    if group not in there:
        lowered = {name.lower(): name for name in sorted(there)}
        starts = [name for low, name in lowered.items() if low.startswith(group.lower())]
        close = starts or [
            lowered[one] for one in difflib.get_close_matches(group.lower(), [*lowered], 1, 0.3)
        ]
        raise UsageError(
            f"The attribute {attribute} has no group {group!r}, which was to be the reference.",
            f"Its groups: {', '.join(sorted(there))}.",
            f"Did you mean {close[0]}?" if close else "",
        )
