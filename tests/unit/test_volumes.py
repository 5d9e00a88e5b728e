"""NIfTI and NumPy volumes: orientation, which slices, scaling, and files that lie or are damaged."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import nibabel
import numpy as np
import pytest

from fmcache.errors import DatasetError
from fmcache.extract import volumes
from fmcache.extract.decode import ReaderOptions, Undecodable, count_slices, decode
from fmcache.extract.reader import positions, reader_options

READER = ReaderOptions()
# RAS+ values that tell where they come from: 100 z + 10 y + x with x to the right, y to the front, z to the head
X, Y, Z = np.meshgrid(np.arange(3), np.arange(4), np.arange(5), indexing="ij")
RAS = (100 * Z + 10 * Y + X).astype(np.int16)
EXACT = ReaderOptions(window=(127.5, 255))  # 0…255 → 0…255


def nifti(values: np.ndarray, affine: np.ndarray | None = None, **header) -> bytes:
    image = nibabel.Nifti1Image(values, np.diag([0.7, 0.8, 2.5, 1]) if affine is None else affine)
    data = bytearray(image.to_bytes())
    for name, value in header.items():
        field = nibabel.Nifti1Header.template_dtype.fields[name]
        data[field[1] : field[1] + field[0].itemsize] = np.asarray(value, field[0].base).tobytes()
    return bytes(data)


def npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.savez_compressed(out, **arrays)
    return out.getvalue()


def stack(data: bytes, reader: ReaderOptions = READER) -> np.ndarray:
    return np.stack([decode(data, slice=i, reader=reader) for i in range(count_slices(data, reader))])


def test_slices_run_from_feet_to_head_with_the_right_side_on_the_left_and_the_front_on_top() -> None:
    slices = stack(nifti(RAS), ReaderOptions(window=(255, 510)))
    expected = [[[100 * z + 10 * y + x for x in (2, 1, 0)] for y in (3, 2, 1, 0)] for z in range(5)]
    assert slices.tolist() == np.rint(np.array(expected) / 510 * 255).astype(int).tolist()


def test_the_stored_orientation_does_not_matter() -> None:
    as_lps = nifti(RAS[::-1, ::-1], np.diag([-1.0, -1, 2, 1]))
    turned = np.zeros((4, 4))
    turned[2, 0], turned[0, 1], turned[1, 2], turned[3, 3] = 2, 1, 1, 1  # stored as z, x, y
    as_zxy = nifti(np.transpose(RAS, (2, 0, 1)), turned)
    for data in (as_lps, as_zxy):
        assert np.array_equal(stack(data), stack(nifti(RAS)))


def test_other_axes_show_the_head_on_top() -> None:
    values = RAS.astype(np.uint8)
    sagittal = stack(nifti(values), ReaderOptions(axis=0))
    assert sagittal.shape == (3, 5, 4)
    assert np.array_equal(sagittal[1], values[1, ::-1, ::-1].T)
    coronal = stack(nifti(values), ReaderOptions(axis=1))
    assert np.array_equal(coronal[2], values[::-1, 2, ::-1].T)


def test_at_most_32_evenly_spaced_slices() -> None:
    volume = np.zeros((2, 2, 100), np.uint8) + np.arange(100, dtype=np.uint8)
    got = stack(nifti(volume))[:, 0, 0].tolist()
    assert got == [int((i + 0.5) * 100 / 32) for i in range(32)] == positions(100, 32)
    assert len(stack(nifti(volume[..., :32]))) == 32
    assert len(stack(nifti(volume[..., :7]))) == 7


def test_compressed_and_plain_are_equal() -> None:
    assert np.array_equal(stack(gzip.compress(nifti(RAS))), stack(nifti(RAS)))
    assert np.array_equal(
        stack(gzip.compress(nifti(RAS)[:100]) + gzip.compress(nifti(RAS)[100:])), stack(nifti(RAS))
    )


def test_slope_and_intercept_are_applied() -> None:
    values = np.arange(8, dtype=np.int16).reshape(2, 2, 2)
    data = nifti(values, scl_slope=10.0, scl_inter=-5.0)
    assert sorted(stack(data, EXACT).ravel().tolist()) == [0, 5, 15, 25, 35, 45, 55, 65]


def test_percentiles_are_those_of_the_whole_volume() -> None:
    values = np.random.default_rng(0).normal(size=(20, 20, 10)).astype(np.float32)
    low, high = np.percentile(values, [0.5, 99.5])
    expected = np.rint(np.clip((values.astype(float) - low) / (high - low), 0, 1) * 255)
    got = stack(nifti(values))
    assert np.abs(got.astype(int) - expected[::-1, ::-1].transpose(2, 1, 0)).max() <= 1


def test_a_constant_volume_is_black() -> None:
    assert stack(nifti(np.full((3, 3, 3), 7.0, np.float32))).max() == 0


def test_a_fourth_axis_of_one_is_dropped_and_of_two_refused() -> None:
    assert np.array_equal(stack(nifti(RAS[..., None])), stack(nifti(RAS)))
    with pytest.raises(Undecodable, match="4 axes"):
        count_slices(nifti(np.stack([RAS, RAS], -1)), READER)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_voxels_that_are_no_numbers(value: float) -> None:
    values = RAS.astype(np.float32)
    values[0, 0, 0] = value
    with pytest.raises(Undecodable, match="not finite"):
        stack(nifti(values))


@pytest.mark.parametrize(
    ("reason", "header"),
    [
        ("27,000,000,000,000 values", {"dim": [3, 30000, 30000, 30000, 1, 1, 1, 1]}),
        ("A slice has 900,000,000 pixels", {"dim": [3, 30000, 30000, 1, 1, 1, 1, 1]}),
        ("slope", {"scl_slope": np.nan}),
        ("empty volume", {"dim": [3, 0, 4, 5, 1, 1, 1, 1]}),
        ("Colour", {"datatype": 128, "bitpix": 24}),
    ],
)
def test_a_header_that_lies(reason: str, header: dict) -> None:
    with pytest.raises(Undecodable, match=reason):
        stack(nifti(RAS, **header))


@pytest.mark.parametrize("make", [nifti, lambda v: gzip.compress(nifti(v)), npy, lambda v: npz(a=v)])
def test_a_truncated_file_is_refused(make) -> None:
    values = np.random.default_rng(0).integers(0, 1000, (8, 9, 10)).astype(np.int16)
    data = make(values)
    for end in np.linspace(0, len(data) - 1, 60).astype(int):
        with pytest.raises(Undecodable):
            stack(data[:end])


# ------------------------------------------------------------------------------------------------------------- NumPy


def test_arrays() -> None:
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    colour = np.arange(36, dtype=np.uint8).reshape(3, 4, 3)
    volume = np.arange(40, dtype=np.uint8).reshape(2, 5, 4)
    assert np.array_equal(stack(npy(grey))[0], grey)
    assert np.array_equal(stack(npy(colour))[0], colour)
    assert np.array_equal(stack(npy(volume)), volume)
    assert np.array_equal(stack(npy(volume), ReaderOptions(axis=2)), np.moveaxis(volume, 2, 0))
    assert np.array_equal(stack(npy(np.asfortranarray(volume))), volume)
    assert stack(npy(grey > 5)).tolist() == [np.where(grey > 5, 255, 0).tolist()]
    deep = np.array([[0, 100], [200, 400]], np.uint16)
    assert stack(npy(deep), ReaderOptions(window=(200, 400))).tolist() == [[[0, 64], [128, 255]]]


def test_the_one_image_of_an_archive_is_found() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert np.array_equal(stack(npz(slo=image, age=np.array(63.0), md=np.arange(5.0)))[0], image)
    two = npz(slo=image, oct=image.T)
    with pytest.raises(Undecodable, match="2 arrays"):
        count_slices(two, READER)
    assert np.array_equal(stack(two, ReaderOptions(array="oct"))[0], image.T)
    with pytest.raises(Undecodable, match="not in the file"):
        count_slices(two, ReaderOptions(array="OCT"))


class Trap:
    """Unpickling this makes a file."""

    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (Path(self.marker),)


@pytest.mark.parametrize("form", ["npy", "npz"])
def test_objects_are_never_unpickled(tmp_path: Path, form: str) -> None:
    array = np.array([[Trap(str(tmp_path / "ran"))]], dtype=object)
    out = io.BytesIO()
    np.save(out, array, allow_pickle=True) if form == "npy" else np.savez(out, a=array)
    for reader in (READER, ReaderOptions(array="a")):
        with pytest.raises(Undecodable):
            stack(out.getvalue(), reader)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "array", [np.zeros(3), np.zeros((2, 2, 2, 2)), np.zeros((0, 3)), np.zeros((2, 2), complex)]
)
def test_arrays_that_are_no_images(array: np.ndarray) -> None:
    with pytest.raises(Undecodable):
        stack(npy(array))


def test_a_huge_declared_array_is_refused_by_its_header() -> None:
    data = npy(np.zeros((2, 2), np.uint8)).replace(b"(2, 2), }    ", b"(9999999,2),}")
    assert b"9999999" in data
    with pytest.raises(Undecodable, match=r"19,999,998|shape|ends|damaged"):
        stack(data)
    data = npy(np.zeros((2, 2), np.uint8)).replace(b"(2, 2), }            ", b"(99999,9,99999),}    ")
    with pytest.raises(Undecodable, match="limit"):
        count_slices(data, READER)


def test_a_volume_is_decoded_once_for_all_its_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = volumes.decode_stack
    monkeypatch.setattr(volumes, "decode_stack", lambda *a: calls.append(1) or real(*a))
    volumes._recent.clear()
    stack(nifti(RAS))
    assert len(calls) == 1
    stack(nifti(RAS), ReaderOptions(axis=0))
    assert len(calls) == 2


def test_reader_section() -> None:
    assert reader_options({"window": [40, 400], "axis": 1}) == ReaderOptions(window=(40.0, 400.0), axis=1)
    for section in (
        {"window": [40]},
        {"window": [40, 0]},
        {"axis": 3},
        {"axis": True},
        {"slices": 0},
        {"array": 1},
    ):
        with pytest.raises(DatasetError):
            reader_options(section)
    with pytest.raises(DatasetError, match="Did you mean `window`"):
        reader_options({"windw": [1, 2]})
    assert ReaderOptions().document() == ReaderOptions(max_pixels=5).document()
    assert ReaderOptions().document() != ReaderOptions(slices=5).document()
