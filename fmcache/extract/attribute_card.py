"""What a dataset card says of one attribute and of one label: groups, raw codes, cuts, uncertainty.

A code table maps what the owner's files hold to what it means. It is closed: a code that it does not name stops the
extraction with the list of the codes found, because a group coded in an unforeseen way is this field's worst silent
error. ``""`` means unknown; a name that ends with ``*`` stands for everything that begins so; ``1``, ``1.0`` and ``01``
are the same code; an empty cell needs no entry and is unknown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

POLICIES = ("u-ignore", "u-zero", "u-one")


@dataclass(frozen=True)
class AttributeCard:
    """One attribute.

    Attributes
    ----------
    groups : the order of the groups. codes : raw code → group, "" = unknown; empty: the values are taken as they are.
    unit, range : a number, and the span outside of which it is unknown. unknown : numbers that mean "not known".
    cut : also makes ``attribute.NAME_group``; a value equal to a cut is in the upper group. names : of those groups.
    decades : also makes ``attribute.NAME_decade`` ("50-59").
    """

    title: str = ""
    groups: tuple[str, ...] = ()
    codes: Mapping[str, str] = field(default_factory=dict)
    unit: str = ""
    range: tuple[float, float] | None = None
    unknown: tuple[float, ...] = ()
    cut: tuple[float, ...] = ()
    names: tuple[str, ...] = ()
    decades: bool = False

    @property
    def is_number(self) -> bool:
        return bool(self.unit or self.range or self.cut or self.decades)

    def group_names(self) -> tuple[str, ...]:
        """The names of the groups between the cuts.

        Examples
        --------
        >>> AttributeCard(cut=(40, 60)).group_names()
        ('<40', '40-<60', '60+')
        """
        if self.names or not self.cut:
            return self.names
        cuts = [f"{cut:g}" for cut in self.cut]
        between = [f"{low}-<{high}" for low, high in pairwise(cuts)]
        return (f"<{cuts[0]}", *between, f"{cuts[-1]}+")


@dataclass(frozen=True)
class LabelCard:
    """One binary label.

    Attributes
    ----------
    text : as it stands in a sentence. classes : the names of value 0 and value 1 in a text prompt.
    codes : raw code → 0, 1 or None (unknown); empty: the column holds 0, 1 and empty.
    uncertain : raw codes that mean "perhaps"; `policy` says what becomes of them: u-ignore (unknown), u-zero, u-one.
    blank : what an empty cell means: None (unknown), 0 or 1.
    """

    title: str = ""
    text: str = ""
    classes: tuple[str, ...] = ()
    codes: Mapping[str, int | None] = field(default_factory=dict)
    uncertain: tuple[str, ...] = ()
    policy: str = POLICIES[0]
    blank: int | None = None

    def value(self, code: str, policy: str) -> int | None:
        """What a raw code means under a policy.

        Raises
        ------
        KeyError : the card does not know the code.
        """
        if any(same_code(code, one) for one in self.uncertain):
            return {"u-ignore": None, "u-zero": 0, "u-one": 1}[policy]
        value = look_up(code, self.codes)
        return None if value is None else int(value)


def look_up(code: str, codes: Mapping[str, str | int | None]) -> str | int | None:
    """The meaning of a raw code; exact names first, then names with ``*``.

    Raises
    ------
    KeyError : no name fits.

    Examples
    --------
    >>> look_up("WHITE - RUSSIAN", {"WHITE*": "white", "WHITE - OTHER": "x"})
    'white'
    >>> look_up("01", {"1.0": "male", "2": "female"})
    'male'
    """
    if code in codes:
        return codes[code]
    for name, meaning in codes.items():
        if (name.endswith("*") and code.startswith(name[:-1])) or same_code(code, name):
            return meaning
    raise KeyError(code)


def same_code(one: str, other: str) -> bool:
    """Whether two spellings are the same code: equal text, or equal numbers."""
    if one == other:
        return True
    try:
        a, b = float(one), float(other)
    except ValueError:
        return False
    return math.isfinite(a) and a == b
