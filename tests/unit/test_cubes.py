"""What 3-D models see of a volume: axes, crops, intensities, and the way back."""

from __future__ import annotations

import gzip

import nibabel
import numpy as np
import pytest

from fmcache.analyze.volumes import OUTSIDE, upsample_volume
from fmcache.extract.cubes import CubePreprocess, crop_start, nearest_exact, read_volume, to_ras
from fmcache.extract.reader import ReaderOptions, Undecodable

CROP = CubePreprocess("crop", (8, 8, 8), "positive")
RESIZE = CubePreprocess("resize", (4, 16, 16), "foreground")


def test_a_nifti_comes_back_in_its_own_axes():
    """RAS+ in, slices as on the light box, RAS+ out again."""
    ras = np.random.default_rng(0).integers(-1000, 1000, (5, 7, 9)).astype(np.int16)
    image = nibabel.Nifti1Image(ras, np.diag([1, 1, 1, 1]))
    slices = read_volume(gzip.compress(image.to_bytes()), ReaderOptions(slices=100))
    assert slices.shape == (9, 7, 5)
    assert (to_ras(slices) == ras).all()


def test_a_volume_of_another_orientation_becomes_the_same():
    ras = np.random.default_rng(0).integers(0, 100, (5, 7, 9)).astype(np.int16)
    lps = nibabel.Nifti1Image(ras[::-1, ::-1], np.diag([-1, -1, 1, 1]))
    slices = read_volume(lps.to_bytes(), ReaderOptions(slices=100))
    assert (to_ras(slices) == ras).all()


def test_pictures_are_refused():
    from io import BytesIO

    file = BytesIO()
    np.save(file, np.zeros((4, 4), np.uint8))
    with pytest.raises(Undecodable):
        read_volume(file.getvalue(), ReaderOptions())


@pytest.mark.parametrize("preprocess", [CROP, RESIZE])
@pytest.mark.parametrize("shape", [(6, 30, 20), (20, 9, 12), (4, 16, 16)])
def test_points_go_where_their_voxels_go_and_come_back(preprocess, shape):
    rng = np.random.default_rng(5)
    for _ in range(10):
        inside = np.zeros(shape, bool)
        s, h, w = (int(rng.integers(size)) for size in shape)
        inside[s, h, w] = True
        values = np.ones(shape, np.float32)
        values[s, h, w] = 1000
        x, y, z = preprocess.into(np.array([[w, h, s]], float), inside)[0].astype(int)
        seen = preprocess.view(values, inside)
        assert seen.shape == preprocess.size
        if preprocess.fit == "crop":
            assert np.unravel_index(seen.argmax(), seen.shape) == (x, y, z) == (4, 4, 4)
        elif all(new >= old for new, old in zip(preprocess.size, shape, strict=True)):
            assert seen[x, y, z] == seen.max()
        logits = np.full(preprocess.size, -5, np.float32)
        wide = 0 if preprocess.fit == "crop" else 1  # nearest voxels there and back may be one beside
        logits[tuple(slice(max(0, at - wide), at + wide + 1) for at in (x, y, z))] = 5
        back = upsample_volume(logits, preprocess.document()["geometry"], inside)
        assert back.shape == shape
        assert back[s, h, w] == back.max() == 5


def test_the_crop_by_hand():
    inside = np.zeros((20, 20, 20), bool)
    inside[2:5, 10:13, 18:20] = True
    assert crop_start(inside, (8, 8, 8)).tolist() == [3 - 4, 11 - 4, 19 - 4]
    inside = to_ras(inside)  # x = 19 - column, y = 19 - row
    assert crop_start(inside, (8, 8, 8)).tolist() == [1 - 4, 8 - 4, 3 - 4]


def test_what_the_model_never_saw_is_outside():
    inside = np.zeros((20, 20, 20), bool)
    inside[10, 10, 10] = True
    back = upsample_volume(np.ones((2, 2, 2)), {"fit": "crop", "size": [8, 8, 8]}, inside)
    assert (back == 1).sum() == 8**3
    assert (back == OUTSIDE).sum() == 20**3 - 8**3


def test_shades_of_a_crop_have_mean_0_and_variance_1_over_what_is_above_0():
    rng = np.random.default_rng(0)
    values = rng.normal(50, 40, (8, 8, 8)).astype(np.float32)
    inside = np.zeros((8, 8, 8), bool)
    inside[4, 3, 3] = True
    seen = CROP.view(values, inside)
    above = to_ras(values) > 0
    assert abs(seen[above].mean()) < 1e-5
    assert abs(seen[above].std(ddof=1) - 1) < 1e-5
    assert CROP.view(np.zeros((8, 8, 8)), inside).max() == 0


def test_shades_of_the_whole_run_from_0_to_1():
    values = np.random.default_rng(0).normal(0, 1, (4, 16, 16))
    seen = RESIZE.view(values, np.ones((4, 16, 16), bool))
    assert (seen.min(), seen.max()) == (0, 1)
    assert 0.4 < (seen == 0).mean() < 0.6, "what is below the mean is background"


def test_nearest_is_torchs_nearest_exact():
    torch = pytest.importorskip("torch")
    for old, new in ((7, 32), (300, 256), (32, 32), (5, 3)):
        x = torch.arange(old, dtype=torch.float32)[None, None]
        expected = torch.nn.functional.interpolate(x, new, mode="nearest-exact")[0, 0]
        assert nearest_exact(old, new).tolist() == expected.long().tolist()


def test_the_way_back_is_torchs():
    torch = pytest.importorskip("torch")
    from torch.nn.functional import interpolate

    logits = np.random.default_rng(0).normal(0, 5, (4, 4, 4)).astype(np.float32)
    cube = interpolate(
        torch.from_numpy(logits)[None, None], (4, 16, 16), mode="trilinear", align_corners=False
    )
    expected = interpolate(cube, (9, 30, 21), mode="nearest")[0, 0].numpy()[:, ::-1, ::-1]
    got = upsample_volume(logits, RESIZE.document()["geometry"], np.ones((9, 30, 21), bool))
    np.testing.assert_allclose(got, expected, atol=1e-4)
