"""SAM 2.1 on single pictures, through transformers: a hierarchical encoder whose three maps the decoder sees.

Files are those of the hub (a folder with config.json and model.safetensors). They also hold the memory of the video
model, which a picture does not need.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from fmcache.errors import ModelError
from fmcache.extract.frame import Frame, FramePreprocess, Shades
from fmcache.extract.models.card import Card, Network, Published, Weights
from fmcache.extract.models.loading import load_strictly, quiet
from fmcache.extract.preprocess import IMAGENET

if TYPE_CHECKING:
    from torch import Tensor

SIDE, LOW = 1024, 256
AT_ONCE = 8  # prompts: each of them takes the three maps of its picture, 17 MB, along
_PREPROCESS = FramePreprocess(Frame("squash", SIDE, "bilinear"), Shades(*IMAGENET, divisor=255.0))


def _card(size: str) -> Card:
    return Card(
        id=f"sam2-{size}",
        title=f"SAM 2.1 Hiera {size}",
        family="sam2",
        architecture=f"sam2.1-hiera-{size}",
        dim=256,
        licence="Apache-2.0",
        pools=("mean",),
        preprocess=_PREPROCESS,
        published=Published(
            hub=f"facebook/sam2.1-hiera-{size}",
            file="",
            url=f"https://huggingface.co/facebook/sam2.1-hiera-{size}",
        ),
        options={"encoder": size, "masks": 3, "prompts": ("center", "rand", "rands", "bbox")},
        paper="Ravi et al., SAM 2: Segment Anything in Images and Videos, ICLR 2025",
        notes="Single pictures only. MedSAM2's own files (wanglab/MedSAM2) have the names of the sam2 repository; give "
        "a folder that transformers can read. Held to transformers' Sam2Model, not to the sam2 repository.",
    )


CARDS = tuple(_card(size) for size in ("tiny", "small", "base-plus", "large"))
ALIASES = {"sam2": "sam2-tiny"}


def build(card: Card, weights: Weights, preprocess: FramePreprocess | None) -> Network:
    """transformers' Sam2Model as a segmenter; its embedding is the mean of the last map."""
    from transformers import Sam2Config, Sam2Model

    from fmcache.extract.models.segmenter import Segmenter

    if weights.folder is None or not (weights.folder / "config.json").is_file():
        raise ModelError(
            f"{card.id} needs the folder of the hub, with config.json beside the weights.",
            "The file stands alone.",
            f"Type: --checkpoint FOLDER   (https://huggingface.co/{card.published.hub})",
        )
    with quiet():
        module: Any = Sam2Model(Sam2Config.from_pretrained(weights.folder))
    video = [re.compile(pattern) for pattern in module._keys_to_ignore_on_load_unexpected or ()]
    state = {
        name: value for name, value in weights.state.items() if not any(one.match(name) for one in video)
    }
    load_strictly(module, state, card)
    sizes: list[tuple[int, ...]] = []

    def encode(x: Tensor) -> Tensor:
        maps = module.get_image_embeddings(x)
        sizes[:] = [tuple(one.shape[1:]) for one in maps]
        return _joined(maps)

    def decode(joined: Tensor, points: Tensor | None, boxes: Tensor | None) -> tuple[Tensor, Tensor]:
        import torch

        answers = []
        for start in range(0, len(joined), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            answers.append(
                module(
                    image_embeddings=_parted(joined[part], sizes),
                    input_points=None if points is None else points[part, None],
                    input_boxes=None if boxes is None else boxes[part, None],
                    multimask_output=True,
                )
            )
        return (
            torch.cat([one.pred_masks[:, 0] for one in answers]),
            torch.cat([one.iou_scores[:, 0] for one in answers]),
        )

    segmenter = Segmenter(encode, decode, (LOW, LOW), 3, card.options["prompts"])
    heads = {"mean": lambda x: module.get_image_embeddings(x)[-1].mean((2, 3))}
    return Network(module, heads, preprocess or _PREPROCESS, segmenter=segmenter)


def _joined(maps: list[Tensor]) -> Tensor:
    """Three maps of different sizes as one row a picture."""
    import torch

    return torch.cat([one.flatten(1) for one in maps], 1)


def _parted(joined: Tensor, sizes: list[tuple[int, ...]]) -> list[Tensor]:
    lengths = [channels * height * width for channels, height, width in sizes]
    parts = joined.split(lengths, 1)
    return [part.view(len(joined), *size) for part, size in zip(parts, sizes, strict=True)]
