"""How an extraction runs, and what it did."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from fmcache.errors import UsageError
from fmcache.extract.plan import Shard

AUTOCAST = ("fp32", "bf16", "fp16")
REJECTS_ALWAYS_ALLOWED = 10  # a small study is not stopped by a few bad files


@dataclass(frozen=True)
class ExtractOptions:
    """The choices of `extract`. Of these only autocast, dtype and decode change the numbers, and so the key.

    Attributes
    ----------
    device : cpu, cuda, cuda:1, mps. autocast : fp32, bf16 or fp16. dtype : float16 or float32, as stored.
    decode : exact, or scaled (JPEG files are decoded at a reduced size by their DCT).
    executor, workers : who decodes. batch : images a batch; a block is cut into batches, so batches never cross it.
    shard : only this part of the units. max_reject : stop when more than this share is rejected (and more than ten).
    block_rows : at most so many units a block. lock : False where the file system has no working locks.
    """

    device: str = "cpu"
    autocast: str = "fp32"
    dtype: str = "float16"
    decode: str = "exact"
    executor: str = "process"
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    batch: int = 32
    shard: Shard | None = None
    max_reject: float = 0.01
    retry_rejected: bool = False
    block_rows: int = 8192
    lock: bool = True
    dry_run: bool = False

    def __post_init__(self) -> None:
        for name, allowed in (
            ("autocast", AUTOCAST),
            ("dtype", ("float16", "float32")),
            ("decode", ("exact", "scaled")),
        ):
            if getattr(self, name) not in allowed:
                raise UsageError(
                    f"--{name} {getattr(self, name)} means nothing.",
                    f"It is one of {', '.join(allowed)}.",
                    f"Type: --{name} {allowed[0]}",
                )


@dataclass
class ModelSummary:
    """What became of one model's entry."""

    model: str
    dataset: str
    key: str
    source: str
    samples: int
    embedded: int = 0
    stored: int = 0
    rejected: int = 0
    reused_blocks: int = 0
    seconds: float = 0.0
    state: str = "done"

    def row(self) -> dict[str, Any]:
        rate = self.embedded / self.seconds if self.seconds else float("nan")
        return {
            "model": self.model,
            "dataset": self.dataset,
            "key": self.key[:12],
            "samples": self.samples,
            "embedded": self.embedded,
            "stored before": self.stored,
            "rejected": self.rejected,
            "reused blocks": self.reused_blocks,
            "seconds": round(self.seconds, 1),
            "per second": round(rate, 1),
            "state": self.state,
        }


@dataclass
class ExtractSummary:
    """What `extract` did, for people and for the exit code."""

    models: list[ModelSummary]
    notes: list[str]

    @property
    def exit_code(self) -> int:
        """0, or 3 if an input of this dataset is in quarantine."""
        return 3 if any(model.rejected for model in self.models) else 0

    def rows(self) -> list[dict[str, Any]]:
        return [model.row() for model in self.models]

    def sentences(self) -> list[str]:
        lines = list(self.notes)
        for model in self.models:
            if model.state == "dry run":
                lines.append(f"{model.model}: {model.embedded:,} to embed, {model.stored:,} stored already.")
            elif not model.embedded and not model.rejected:
                lines.append(f"{model.model}: nothing to do, all {model.stored:,} rows are stored.")
            if model.rejected:
                lines.append(
                    f"{model.model}: {model.rejected:,} inputs were rejected; reasons: fmcache cache show "
                    f"{model.key[:12]}, or quarantine.parquet in its segments."
                )
        return lines
