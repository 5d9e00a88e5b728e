"""Masks without a model: prompts, packing, rounding, frames, and the way back to the picture's size."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fmcache.analyze.dice import dice_table, wide_table
from fmcache.analyze.masks import linear_matrix, region, upsample
from fmcache.errors import DatasetError, UsageError
from fmcache.extract.frame import Frame, FramePreprocess, Shades, fairmedfm_frame
from fmcache.extract.mask_options import MaskOptions, keep
from fmcache.extract.mask_prompts import generator, make_prompt
from fmcache.extract.masks import mask_card
from fmcache.store.masks import pack_mask, parse_shape, shape_text, unpack_mask

RING = np.zeros((9, 11), bool)
RING[1:8, 2:10] = True
RING[2:7, 3:9] = False


def rng():
    return generator(0, "0123456789abcdef" * 4, 0, "mask", "rand")


# -------------------------------------------------------------------------------------------------------------- cards


def test_ignore_is_a_list_or_all_others():
    """`ignore = "rest"` was read as the values r, e, s and t."""
    card = {"masks": {"classes": ["a"], "values": {"a": [1]}}}
    assert mask_card(card).ignore == ()
    card["masks"]["ignore"] = [255]
    assert mask_card(card).ignore == (255,)
    card["masks"]["ignore"] = "others"
    assert mask_card(card).ignore is None
    for wrong in ("rest", 255, ["255"], [True], None):
        card["masks"]["ignore"] = wrong
        with pytest.raises(DatasetError, match="neither a list of whole numbers"):
            mask_card(card)


# ------------------------------------------------------------------------------------------------------------ prompts


def test_box_is_the_tight_one():
    assert make_prompt("bbox", RING, rng()).tolist() == [[2, 1], [9, 7]]


def test_centre_lies_in_the_mask_and_fairmedfms_need_not():
    (x, y), *_ = make_prompt("center", RING, rng()).astype(int)
    assert RING[y, x]
    (x, y), *_ = make_prompt("center", RING, rng(), "fairmedfm").astype(int)
    assert (x, y) == ((2 + 9) // 2, (1 + 7) // 2)
    assert not RING[y, x]


def test_centre_of_a_convex_mask_is_its_centre_of_mass():
    mask = np.zeros((9, 9), bool)
    mask[2:5, 3:8] = True
    assert make_prompt("center", mask, rng()).tolist() == [[5, 3]]


def test_five_points_are_different_where_there_are_five():
    for _ in range(20):
        points = make_prompt("rands", RING, np.random.default_rng())
        assert len({tuple(point) for point in points}) == 5
        assert all(RING[int(y), int(x)] for x, y in points)


def test_small_masks_are_taken_whole_before_any_pixel_twice():
    mask = np.zeros((5, 5), bool)
    mask[1, 1:4] = True
    for seed in range(10):
        points = {tuple(point) for point in make_prompt("rands", mask, np.random.default_rng(seed))}
        assert points == {(1, 1), (2, 1), (3, 1)}


def test_fairmedfm_draws_with_replacement():
    mask = np.zeros((2, 3), bool)
    mask[0, :] = mask[1, :] = True
    draws = [make_prompt("rands", mask, np.random.default_rng(seed), "fairmedfm") for seed in range(40)]
    assert any(len({tuple(point) for point in points}) < 5 for points in draws)


def test_random_points_are_uniform():
    mask = np.zeros((3, 4), bool)
    mask[1] = True
    random = np.random.default_rng(3)
    hits = np.bincount([int(make_prompt("rand", mask, random)[0, 0]) for _ in range(4000)], minlength=4)
    assert hits.min() > 900
    assert hits.max() < 1100


def test_a_prompt_depends_on_nothing_but_seed_picture_slice_class_and_kind():
    digest = "ab" * 32
    same = [generator(7, digest, 3, "tumour", "rand").random() for _ in range(2)]
    others = [
        generator(8, digest, 3, "tumour", "rand").random(),
        generator(7, "ba" * 32, 3, "tumour", "rand").random(),
        generator(7, digest, 4, "tumour", "rand").random(),
        generator(7, digest, 3, "kidney", "rand").random(),
        generator(7, digest, 3, "tumour", "rands").random(),
    ]
    assert same[0] == same[1]
    assert len({*others, same[0]}) == 6


def test_volumes_give_x_y_z():
    mask = np.zeros((4, 5, 6), bool)
    mask[1:3, 2, 4] = True
    assert make_prompt("bbox", mask, rng()).tolist() == [[4, 2, 1], [4, 2, 2]]


@pytest.mark.parametrize(
    ("given", "near"), [(("centre",), "center"), (("box",), "bbox"), (("points",), "center")]
)
def test_unknown_prompts_are_refused(given, near):
    with pytest.raises(UsageError) as error:
        MaskOptions(prompts=given)
    assert f"--prompt {near}" in error.value.do


@pytest.mark.parametrize("wrong", [{"rule": "x"}, {"multimask": "one"}, {"logits": "f32"}, {"seed": -1}])
def test_unknown_choices_are_refused(wrong):
    with pytest.raises(UsageError):
        MaskOptions(**wrong)


# ------------------------------------------------------------------------------------------------ packing and rounding


@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=3, max_side=23)))
def test_packed_masks_come_back(mask):
    assert (unpack_mask(pack_mask(mask), parse_shape(shape_text(mask.shape))) == mask).all()


def test_a_mask_of_a_megapixel_is_small():
    y, x = np.mgrid[:1024, :1024]
    assert len(pack_mask((y - 500) ** 2 + (x - 400) ** 2 < 200**2)) < 4000


@given(hnp.arrays(np.float32, 40, elements=st.floats(-60000, 60000, width=32)))
def test_rounding_to_six_bits(logits):
    kept = keep(logits, "f16-round6")
    half = logits.astype(np.float16)
    assert not (kept.view(np.uint16) & 0xF).any()
    with np.errstate(over="ignore"):
        error = np.abs(kept.astype(np.float64) - half.astype(np.float64))
    # half a step of the last kept bit: 2**-7 of the value, or of the smallest normal number below it
    assert (error <= np.maximum(np.abs(half.astype(np.float64)), 2.0**-14) * 2.0**-7).all()
    assert (np.signbit(kept) == np.signbit(half)).all()


def test_rounding_ties_go_to_even():
    bits = np.array([0x3C08, 0x3C18, 0x3C09, 0x3C07], np.uint16).view(np.float16).astype(np.float32)
    assert keep(bits, "f16-round6").view(np.uint16).tolist() == [0x3C00, 0x3C20, 0x3C10, 0x3C00]


def test_only_the_sign():
    assert keep(np.array([-3.0, 0.0, 1e-9, 7.0], np.float32), "mask").tolist() == [-1, -1, 1, 1]


# ------------------------------------------------------------------------------------------------------------- frames


@pytest.mark.parametrize(
    ("fit", "size", "expected"),
    [
        ("longest", (300, 420), (0, 0, 731, 1024)),
        ("longest", (1024, 1024), (0, 0, 1024, 1024)),
        ("longest", (20, 1000), (0, 0, 20, 1024)),
        ("squash", (300, 420), (0, 0, 1024, 1024)),
        ("squash-or-pad", (300, 420), (362, 302, 300, 420)),
        ("squash-or-pad", (300, 1024), (0, 0, 1024, 1024)),
        ("squash-or-pad", (301, 1023), (361, 0, 301, 1023)),
    ],
)
def test_region(fit, size, expected):
    assert Frame(fit, 1024).region(*size) == expected == region(fit, 1024, *size)


def test_points_go_where_their_pixels_go():
    frame = Frame("longest", 1024)
    np.testing.assert_allclose(frame.into(np.array([[420.0, 300.0]]), 300, 420), [[1024, 731]])
    small = Frame("squash-or-pad", 256)
    assert small.into(np.array([[3.0, 5.0]]), 100, 60).tolist() == [[101, 83]]


def test_what_is_left_of_the_square_is_zero():
    torch = pytest.importorskip("torch")
    preprocess = FramePreprocess(Frame("squash-or-pad", 8, "nearest"), Shades())
    picture = np.full((4, 2), 255, np.uint8)
    x = preprocess.batch([preprocess.geometry.apply(picture)], "cpu")
    assert x.shape == (1, 3, 8, 8)
    inside = torch.zeros(8, 8, dtype=bool)
    inside[2:6, 3:5] = True
    assert (x[0, :, ~inside] == 0).all()
    np.testing.assert_allclose(
        x[0, :, 2, 3], (255 - np.array([123.675, 116.28, 103.53])) / [58.395, 57.12, 57.375], rtol=1e-6
    )


def test_medsam_resizes_as_scikit_image_does():
    transform = pytest.importorskip("skimage.transform")
    picture = np.random.default_rng(1).integers(0, 256, (90, 133, 3)).astype(np.uint8)
    for side in (64, 200):
        expected = transform.resize(
            picture, (side, side), order=3, preserve_range=True, anti_aliasing=True
        ).astype(np.uint8)
        got = Frame("squash", side, "cubic").apply(picture)
        assert np.abs(got.astype(int) - expected.astype(int)).max() <= 1
        assert (got == expected).mean() > 0.999


def test_medsam_stretches_the_whole_picture():
    pytest.importorskip("torch")
    preprocess = FramePreprocess(Frame("squash", 4, "nearest"), Shades(stretch=True))
    picture = np.full((4, 4, 3), 100, np.uint8)
    picture[0, 0], picture[1, 1, 2] = 20, 220
    x = preprocess.batch([picture], "cpu")
    assert (float(x.min()), float(x.max())) == (0, 1)
    np.testing.assert_allclose(x[0, 0, 2, 2], 0.4, rtol=1e-6)


def test_fairmedfm_feeds_blue_green_red():
    pytest.importorskip("torch")
    preprocess = fairmedfm_frame(FramePreprocess(Frame("longest", 4), Shades()))
    picture = np.zeros((4, 4, 3), np.uint8)
    picture[..., 0] = 255  # red
    x = preprocess.batch([preprocess.geometry.apply(picture)], "cpu")[0, :, 0, 0]
    np.testing.assert_allclose(x, [-0.485 / 0.229, -0.456 / 0.224, (1 - 0.406) / 0.225], rtol=1e-5)


# ------------------------------------------------------------------------------------------- back to the picture's size


def test_one_matrix_by_hand():
    np.testing.assert_allclose(linear_matrix(2, 4), [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])
    np.testing.assert_allclose(linear_matrix(4, 2), [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]])


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from(["longest", "squash", "squash-or-pad"]))
def test_upsampling_equals_the_official_post_processing(height, width, fit):
    torch = pytest.importorskip("torch")
    from torch.nn.functional import interpolate

    side = 64
    low = np.random.default_rng(height * 100 + width).normal(0, 8, (3, 16, 16)).astype(np.float32)
    top, left, inside_h, inside_w = region(fit, side, height, width)
    square = interpolate(torch.from_numpy(low)[None], (side, side), mode="bilinear", align_corners=False)
    cut = square[..., top : top + inside_h, left : left + inside_w]
    if fit != "squash-or-pad" or (inside_h, inside_w) != (height, width):
        cut = interpolate(cut, (height, width), mode="bilinear", align_corners=False)
    got = upsample(low, {"fit": fit, "side": side}, (height, width))
    np.testing.assert_allclose(got, cut[0], atol=1e-3)


def test_medsam_brings_probabilities_to_the_pictures_size():
    torch = pytest.importorskip("torch")
    from torch.nn.functional import interpolate

    low = np.random.default_rng(0).normal(0, 4, (16, 16)).astype(np.float32)
    expected = interpolate(
        torch.from_numpy(low)[None, None].sigmoid(), (50, 70), mode="bilinear", align_corners=False
    )
    got = upsample(low, {"fit": "squash", "side": 64}, (50, 70), "probabilities")
    np.testing.assert_allclose(1 / (1 + np.exp(-got)), expected[0, 0], atol=1e-6)
    assert ((got > 0) == (expected[0, 0].numpy() > 0.5)).all()


def test_six_bits_change_no_pixel_at_zero_and_few_elsewhere():
    low = np.random.default_rng(0).normal(0, 6, (64, 64)).astype(np.float32)
    frame = {"fit": "squash", "side": 256}
    exact, rounded = (upsample(keep(low, form), frame, (300, 300)) for form in ("f16", "f16-round6"))
    assert ((exact > 0) == (rounded > 0)).mean() > 0.998


@pytest.mark.parametrize(
    ("reader", "path", "size", "side"),
    [
        ({"spacing": 0.8}, "a/v.nii.gz", None, 0.8),
        ({"spacing": 0.8}, "a/V.MHA", None, 0.8),
        (
            {"spacing": 0.8},
            "a/v.npz",
            None,
            None,
        ),  # an array says nothing of its voxels, so it was not resampled
        ({"spacing": 0.8}, "a/v.nii", [96, 96, 96], None),
        ({}, "a/v.nii", None, None),
    ],
)
def test_surfaces_are_in_mm_where_pixels_have_a_known_side(reader, path, size, side):
    truth, logits = np.zeros((16, 16), bool), np.full((1, 16, 16), -9, np.float16)
    truth[4:8, 4:8], logits[0, 4:8, 6:10] = True, 9
    answer = SimpleNamespace(
        sample=0, name="1", prompt="bbox", truth=truth, logits=logits, iou=np.ones(3), chosen=0
    )

    class Stored(list):
        entry = SimpleNamespace(document={"reader": reader})
        frame = {"fit": "resize", "side": 16} | ({} if size is None else {"size": size})
        form = "logits"
        samples = pl.DataFrame({"sample_id": ["s"], "patient_id": ["p"], "split": ["test"], "path": [path]})

    (row,) = dice_table(Stored([answer]), tolerance=1.0).to_dicts()
    assert row["hd95_px" if side is None else "hd95_mm"] == pytest.approx(2 * (side or 1.0))  # two pixels off
    (wide,) = wide_table(dice_table(Stored([answer]), tolerance=1.0)).to_dicts()
    assert (
        wide["hd95_px_bbox" if side is None else "hd95_mm_bbox"]
        == row["hd95_px" if side is None else "hd95_mm"]
    )
