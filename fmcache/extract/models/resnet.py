"""ResNets of contrastive learning on radiographs: MoCo-CXR and C2L, both ResNet-18.

Both files hold the whole training state. MoCo-CXR's encoder is ``module.encoder_q.*`` (its momentum twin ``encoder_k``
and the queue are left), C2L's ``encoder.module.*``. Their heads: MoCo-CXR's is the contrastive MLP 512 → 512 → 128,
C2L's one linear layer 512 → 128 followed by L2 normalisation.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from fmcache.extract.models.card import Card, Network, Published, Weights
from fmcache.extract.models.loading import load_strictly
from fmcache.extract.preprocess import IMAGENET, resize_and_crop

if TYPE_CHECKING:
    import torch

    from fmcache.extract.preprocess import Preprocess

CARDS = (
    Card(
        id="moco-cxr",
        title="MoCo-CXR ResNet-18 (CheXpert)",
        family="resnet",
        architecture="resnet18",
        dim=512,
        licence="CC BY-NC 4.0",
        non_commercial=True,
        pools=("pooled", "projected"),
        # torchvision's Resize, bilinear unless told otherwise
        preprocess=resize_and_crop(320, 320, ((0.5020,) * 3, (0.085585,) * 3), "bilinear"),
        published=Published(url="https://storage.googleapis.com/moco-cxr/r8w-00001-v2.pth.tar"),
        paper="Sowrirajan et al., MoCo-CXR, MIDL 2021",
        notes="FairMedFM's 128 values are a random projection: its loader drops the file's head and keeps a new one. "
        "`projected` is the file's own head, 128.",
    ),
    Card(
        id="c2l",
        title="C2L ResNet-18 (ChestX-ray14, CheXpert, MIMIC-CXR)",
        family="resnet",
        architecture="resnet18",
        dim=512,
        licence="MIT",
        pools=("pooled", "projected"),
        preprocess=resize_and_crop(256, 224, IMAGENET, "bilinear"),
        published=Published(url="https://drive.google.com/file/d/1DJ1jrbDvCfBPeIK6fw2WqkkEmUXmUf2C"),
        paper="Zhou et al., Comparing to Learn, MICCAI 2020",
        notes="FairMedFM uses `projected`: 128 values of unit length. 224 pixels only.",
    ),
)  # fmt: skip
ALIASES = {"mococxr": "moco-cxr"}
# where a published file keeps the encoder; then where a bare ResNet has it
_ENCODERS = ("encoder_q.", "encoder.module.", "encoder.", "module.")


def build(card: Card, weights: Weights, preprocess: Preprocess) -> Network:
    """The network with the head that its file has; ``pooled`` is what the head sees."""
    import timm
    import torch

    state = encoder(weights.state)
    module: Any = timm.create_model(card.architecture, pretrained=False, num_classes=0)
    head = _head(state)
    rest = {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}
    load_strictly(
        module, rest, card, may_be_missing=[n for n in module.state_dict() if n.endswith("tracked")]
    )
    heads: dict[str, Any] = {"pooled": module}
    if head is not None:
        module.projection = head  # so that it moves with the module

        def projected(x: torch.Tensor) -> torch.Tensor:
            y = module.projection(module(x))
            return torch.nn.functional.normalize(y, dim=1) if card.id == "c2l" else y

        heads["projected"] = projected
    return Network(module, heads, preprocess)


def encoder(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The names of the encoder within a training state, the prefix removed."""
    for prefix in _ENCODERS:
        found = {
            name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)
        }
        if "conv1.weight" in found:
            return found
    return dict(state)


def _head(state: dict[str, torch.Tensor]) -> torch.nn.Module | None:
    """``fc.0``, ReLU, ``fc.2`` (an MLP) or ``fc`` (one layer); None where the file has neither."""
    import torch

    layers = sorted({match[1] for name in state if (match := re.match(r"fc\.(\d+\.|)weight$", name))})
    parts: list[torch.nn.Module] = []
    for layer in layers:
        weight, bias = state[f"fc.{layer}weight"], state.get(f"fc.{layer}bias")
        linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
        linear.load_state_dict({"weight": weight.float(), **({} if bias is None else {"bias": bias.float()})})
        parts += [torch.nn.ReLU(), linear] if parts else [linear]
    return torch.nn.Sequential(*parts).eval().requires_grad_(False) if parts else None
