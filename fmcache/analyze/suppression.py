"""Which groups are too small to show, and which others must go so that nothing small can be worked out.

The rule (as in the cell-size policy for US Medicare data, ResDAC 2024): no count of 1 to `floor` - 1 may be shown
*or be derivable*; zero may. Counts are images, patients, positives and negatives of a group. A group with such a
count is hidden ("small"). Then others are hidden ("complement") until

* no table total minus what is shown leaves 1 to `floor` - 1 in any count,
* no small group is the only hidden one of a total,
* no small count of a hidden group follows from all tables together: from the equations between groups, their margins
  and the total, and from the fact that no count is negative.

Groups inside a hidden group are hidden too, since their sum would give it away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fmcache.store.groups import UNKNOWN

Why = Literal["small", "complement"]
Place = tuple[str, str]  # attribute, group


@dataclass(frozen=True)
class Cell:
    """One group's counts; None where a count is not known. The overall row has attribute ``""``."""

    attribute: str
    group: str
    n: int | None
    n_pos: int | None
    n_patients: int | None

    @property
    def place(self) -> Place:
        return self.attribute, self.group

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self.attribute.split("*"))

    def counts(self) -> dict[str, int]:
        """The known counts, negatives included."""
        known = {"n": self.n, "n_pos": self.n_pos, "n_patients": self.n_patients}
        if self.n is not None and self.n_pos is not None:
            known["n_neg"] = self.n - self.n_pos
        return {name: value for name, value in known.items() if value is not None}

    def values(self) -> dict[str, str] | None:
        """attribute → value; None when a value itself holds a ``*`` and cannot be told apart."""
        pieces = self.group.split("*")
        return dict(zip(self.parts, pieces, strict=True)) if len(pieces) == len(self.parts) else None


@dataclass(frozen=True)
class _Line:
    """A parent whose count is the sum of the members and of people in none of them."""

    parent: Cell
    members: tuple[Cell, ...]


def small(cell: Cell, floor: int) -> bool:
    """Whether a count of the cell lies in 1 … floor - 1."""
    return any(0 < value < floor for value in cell.counts().values())


def suppress(total: Cell, cells: Sequence[Cell], floor: int) -> dict[Place, Why]:
    """The places that must not be shown, with why.

    Parameters
    ----------
    total : the overall row, shown beside the tables.
    cells : all groups of all attributes of one table set (one run, label and split).
    floor : counts from 1 to floor - 1 are protected; 1 switches suppression off.

    Returns
    -------
    place → ``small`` or ``complement``. If `total` is small itself, everything is hidden, its own place included.
    """
    if small(total, floor):
        return {cell.place: "small" for cell in (total, *cells)}
    tables: dict[str, list[Cell]] = {}
    for cell in cells:
        tables.setdefault(cell.attribute, []).append(cell)
    order = sorted(tables, key=lambda name: (name.count("*"), name))
    lines = {attribute: _lines(total, tables[attribute], tables) for attribute in order}
    every = [line for attribute in order for line in lines[attribute]]
    hidden: dict[Place, Why] = {cell.place: "small" for cell in cells if small(cell, floor)}
    while True:
        before = len(hidden)
        for attribute in order:
            _hide_inside(tables[attribute], tables, hidden)
            for line in lines[attribute]:
                _close(line, hidden, floor)
        if len(hidden) == before and not _close_equations(every, cells, hidden, floor):
            return hidden


def _margins(cell: Cell, tables: Mapping[str, Sequence[Cell]]) -> list[Cell]:
    """The shown-elsewhere groups that contain a cell of an intersection: female*60+ lies in female and in 60+."""
    values = cell.values()
    if values is None:
        return []
    return [
        margin
        for name, table in tables.items()
        if set(name.split("*")) < set(cell.parts)
        for margin in table
        if (theirs := margin.values()) is not None and theirs.items() <= values.items()
    ]


def _lines(total: Cell, table: Sequence[Cell], tables: Mapping[str, Sequence[Cell]]) -> list[_Line]:
    members: dict[Place, list[Cell]] = {}
    parents: dict[Place, Cell] = {}
    for cell in table:
        for margin in _margins(cell, tables):
            parents[margin.place] = margin
            members.setdefault(margin.place, []).append(cell)
    return [
        _Line(total, tuple(table)),
        *(_Line(parents[place], tuple(members[place])) for place in sorted(parents)),
    ]


def _hide_inside(
    table: Sequence[Cell], tables: Mapping[str, Sequence[Cell]], hidden: dict[Place, Why]
) -> None:
    for cell in table:
        if cell.place in hidden:
            continue
        inside = [margin.place in hidden for margin in _margins(cell, tables)]
        if (
            cell.values() is None and cell.group != UNKNOWN
        ):  # a name that cannot be taken apart: assume the worst
            inside = [attribute in cell.parts for attribute, _ in hidden]
        if any(inside):
            hidden[cell.place] = "complement"


def _exposed(line: _Line, hidden: Mapping[Place, Why], floor: int) -> bool:
    covered = [cell for cell in line.members if cell.place in hidden]
    if len(covered) == 1 and hidden[covered[0].place] == "small":
        return True
    shown = [cell.counts() for cell in line.members if cell.place not in hidden]
    for name, whole in line.parent.counts().items():
        rest = whole - sum(counts.get(name, 0) for counts in shown)
        if shown and 0 < rest < floor:
            return True
    return False


def _close(line: _Line, hidden: dict[Place, Why], floor: int) -> None:
    if line.parent.place in hidden:
        return
    while _exposed(line, hidden, floor) and _hide_smallest(line.members, hidden):
        pass


def _hide_smallest(cells: Sequence[Cell], hidden: dict[Place, Why]) -> bool:
    shown = [cell for cell in cells if cell.place not in hidden]
    if not shown:
        return False
    # an empty cell is no cover: hiding a zero leaves the sum as it was
    least = min(shown, key=lambda cell: (not cell.n, cell.n or 0, cell.group))
    hidden[least.place] = "complement"
    return True


def _close_equations(
    lines: Sequence[_Line], cells: Sequence[Cell], hidden: dict[Place, Why], floor: int
) -> bool:
    """Hide one more group if a small count follows from all lines together; whether one was hidden."""
    for count in ("n", "n_pos", "n_neg", "n_patients"):
        for place in _fixed(lines, hidden, count, floor):
            around = [
                line for line in lines if place in {cell.place for cell in (line.parent, *line.members)}
            ]
            near = [cell for line in around for cell in line.members]
            table = [cell for cell in cells if cell.attribute == place[0]]
            above = [line.parent for line in around if line.parent.attribute]
            if any(_hide_smallest(some, hidden) for some in (near, table, above)):
                return True
    return False


def _fixed(lines: Sequence[_Line], hidden: Mapping[Place, Why], count: str, floor: int) -> list[Place]:
    """The hidden groups whose small `count` has one possible value, all lines taken together.

    Hidden counts are the unknowns: whole numbers, none negative. Lines whose members do not make up the parent are no
    equations. First a sufficient test that is cheap: a direction in which the solution can move without changing a
    count that is zero. Where that finds none, linear programming gives the least and the most.
    """
    unknown: dict[Place, int] = {}
    rows: list[dict[Place, float]] = []
    for line in lines:
        whole = line.parent.counts().get(count)
        parts = [cell.counts().get(count) for cell in line.members]
        if whole is None or None in parts or whole != sum(part for part in parts if part is not None):
            continue
        row: dict[Place, float] = {}
        for cell, value, sign in [
            *zip(line.members, parts, [1.0] * len(parts), strict=True),
            (line.parent, whole, -1.0),
        ]:
            if cell.place in hidden and value is not None:
                unknown[cell.place] = value
                row[cell.place] = sign
        rows.append(row)
    small_ones = [place for place, value in unknown.items() if 0 < value < floor and hidden[place] == "small"]
    if not small_ones:
        return []
    places = list(unknown)
    equations = np.array([[row.get(place, 0.0) for place in places] for row in rows])
    values = np.array([unknown[place] for place in places], float)
    loose = np.zeros(len(places), bool)
    loose[values > 0] = np.abs(_directions(equations[:, values > 0])).max(axis=0, initial=0.0) > 1e-9
    tight = [place for place in small_ones if not loose[places.index(place)]]
    return [place for place in tight if _range(equations, values, places.index(place)) < 0.5]


def _directions(equations: np.ndarray) -> np.ndarray:
    """A basis [directions, unknowns] of what may be added to a solution."""
    _, values, vectors = np.linalg.svd(equations)
    return np.asarray(vectors[int((values > 1e-9).sum()) :])


def _range(equations: np.ndarray, values: np.ndarray, unknown: int) -> float:
    """The most minus the least that one unknown can be, the others free but not negative."""
    from scipy.optimize import linprog

    aim = np.zeros(len(values))
    aim[unknown] = 1
    ends = [
        linprog(sign * aim, A_eq=equations, b_eq=equations @ values, bounds=(0, None), method="highs")
        for sign in (1, -1)
    ]
    if any(end.status == 3 for end in ends):  # no bound above
        return np.inf
    return float(-ends[1].fun - ends[0].fun)
