"""Preprocessing as the configuration files beside published weights say it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fmcache.errors import ModelError
from fmcache.extract.preprocess import HALF, IMAGENET, Geometry, Normalise, Preprocess

# Pillow's numbers
_RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}


def read_json(file: Path) -> dict[str, Any]:
    """A configuration file.

    Raises
    ------
    ModelError : it is not there, or is no JSON object.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"{file.name} is not beside the weights.",
            f"It says how the model is built; {file.parent} does not have it.",
            "Download the whole repository and type: --checkpoint DIR",
        ) from None
    except (ValueError, UnicodeDecodeError, OSError) as error:
        raise ModelError(f"{file} cannot be read.", str(error), "Download it again.") from None
    if not isinstance(content, dict):
        raise ModelError(f"{file} cannot be read.", "It holds no JSON object.", "Download it again.")
    return content


def from_image_processor(config: Mapping[str, Any], side: int) -> Preprocess:
    """Of a ``preprocessor_config.json`` of transformers.

    Parameters
    ----------
    side : what the model's own configuration says, where the file gives no size.
    """
    size = config.get("size", side)
    crop = _side(config.get("crop_size", side)) if config.get("do_center_crop") else None
    interpolation = _RESAMPLE.get(int(config.get("resample", 3)), "bicubic")
    if not config.get("do_resize", True):
        geometry = Geometry("none", 0, interpolation, crop or side, "floor")
    elif isinstance(size, Mapping) and "shortest_edge" in size:
        geometry = Geometry("shortest", int(size["shortest_edge"]), interpolation, crop or side, "floor")
    elif isinstance(size, int) and config.get("do_center_crop"):
        geometry = Geometry("shortest", size, interpolation, crop, "floor")
    else:
        squashed = _side(size)
        geometry = Geometry("squash", squashed, interpolation, crop, "floor")
    mean, std = (tuple(map(float, config.get(f"image_{of}", HALF[0]))) for of in ("mean", "std"))
    if not config.get("do_normalize", True):
        mean, std = (0.0,) * 3, (1.0,) * 3
    factor = float(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else 1.0
    return Preprocess(geometry, Normalise(_three(mean), _three(std), 1 / factor))


def from_open_clip(config: Mapping[str, Any], side: int) -> Preprocess:
    """Of a ``preprocess_cfg`` of open_clip: shortest side and centre crop, or squash."""
    mode = config.get("resize_mode") or "shortest"
    interpolation = config.get("interpolation") or "bicubic"
    size = _side(config.get("size") or side)
    if mode not in ("shortest", "squash"):
        raise ModelError(
            f"The preprocessing asks for the resize mode {mode!r}.",
            "fmcache has shortest and squash.",
            "Choose another model, or open an issue with this message.",
        )
    geometry = Geometry(mode, size, interpolation, None if mode == "squash" else size)
    mean, std = config.get("mean") or IMAGENET[0], config.get("std") or IMAGENET[1]
    return Preprocess(geometry, Normalise(_three(tuple(mean)), _three(tuple(std))))


def _side(size: Any) -> int:
    if isinstance(size, Mapping):
        size = (size.get("height", size.get("shortest_edge")), size.get("width", size.get("shortest_edge")))
    if isinstance(size, (list, tuple)):
        if len(set(size)) != 1:
            raise ModelError(
                f"The preprocessing asks for {size[0]} × {size[1]} pixels.",
                "fmcache feeds squares.",
                "Choose another model, or open an issue with this message.",
            )
        size = size[0]
    return int(size)


def _three(values: tuple[float, ...]) -> tuple[float, float, float]:
    first, second, third = values * 3 if len(values) == 1 else values
    return float(first), float(second), float(third)
