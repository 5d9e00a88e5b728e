"""Cards of the segmentation models: SAM and its relatives on pictures, SAM-Med3D, FastSAM3D and SegVol on volumes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fmcache.extract.cubes import CubePreprocess
from fmcache.extract.frame import Frame, FramePreprocess, Shades
from fmcache.extract.models.card import Card, Network, Published, Weights
from fmcache.extract.models.loading import load_strictly

if TYPE_CHECKING:
    import torch

_SAM = FramePreprocess(Frame("longest", 1024, "bilinear"), Shades())
_MEDSAM = FramePreprocess(Frame("squash", 1024, "cubic"), Shades(stretch=True))
_MED2D = FramePreprocess(Frame("squash-or-pad", 256, "nearest"), Shades())
_CUBE = CubePreprocess("crop", (128, 128, 128), "positive")
_SEGVOL = CubePreprocess("resize", (32, 256, 256), "foreground")
_PROMPTS = ("center", "rand", "rands", "bbox")
_SEGMENT = "https://dl.fbaipublicfiles.com/segment_anything/"
_PAPER = "Kirillov et al., Segment Anything, ICCV 2023"
_SPACING = (
    "Its official inference resamples volumes to voxels of 1.5 mm: set spacing = 1.5 under [reader] in the dataset's "
    "card; prompts and ground truth are then of that size, too."
)
_MED2D_PAPER = "Cheng et al., SAM-Med2D, arXiv 2308.16184"
_BENCHMARK = (
    "FairMedFM squashes the picture to the model's side, leaves OpenCV's channel order BGR, and normalises with "
    "ImageNet's mean and std (--preprocess fairmedfm); it takes the mask of the largest predicted IoU of three."
)


def _card(
    id: str, title: str, encoder: str, url: str, preprocess: FramePreprocess = _SAM, **more: object
) -> Card:
    facts: dict[str, object] = {
        "licence": "Apache-2.0",
        "paper": _PAPER,
        "notes": _BENCHMARK,
        "options": {"encoder": encoder, "masks": 3, "prompts": _PROMPTS},
        **more,
    }
    return Card(
        id=id, title=title, family="segmentation", architecture=f"sam-{encoder}", dim=256, pools=("mean",),
        preprocess=preprocess, published=Published(url=url), **facts,  # type: ignore[arg-type]
    )  # fmt: skip


def _volume(
    id: str, title: str, encoder: str, dim: int, url: str, prompts: tuple[str, ...], **more: object
) -> Card:
    return Card(
        id=id, title=title, family="segmentation", architecture=encoder, dim=dim, pools=("mean",),
        published=Published(url=url),
        options={"encoder": encoder, "masks": 1, "prompts": prompts, "volumes": True,
                 "spacing": None if encoder == "segvol" else 1.5},
        files=("*",) if encoder == "fastsam3d" else (),
        preprocess=_SEGVOL if encoder == "segvol" else _CUBE,
        **more,  # type: ignore[arg-type]
    )  # fmt: skip


CARDS = (
    _card("sam-vit-b", "SAM ViT-B", "b", _SEGMENT + "sam_vit_b_01ec64.pth"),
    _card("sam-vit-l", "SAM ViT-L", "l", _SEGMENT + "sam_vit_l_0b3195.pth"),
    _card("sam-vit-h", "SAM ViT-H", "h", _SEGMENT + "sam_vit_h_4b8939.pth"),
    _card(
        "mobile-sam",
        "MobileSAM (TinyViT)",
        "tiny",
        "https://github.com/ChaoningZhang/MobileSAM/blob/master/weights/mobile_sam.pt",
        paper="Zhang et al., Faster Segment Anything, arXiv 2306.14289",
        notes=f"{_BENCHMARK} Its attention uses the biases of the file, as the official README has it, which calls "
        "eval() after loading; without that call the official model attends without them.",
    ),
    _card(
        "tinysam",
        "TinySAM (TinyViT)",
        "tiny",
        "https://github.com/xinghaochen/TinySAM/releases/download/3.0/tinysam_42.3.pth",
        paper="Shu et al., TinySAM, AAAI 2025",
        notes=f"{_BENCHMARK} The attention biases of the file are used, as after the official eval().",
    ),
    _card(
        "medsam",
        "MedSAM ViT-B",
        "b",
        "https://github.com/bowang-lab/MedSAM (medsam_vit_b.pth on Google Drive)",
        _MEDSAM,
        options={"encoder": "b", "masks": 1, "prompts": _PROMPTS, "upsample": "probabilities"},
        paper="Ma et al., Segment anything in medical images, Nature Communications 2024",
        notes="Trained with boxes only; its own code asks for a single mask. " + _BENCHMARK,
    ),
    _card(
        "sam-med2d",
        "SAM-Med2D ViT-B with adapters",
        "b-adapters",
        "https://github.com/OpenGVLab/SAM-Med2D (sam-med2d_b.pth on Google Drive)",
        _MED2D,
        paper=_MED2D_PAPER,
    ),
    _card(
        "ft-sam",
        "FT-SAM ViT-B (SAM fine-tuned by SAM-Med2D's authors)",
        "b",
        "https://github.com/OpenGVLab/SAM-Med2D (ft-sam_b.pth on Google Drive)",
        _MED2D,
        paper=_MED2D_PAPER,
    ),
    _volume(
        "sam-med3d",
        "SAM-Med3D ViT-B",
        "sam-med3d",
        384,
        "https://huggingface.co/blueyo0/SAM-Med3D (sam_med3d_turbo.pth)",
        ("rand", "rands"),
        licence="Apache-2.0",
        paper="Wang et al., SAM-Med3D, arXiv 2310.15161",
        notes=_SPACING,
    ),
    _volume(
        "fastsam3d",
        "FastSAM3D (student of SAM-Med3D)",
        "fastsam3d",
        384,
        "https://huggingface.co/techlove/FastSAM3D",
        ("rand", "rands"),
        licence="Apache-2.0",
        paper="Shen et al., FastSAM3D, MICCAI 2024",
        notes="The file holds the student's encoder; prompt encoder and decoder are those of sam_med3d_turbo.pth. Give "
        "a folder with both files, or one file with all of it. " + _SPACING,
    ),
    _volume(
        "segvol",
        "SegVol",
        "segvol",
        768,
        "https://huggingface.co/BAAI/SegVol (SegVol_v1.pth)",
        ("rands", "bbox", "text", "text-bbox"),
        licence="MIT",
        paper="Du et al., SegVol, NeurIPS 2024",
        notes="Zoom-out pass only: the sliding window of the official demo is not run, and the volume is not cut to "
        "its foreground first. --prompt text and text-bbox ask for a class by its name, as that demo does.",
    ),
)
ALIASES = {"sam": "sam-vit-b", "sam-b": "sam-vit-b", "sam-l": "sam-vit-l", "sam-h": "sam-vit-h"}


def build(card: Card, weights: Weights, preprocess: FramePreprocess | None) -> Network:
    """The model with its weights, its embedding (the mean of the encoder's map) and what segmentation needs of it."""
    encoder = card.options["encoder"]
    if card.options.get("volumes"):
        return _build_volume(card, encoder, weights)
    assert preprocess is not None
    from fmcache.extract.models import sam
    from fmcache.extract.models.segmenter import Segmenter

    side = preprocess.geometry.side
    module = sam.build_sam(encoder, side)
    unused: tuple[str, ...] = ()
    if encoder == "tiny":
        from fmcache.extract.models.tiny_vit import UNUSED

        unused = tuple(f"image_encoder.{name}" for name in UNUSED)
    load_strictly(module, weights.state, card, may_be_unused=unused)
    masks = int(card.options["masks"])
    segmenter = Segmenter(
        encode=module.image_encoder,
        decode=lambda maps, points, boxes: sam.decode(module, maps, points, boxes, masks > 1),
        low=(side // 4, side // 4),
        masks=masks,
        prompts=card.options["prompts"],
        upsample=card.options.get("upsample", "logits"),
    )
    return Network(
        module, {"mean": lambda x: module.image_encoder(x).mean((2, 3))}, preprocess, segmenter=segmenter
    )


def _build_volume(card: Card, encoder: str, weights: Weights) -> Network:
    from fmcache.extract.models.segmenter import Segmenter, Words
    from fmcache.extract.models.text import ClipTokenizer

    preprocess = card.preprocess
    assert preprocess is not None
    if encoder == "segvol":
        from fmcache.extract.models import segvol

        state = segvol_names(weights.state)
        module: Any = segvol.SegVol()
        unused: tuple[str, ...] = segvol.UNUSED
        low = segvol.LOW
    else:
        from fmcache.extract.models import sam3d

        state = weights.state
        module = sam3d.Sam3D(student=encoder == "fastsam3d")
        unused, low = ("prompt_encoder.no_mask_embed.",), (4 * sam3d.GRID,) * 3
        if encoder == "fastsam3d":
            state = student_names(state)
    load_strictly(module, state, card, may_be_unused=unused)

    def answer(maps: Any, points: Any, boxes: Any, text: Any = None) -> Any:
        import torch

        if points is None:
            return module.decode(maps, boxes=boxes, text=text)
        inside = torch.ones(points.shape[:2], dtype=torch.long, device=points.device)
        return module.decode(maps, points, inside)

    words = None
    if encoder == "segvol":
        tokenizer = ClipTokenizer()
        words = Words(
            segvol.SENTENCE,
            lambda sentence: module.text_encoder(
                tokenizer([sentence])["ids"].to(module.text_encoder.dim_align.weight.device)
            ),
        )
    segmenter = Segmenter(module.image_encoder, answer, low, 1, card.options["prompts"], words=words)
    heads = {"mean": lambda x: module.image_encoder(x).mean((2, 3, 4))}
    return Network(module, heads, preprocess, segmenter=segmenter)


def student_names(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """FastSAM3D's student is a file of its own, without the prefix of the encoder that it replaces."""
    bare = [name for name in state if name.split(".")[0] in ("pos_embed", "patch_embed", "blocks", "neck")]
    if not bare:
        return dict(state)
    kept = {name: value for name, value in state.items() if name not in bare}
    teacher = [name for name in kept if name.startswith("image_encoder.")]
    return {name: value for name, value in kept.items() if name not in teacher} | {
        f"image_encoder.{name}": state[name] for name in bare
    }


def segvol_names(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The published names; newer releases of transformers have one level less in CLIP's text tower."""
    return {
        name.replace("clip_text_model.text_model.", "clip_text_model."): value
        for name, value in state.items()
    }
