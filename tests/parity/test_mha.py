"""MHA against SimpleITK: the same voxels in the same place, for every type, compression and orientation."""

from __future__ import annotations

import itertools
from pathlib import Path

import nibabel
import numpy as np
import pytest

from fmcache.extract.decode import ReaderOptions, Undecodable, count_slices, decode
from fmcache.extract.mha import mha_layout, mha_values
from fmcache.extract.volumes import stored_slices

sitk = pytest.importorskip("SimpleITK", reason="pip install SimpleITK (make test does)")
READER = ReaderOptions()
VALUES = np.random.default_rng(0).integers(0, 100, (5, 6, 7))  # SimpleITK's order: z, y, x
TURNS = [
    np.eye(3),
    np.diag([-1.0, 1, -1]),
    *(np.eye(3)[list(order)] for order in itertools.permutations(range(3))),
]


def written(path: Path, values: np.ndarray, turn: np.ndarray, compress: bool) -> bytes:
    image = sitk.GetImageFromArray(values)
    image.SetSpacing((0.5, 2.0, 3.0))
    image.SetOrigin((1.0, -2.0, 3.0))
    image.SetDirection(turn.T.ravel().tolist())
    sitk.WriteImage(image, str(path), compress)
    return path.read_bytes()


@pytest.mark.parametrize(
    "dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "float32", "float64"]
)
@pytest.mark.parametrize("compress", [False, True])
def test_every_type(dtype: str, compress: bool, tmp_path: Path) -> None:
    data = written(tmp_path / "x.mha", VALUES.astype(dtype), np.eye(3), compress)
    # identity in LPS is x to the left and y to the back: both are turned for RAS
    assert np.array_equal(mha_values(data), VALUES.transpose(2, 1, 0)[::-1, ::-1])
    assert mha_layout(data, READER).shape == (7, 6, 5)
    assert mha_layout(data, READER).sides == (0.5, 2.0, 3.0)


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_every_orientation_gives_the_slices_of_the_same_volume_as_nifti(
    turn: np.ndarray, axis: int, tmp_path: Path
) -> None:
    values = VALUES.astype(np.uint8)
    data = written(tmp_path / "x.mha", values, turn, True)
    sitk.WriteImage(sitk.ReadImage(str(tmp_path / "x.mha")), str(tmp_path / "x.nii"))
    same = (tmp_path / "x.nii").read_bytes()
    reader = ReaderOptions(axis=axis)
    assert count_slices(data, reader) == count_slices(same, reader)
    assert np.array_equal(stored_slices(data, reader), stored_slices(same, reader))
    assert nibabel.load(tmp_path / "x.nii").shape == (7, 6, 5)


def test_a_written_window_is_applied(tmp_path: Path) -> None:
    data = written(tmp_path / "x.mha", VALUES.astype(np.int16), np.eye(3), False)
    image = decode(data, slice=0, reader=ReaderOptions(window=(50, 100)))
    assert np.array_equal(image, np.rint(np.clip(stored_slices(data, READER)[0] / 100, 0, 1) * 255))


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"DimSize = 7 6 5", b"DimSize = 70000 60000 50000", "above|limit"),
        (b"DimSize = 7 6 5", b"DimSize = 7 6 4", "bytes of data"),
        (b"DimSize = 7 6 5", b"DimSize = 7 6 0", "empty volume"),
        (b"NDims = 3", b"NDims = 2", "three axes"),
        (b"MET_SHORT", b"MET_STRUCT", "element type"),
        (b"ElementDataFile = LOCAL", b"ElementDataFile = /etc/passwd", "another file"),
        (b"TransformMatrix = 1 0 0 0 1 0 0 0 1", b"TransformMatrix = 0 0 0 0 0 0 0 0 0", "singular|numbers"),
        (b"\n", b" ", "no end|damaged|three axes"),
    ],
)
def test_hostile_headers(old: bytes, new: bytes, reason: str, tmp_path: Path) -> None:
    data = written(tmp_path / "x.mha", VALUES.astype(np.int16), np.eye(3), False)
    assert old in data
    with pytest.raises(Undecodable, match=reason):
        decode(data.replace(old, new), slice=0, reader=READER)


def test_truncated_and_compressed_too_long(tmp_path: Path) -> None:
    data = written(tmp_path / "x.mha", VALUES.astype(np.int16), np.eye(3), True)
    for end in range(0, len(data), 23):
        with pytest.raises(Undecodable):
            decode(data[:end], slice=0, reader=READER)
