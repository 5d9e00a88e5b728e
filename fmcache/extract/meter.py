"""Where the time of an extraction goes, and the energy where the device tells it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

STAGES = ("decode", "transfer", "model", "write")


@dataclass
class Meter:
    """Seconds by stage, of the process that feeds the device.

    ``decode`` is the time spent waiting for pixels (what overlaps with the model costs nothing); `decode_work` is what
    all workers spent on them. ``write`` likewise is only what was waited for.
    """

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    decode_work: float = 0.0
    images: int = 0
    began: float = field(default_factory=time.perf_counter)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start

    @property
    def elapsed(self) -> float:
        return time.perf_counter() - self.began

    def text(self) -> str:
        """``waits: decode 61 % · transfer 1 % · model 37 % · write 0 %``, for the progress line."""
        whole = max(sum(self.seconds.values()), 1e-9)
        return "waits: " + " · ".join(f"{name} {100 * self.seconds[name] / whole:.0f} %" for name in STAGES)

    def document(self) -> dict[str, float]:
        """For the manifest, in seconds."""
        stages = {f"{name}_seconds": round(value, 3) for name, value in self.seconds.items()}
        return {
            **stages,
            "decode_work_seconds": round(self.decode_work, 3),
            "seconds": round(self.elapsed, 3),
        }


class Energy:
    """Energy that a CUDA device used since this was made, in joule; None where nothing reports it."""

    def __init__(self, device: str) -> None:
        self._handle = None
        self._start = 0
        if device.startswith("cuda"):
            try:
                import pynvml

                pynvml.nvmlInit()
                index = int(device.partition(":")[2] or 0)
                self._handle = pynvml.nvmlDeviceGetHandleByIndex(index)
                self._start = pynvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)
            except Exception:  # a device or a driver that does not tell is no failure
                self._handle = None

    def joule(self) -> float | None:
        """Joule since the beginning."""
        if self._handle is None:
            return None
        import pynvml

        return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(self._handle) - self._start) / 1e3
