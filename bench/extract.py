"""Extraction end to end against its parts, measured in the same run on the same cores.

    python bench/extract.py                        # 2,500 x 3,000 grey JPEG and 224 x 224 PNG, DINOv2-small
    python bench/extract.py --device cuda --images 2000
    python bench/extract.py --memory               # peak memory with 1,000 and with 20,000 images
    python bench/extract.py --together clip=FILE biomedclip=FOLDER dinov2=FILE

decode-only: the same tasks through the same workers, nothing else. model-only: the same batches through the same
encoder, decoded beforehand. Goals: end to end at most 1.05 x (decode-only + model-only) where both share the cores; a
second model in the same pass at most 1.05 x its own model-only time; on a GPU at least 0.95 of the model-only
throughput on images that are decoded faster than the model takes them; memory that does not grow with the dataset.
"""

from __future__ import annotations

import argparse
import io
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image
from turns import in_turn, medians

from fmcache.extract.dataset import Dataset, load_dataset
from fmcache.extract.datasets.thorax import noise_bank, thorax
from fmcache.settings import Settings


def pictures(folder: Path, images: int, kind: str) -> Path:
    """`images` files of real size with distinct bytes, and their table. Content repeats every 16 images."""
    folder.mkdir(parents=True)
    bank = noise_bank(np.random.default_rng(0))
    encoded = []
    for i in range(min(16, images)):
        body, view = np.random.default_rng([1, i]), np.random.default_rng([2, i])
        drawn = Image.fromarray(thorax(body, view, bank, female=bool(i % 2), age=40 + i, lesion=bool(i % 3)))
        sink = io.BytesIO()
        if kind == "jpeg":
            drawn.resize((2500, 3000), Image.Resampling.BICUBIC).save(sink, "JPEG", quality=90)
        else:
            drawn.resize((224, 224), Image.Resampling.BICUBIC).save(sink, "PNG")
        encoded.append(sink.getvalue())
    suffix = "jpg" if kind == "jpeg" else "png"
    for i in range(images):
        # bytes after the end of the image change the digest, and no pixel
        (folder / f"{i:06d}.{suffix}").write_bytes(encoded[i % len(encoded)] + i.to_bytes(4, "little"))
    table = pl.DataFrame({"sample_id": [f"{i:06d}" for i in range(images)]})
    table = table.with_columns(path=pl.col("sample_id") + f".{suffix}")
    table.write_csv(folder / "study.csv")
    return folder / "study.csv"


class Bench:
    """One dataset on disk and the ways to go through it."""

    def __init__(self, table: Path, options: argparse.Namespace) -> None:
        from fmcache.extract.options import ExtractOptions

        self.data: Dataset = load_dataset(str(table), root=None, settings=Settings())
        self.scratch = table.parent / "cache"
        self.options = ExtractOptions(
            device=options.device, autocast=options.autocast, executor="process", workers=options.workers,
            batch=options.batch, decode=options.decode,
        )  # fmt: skip

    def _tasks(self, models: Sequence[object]) -> Iterator[object]:
        from fmcache.extract.inspect import inspect_file
        from fmcache.extract.pixels import Task, Unit, split_tasks
        from fmcache.extract.preprocess import shortest_side
        from fmcache.extract.run import TASK

        geometries = tuple(dict.fromkeys(model.preprocess.geometry for model in models))  # type: ignore[attr-defined]
        target = shortest_side(geometries) if self.options.decode == "scaled" else None
        found = [inspect_file(self.data.root, path, self.data.reader) for path in self.data.samples["path"]]
        units = tuple(
            Unit(digest, 0, path)  # type: ignore[arg-type]
            for (digest, _, _), path in zip(found, self.data.samples["path"], strict=True)
        )
        yield from split_tasks(Task(self.data.root, units, self.data.reader, geometries, target), TASK)

    def decoded(self, models: Sequence[object]) -> list[tuple[np.ndarray, ...]]:
        from fmcache.extract.pixels import run_task

        return [image for task in self._tasks(models) for image in run_task(task).images]  # type: ignore[arg-type,misc]

    def decode_only(self, models: Sequence[object]) -> Callable[[], None]:
        from fmcache.extract.executors.executor import make_executor

        tasks = list(self._tasks(models))

        def run() -> None:
            with make_executor("process", self.options.workers) as executor:
                for _ in executor.map(iter(tasks), 2 * self.options.workers):  # type: ignore[arg-type]
                    pass

        return run

    def model_only(self, model: object, images: list[np.ndarray]) -> Callable[[], None]:
        from fmcache.extract.encode import Encoder
        from fmcache.extract.meter import Meter

        encoder = Encoder(model, self.options.device, self.options.autocast, self.options.batch, Meter())  # type: ignore[arg-type]
        out = np.empty((len(images), model.d), np.float32)  # type: ignore[attr-defined]

        def run() -> None:
            for start in range(0, len(images), self.options.batch):
                part = images[start : start + self.options.batch]
                encoder.submit(part, np.arange(start, start + len(part)), out)
            encoder.finish()

        return run

    def whole(self, models: Sequence[object]) -> Callable[[], None]:
        from fmcache.extract.run import extract
        from fmcache.store.cache import open_cache

        def run() -> None:
            shutil.rmtree(self.scratch, ignore_errors=True)
            summary = extract(models, self.data, open_cache(self.scratch, create=True), self.options)  # type: ignore[arg-type]
            assert [model.embedded for model in summary.models] == [self.data.samples.height] * len(models)

        return run


def load(name: str, device: str, checkpoint: Path | None = None) -> object:
    from fmcache.extract.registry import load_model, resolve_model

    return load_model(resolve_model(name), checkpoint=checkpoint, device=device)


def parts(options: argparse.Namespace, scratch: Path) -> None:
    """End to end against decode-only + model-only, and a second model in the same pass."""
    first, second = load(options.model, options.device), load(options.second, options.device)
    for kind, images in (("jpeg", options.images), ("png", 4 * options.images)):
        bench = Bench(pictures(scratch / kind, images, kind), options)
        pixels = [image[0] for image in bench.decoded([first])]
        others = [image[0] for image in bench.decoded([second])]
        decode, model = bench.decode_only([first]), bench.model_only(first, pixels)
        seconds = {
            "decode-only": decode,
            "model-only": model,
            "end to end": bench.whole([first]),
            f"model-only, {options.second}": bench.model_only(second, others),
            "decode-only, both geometries": bench.decode_only([first, second]),
            "end to end, both": bench.whole([first, second]),
        }
        for run in (model, seconds["end to end"]):
            run()  # warm: allocator, forkserver, files
        rounds = in_turn(seconds, options.repeats)
        took = medians(rounds)
        print(f"\n{images} {kind} images, {options.model}, batch {options.batch}, {options.autocast}")
        for name, value in took.items():
            print(f"  {name:<36}{value:8.2f} s{images / value:9.1f} images/s")
        together = took["decode-only"] + took["model-only"]
        print(
            f"  end to end / (decode-only + model-only)         {took['end to end'] / together:6.3f}  goal <= 1.05"
        )
        print(
            f"  model-only / end to end                         {took['model-only'] / took['end to end']:6.3f}"
        )
        both = zip(rounds["end to end, both"], rounds["end to end"], strict=True)
        extra = statistics.median(two - one for two, one in both)
        own = took[f"model-only, {options.second}"]
        print(f"  second model, extra time / its model-only time  {extra / own:6.3f}  goal <= 1.05")


def together(options: argparse.Namespace, scratch: Path) -> None:
    """Several models in one pass against as many single runs."""
    models = []
    for text in options.together:
        name, _, file = text.partition("=")
        models.append(load(name, options.device, Path(file) if file else None))
    bench = Bench(pictures(scratch / "jpeg", options.images, "jpeg"), options)
    bench.whole(models)()
    runs = {str(i): bench.whole([model]) for i, model in enumerate(models)} | {"all": bench.whole(models)}
    rounds = in_turn(runs, options.repeats)
    *singles, once = medians(rounds).values()
    print(f"\n{options.images} jpeg images, {', '.join(options.together)}")
    print(f"  one run each {sum(singles):8.2f} s ({', '.join(f'{value:.2f}' for value in singles)})")
    print(f"  one pass     {once:8.2f} s, {once / sum(singles):.3f} of it")


def memory(options: argparse.Namespace, scratch: Path) -> None:
    """Peak resident memory of the extracting process and its largest worker, for two sizes."""
    peaks = {}
    for images in (1000, options.most):
        table = pictures(scratch / f"n{images}", images, "png")
        command = [sys.executable, __file__, "--one-run", str(table), "--model", options.memory_model]
        command += ["--autocast", options.autocast, "--batch", str(options.batch), "--device", options.device]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks[images] = [int(word) for word in done.stdout.split()[-2:]]
        print(
            f"  {images:>7,} images: {peaks[images][0] >> 10:,} MB, largest worker {peaks[images][1] >> 10:,} MB"
        )
    small, large = peaks[1000][0], peaks[options.most][0]
    print(f"  ratio {large / small:.3f} (a block of 8,192 rows is filled only by the larger run)")


def one_run(options: argparse.Namespace) -> None:
    name, _, file = options.model.partition("=")
    model = load(name, options.device, Path(file) if file else None)
    Bench(Path(options.one_run), options).whole([model])()
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="dinov2-small")
    parser.add_argument("--second", default="efficientnet-lite0")
    parser.add_argument(
        "--images", type=int, default=96, help="large JPEG files; four times as many small PNG files"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--autocast", default="fp32")
    parser.add_argument("--decode", default="exact")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--together", nargs="+", metavar="MODEL=FILE")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--memory-model", default="efficientnet-lite0", metavar="MODEL[=FILE]")
    parser.add_argument("--most", type=int, default=20_000)
    parser.add_argument("--one-run", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one_run:
        one_run(options)
        return
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {options.repeats} repeats, medians")
    with tempfile.TemporaryDirectory() as scratch:
        run = together if options.together else memory if options.memory else parts
        run(options, Path(scratch))


if __name__ == "__main__":
    main()
