"""Models that have no card of their own: `timm/…`, `open_clip/…`, `hf/…`, against the library that owns them.

Small configurations of the real architectures, saved as their library saves them; the weights are random, the reading,
the renaming, the pooling and the preprocessing are what is tested.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from fmcache.errors import ModelError
from fmcache.extract.models.blip2 import transformers_names
from fmcache.extract.models.clip import openai_names
from fmcache.extract.models.dinov2 import timm_names
from fmcache.extract.preprocess import IMAGENET, apply_geometry, resize_and_crop, to_model_input
from fmcache.extract.registry import load_model, resolve_model
from fmcache.extract.torchvision_fix import make_torchvision_importable
from tests.golden import mkckpt

make_torchvision_importable()
import timm  # noqa: E402
import transformers as hf  # noqa: E402

PROCESSOR = {
    "do_resize": True, "size": {"shortest_edge": 64}, "do_center_crop": True, "crop_size": {"height": 56, "width": 56},
    "resample": 3, "image_mean": [0.5307] * 3, "image_std": [0.2583] * 3, "do_normalize": True, "do_rescale": True,
    "rescale_factor": 1 / 255,
}  # fmt: skip
DINOV2 = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 56,
    "patch_size": 14,
}


def shaken(module: Any) -> Any:
    """No weight keeps the zero or one it begins with, so that swapped names show."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    return module.eval()


def pictures(side: int, n: int = 2) -> torch.Tensor:
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(1))


def saved(module: Any, folder: Path, processor: dict[str, Any] | None = PROCESSOR) -> Path:
    module.save_pretrained(folder)
    if processor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def largest(one: torch.Tensor, other: torch.Tensor) -> float:
    assert one.shape == other.shape
    return float((one - other).abs().max())


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "resnet10t", "efficientnet_lite0", "convnext_atto"])
def test_timm(name: str, tmp_path: Path) -> None:
    theirs = shaken(timm.create_model(name))
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    ours = load_model(resolve_model(f"timm/{name}"), checkpoint=tmp_path / "model.safetensors")
    x = pictures(224)
    with torch.inference_mode():
        assert largest(ours.encode(x), theirs.forward_head(theirs.forward_features(x), pre_logits=True)) == 0
    assert ours.pool == "pooled"
    # the preprocessing is that of timm's own evaluation transform
    transform = timm.data.create_transform(**timm.data.resolve_data_config(model=theirs))
    picture = np.random.default_rng(0).integers(0, 256, (301, 257, 3), dtype=np.uint8)
    seen = to_model_input([apply_geometry(picture, ours.preprocess.geometry)], ours.preprocess.normalise)[0]
    assert largest(seen, transform(Image.fromarray(picture))) <= 1e-6


def test_timm_names_are_checked() -> None:
    with pytest.raises(ModelError) as error:
        load_model(resolve_model("timm/vit_tiny_patc16_224"))
    assert error.value.do == "Type: --model timm/vit_tiny_patch16_224"
    with pytest.raises(ModelError, match="no weights 'lvd'") as error:
        load_model(resolve_model("timm/vit_base_patch16_224.lvd"))
    assert "augreg" in error.value.found


def test_open_clip(tmp_path: Path) -> None:
    import open_clip

    from fmcache.extract.models.loading import quiet

    with quiet():
        theirs = shaken(open_clip.create_model("ViT-S-32-alt", load_weights=False))
    torch.save({"state_dict": theirs.state_dict()}, tmp_path / "epoch_1.pt")
    ours = load_model(resolve_model("open_clip/ViT-S-32-alt"), checkpoint=tmp_path / "epoch_1.pt")
    x, tower = pictures(224), ours.network.text
    assert tower is not None
    tokens = tower.tokenizer()(["a chest X-ray of a normal", "no pneumonia"])
    with torch.inference_mode():
        assert largest(ours.encode(x), theirs.encode_image(x)) <= 1e-5
        assert largest(tower.encode(tokens), theirs.encode_text(tokens["ids"])) <= 1e-5
    assert ours.d == 256


def test_open_clip_as_a_repository_of_the_hub(tmp_path: Path) -> None:
    """DermLIP is published so: a folder with open_clip_config.json, which also says mean and std."""
    import open_clip

    from fmcache.extract.models.loading import quiet

    with quiet():
        theirs = shaken(open_clip.create_model("ViT-S-32-alt", load_weights=False))
    config = {
        "model_cfg": open_clip.get_model_config("ViT-S-32-alt"),
        "preprocess_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "resize_mode": "squash"},
    }
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    save_file(theirs.state_dict(), tmp_path / "open_clip_model.safetensors")
    x = pictures(224)
    for name in ("dermlip", "open_clip/org/name", "hf/org/name"):
        ours = load_model(resolve_model(name), checkpoint=tmp_path)
        with torch.inference_mode():
            assert largest(ours.encode(x), theirs.encode_image(x)) <= 1e-5
        assert ours.preprocess.geometry.resize == "squash"
        assert ours.preprocess.normalise.mean == (0.1, 0.2, 0.3)


def test_open_clip_names_are_checked() -> None:
    with pytest.raises(ModelError) as error:
        load_model(resolve_model("open_clip/ViT-B-33"))
    assert "open_clip/ViT-B-32" in error.value.do
    with pytest.raises(ModelError, match="no weights 'openia'") as error:
        load_model(resolve_model("open_clip/ViT-B-32@openia"))
    assert error.value.do == "Type: --model open_clip/ViT-B-32@openai"


def test_rad_dino_and_any_vision_model_of_transformers(tmp_path: Path) -> None:
    theirs = shaken(hf.Dinov2Model(hf.Dinov2Config(**DINOV2)))
    folder = saved(theirs, tmp_path)
    x = pictures(56)
    ours = load_model(resolve_model("rad-dino"), checkpoint=folder)
    with torch.inference_mode():
        assert largest(ours.encode(x), theirs(x).pooler_output) == 0
        mean = load_model(resolve_model("hf/any/name"), checkpoint=folder, pool="mean")
        assert largest(mean.encode(x), theirs(x).last_hidden_state.mean(1)) == 0
    assert ours.preprocess.normalise.mean == (0.5307,) * 3
    assert (ours.preprocess.geometry.size, ours.preprocess.geometry.crop) == (64, 56)
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"config\.json is not beside the weights"):
        load_model(resolve_model("rad-dino"), checkpoint=folder)


def test_siglip_of_transformers(tmp_path: Path) -> None:
    """MedSigLIP is published so: image and text embeddings, scale and bias make its own logits."""
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    text = {**small, "vocab_size": 100, "max_position_embeddings": 16, "bos_token_id": 1, "eos_token_id": 2,
            "pad_token_id": 0}  # fmt: skip
    config = hf.SiglipConfig(text_config=text, vision_config={**small, "image_size": 32, "patch_size": 16})
    theirs = shaken(hf.SiglipModel(config))
    folder = saved(theirs, tmp_path, {"size": {"height": 32, "width": 32}, "resample": 2, "image_mean": [0.5] * 3,
                                      "image_std": [0.5] * 3})  # fmt: skip
    ours = load_model(resolve_model("medsiglip"), checkpoint=folder)
    x, ids, tower = pictures(32), torch.randint(0, 100, (3, 16)), ours.network.text
    assert tower is not None
    unit = torch.nn.functional.normalize
    with torch.inference_mode():
        cosine = unit(ours.encode(x), dim=-1) @ unit(tower.encode({"ids": ids}), dim=-1).T
        expected = theirs(input_ids=ids, pixel_values=x).logits_per_image
        assert largest(tower.logit_scale * cosine + tower.logit_bias, expected) <= 1e-5
    assert ours.preprocess.geometry.resize == "squash"
    assert ours.preprocess.geometry.interpolation == "bilinear"


@pytest.mark.parametrize("registers", [False, True])
def test_dinov2_with_the_names_of_transformers(registers: bool, tmp_path: Path) -> None:
    more = {"num_register_tokens": 4} if registers else {}
    size = {
        "hidden_size": 384,
        "num_hidden_layers": 12,
        "num_attention_heads": 6,
        "image_size": 518,
        "patch_size": 14,
    }
    config = (hf.Dinov2WithRegistersConfig if registers else hf.Dinov2Config)(**size, **more)
    theirs = shaken((hf.Dinov2WithRegistersModel if registers else hf.Dinov2Model)(config))
    folder = saved(theirs, tmp_path, None)
    name = "dinov2-small-reg" if registers else "dinov2-small"
    ours = load_model(resolve_model(name), checkpoint=folder, preprocess=resize_and_crop(518, 518, IMAGENET))
    x = pictures(518, 1)
    with torch.inference_mode():
        assert largest(ours.encode(x), theirs(x).pooler_output) <= 1e-5


def test_clip_with_the_names_of_transformers() -> None:
    """plip, monet and the hub's copies of clip and pubmedclip are published so."""
    small = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1, "intermediate_size": 128}
    config = hf.CLIPConfig(text_config=small, vision_config={**small, "patch_size": 32}, projection_dim=32)
    theirs = shaken(hf.CLIPModel(config))
    state = openai_names(theirs.state_dict())
    import open_clip

    ours = shaken(
        open_clip.CLIP(
            32,
            {
                "layers": 2,
                "width": 64,
                "head_width": 64,
                "mlp_ratio": 2.0,
                "patch_size": 32,
                "image_size": 224,
            },
            {"layers": 2, "width": 64, "heads": 1, "mlp_ratio": 2.0},
            quick_gelu=True,
        )
    )
    ours.load_state_dict(state, strict=True)
    x, ids = pictures(224), torch.randint(1, 49000, (2, 77))
    ids[:, 20:] = 0
    ids[:, 20] = 49407
    with torch.inference_mode():
        assert largest(ours.encode_image(x), theirs.get_image_features(x).pooler_output) <= 1e-5
        assert largest(ours.encode_text(ids), theirs.get_text_features(ids).pooler_output) <= 1e-5


def test_the_two_files_of_blip2_are_every_weight_of_the_model() -> None:
    """Names only: 1.2 billion values do not fit a test. One block more and a head, as the image file may hold."""
    names: dict[str, torch.Tensor] = {}
    for file in ("blip2_pretrain_qformer", "blip2_eva_vit_g"):
        content = json.loads((Path(mkckpt.__file__).parent / f"{file}.json").read_text())
        names |= {
            name: torch.empty(shape, device="meta") for name, (shape, _) in content["state_dict"].items()
        }
    names |= {
        name.replace("blocks.38.", "blocks.39."): of for name, of in names.items() if "blocks.38." in name
    }
    names["head.weight"] = torch.empty(2, device="meta")
    vision = {"num_hidden_layers": 39, "hidden_size": 1408, "intermediate_size": 6144, "num_attention_heads": 16,
              "patch_size": 14, "image_size": 224, "qkv_bias": True}  # fmt: skip
    query = {"vocab_size": 30523, "use_qformer_text_input": True, "encoder_hidden_size": 1408}
    with torch.device("meta"):
        module = hf.Blip2ForImageTextRetrieval(
            hf.Blip2Config(
                vision_config=vision, qformer_config=query, num_query_tokens=32, image_text_hidden_size=256
            )
        )
    wanted = {name: tuple(of.shape) for name, of in module.state_dict().items() if "position_ids" not in name}
    given = {name: tuple(of.shape) for name, of in transformers_names(names).items()}
    assert given == wanted


@pytest.mark.parametrize("registers", [False, True])
def test_dinov2_giant_by_name_and_shape(registers: bool) -> None:
    """Its feed-forward is a gated one, with names of its own; 1.1 billion values do not fit a test."""
    size = {"hidden_size": 1536, "num_hidden_layers": 40, "num_attention_heads": 24, "image_size": 518,
            "patch_size": 14, "use_swiglu_ffn": True}  # fmt: skip
    with torch.device("meta"):
        if registers:
            theirs = hf.Dinov2WithRegistersModel(hf.Dinov2WithRegistersConfig(**size, num_register_tokens=4))
        else:
            theirs = hf.Dinov2Model(hf.Dinov2Config(**size))
        ours = timm.create_model(
            f"vit_giant_patch14_{'reg4_' if registers else ''}dinov2", num_classes=0, img_size=518
        )
    published = {saved_name(name): of for name, of in theirs.state_dict().items()}
    for name in [name for name in published if ".gate_proj." in name]:  # one matrix in the file
        gate, up = published.pop(name), published.pop(name.replace("gate_proj", "up_proj"))
        published[name.replace("gate_proj", "weights_in")] = torch.cat([gate, up])
    given = {name: tuple(of.shape) for name, of in timm_names(published).items() if name != "mask_token"}
    assert given == {name: tuple(of.shape) for name, of in ours.state_dict().items()}


def saved_name(name: str) -> str:
    """As transformers writes it into a file."""
    for new, old in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value")):
        name = name.replace(f".attention.{new}.", f".attention.attention.{old}.")
    name = name.replace(".attention.o_proj.", ".attention.output.dense.")
    return name.replace(".down_proj.", ".weights_out.")
