"""Segmentation models held to the outputs of their official code, from a file laid out as the published one.

The goldens hold every eighth channel and every k-th row and column (k from 0) of the map, and every k-th from k // 2 of
the logits, of two pictures; ``pred_*`` is the official predictor on a picture of 300 x 420 pixels with one box.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.golden import weights as generator
from tests.golden.mkckpt import make

torch = pytest.importorskip("torch")

GOLDEN = Path(__file__).parents[1] / "golden"
EMBEDDING, LOGITS = 1e-4, 1e-3
SMALL = {"ft-sam": "ft_sam_b", "sam-med2d": "sam_med2d_b"}
LARGE = {"mobile-sam": "mobile_sam", "tinysam": "tinysam", "sam-vit-b": "sam_vit_b", "medsam": "medsam_vit_b"}
KINDS = {"box": (None, "boxes"), "center": ("points1", None), "rands": ("points5", None)}


def golden(name):
    with np.load(GOLDEN / f"golden_{name}.npz") as file:
        return dict(file)


def loaded(card, name, folder):
    from fmcache.extract.registry import load_model, resolve_model

    file = folder / f"{name}.pth"
    make(name, file)
    try:
        return load_model(resolve_model(card), checkpoint=file)
    finally:
        file.unlink()


@pytest.fixture(scope="module", params=[pytest.param(card, id=card) for card in SMALL])
def small(request, tmp_path_factory):
    name = SMALL[request.param]
    model = loaded(request.param, name, tmp_path_factory.mktemp("weights"))
    with torch.inference_mode():
        maps = model.network.segmenter.encode(pictures(name, 256))
    return model, golden(name), maps


def pictures(name, side):
    return torch.from_numpy(generator.image(f"{name}/{side}", (2, 3, side, side)))


@pytest.mark.slow
def test_embedding(small):
    model, expected, maps = small
    name = {"ft-sam": "ft_sam_b", "sam-med2d": "sam_med2d_b"}[model.card.id]
    step = maps.shape[-1] // 8
    np.testing.assert_allclose(maps[:, ::8, ::step, ::step], expected["embed_sub"], atol=EMBEDDING)
    with torch.inference_mode():
        pooled = model.encode(pictures(name, 256))
    assert pooled.shape == (2, 256) == (2, model.d)
    np.testing.assert_allclose(pooled, expected["embed_mean"], atol=EMBEDDING)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("multimask", [True, False])
def test_masks_of_every_prompt(small, kind, multimask):
    model, expected, maps = small
    check_masks(model, expected, maps, kind, multimask)


def check_masks(model, expected, maps, kind, multimask):
    from fmcache.extract.models.sam import decode

    points, boxes = (None if key is None else torch.from_numpy(expected[key]) for key in KINDS[kind])
    with torch.inference_mode():
        low, iou = decode(
            model.network.module, maps, points, None if boxes is None else boxes[:, 0], multimask
        )
    form, step = "multi" if multimask else "single", low.shape[-1] // 16
    seen = low[..., step // 2 :: step, step // 2 :: step]
    np.testing.assert_allclose(seen, expected[f"lowres_{kind}_{form}_sub"], atol=LOGITS)
    np.testing.assert_allclose(low.mean((2, 3)), expected[f"lowres_{kind}_{form}_mean"], atol=LOGITS)
    np.testing.assert_allclose(iou, expected[f"iou_{kind}_{form}"], atol=LOGITS)


@pytest.mark.slow
def test_prompts_of_several_pictures_share_a_batch(small):
    """One picture at a time, as the official code has it, gives the same masks."""
    model, expected, maps = small
    points = torch.from_numpy(expected["points5"])
    with torch.inference_mode():
        both, _ = model.network.segmenter.decode(maps, points, None)
        single = [
            model.network.segmenter.decode(maps[i : i + 1], points[i : i + 1], None)[0] for i in range(2)
        ]
    np.testing.assert_allclose(both, torch.cat(single), atol=1e-5)


def predicted(model, name):
    """The whole path of the official predictor: fit, normalise, encode, one box."""
    frame = model.preprocess.geometry
    picture = generator.image_u8(f"{name}/pic", 300, 420)
    x = model.preprocess.batch([frame.apply(picture)], "cpu")
    box = frame.into(np.array([[60.0, 40.0], [300.0, 250.0]]), 300, 420).reshape(1, 4)
    with torch.inference_mode():
        maps = model.network.segmenter.encode(x)
        low, iou = model.network.segmenter.decode(maps, None, torch.from_numpy(box).float())
    return x, maps, low, iou


@pytest.mark.slow
def test_official_predictor_small(small):
    from fmcache.analyze.masks import upsample

    model, expected, _ = small
    _, maps, low, iou = predicted(model, SMALL[model.card.id])
    best = int(iou[0].argmax())
    np.testing.assert_allclose(maps.mean((2, 3)), expected["pred_embed_mean"], atol=EMBEDDING)
    np.testing.assert_allclose(iou[0, best], expected["pred_iou"][0], atol=LOGITS)
    step = low.shape[-1] // 16
    seen = low[0, best, step // 2 :: step, step // 2 :: step]
    np.testing.assert_allclose(seen, expected["pred_low_sub"][0], atol=LOGITS)
    full = upsample(low[0, best].numpy(), model.preprocess.document()["geometry"], (300, 420))
    np.testing.assert_allclose(full[5::20, 5::20], expected["pred_masklogits_sub"][0], atol=LOGITS)
