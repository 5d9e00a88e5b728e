"""Small cells cannot be found by subtraction: an attacker with all shown counts tries every linear equation.

The attacker knows the structure (which groups sum to which totals, that counts are whole and not negative) and all
shown counts, and solves for each hidden small cell its smallest and largest possible value. If the two agree, or the
cell is shown, the rule has failed.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from fmcache.analyze.suppression import Cell, suppress

FLOOR = 11


def cells_of(counts: np.ndarray, names: tuple[str, str] = ("sex", "race")) -> tuple[Cell, list[Cell]]:
    """Total, margins and intersection of a table [a, b] of images, one patient each, none positive."""

    def cell(attribute: str, group: str, n: int) -> Cell:
        return Cell(attribute, group, n, 0, n)

    rows, columns = counts.shape
    cells = [cell(names[0], f"s{i}", int(counts[i].sum())) for i in range(rows)]
    cells += [cell(names[1], f"r{j}", int(counts[:, j].sum())) for j in range(columns)]
    both = "*".join(names)
    cells += [cell(both, f"s{i}*r{j}", int(counts[i, j])) for i in range(rows) for j in range(columns)]
    return cell("", "overall", int(counts.sum())), cells


def attack(
    total: Cell, cells: list[Cell], hidden: set[tuple[str, str]], shape: tuple[int, int]
) -> dict[tuple[str, str], tuple[float, float]]:
    """For every hidden cell, the least and the most that the shown counts allow."""
    rows, columns = shape
    unknown = rows * columns  # the intersection determines everything
    of = {cell.place: cell for cell in cells}
    masks = {(total.attribute, total.group): np.ones((rows, columns))}
    for cell in cells:
        mask = np.zeros((rows, columns))
        parts = cell.group.split("*")
        if len(parts) == 2:
            mask[int(parts[0][1:]), int(parts[1][1:])] = 1
        elif cell.group[0] == "s":
            mask[int(cell.group[1:])] = 1
        else:
            mask[:, int(cell.group[1:])] = 1
        masks[cell.place] = mask
    shown = [
        (mask.ravel(), (of.get(place) or total).n) for place, mask in masks.items() if place not in hidden
    ]
    equations = np.array([mask for mask, _ in shown]) if shown else np.zeros((0, unknown))
    values = np.array([n for _, n in shown], float)
    found = {}
    for place in hidden:
        if place == total.place:
            continue
        ends = []
        for sign in (1, -1):
            outcome = linprog(sign * masks[place].ravel(), A_eq=equations if len(shown) else None,
                              b_eq=values if len(shown) else None, bounds=(0, None), method="highs")  # fmt: skip
            ends.append(sign * outcome.fun if outcome.status == 0 else sign * -np.inf)
        found[place] = (ends[0], ends[1])
    return found


@st.composite
def counts(draw: st.DrawFn) -> np.ndarray:
    shape = draw(st.tuples(st.integers(2, 3), st.integers(2, 4)))
    sizes = st.one_of(st.integers(0, 14), st.integers(15, 400))
    return np.array(
        draw(st.lists(sizes, min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]))
    ).reshape(shape)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow],
          phases=[Phase.explicit, Phase.reuse, Phase.generate])  # fmt: skip
@given(counts())
@example(
    np.array([[0, 0], [181, 8], [0, 181]])
)  # the equations leave it open; that no count is negative does not
def test_no_small_cell_is_shown_or_follows_from_what_is_shown(table: np.ndarray) -> None:
    total, cells = cells_of(table)
    hidden = suppress(total, cells, FLOOR)
    small = {cell.place for cell in (total, *cells) if cell.n is not None and 0 < cell.n < FLOOR}
    assert small <= set(hidden)
    exact = attack(total, cells, set(hidden), table.shape)
    for place in small - {total.place}:
        low, high = exact[place]
        assert high - low > 0.5, f"{place} can only be {low:g}"


def test_the_attack_finds_what_naive_suppression_gives_away() -> None:
    table = np.array([[5, 200], [100, 300]])
    total, cells = cells_of(table)
    naive = {cell.place for cell in cells if 0 < cell.n < FLOOR}  # type: ignore[operator]
    low, high = attack(total, cells, naive, table.shape)["sex*race", "s0*r0"]
    assert (low, high) == (pytest.approx(5), pytest.approx(5))
    hidden = suppress(total, cells, FLOOR)
    low, high = attack(total, cells, set(hidden), table.shape)["sex*race", "s0*r0"]
    assert high - low > 10


PAIRS = ((0,), (1,), (2,), (0, 1), (0, 2), (1, 2))
NAMES = ("sex", "race", "age")


@st.composite
def three_ways(draw: st.DrawFn) -> np.ndarray:
    """Images and positives [sex 2, race 3, age 2, count 2]: three attributes, each pair of them shown too."""
    sizes = st.one_of(st.integers(0, 14), st.integers(15, 90))
    images = np.array(draw(st.lists(sizes, min_size=12, max_size=12))).reshape(2, 3, 2)
    share = draw(st.sampled_from([0.02, 0.1, 0.5]))
    return np.stack([images, np.round(images * share).astype(int)], axis=-1)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow],
          phases=[Phase.explicit, Phase.reuse, Phase.generate])  # fmt: skip
@given(three_ways())
def test_nor_do_small_positives_follow_from_three_attributes_and_their_pairs(table: np.ndarray) -> None:
    masks: dict[tuple[str, str], np.ndarray] = {("", "overall"): np.ones(table.shape[:3], bool)}
    for axes in PAIRS:
        for index in np.ndindex(*(table.shape[axis] for axis in axes)):
            mask = np.ones(table.shape[:3], bool)
            for axis, i in zip(axes, index, strict=True):
                keep = np.zeros(table.shape[axis], bool)
                keep[i] = True
                mask &= keep.reshape([-1 if other == axis else 1 for other in range(3)])
            group = "*".join(f"{NAMES[axis][0]}{i}" for axis, i in zip(axes, index, strict=True))
            masks["*".join(NAMES[axis] for axis in axes), group] = mask
    cells = [
        Cell(*place, n=int(n), n_pos=int(n_pos), n_patients=int(n))
        for place, mask in masks.items()
        for n, n_pos in [table[mask].sum(axis=0)]
    ]
    hidden = suppress(cells[0], cells[1:], FLOOR)
    numbers = {"images": {cell.place: cell.n or 0 for cell in cells},
               "positives": {cell.place: cell.n_pos or 0 for cell in cells}}  # fmt: skip
    shown = [place for place in masks if place not in hidden]
    for count, of in numbers.items():
        small = [place for place in masks if 0 < of[place] < FLOOR]
        assert not set(small) & set(shown)
        if not shown:
            continue
        equations = np.array([masks[place].ravel() for place in shown], float)
        values = np.array([of[place] for place in shown], float)
        for place in small:
            ends = []
            for sign in (1, -1):
                aim = sign * masks[place].ravel().astype(float)
                outcome = linprog(aim, A_eq=equations, b_eq=values, bounds=(0, None), method="highs")
                ends.append(sign * outcome.fun if outcome.status == 0 else sign * -np.inf)
            assert ends[1] - ends[0] > 0.5, f"the {count} of {place} can only be {ends[0]:g}"
