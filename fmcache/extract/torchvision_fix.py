"""Let torchvision be imported beside a CPU build of torch.

torchvision's wheel on the Python package index is built against CUDA. Beside a torch without CUDA its compiled part
cannot load, the operators of that part do not exist, and the import stops at the first function that describes one of
them; timm, open_clip and transformers stop with it. Nothing here runs such an operator, so declaring their signatures
is enough. Where torchvision imports as it is, nothing is declared.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib.util import find_spec

import torch

_SIGNATURES = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
# torch forgets what a library declared when the library object is collected
_declared: list[torch.library.Library] = []


@cache
def make_torchvision_importable() -> None:
    """Import torchvision, after declaring its operators if only they are missing. Does nothing where it is absent."""
    if find_spec("torchvision") is None:
        return
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for signature in _SIGNATURES:
            library.define(signature)
        _declared.append(library)
        import torchvision  # noqa: F401
