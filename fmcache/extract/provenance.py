"""What the manifest of a segment says of its making, and when too many inputs were unusable to go on."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

import fmcache
from fmcache.errors import RejectedInputs
from fmcache.extract.meter import Energy, Meter
from fmcache.extract.options import REJECTS_ALWAYS_ALLOWED, ExtractOptions
from fmcache.extract.registry import LoadedModel


def provenance(
    model: LoadedModel, options: ExtractOptions, meter: Meter, energy: Energy, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """How these numbers came to be; none of it is in the key."""
    device = options.device
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.processor() or device
    return {
        "source": model.source,
        "device": device,
        "device_name": name,
        "energy_joule": energy.joule(),
        "executor": options.executor,
        "workers": options.workers,
        "images": meter.images,
        **meter.document(),
        **facts,
        "versions": {
            "fmcache": fmcache.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }


def refuse_too_many(rejected: int, inputs: int, options: ExtractOptions) -> None:
    """Stop when more than ``max_reject`` of the inputs cannot be used.

    Raises
    ------
    RejectedInputs.
    """
    if rejected > max(options.max_reject * inputs, REJECTS_ALWAYS_ALLOWED):
        limit = f"{options.max_reject:.1%} (and more than {REJECTS_ALWAYS_ALLOWED})"
        raise RejectedInputs(
            f"{rejected:,} of {inputs:,} inputs cannot be used.",
            f"More than {limit} usually means a wrong --root or a missing plug-in; finished blocks are kept.",
            "Look at one of the files, mend it, or accept it: --max-reject 1",
        )
