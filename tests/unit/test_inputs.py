"""Inputs that are more than a file: an array of a container, and a folder of DICOM files as one volume."""

from __future__ import annotations

import io
import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from fmcache.extract.decode import ReaderOptions, Undecodable, count_slices, decode, read_input
from fmcache.extract.inputs import pack_series, unpack_series
from fmcache.extract.synthesize import _dicom

READER = ReaderOptions(window=(2048, 4096))
RAMP = np.arange(12, dtype=np.uint16).reshape(3, 4) * 300


def slices(data: bytes, reader: ReaderOptions = READER) -> list[np.ndarray]:
    return [decode(data, slice=i, reader=reader) for i in range(count_slices(data, reader))]


def series(folder: Path, order: list[int], **tags) -> None:
    """Files named 0, 1, … in this order of positions; the pixels of position k are all 300 k."""
    folder.mkdir()
    for name, position in enumerate(order):
        pixels = np.full((3, 4), 300 * position, np.uint16)
        values = {key: (value(position) if callable(value) else value) for key, value in tags.items()}
        (folder / f"image_{name}").write_bytes(_dicom(pixels, values, position))


class TestContainers:
    def test_one_array_of_an_npz(self, tmp_path: Path) -> None:
        np.savez_compressed(
            tmp_path / "a.npz", one=np.full((2, 2), 7, np.uint8), two=np.zeros((3, 3), np.uint8)
        )
        assert decode(read_input(tmp_path, "a.npz#one"), slice=0, reader=ReaderOptions()).tolist() == [
            [7, 7],
            [7, 7],
        ]
        with pytest.raises(Undecodable, match="no array of the name"):
            read_input(tmp_path, "a.npz#three")

    def test_an_object_array_is_never_unpickled(self, tmp_path: Path) -> None:
        class Evil:
            def __reduce__(self):
                return os.system, (f"touch {tmp_path / 'ran'}",)

        np.savez(tmp_path / "a.npz", bad=np.array([Evil()], object))
        with pytest.raises(Undecodable, match="never unpickled"):
            count_slices(read_input(tmp_path, "a.npz#bad"), ReaderOptions())
        assert not (tmp_path / "ran").exists()

    def test_an_entry_of_an_hdf5_array(self, tmp_path: Path) -> None:
        values = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
        with h5py.File(tmp_path / "d.hdf5", "w") as file:
            file.create_dataset("group/image", data=values, chunks=(1, 3, 4), compression="gzip")
        data = read_input(tmp_path, "d.hdf5#group/image/1")
        assert np.array_equal(decode(data, slice=0, reader=ReaderOptions()), values[1])
        for name, reason in {
            "image/0": "no array",
            "group/image/2": "no entry 2",
            "group/image/x": "is named",
        }.items():
            with pytest.raises(Undecodable, match=reason):
                read_input(tmp_path, f"d.hdf5#{name}")

    @pytest.mark.parametrize("name", ["d.npz#a", "d.hdf5#a/0"])
    def test_damage_and_links(self, name: str, tmp_path: Path) -> None:
        file = tmp_path / name.split("#")[0]
        with pytest.raises(Undecodable, match="no such file"):
            read_input(tmp_path, name)
        file.write_bytes(b"PK\x03\x04 not really")
        with pytest.raises(Undecodable, match="damaged"):
            read_input(tmp_path, name)
        file.unlink()
        outside = tmp_path.parent / f"{tmp_path.name}-outside"
        outside.write_bytes(b"x")
        file.symlink_to(outside)
        with pytest.raises(Undecodable, match="leads out of"):
            read_input(tmp_path, name)

    def test_a_hash_sign_in_a_plain_name(self, tmp_path: Path) -> None:
        (tmp_path / "a#b.png").write_bytes(b"x")
        assert read_input(tmp_path, "a#b.png") == b"x"


ORDER = (3, 1, 4, 2)
SORTED = [[19] * 4, [37] * 4, [56] * 4, [75] * 4]  # round(300 k / 4096 · 255)
AXIAL = [1, 0, 0, 0, 1, 0]


class TestSeries:
    def test_packing(self) -> None:
        files = [b"", b"a", b"bc" * 1000]
        assert [bytes(one) for one in unpack_series(pack_series(files))] == files

    @pytest.mark.parametrize(
        "tags",
        [
            {
                "ImagePositionPatient": lambda k: [0, 0, 5 * k],
                "ImageOrientationPatient": AXIAL,
                "SliceLocation": lambda k: -k,
            },
            {
                "ImagePositionPatient": lambda k: [0, 0, 5 * k],
                "ImageOrientationPatient": [1, 0, 0, 0, -1, 0],
                "InstanceNumber": lambda k: -k,
            },
            {"SliceLocation": lambda k: 2.5 * k, "InstanceNumber": lambda k: 9 - k},
            {"SliceLocation": None, "InstanceNumber": lambda k: k},
        ],
    )
    def test_slices_are_in_anatomical_order_whatever_their_names(self, tags: dict, tmp_path: Path) -> None:
        series(tmp_path / "s", list(ORDER), **tags)
        found = slices(read_input(tmp_path, "s/"))
        assert [image[0].tolist() for image in found] == SORTED

    def test_without_any_place_the_numbers_of_the_names_count(self, tmp_path: Path) -> None:
        series(tmp_path / "s", list(range(1, 13)), SliceLocation=None, InstanceNumber=None)
        found = slices(read_input(tmp_path, "s/"))
        assert [round(image[0, 0] / 255 * 4096 / 300) for image in found] == list(range(1, 13))

    def test_hounsfield_units_come_before_the_window(self, tmp_path: Path) -> None:
        series(tmp_path / "s", [1, 2], RescaleIntercept=-1024)
        found = slices(read_input(tmp_path, "s/"), ReaderOptions(window=(-500, 1500)))
        assert [image[0, 0] for image in found] == [
            round((300 * k - 1024 + 1250) / 1500 * 255) for k in (1, 2)
        ]

    def test_resampling_to_a_number_of_slices(self, tmp_path: Path) -> None:
        series(tmp_path / "s", [1, 2, 3, 4])
        found = slices(
            read_input(tmp_path, "s/"), ReaderOptions(window=(2048, 4096), slices=8, slicing="linear")
        )
        assert len(found) == 8
        # middles of eight eighths of four slices: 300 · (1, 1.25, 1.75, 2.25, …)
        assert [image[0, 0] for image in found] == [
            round(300 * k / 4096 * 255) for k in (1, 1.25, 1.75, 2.25, 2.75, 3.25, 3.75, 4)
        ]

    def test_few_slices_are_the_middles(self, tmp_path: Path) -> None:
        series(tmp_path / "s", list(range(1, 11)))
        found = slices(read_input(tmp_path, "s/"), ReaderOptions(window=(2048, 4096), slices=2))
        assert [round(image[0, 0] / 255 * 4096 / 300) for image in found] == [3, 8]

    def test_a_nested_folder_and_other_series_in_it(self, tmp_path: Path) -> None:
        (tmp_path / "s").mkdir()
        series(tmp_path / "s" / "s", [1, 2, 3])
        (tmp_path / "s" / "s" / "scout").write_bytes(_dicom(RAMP, {"SeriesInstanceUID": "1.2.3"}, 9))
        (tmp_path / "s" / "s" / ".DS_Store").write_bytes(b"junk")
        assert len(slices(read_input(tmp_path, "s/"))) == 3

    @pytest.mark.parametrize(
        ("reason", "spoil"),
        [
            ("same place", lambda f: (f / "x").write_bytes(_dicom(RAMP, {}, 1))),
            ("different sizes", lambda f: (f / "x").write_bytes(_dicom(RAMP[:2], {}, 7))),
            ("several frames", lambda f: (f / "x").write_bytes(_dicom(RAMP, {"NumberOfFrames": 2}, 7))),
            ("damaged", lambda f: (f / "x").write_bytes(b"text")),
            ("a pipe", lambda f: os.mkfifo(f / "x")),
            ("is empty", lambda f: (f / "x").touch()),
        ],
    )
    def test_what_is_refused(self, reason: str, spoil, tmp_path: Path) -> None:
        series(tmp_path / "s", [1, 2])
        spoil(tmp_path / "s")
        with pytest.raises(Undecodable, match=reason):
            slices(read_input(tmp_path, "s/"))

    def test_a_file_and_an_empty_folder(self, tmp_path: Path) -> None:
        (tmp_path / "f").write_bytes(b"x")
        (tmp_path / "e").mkdir()
        with pytest.raises(Undecodable, match="a folder of DICOM files is expected"):
            read_input(tmp_path, "f/")
        with pytest.raises(Undecodable, match="no files"):
            read_input(tmp_path, "e/")

    def test_the_digest_does_not_depend_on_names(self, tmp_path: Path) -> None:
        series(tmp_path / "a", [1, 2, 3])
        (tmp_path / "b").mkdir()
        for number in range(3):
            (tmp_path / "b" / f"IM{number:04d}.dcm").write_bytes(
                (tmp_path / "a" / f"image_{number}").read_bytes()
            )
        assert read_input(tmp_path, "a/") == read_input(tmp_path, "b/")


def test_an_npy_with_a_lying_header_is_refused() -> None:
    out = io.BytesIO()
    np.save(out, np.zeros((4, 4), np.uint8))
    with pytest.raises(Undecodable):
        decode(out.getvalue()[:-3], slice=0, reader=ReaderOptions())
