"""Which groups are too small to show, and which others must go so that nothing small can be worked out.

The rule (as in the cell-size policy for US Medicare data, ResDAC 2024): no count of 1 to `floor` - 1 may be shown
*or be derivable*; zero may. Counts are images, patients, positives and negatives of a group. A group with such a
count is hidden ("small"). Then others are hidden ("complement") until

* no table total minus what is shown leaves 1 to `floor` - 1 in any count,
* no small group is the only hidden one of a total,
* no small cell of an intersection follows from the linear equations of all its margins together.

Groups inside a hidden group are hidden too, since their sum would give it away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fmcache.analyze.groups import UNKNOWN

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
    hidden: dict[Place, Why] = {}
    for attribute in sorted(tables, key=lambda name: (name.count("*"), name)):
        table = tables[attribute]
        hidden.update({cell.place: "small" for cell in table if small(cell, floor)})
        lines = _lines(total, table, tables)
        _hide_inside(table, tables, hidden)
        while True:
            before = len(hidden)
            for line in lines:
                _close(line, hidden, floor)
            _close_equations(lines, table, hidden)
            if len(hidden) == before:
                break
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


def _close_equations(lines: Sequence[_Line], table: Sequence[Cell], hidden: dict[Place, Why]) -> None:
    """Hide more until no small cell is fixed by the equations 'hidden cells of a line sum to a known number'."""
    while True:
        covered = [cell for cell in table if cell.place in hidden]
        index = {cell.place: i for i, cell in enumerate(covered)}
        rows = []
        for line in lines:
            whole = line.parent.n
            if line.parent.place in hidden or whole != sum(cell.n or 0 for cell in line.members):
                continue  # an unknown sum, or people in none of the groups: not an equation
            row = np.zeros(len(covered))
            row[[index[cell.place] for cell in line.members if cell.place in index]] = 1
            rows.append(row)
        if not rows or not covered:
            return
        _, values, vectors = np.linalg.svd(np.stack(rows))
        free = vectors[int((values > 1e-9).sum()) :]  # (free directions, hidden cells)
        fixed = {
            cell.place
            for i, cell in enumerate(covered)
            if hidden[cell.place] == "small" and (not len(free) or np.abs(free[:, i]).max() < 1e-9)
        }
        near = [
            cell
            for line in lines[1:]
            if any(member.place in fixed for member in line.members)
            for cell in line.members
        ]
        if not fixed or not (_hide_smallest(near, hidden) or _hide_smallest(table, hidden)):
            return
