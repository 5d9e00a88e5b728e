"""Deep pixels → eight bits, by one linear ramp."""

from __future__ import annotations

import numpy as np

PERCENTILES = (0.5, 99.5)


def windowed(values: np.ndarray, centre: float, width: float) -> np.ndarray:
    """centre ± width / 2 → 0…255, rounded; what lies outside is clipped. uint8, the shape of `values`."""
    return scaled(values, centre - width / 2, centre + width / 2)


def scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """low → 0, high → 255, rounded and clipped; a constant image (high ≤ low) becomes 0."""
    if values.dtype == np.uint8 and (low, high) == (0, 255):
        return values
    if high <= low:
        return np.zeros(values.shape, np.uint8)
    unit = (values.astype(np.float64) - low) / (high - low)
    return np.rint(np.clip(unit, 0, 1) * 255).astype(np.uint8)
