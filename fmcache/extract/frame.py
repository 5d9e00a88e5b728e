"""How a picture is brought into the square of a segmentation model, and where its pixels are then.

Unlike a classifier's geometry this one is undone later: prompts travel into the square, masks out of it. So a picture
is never cropped; it is fitted, and what is left of the square stays empty (zero after the normalisation).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from fmcache.errors import ModelError

if TYPE_CHECKING:
    import torch

FITS = ("longest", "squash", "squash-or-pad")
RESAMPLING = ("bilinear", "linear", "nearest", "cubic")


@dataclass(frozen=True)
class Frame:
    """The square of a model.

    Attributes
    ----------
    fit : "longest" (the longer side becomes `side`, the picture lies at the top left: SAM), "squash" (both sides become
        `side`), "squash-or-pad" (the same, but a picture smaller than the square in both directions keeps its size and
        lies in the centre: SAM-Med2D).
    side : of the square, in pixels.
    resampling : "bilinear" (Pillow's, antialiased), "linear" (OpenCV's, not antialiased), "nearest" (OpenCV's), "cubic"
        (scikit-image's order 3 with antialiasing: MedSAM).
    """

    fit: str = "longest"
    side: int = 1024
    resampling: str = "bilinear"

    def __post_init__(self) -> None:
        if self.fit not in FITS or self.resampling not in RESAMPLING:
            raise ModelError(
                f"A picture cannot be fitted by {self.fit!r} and {self.resampling!r}.",
                f"fmcache has {', '.join(FITS)} and {', '.join(RESAMPLING)}.",
                "Correct `fit` and `resampling` in the card of the model.",
            )

    @property
    def needed_side(self) -> int:
        """The shortest side that a decoder has to keep: every pixel, since masks have the picture's size."""
        return 1 << 30

    def region(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Where a picture lies in the square: top, left, height, width, in pixels of the square."""
        if self.fit == "longest":
            scale = self.side / max(height, width)
            return 0, 0, int(height * scale + 0.5), int(width * scale + 0.5)
        if self.fit == "squash-or-pad" and max(height, width) < self.side:
            return (self.side - height) // 2, (self.side - width) // 2, height, width
        return 0, 0, self.side, self.side

    def into(self, points: np.ndarray, height: int, width: int) -> np.ndarray:
        """Points [..., 2] (x, y) of a picture of this size, in pixels of the square."""
        top, left, new_height, new_width = self.region(height, width)
        scale = np.array([new_width / width, new_height / height])
        return points * scale + np.array([left, top])

    def apply(self, image: np.ndarray) -> np.ndarray:
        """uint8 [h, w] or [h, w, 3] → the same kind, of the size of its region."""
        _, _, height, width = self.region(*image.shape[:2])
        if image.shape[:2] == (height, width):
            return np.ascontiguousarray(image)
        if self.resampling == "bilinear":
            picture = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
            return np.asarray(picture)
        if self.resampling == "nearest":
            rows, columns = (_nearest(*pair) for pair in zip(image.shape[:2], (height, width), strict=True))
            return np.ascontiguousarray(image[rows][:, columns])
        return (_linear if self.resampling == "linear" else _cubic)(image, (height, width))


@dataclass(frozen=True)
class Shades:
    """From the bytes of a fitted picture to the model's numbers: (x / divisor - mean) / std, or `stretch` to [0, 1].

    Attributes
    ----------
    stretch : smallest and largest value of the whole picture become 0 and 1, then nothing else (MedSAM).
    bgr : the channels are taken in the order blue, green, red.
    """

    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    divisor: float = 1.0
    stretch: bool = False
    bgr: bool = False


@dataclass(frozen=True)
class FramePreprocess:
    """Everything between the decoded pixels and a segmentation model; stands where a classifier's Preprocess stands."""

    geometry: Frame
    normalise: Shades

    def document(self) -> dict[str, Any]:
        """The part of an entry's key that names this preprocessing."""
        document = asdict(self)
        for name in ("mean", "std"):
            document["normalise"][name] = [float(value) for value in document["normalise"][name]]
        return document

    def batch(self, images: Sequence[np.ndarray], device: str | torch.device) -> torch.Tensor:
        """Fitted pictures → float32 [b, 3, side, side] on the device, zero outside of each picture's region."""
        import torch

        side, shades = self.geometry.side, self.normalise
        out = torch.zeros((len(images), 3, side, side), device=device)
        mean = torch.tensor(shades.mean, device=device).view(3, 1, 1)
        std = torch.tensor(shades.std, device=device).view(3, 1, 1)
        for place, image in zip(out, images, strict=True):
            x = torch.from_numpy(np.array(image)).to(device).float()  # a copy: decoders give read-only arrays
            x = x.expand(3, -1, -1) if x.ndim == 2 else x.permute(2, 0, 1)
            if shades.bgr:
                x = x.flip(0)
            if shades.stretch:
                x = (x - x.min()) / (x.max() - x.min()).clamp(min=1e-8)
            else:
                x = (x / shades.divisor - mean) / std
            height, width = x.shape[1:]
            centred = self.geometry.fit == "squash-or-pad"
            top, left = ((side - height) // 2, (side - width) // 2) if centred else (0, 0)
            place[:, top : top + height, left : left + width] = x
        return out


def fairmedfm_frame(preprocess: FramePreprocess) -> FramePreprocess:
    """What the FairMedFM benchmark feeds every 2-D model: squashed, BGR, ImageNet's mean and std.

    OpenCV interpolates bytes with fixed-point weights; a byte may differ by one from what is computed here.
    Source: FairMedFM (Jin et al., NeurIPS 2024), datasets/utils.py and wrappers/sam_model.py at ac062df.
    """
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    shades = Shades(mean, std, divisor=255.0, bgr=True)
    return FramePreprocess(Frame("squash", preprocess.geometry.side, "linear"), shades)


def _nearest(size: int, new: int) -> np.ndarray:
    # OpenCV's order of divisions: the quotient of the quotient is not always size / new
    step = 1.0 / (new / size)
    return np.minimum(np.floor(np.arange(new) * step).astype(np.int64), size - 1)


def _linear(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    x = image.astype(np.float64)
    for axis, new in enumerate(size):
        old = image.shape[axis]
        where = np.clip((np.arange(new) + 0.5) * (old / new) - 0.5, 0, old - 1)
        low = np.floor(where).astype(np.int64)
        high = np.minimum(low + 1, old - 1)
        share = (where - low).reshape([-1 if i == axis else 1 for i in range(x.ndim)])
        x = x.take(low, axis) * (1 - share) + x.take(high, axis) * share
    return np.rint(x).astype(np.uint8)


def _cubic(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """As skimage.transform.resize(order=3, preserve_range, anti_aliasing) and a cast to uint8 do it, with SciPy."""
    from scipy import ndimage

    factors = np.array(image.shape, float) / np.array([*size, *image.shape[2:]])
    sigma = np.maximum(0, (factors - 1) / 2)
    x = image.astype(np.float64)
    smooth = ndimage.gaussian_filter(x, sigma, mode="mirror") if sigma.any() else x
    out = ndimage.zoom(smooth, 1 / factors, order=3, mode="mirror", grid_mode=True)
    return np.clip(out, x.min(), x.max()).astype(np.uint8)
