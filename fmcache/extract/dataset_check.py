"""``fmcache datasets NAME --root DIR``: is everything there, before any GPU time is spent?"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from fmcache.extract.dataset import Dataset, is_synthetic
from fmcache.extract.dataset_card import DatasetCard
from fmcache.extract.dataset_tables import load_table
from fmcache.extract.decode import Undecodable, count_slices, decode, read_input
from fmcache.extract.inputs import input_file
from fmcache.extract.masks_reader import mask_card, read_mask

SAMPLED = 10
_MOST_FOLDERS = 12


@dataclass(frozen=True)
class Finding:
    """One line of the check. `state` is ok, note (look at it) or bad (these inputs will be rejected)."""

    check: str
    state: str
    found: str
    expected: str = ""

    def row(self) -> dict[str, str]:
        return {"check": self.check, "state": self.state, "found": self.found, "expected": self.expected}


def check_dataset(dataset: Dataset, card: DatasetCard | None, *, show_ids: bool = False) -> Iterator[Finding]:
    """Row counts against the published ones, files that are missing or extra, and ten inputs decoded.

    Parameters
    ----------
    card : None for a bare table. show_ids : also name files.
    """
    published = {} if card is None or is_synthetic(dataset.root) else dict(card.published)
    if card is not None:
        for name, of in card.tables.items():
            table = load_table(name, of, dataset.root)
            if of.kind == "table":
                yield _count(f"rows of {name}", table.height, published.get(name), of.optional)
    samples = dataset.samples
    yield _count("samples", samples.height, published.get("samples"))
    unit = str(dataset.card.get("patient_is", "patient"))
    yield _count(
        f"{unit}s" if unit != "sample" else "patients",
        samples["patient_id"].n_unique(),
        published.get("patients"),
    )
    paths = samples["path"].unique(maintain_order=True).to_list()
    missing = [path for path in paths if not (dataset.root / input_file(path)).exists()]
    yield _files("image files", paths, missing, show_ids)
    used = {input_file(path) for path in paths}
    if "mask_path" in samples.columns:
        parts = [
            part.rpartition("=")[2] for text in samples["mask_path"].drop_nulls() for part in text.split(";")
        ]
        lost = [path for path in dict.fromkeys(parts) if not (dataset.root / input_file(path)).exists()]
        yield _files("mask files", list(dict.fromkeys(parts)), lost, show_ids)
        used |= {input_file(path) for path in parts}
    yield from _extra(dataset.root, used, show_ids)
    gone = set(missing)
    yield from _decoded(dataset, [path for path in paths if path not in gone], show_ids)


def _count(what: str, found: int, published: int | None, optional: bool = False) -> Finding:
    if found == 0 and optional:
        return Finding(what, "note", "the table is not there", "optional; what comes from it is unknown")
    if published is None:
        return Finding(what, "ok", f"{found:,}")
    return Finding(what, "ok" if found == published else "note", f"{found:,}", f"{published:,} published")


def _files(what: str, paths: list[str], missing: list[str], show_ids: bool) -> Finding:
    if not missing:
        return Finding(what, "ok", f"{len(paths):,}, all there")
    names = f"; such as {', '.join(missing[:3])}" if show_ids else ""
    where = _where(missing, paths, show_ids)
    return Finding(what, "bad", f"{len(missing):,} of {len(paths):,} are missing{where}{names}")


def _where(some: Iterable[str], paths: Iterable[str], show_ids: bool) -> str:
    """How many of `some` lie in which first folder; not where the folders are those of single people."""
    known = [input_file(path) for path in paths]
    folders = {PurePosixPath(path).parts[0] for path in known}
    if not show_ids and len(folders) > min(_MOST_FOLDERS * 5, len(known) / 3):
        return ""
    counts = Counter(PurePosixPath(input_file(path)).parts[0] for path in some)
    shown = {folder: count for folder, count in counts.items() if show_ids or folder in folders}
    text = ", ".join(f"{folder}: {count:,}" for folder, count in Counter(shown).most_common(_MOST_FOLDERS))
    return f" ({text})" if text else ""


def _extra(root: Path, used: set[str], show_ids: bool) -> Iterator[Finding]:
    """Files of the kinds that the samples use, which no sample names: another release, or a table cut short."""
    kinds = {PurePosixPath(path).suffix for path in used} - {""}
    extra: list[str] = []
    for place, _, names in os.walk(root):
        here = Path(place).relative_to(root).as_posix()
        if here in used or any(here.startswith(f"{folder}/") for folder in _heads(here, used)):
            continue  # inside a series
        paths = [name if here == "." else f"{here}/{name}" for name in names]
        extra += [path for path in paths if PurePosixPath(path).suffix in kinds and path not in used]
    if not extra:
        yield Finding("files that no sample uses", "ok", "none")
        return
    example = f"; such as {', '.join(sorted(extra)[:3])}" if show_ids else ""
    yield Finding(
        "files that no sample uses", "note", f"{len(extra):,}{_where(extra, used, show_ids)}{example}"
    )


def _heads(path: str, folders: set[str]) -> Iterable[str]:
    parts = PurePosixPath(path).parts
    heads = ("/".join(parts[:n]) for n in range(1, len(parts)))
    return [head for head in heads if head in folders]


def _decoded(dataset: Dataset, paths: list[str], show_ids: bool) -> Iterator[Finding]:
    """Ten inputs, evenly spread over the samples, read and decoded as an extraction would."""
    masks = (
        dict(dataset.samples.select("path", "mask_path").iter_rows())
        if "mask_path" in dataset.samples.columns
        else {}
    )
    count = min(SAMPLED, len(paths))
    chosen = [paths[(2 * k + 1) * len(paths) // (2 * count)] for k in range(count)]
    good = 0
    for number, path in enumerate(chosen, 1):
        name = f"sampled input {number} of {count}" + (f" ({path})" if show_ids else "")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                data = read_input(dataset.root, path)
                slices = count_slices(data, dataset.reader)
                image = decode(data, slice=slices // 2, reader=dataset.reader)
                if masks.get(path):
                    mask = read_mask(dataset.root, masks[path], mask_card(dataset.card), dataset.reader)
                    shape = mask.shape if slices == 1 and mask.ndim == 2 else mask.shape[1:]
                    if shape != image.shape[:2]:
                        raise Undecodable("The mask has another shape than its image.")
        except Undecodable as error:
            yield Finding(name, "bad", error.reason)
            continue
        good += 1
    if count and good == count:
        yield Finding(f"{count} sampled inputs", "ok", "all decoded" + (", masks fit" if masks else ""))
    elif count:
        yield Finding(f"{count} sampled inputs", "note", f"{good} decoded")
