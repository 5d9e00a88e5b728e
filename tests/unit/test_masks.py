"""Masks: stored values, one file a class, containers and volumes become one class map that fits the image's slices."""

from __future__ import annotations

import io
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from fmcache.errors import DatasetError
from fmcache.extract.decode import Undecodable, decode
from fmcache.extract.masks_reader import MaskCard, mask_bytes, mask_card, read_mask
from fmcache.extract.reader import ReaderOptions

READER = ReaderOptions()
BINARY = MaskCard(("lesion",), above=127)


def save(root: Path, name: str, values: np.ndarray, mode: str | None = None) -> None:
    Image.fromarray(values, mode).save(root / name)


def test_a_binary_mask_is_above_its_threshold(tmp_path: Path) -> None:
    save(tmp_path, "m.png", np.array([[0, 127, 128, 255]], np.uint8))
    assert read_mask(tmp_path, "m.png", BINARY, READER).tolist() == [[0, 0, 1, 1]]


def test_a_grey_mask_saved_as_rgb_and_one_in_colour(tmp_path: Path) -> None:
    grey = np.array([[0, 255]], np.uint8)
    save(tmp_path, "rgb.png", np.stack([grey] * 3, -1))
    assert read_mask(tmp_path, "rgb.png", BINARY, READER).tolist() == [[0, 1]]
    save(tmp_path, "colour.png", np.stack([grey, grey, 0 * grey], -1))
    with pytest.raises(Undecodable, match="colour"):
        read_mask(tmp_path, "colour.png", BINARY, READER)


def test_the_indices_of_a_palette_are_the_values(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    image.save(tmp_path / "p.png")
    card = MaskCard(("a", "b"), {"a": (1,), "b": (2,)})
    assert read_mask(tmp_path, "p.png", card, READER).tolist() == [[0, 1, 2]]


def test_one_file_a_class_and_the_later_class_wins(tmp_path: Path) -> None:
    save(tmp_path, "l.png", np.array([[255, 255, 0]], np.uint8))
    save(tmp_path, "r.png", np.array([[0, 255, 255]], np.uint8))
    card = MaskCard(("left", "right"))
    assert read_mask(tmp_path, "right=r.png;left=l.png", card, READER).tolist() == [[1, 2, 2]]
    with pytest.raises(Undecodable, match="'middle'"):
        read_mask(tmp_path, "middle=l.png", card, READER)
    assert mask_bytes(tmp_path, "right=r.png;left=l.png") == b"".join(
        (tmp_path / f).read_bytes() for f in ("r.png", "l.png")
    )


def test_values_that_no_class_has(tmp_path: Path) -> None:
    save(tmp_path, "m.png", np.array([[0, 1, 9]], np.uint8))
    with pytest.raises(Undecodable, match="the values 9, which the card does not know"):
        read_mask(tmp_path, "m.png", MaskCard(("a",), {"a": (1,)}), READER)
    for ignore in ((9,), None):
        assert read_mask(
            tmp_path, "m.png", MaskCard(("a",), {"a": (1,)}, ignore=ignore), READER
        ).tolist() == [[0, 1, 0]]


def test_negative_values_of_an_array_in_an_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", image=np.zeros((1, 3), np.uint8), m=np.array([[0, -1, -2]]))
    card = MaskCard(("rim", "cup"), {"rim": (-1,), "cup": (-2,)})
    assert read_mask(tmp_path, "d.npz#m", card, READER).tolist() == [[0, 1, 2]]


@pytest.mark.parametrize(
    "affine", [np.diag([-1.0, -1, 1, 1]), np.diag([1.0, 1, 2, 1]), np.eye(4)[[2, 0, 1, 3]]]
)
@pytest.mark.parametrize(
    "reader",
    [
        ReaderOptions(slices=3),
        ReaderOptions(axis=0),
        ReaderOptions(slices=5, slicing="linear"),
        ReaderOptions(spacing=0.5),
    ],
)
def test_the_slices_of_a_mask_are_those_of_its_image(
    affine: np.ndarray, reader: ReaderOptions, tmp_path: Path
) -> None:
    labels = np.random.default_rng(0).integers(0, 3, (4, 5, 6)).astype(np.uint8)
    for name, values in (("mask", labels), ("image", labels * 100)):
        nibabel.save(nibabel.Nifti1Image(values, affine), tmp_path / f"{name}.nii.gz")
    card = MaskCard(("a", "b"), {"a": (1,), "b": (2,)})
    mask = read_mask(tmp_path, "mask.nii.gz", card, reader)
    data = (tmp_path / "image.nii.gz").read_bytes()
    image = np.stack([decode(data, slice=i, reader=reader) for i in range(len(mask))])
    assert mask.shape == image.shape
    if reader.slicing == "pick" and reader.spacing is None:
        assert np.array_equal(mask * 100, image)
    else:
        # in between, an image is mixed and a mask is not; where the image is a stored value, the mask has its label
        assert set(np.unique(mask)) <= {0, 1, 2}
        pure = np.isin(image, [0, 200])
        assert (np.abs(mask.astype(int) * 100 - image)[pure] <= 100).all()


@pytest.mark.parametrize(
    ("section", "part"),
    [
        ({}, "has no section"),
        ({"classes": []}, "no list of 1 to 255"),
        ({"classes": ["a", "a"]}, "twice"),
        ({"classes": ["a"], "vales": {}}, "Did you mean `values`"),
        ({"classes": ["a"], "values": {"b": [1]}}, "the class 'b'"),
        ({"classes": ["a", "b"], "values": {"a": [1]}}, "has no 'b'"),
        ({"classes": ["a"], "values": {"a": [0.5]}}, "whole numbers"),
    ],
)
def test_a_card_that_makes_no_sense(section: dict, part: str) -> None:
    with pytest.raises(DatasetError) as caught:
        mask_card({"name": "x", "masks": section})
    assert part in str(caught.value)


def test_masks_of_two_shapes(tmp_path: Path) -> None:
    save(tmp_path, "l.png", np.zeros((2, 2), np.uint8))
    save(tmp_path, "r.png", np.zeros((2, 3), np.uint8))
    with pytest.raises(Undecodable, match="different shapes"):
        read_mask(tmp_path, "a=l.png;b=r.png", MaskCard(("a", "b")), READER)


def test_a_damaged_mask_gives_a_reason(tmp_path: Path) -> None:
    out = io.BytesIO()
    Image.fromarray(np.zeros((50, 50), np.uint8)).save(out, "PNG")
    (tmp_path / "m.png").write_bytes(out.getvalue()[:40])
    with pytest.raises(Undecodable, match="damaged"):
        read_mask(tmp_path, "m.png", BINARY, READER)
