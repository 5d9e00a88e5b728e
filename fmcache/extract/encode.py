"""One model on one device: uint8 images in, float32 embeddings out, one batch behind so that the device never waits."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fmcache.errors import FmcacheError
from fmcache.extract.meter import Meter
from fmcache.extract.preprocess import model_input

if TYPE_CHECKING:
    from fmcache.extract.registry import LoadedModel

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Encoder:
    """Runs a frozen model; halves its batch when the device has no memory left.

    Attributes
    ----------
    batch : images at once, now. halved : how often it was halved.
    """

    def __init__(self, model: LoadedModel, device: str, autocast: str, batch: int, meter: Meter) -> None:
        self.model, self.device, self.batch, self.halved = model, torch.device(device), batch, 0
        self._meter, self._autocast = meter, autocast
        self._late: list[tuple[Any, np.ndarray, np.ndarray]] = []

    def submit(self, images: Sequence[np.ndarray], rows: np.ndarray, out: np.ndarray) -> None:
        """Embed `images` into ``out[rows]``; the values are there after the next `submit` or `finish`."""
        done = 0
        while done < len(images):
            part = images[done : done + self.batch]
            try:
                embedded = self._forward(part)
            except torch.OutOfMemoryError as error:
                self._halve(error)
                continue
            self._late.append((embedded, rows[done : done + len(part)], out))
            if len(self._late) > 1:
                self._collect(self._late.pop(0))
            done += len(part)

    def finish(self) -> None:
        """Wait for all values."""
        while self._late:
            self._collect(self._late.pop(0))

    def _forward(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        with torch.inference_mode():
            with self._meter.stage("transfer"):
                x = model_input(list(images), self.model.preprocess, self.device)
            with self._meter.stage("model"), self._context():
                return self.model.encode(x)

    def _context(self) -> contextlib.AbstractContextManager[Any]:
        if self._autocast == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, _AUTOCAST[self._autocast])

    def _collect(self, late: tuple[Any, np.ndarray, np.ndarray]) -> None:
        embedded, rows, out = late
        with self._meter.stage("model"):  # on an asynchronous device this is where its work is waited for
            out[rows] = embedded.float().cpu().numpy()

    def _halve(self, error: Exception) -> None:
        self.finish()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if self.batch == 1:
            raise FmcacheError(
                f"{self.model.card.id} does not fit into the memory of {self.device}, even with one image at once.",
                str(error).splitlines()[0],
                "Use a device with more memory, a smaller model, or --autocast bf16.",
            ) from None
        self.batch = max(1, self.batch // 2)
        self.halved += 1
