"""From the pixels of an image to what a model sees: geometry on the CPU in 8 bits, normalisation on the device.

The geometry runs in the decoding workers and needs only Pillow. A grey image stays one channel until it is on the
device: Pillow resizes every channel by itself, so the result is bit for bit what converting to RGB first would give,
at a third of the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from fmcache.errors import ModelError, UsageError
from fmcache.extract.frame import Frame, FramePreprocess

if TYPE_CHECKING:
    import torch

INTERPOLATION = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}
EVERY_PIXEL = 1 << 30  # no image has so many on a side: nothing may be dropped
RESIZES = ("shortest", "squash", "pad-square", "fit-square", "none")
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

# FairMedFM chooses mean and std by dataset, not by model (its datasets/utils.py); one value for all three channels
_FAIRMEDFM_GREY = {
    **dict.fromkeys(("mimic", "chexpert", "covid-ct-md", "adni"), (0.5056, 0.252)),
    "gf3300": (0.2756, 0.1708),
}
_FAIRMEDFM_CLIP = ("ham10000", "papila", "brset", "fairvlmed")


@dataclass(frozen=True)
class Geometry:
    """How an image gets the size the model wants.

    Attributes
    ----------
    resize : "shortest" (the shorter side becomes `size`, the longer one int(size · long / short)), "squash" (both
        sides become `size`), "pad-square" (the image in the centre of a black square whose side is its longer one, or
        `size` if that is larger; the square becomes `size`), "fit-square" (the longer side becomes `size`, both rounded
        down, in the centre of a black square of `size`), or "none".
    size : pixels; ignored by "none".
    interpolation : a key of INTERPOLATION; always with Pillow's antialiasing.
    crop : side of the square cut from the centre (padded with black where the image is smaller); None: no crop.
    crop_offset : where an odd margin goes: "round" as torchvision (half to even), "floor" as transformers.
    grey : a colour image becomes grey first (ITU-R 601, as Pillow's mode L).
    """

    resize: str = "shortest"
    size: int = 224
    interpolation: str = "bicubic"
    crop: int | None = 224
    crop_offset: str = "round"
    grey: bool = False

    def __post_init__(self) -> None:
        for what, value, allowed in (
            ("resize", self.resize, RESIZES),
            ("interpolation", self.interpolation, tuple(INTERPOLATION)),
            ("crop_offset", self.crop_offset, ("round", "floor")),
        ):
            if value not in allowed:
                raise ModelError(
                    f"The preprocessing asks for {what} {value!r}.",
                    f"fmcache has: {', '.join(allowed)}.",
                    "Choose another model, or open an issue with this message.",
                )
        if self.crop is None and self.resize not in ("squash", "pad-square", "fit-square"):
            raise ModelError(
                f"The preprocessing (resize {self.resize!r}, no crop) leaves images of different sizes.",
                "A batch needs one size.",
                "Choose another model, or open an issue with this message.",
            )

    @property
    def side(self) -> int:
        """Side of the square that comes out, in pixels."""
        return self.size if self.crop is None else self.crop

    @property
    def needed_side(self) -> int:
        """The shortest side in pixels that a decoder has to keep for this geometry."""
        return EVERY_PIXEL if self.resize == "none" else self.size


def shortest_side(geometries: Sequence[Geometry]) -> int | None:
    """The shortest side that a decoder has to keep for all of them; None: every pixel."""
    side = max(geometry.needed_side for geometry in geometries)
    return None if side >= EVERY_PIXEL else side


@dataclass(frozen=True)
class Normalise:
    """x → (x / divisor - mean) / std, channel by channel, with x in 0…255."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    divisor: float = 255.0


@dataclass(frozen=True)
class Preprocess:
    """Everything between the decoded pixels and the model.

    Attributes
    ----------
    float_side : side that the normalised square gets on the device, by bicubic interpolation in floating point without
        antialiasing, where the official code resizes again after it has normalised; None: the square stays as it is.
    """

    geometry: Geometry
    normalise: Normalise
    float_side: int | None = None

    @property
    def side(self) -> int:
        """Side of what the model sees, in pixels."""
        return self.float_side or self.geometry.side

    def document(self) -> dict[str, Any]:
        """The part of an entry's key that names this preprocessing."""
        document = asdict(self)
        if self.float_side is None:
            del document["float_side"]
        for name in ("mean", "std"):
            document["normalise"][name] = [float(value) for value in document["normalise"][name]]
        return document


def resize_and_crop(
    size: int, crop: int, normalise: tuple[Any, ...], interpolation: str = "bicubic"
) -> Preprocess:
    """The usual recipe: the shorter side to `size`, the centre `crop`, then (mean, std)."""
    return Preprocess(Geometry("shortest", size, interpolation, crop), Normalise(*normalise))


def resized(preprocess: Preprocess, side: int) -> Preprocess:
    """The same recipe for another side of the model's input; the margin that is cropped away shrinks with it.

    Examples
    --------
    >>> resized(resize_and_crop(256, 224, IMAGENET), 112).geometry.size
    128
    """
    geometry = preprocess.geometry
    size = round(geometry.size * side / preprocess.side)
    crop = None if geometry.crop is None else side
    last = None if preprocess.float_side is None else side
    return replace(preprocess, geometry=replace(geometry, size=size, crop=crop), float_side=last)


def fairmedfm_preprocess(dataset: str) -> Preprocess:
    """What the FairMedFM benchmark feeds every classifier: 224 pixels, mean and std of the dataset.

    Source: FairMedFM (Jin et al., NeurIPS 2024), datasets/utils.py at ac062df.

    Raises
    ------
    UsageError : the benchmark did not define it for that dataset.
    """
    if dataset in _FAIRMEDFM_GREY:
        mean, std = _FAIRMEDFM_GREY[dataset]
        return resize_and_crop(224, 224, ((mean,) * 3, (std,) * 3))
    if dataset in _FAIRMEDFM_CLIP:
        return resize_and_crop(224, 224, CLIP)
    raise UsageError(
        f"FairMedFM's preprocessing is not known for the dataset {dataset!r}.",
        f"It is known for: {', '.join(sorted([*_FAIRMEDFM_GREY, *_FAIRMEDFM_CLIP]))}.",
        "Type: --preprocess native",
    )


def apply_geometry(image: np.ndarray, geometry: Geometry | Frame) -> np.ndarray:
    """Resize and crop, as the published transforms do on Pillow images.

    Parameters
    ----------
    image : uint8 [h, w] (grey) or [h, w, 3] (RGB).

    Returns
    -------
    uint8 [side, side] or [side, side, 3], contiguous.
    """
    if isinstance(geometry, Frame):
        return geometry.apply(image)
    if geometry.grey and image.ndim == 3:
        image = np.asarray(Image.fromarray(image).convert("L"))
    if geometry.resize == "pad-square":
        image = _pad_square(image, geometry.size)
    height, width = image.shape[:2]
    if geometry.resize in ("squash", "pad-square"):
        new_height = new_width = geometry.size
    elif geometry.resize == "shortest":
        longer = int(geometry.size * max(height, width) / min(height, width))
        new_height, new_width = (longer, geometry.size) if width <= height else (geometry.size, longer)
    elif geometry.resize == "fit-square":
        ratio = geometry.size / max(height, width)
        new_height, new_width = max(1, int(height * ratio)), max(1, int(width * ratio))
    else:
        new_height, new_width = height, width
    if (new_height, new_width) != (height, width):
        picture = Image.fromarray(image).resize(
            (new_width, new_height), INTERPOLATION[geometry.interpolation]
        )
        image = np.asarray(picture)
    if geometry.resize == "fit-square":
        image = _pad_square(image, geometry.size)
    if geometry.crop is not None:
        image = _centre(image, geometry.crop, geometry.crop_offset)
    return np.ascontiguousarray(image)


def _pad_square(image: np.ndarray, least: int) -> np.ndarray:
    """Black around the image, up to a square of its longer side, at least `least`; margins are rounded down."""
    height, width = image.shape[:2]
    side = max(height, width, least)
    square = np.zeros((side, side, *image.shape[2:]), image.dtype)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = image
    return square


def _centre(image: np.ndarray, side: int, offset: str) -> np.ndarray:
    missing = [max(0, side - have) for have in image.shape[:2]]
    if any(missing):
        around = [(gap // 2, (gap + 1) // 2) for gap in missing] + [(0, 0)] * (image.ndim - 2)
        image = np.pad(image, around)
    margins = [have - side for have in image.shape[:2]]
    top, left = [round(margin / 2) if offset == "round" else margin // 2 for margin in margins]
    return image[top : top + side, left : left + side]


def model_input(
    batch: Sequence[np.ndarray], preprocess: Preprocess | FramePreprocess, device: str | torch.device = "cpu"
) -> torch.Tensor:
    """What a model sees of images that went through its geometry, float32 [b, 3, side, side]."""
    if isinstance(preprocess, FramePreprocess):
        return preprocess.batch(batch, device)
    x = to_model_input(batch, preprocess.normalise, device)
    if preprocess.float_side is None:
        return x
    import torch

    return torch.nn.functional.interpolate(
        x, (preprocess.float_side,) * 2, mode="bicubic", align_corners=False
    )


def to_model_input(
    batch: Sequence[np.ndarray], normalise: Normalise, device: str | torch.device = "cpu", pin: bool = False
) -> torch.Tensor:
    """A batch on the device: bytes travel, the device makes floats of them.

    Parameters
    ----------
    batch : b images of one size, uint8 [h, w] or [h, w, 3], in any mixture.
    pin : copy through page-locked memory, so that the transfer runs beside the device's work (CUDA only).

    Returns
    -------
    float32 [b, 3, h, w], (x / divisor - mean) / std. A row does not depend on its neighbours.
    """
    import torch

    if all(image.ndim == 2 for image in batch):
        stacked = np.stack(batch)[:, None]
    else:
        colour = [np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image for image in batch]
        stacked = np.ascontiguousarray(np.stack(colour).transpose(0, 3, 1, 2))
    x = torch.from_numpy(stacked)
    if pin and torch.device(device).type == "cuda":
        x = x.pin_memory()
    x = x.to(device, non_blocking=pin).float().div_(normalise.divisor)
    mean = torch.tensor(normalise.mean, device=x.device).view(1, 3, 1, 1)
    std = torch.tensor(normalise.std, device=x.device).view(1, 3, 1, 1)
    return x.sub(mean).div_(std)
