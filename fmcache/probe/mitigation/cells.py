"""Who counts as which group in training: cells of group × label, their sizes, and weights by cell.

A row whose attribute is unknown (group -1) is in no cell. What a method makes of it stands in the method's docstring;
nowhere does "unknown" become a group of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fmcache.shapes import Float, Int


@dataclass(frozen=True)
class Cells:
    """The cells of rows (n), columns (c) and groups (g).

    Attributes
    ----------
    code : [n, c], 2 · group + y; -1 where the label or the group is unknown.
    size : [c, g, 2], rows of each group with y = 0 and y = 1.
    """

    code: Int[np.ndarray, "n c"]
    size: Int[np.ndarray, "c g 2"]

    def spread(self, values: Float[np.ndarray, "c g 2"], otherwise: float) -> Float[np.ndarray, "n c"]:
        """The value of each row's cell; `otherwise` for rows without one."""
        flat = values.reshape(len(values), -1)
        inside = np.take_along_axis(flat.T, np.maximum(self.code, 0), axis=0)
        return np.where(self.code >= 0, inside, otherwise)


def cells_of(y: Float[np.ndarray, "n c"], group: Int[np.ndarray, " n"], groups: int) -> Cells:
    """Cells of labels (0, 1, NaN) and group codes (0 … groups - 1, or -1 for unknown).

    Raises
    ------
    ValueError : a code below -1 or not below `groups`, or another number of rows.
    """
    group = np.asarray(group)
    if group.shape != y.shape[:1] or group.min(initial=0) < -1 or group.max(initial=-1) >= groups:
        raise ValueError(f"group codes are -1 or below {groups}, one a row")
    known = ~np.isnan(y) & (group[:, None] >= 0)
    code = np.where(known, 2 * group[:, None] + np.nan_to_num(y).astype(np.int64), -1)
    size = np.stack([np.bincount(column[column >= 0], minlength=2 * groups) for column in code.T])
    return Cells(code, size.reshape(y.shape[1], groups, 2))


def equal_weights(size: Int[np.ndarray, "c ..."]) -> Float[np.ndarray, "c ..."]:
    """Weights with which every cell that has rows counts the same, and the rows' mean weight is 1."""
    flat = size.reshape(len(size), -1).astype(np.float64)
    share = flat.sum(axis=1, keepdims=True) / np.maximum((flat > 0).sum(axis=1, keepdims=True), 1)
    return np.divide(share, flat, out=np.zeros_like(flat), where=flat > 0).reshape(size.shape)
