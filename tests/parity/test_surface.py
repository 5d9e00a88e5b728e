"""Surface distances against MONAI, in two and three dimensions, and where one mask is empty."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from fmcache.analyze.surface import hd95, nsd, pooled, slice_distances, surface


def blobs(shape: tuple[int, ...], seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    smooth = gaussian_filter(random.normal(size=shape), 4)
    other = smooth + 0.3 * gaussian_filter(random.normal(size=shape), 3)
    limit = np.quantile(smooth, 0.8)
    return smooth > limit, other > limit


@pytest.mark.parametrize(
    ("shape", "spacing"), [((64, 48), (1.0, 1.0)), ((40, 64), (0.7, 1.4)), ((20, 24, 28), (2.0, 1.0, 1.0))]
)
@pytest.mark.parametrize("seed", range(3))
def test_the_distances_are_those_of_monai(
    shape: tuple[int, ...], spacing: tuple[float, ...], seed: int
) -> None:
    torch = pytest.importorskip("torch")
    from fmcache.extract.torchvision_fix import make_torchvision_importable

    make_torchvision_importable()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        monai = pytest.importorskip("monai.metrics")
        predicted, true = blobs(shape, seed)
        a, b = (torch.tensor(mask[None, None]).float() for mask in (predicted, true))
        theirs = float(
            monai.compute_hausdorff_distance(a, b, include_background=True, percentile=95, spacing=spacing)
        )
        share = float(monai.compute_surface_dice(a, b, [1.5], include_background=True, spacing=spacing))
    assert hd95(predicted, true, spacing) == pytest.approx(theirs, abs=1e-5)
    assert nsd(predicted, true, 1.5, spacing) == pytest.approx(share, abs=1e-6)


def test_a_missed_object_is_the_worst_and_two_empty_masks_are_nothing() -> None:
    empty, full = np.zeros((30, 40), bool), np.zeros((30, 40), bool)
    full[5:9, 5:9] = True
    assert hd95(empty, full) == hd95(full, empty) == 50
    assert nsd(empty, full, 3) == 0
    assert math.isnan(hd95(empty, empty))
    assert math.isnan(nsd(empty, empty, 1))
    assert surface(full).sum() == 12


def test_distances_by_hand() -> None:
    a = np.zeros((20, 20), bool)
    a[4:8, 4:8] = True
    b = np.roll(a, 3, axis=0)
    assert hd95(a, b) == 3
    assert hd95(a, b, (2.0, 1.0)) == 6
    # rows 4 to 7 against 7 to 10: the distances of each surface's 12 pixels are 3 3 3 3, 2 1, 2 1 and the shared row
    assert nsd(a, b, 2.0) == pytest.approx(8 / 12)


def test_slices_are_put_together() -> None:
    a = np.zeros((20, 20), bool)
    a[4:8, 4:8] = True
    far = np.roll(a, 3, axis=0)
    worst, share = pooled(
        [slice_distances(a, a), slice_distances(a, far), slice_distances(a & False, a)], 2.0
    )
    assert worst == pytest.approx(math.hypot(20, 20))
    # 12 + 12 pixels of each of the first two slices, 12 of the missed object
    assert share == pytest.approx((24 + 16) / 60)
    assert pooled([slice_distances(a, far)], 2.0) == (hd95(a, far), nsd(a, far, 2.0))
    assert all(math.isnan(x) for x in pooled([slice_distances(a & False, a & False)], 1.0))
