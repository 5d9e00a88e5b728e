"""What ``fmcache datasets NAME`` does with the files of a dataset: check, audit, miniature."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fmcache.extract.audit_page import write_audit_page
from fmcache.extract.croissant import write_croissant
from fmcache.extract.dataset import Dataset, SampleOptions, find_card, is_table, load_dataset
from fmcache.extract.dataset_audit import AuditRow, audit_dataset, read_reference
from fmcache.extract.dataset_card import DatasetCard, read_card
from fmcache.extract.dataset_check import Finding, check_dataset
from fmcache.extract.sample_counts import count_lines
from fmcache.extract.synthesize import synthesize
from fmcache.settings import Settings

SHARED_CELL = 11  # files are passed on; groups below this size are hidden in them


@dataclass(frozen=True)
class Audit:
    """The numbers, and what was written."""

    rows: list[AuditRow]
    notes: list[str]


def check_command(
    name: str, settings: Settings, *, root: Path | None, options: SampleOptions, show_ids: bool
) -> tuple[list[Finding], list[str]]:
    """The findings, and what the user should know of the samples."""
    dataset, card = _load(name, settings, root, options)
    notes = [*dataset.notes, *count_lines(dataset.card["counts"])]
    return list(check_dataset(dataset, card, show_ids=show_ids)), notes


def audit_command(
    name: str,
    settings: Settings,
    *,
    root: Path | None,
    options: SampleOptions,
    reference: Path | None,
    html: Path | None,
    croissant: Path | None,
    min_cell: int | None,
) -> Audit:
    """Audit the samples; write the page and the metadata if asked to."""
    population = None if reference is None else read_reference(str(reference))
    dataset, card = _load(name, settings, root, options)
    shown = audit_dataset(dataset, reference=population, min_cell=min_cell or 1)
    notes = list(dataset.notes)
    if html or croissant:
        least = min_cell or SHARED_CELL
        shared = audit_dataset(dataset, reference=population, min_cell=least)
        if html:
            notes.append(f"Page: {write_audit_page(dataset, shared, html, min_cell=least)}")
        if croissant:
            notes.append(f"Croissant: {write_croissant(dataset, card, shared, croissant)}")
    return Audit(shown, notes)


def synthesize_command(name: str, out: Path, settings: Settings) -> Path:
    """Write the miniature of a card."""
    return synthesize(_card(name, settings), out)


def _load(
    name: str, settings: Settings, root: Path | None, options: SampleOptions
) -> tuple[Dataset, DatasetCard | None]:
    dataset = load_dataset(name, root=root, settings=settings, options=options)
    return dataset, None if is_table(name) else _card(name, settings)


def _card(name: str, settings: Settings) -> DatasetCard:
    file = Path(name)
    return read_card(file if file.suffix.lower() == ".toml" else find_card(name, settings))
