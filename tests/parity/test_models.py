"""Every classification model against the outputs of its official code on the same seeded weights: at most 1e-4.

The published file is written as it is laid out, and read through `load_model`, so containers, prefixes and names are
tested with the numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from fmcache.extract.preprocess import IMAGENET, resize_and_crop
from fmcache.extract.registry import LoadedModel, load_model, resolve_model
from tests.golden import mkckpt
from tests.golden import weights as seeded

TOLERANCE = 1e-4
FOLDER = Path(seeded.__file__).parent


@dataclass(frozen=True)
class Case:
    """A model of golden/ and the outputs that its heads have to give: (head, key, side)."""

    golden: str
    model: str
    images: tuple[tuple[str, str, int], ...]
    text: tuple[str, str] | None = None  # the keys of the text embeddings and of the zero-shot logits
    unit: tuple[str, ...] = ()  # keys that the official code normalises
    keep: tuple[str, ...] = ()  # only names that begin so are written (a published file of 3 GB)


CASES = [
    Case("dinov2_vitb14", "dinov2", (("cls", "cls_224", 224), ("mean", "patchmean_224", 224))),
    Case("clip_vitb32", "clip", (("projected", "image_features", 224),), ("text_features", "logits_per_image")),
    Case("biomedclip", "biomedclip", (("projected", "image_proj512", 224), ("cls", "image_trunk768", 224)),
         ("text_proj512", "logits")),
    Case("medclip_vit", "medclip", (("projected", "image_proj512", 224), ("pooled", "image_pool768", 224)),
         ("text_proj512", "logits_per_image")),
    Case("medmae_vitb16", "medmae", (("cls", "cls", 224),)),
    Case("moco_cxr_resnet18", "moco-cxr", (("pooled", "pool512_320", 320), ("projected", "fc128_320", 320),
         ("pooled", "pool512_224", 224), ("projected", "fc128_224", 224))),
    Case("c2l_resnet18", "c2l", (("pooled", "pool512", 224), ("projected", "l2_128", 224))),
    Case("lvm_med_vitb", "lvm-med", (("mean", "avgpool768_224", 224),)),
    Case("blip_base_capfilt_large", "blip", (("cls", "image_embeds_cls768", 224), ("projected", "image_proj256", 224)),
         ("text_proj256", "logits"), ("image_proj256", "text_proj256"),
         ("visual_encoder.", "text_encoder.", "vision_proj.", "text_proj.", "temp", "itm_head.")),
    Case("blip2_mini", "blip2", (("vit-cls", "vit_cls", 224), ("query0", "query_out0_768", 224),
         ("mean", "query_out_mean", 224)), ("text_proj256", "fairmedfm_logits"), ("text_proj256",)),
]  # fmt: skip
HEAVY = [  # each has a sibling above
    Case("dinov2_vitb14_reg4", "dinov2-base-reg", (("cls", "cls_224", 224), ("mean", "patchmean_224", 224))),
    Case("medclip_resnet50", "medclip-resnet50", (("projected", "image_proj512", 224),)),
    Case("clip_vitb16", "clip-vit-b16", (("projected", "image_features", 224),), ("text_features", "logits_per_image")),
    Case("pubmedclip_vitb32", "pubmedclip", (("projected", "image_features", 224),),
         ("text_features", "logits_per_image")),
]  # fmt: skip
LARGE = [  # 518 and 1,024 pixels
    ("dinov2_vitb14", "dinov2", "cls", "cls_518", 518),
    ("dinov2_vitb14", "dinov2", "mean", "patchmean_518", 518),
    ("dinov2_vitb14_reg4", "dinov2-base-reg", "cls", "cls_518", 518),
    ("dinov2_vitb14_reg4", "dinov2-base-reg", "mean", "patchmean_518", 518),
]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.model)
def test_embeddings_and_logits_are_the_official_ones(case: Case, tmp_path: Path) -> None:
    _check(case, tmp_path)


@pytest.mark.heavy
@pytest.mark.parametrize("case", HEAVY, ids=lambda case: case.model)
def test_embeddings_and_logits_are_the_official_ones_heavy(case: Case, tmp_path: Path) -> None:
    _check(case, tmp_path)


@pytest.mark.heavy
@pytest.mark.parametrize(("golden", "model", "pool", "key", "side"), LARGE)
def test_large_inputs(golden: str, model: str, pool: str, key: str, side: int, tmp_path: Path) -> None:
    file = mkckpt.make(golden, str(tmp_path / "weights.pth"))
    seen = resize_and_crop(side, side, IMAGENET)
    loaded = load_model(resolve_model(model), checkpoint=file, pool=pool, preprocess=seen)
    _compare(golden, loaded, pool, key, side)


def _check(case: Case, folder: Path) -> None:
    file = folder / "weights.pth"
    if case.keep:
        torch.save({"model": mkckpt.state(case.golden, keep=case.keep)[1]}, file)
    else:
        mkckpt.make(case.golden, str(file))
    loaded = load_model(resolve_model(case.model), checkpoint=file)
    for pool, key, side in case.images:
        _compare(case.golden, loaded, pool, key, side, unit=key in case.unit)
    if case.text is not None:
        _compare_texts(case, loaded)


def _compare(golden: str, loaded: LoadedModel, pool: str, key: str, side: int, unit: bool = False) -> None:
    expected = np.load(FOLDER / f"golden_{golden}.npz")[key]
    with torch.inference_mode():
        y = _encoder(loaded, pool)(_images(golden, side))
    y = torch.nn.functional.normalize(y, dim=-1) if unit else y
    assert y.shape == expected.shape
    assert np.abs(y.numpy() - expected).max() <= TOLERANCE


def _encoder(loaded: LoadedModel, pool: str) -> Callable[[torch.Tensor], torch.Tensor]:
    return loaded.network.heads[pool]


def _images(golden: str, side: int) -> torch.Tensor:
    return torch.from_numpy(seeded.image(f"{golden}/{side}", (2, 3, side, side)))


def _compare_texts(case: Case, loaded: LoadedModel) -> None:
    """Text embeddings, and the logits as stage 2 will make them of both."""
    assert case.text is not None
    golden = np.load(FOLDER / f"golden_{case.golden}.npz")
    tower = loaded.network.text
    assert tower is not None
    ids = golden["text_tokens"] if "text_tokens" in golden else golden["text_ids"]
    tokens = {"ids": torch.from_numpy(ids)}
    if "text_mask" in golden:
        tokens["mask"] = torch.from_numpy(golden["text_mask"])
    with torch.inference_mode():
        texts = tower.encode(tokens)
        images = loaded.network.heads[tower.image_pool](_images(case.golden, 224))
    unit = torch.nn.functional.normalize
    embedded = unit(texts, dim=-1) if case.text[0] in case.unit else texts
    assert np.abs(embedded.numpy() - golden[case.text[0]]).max() <= TOLERANCE
    vectors = unit(images.reshape(len(images), tower.image_tokens, -1), dim=-1)
    cosine = (vectors @ unit(texts, dim=-1).T).amax(1)
    logits = tower.logit_scale * cosine + tower.logit_bias
    assert np.abs(logits.numpy() - golden[case.text[1]]).max() <= TOLERANCE
