"""From 8-bit pixels to the model's input: the official transforms' outputs, and torchvision's on other pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fmcache.extract.preprocess import (
    CLIP,
    IMAGENET,
    Geometry,
    Normalise,
    Preprocess,
    apply_geometry,
    fairmedfm_preprocess,
    model_input,
    resize_and_crop,
)
from fmcache.extract.registry import resolve_model
from fmcache.extract.torchvision_fix import make_torchvision_importable
from tests.golden import weights as seeded

GOLDEN = dict(np.load(Path(seeded.__file__).parent / "golden_preproc.npz"))
PICTURES = {
    "rgb": seeded.image_u8("preproc/rgb", 301, 257),
    "grey": seeded.image_u8("preproc/grey", 640, 480, 1)[..., 0],
}
OFFICIAL = {
    "clip224": resolve_model("clip").preprocess,
    "dinov2_eval": resolve_model("dinov2").preprocess,
    "blip_eval": resolve_model("blip").preprocess,
    "mococxr_test": resolve_model("moco-cxr").preprocess,
    "medmae_test": resolve_model("medmae").preprocess,
    "medclip": resolve_model("medclip").preprocess,
    "fairmedfm_cxr": fairmedfm_preprocess("mimic"),
    "fairmedfm_gf3300": fairmedfm_preprocess("gf3300"),
    "fairmedfm_other": fairmedfm_preprocess("ham10000"),
}


def seen(picture: np.ndarray, preprocess: Preprocess) -> np.ndarray:
    return model_input([apply_geometry(picture, preprocess.geometry)], preprocess).numpy()[0]


@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize("name", OFFICIAL)
def test_it_is_the_official_transform_exactly(name: str, picture: str) -> None:
    preprocess = OFFICIAL[name]
    assert preprocess is not None
    x = seen(PICTURES[picture], preprocess)
    if name == "medclip":  # its extractor gives one channel
        assert np.array_equal(x[0], x[1])
        x = x[0]
    assert list(x.shape) == GOLDEN[f"{name}_{picture}_shape"].tolist()
    step = x.shape[-1] // 32
    assert np.array_equal(
        x[..., step // 2 :: step, step // 2 :: step][..., :32, :32], GOLDEN[f"{name}_{picture}_sub"]
    )
    assert np.abs(x.mean((-2, -1)) - GOLDEN[f"{name}_{picture}_mean"]).max() < 1e-6
    assert np.abs(x.std((-2, -1), ddof=1) - GOLDEN[f"{name}_{picture}_std"]).max() < 1e-5


@pytest.mark.parametrize(
    ("height", "width"), [(224, 224), (225, 300), (301, 257), (97, 1203), (1000, 223), (640, 480)]
)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_resize_and_crop_is_torchvisions(height: int, width: int, interpolation: str) -> None:
    make_torchvision_importable()
    from torchvision import transforms as t

    picture = seeded.image_u8(f"{height}x{width}", height, width)
    mode = getattr(t.InterpolationMode, interpolation.upper())
    theirs = t.Compose(
        [t.Resize(256, mode), t.CenterCrop(224), t.ToTensor(), t.Normalize(*IMAGENET)]
    )(Image.fromarray(picture))  # fmt: skip
    ours = seen(picture, resize_and_crop(256, 224, IMAGENET, interpolation))
    assert np.abs(ours - theirs.numpy()).max() <= 1e-6


def test_squash_is_torchvisions() -> None:
    make_torchvision_importable()
    from torchvision import transforms as t

    picture = seeded.image_u8("squash", 211, 403)
    theirs = t.Compose([t.Resize((224, 224), t.InterpolationMode.BICUBIC), t.ToTensor(), t.Normalize(*CLIP)])
    ours = seen(picture, Preprocess(Geometry("squash", 224, "bicubic", None), Normalise(*CLIP)))
    assert np.abs(ours - theirs(Image.fromarray(picture)).numpy()).max() <= 1e-6


def test_a_grey_picture_is_its_rgb_copy_bit_for_bit() -> None:
    grey = seeded.image_u8("grey", 333, 471, 1)[..., 0]
    colour = np.repeat(grey[..., None], 3, axis=2)
    for preprocess in (resize_and_crop(256, 224, IMAGENET), OFFICIAL["medclip"], OFFICIAL["blip_eval"]):
        assert preprocess is not None
        assert np.array_equal(seen(grey, preprocess), seen(colour, preprocess))


def test_a_batch_may_mix_grey_and_colour() -> None:
    mine = Preprocess(Geometry("none", crop=8), Normalise(*IMAGENET))
    grey, colour = np.full((8, 8), 7, np.uint8), np.full((8, 8, 3), 9, np.uint8)
    mixed = model_input([grey, colour], mine)
    assert torch.equal(mixed[:1], model_input([grey], mine))
    assert torch.equal(mixed[1:], model_input([colour], mine))


@pytest.mark.parametrize(("height", "width"), [(301, 257), (97, 1203), (1000, 223), (320, 320), (64, 40)])
def test_chexzeros_is_its_two_scripts(height: int, width: int) -> None:
    """A radiograph becomes 320 pixels in a black square; that is normalised, and then made 224 in floating point."""
    make_torchvision_importable()
    from torchvision import transforms as t

    picture = seeded.image_u8(f"chexzero/{height}x{width}", height, width, 1)[..., 0]
    small = (int(width * 320 / max(height, width)), int(height * 320 / max(height, width)))
    square = Image.new("L", (320, 320))
    fitted = Image.fromarray(picture).resize(small, Image.Resampling.LANCZOS)
    square.paste(fitted, ((320 - small[0]) // 2, (320 - small[1]) // 2))
    x = torch.from_numpy(np.repeat(np.asarray(square, np.float32)[None], 3, axis=0))
    official = t.Compose([
        t.Normalize((101.48761,) * 3, (83.43944,) * 3),
        t.Resize(224, interpolation=t.InterpolationMode.BICUBIC, antialias=False),  # as torchvision 0.11 did
    ])  # fmt: skip
    preprocess = resolve_model("chexzero").preprocess
    assert isinstance(preprocess, Preprocess)
    ours = seen(picture, preprocess)
    assert ours.shape == (3, 224, 224)
    assert np.abs(ours - official(x).numpy()).max() <= 1e-6
