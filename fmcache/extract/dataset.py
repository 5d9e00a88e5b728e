"""From what the user names to a checked table of samples: ``--dataset FILE.csv | FILE.parquet | FILE.toml | NAME``.

A name is that of a card: the package's own (``datasets/*.toml``), one that fmcache.toml points to
(``[datasets.NAME] card = …``), or ``datasets/NAME.toml`` beside a fmcache.toml; a user's card wins over the package's.
The root is the flag, else ``[datasets.NAME] root``, else, for a table or a card given as a file, its folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import polars as pl

from fmcache.errors import DatasetError
from fmcache.extract.attribute_card import AttributeCard
from fmcache.extract.dataset_card import DatasetCard, read_card
from fmcache.extract.dataset_tables import load_table, read_table, run_query
from fmcache.extract.inputs import read_input
from fmcache.extract.reader import ReaderOptions, Undecodable, reader_options
from fmcache.extract.sample_counts import count_groups, group_columns
from fmcache.extract.sample_splits import (
    POLICIES,
    leaking_patients,
    split_as_paper,
    split_by_patient,
    split_document,
)
from fmcache.extract.samples import ATTRIBUTE, LABEL, check_codes, check_samples, numbers_among
from fmcache.settings import Settings

OWN_CARDS = Path(__file__).parent / "datasets"
SYNTHETIC = "SYNTHETIC.txt"  # marks a folder made by --synthesize
_TABLES = (".csv", ".tsv", ".tab", ".parquet", ".gz", ".xlsx", ".json")


@dataclass(frozen=True)
class Dataset:
    """A dataset that is ready to be inspected.

    Attributes
    ----------
    name : as it is called in the cache.
    card : the card as plain data; made up for a bare table. Holds no path of this machine.
    root : the existing folder below which every path lies.
    samples : see ``samples.check_samples``.
    reader : how inputs become pixels.
    notes : sentences to show the user once.
    """

    name: str
    card: Mapping[str, Any]
    root: Path
    samples: pl.DataFrame
    reader: ReaderOptions
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class SampleOptions:
    """What a user may choose of a dataset's samples; none of it changes an embedding or its key.

    Attributes
    ----------
    task : full (every label and sample) or a task of the card, such as paper.
    uncertain : u-ignore, u-zero or u-one; None: what the card says.
    split : official, patient or paper; None: what the card says, else what the table holds. split_seed : of a split
        that is drawn. balance : the attribute over which the test set of `paper` is balanced; None: the first.
    allow_leakage : accept a patient in two splits.
    slices, slicing : of volumes, in place of the card's; these do change the pixels, and so the key.
    """

    task: str = "full"
    uncertain: str | None = None
    split: str | None = None
    split_seed: int = 0
    balance: str | None = None
    allow_leakage: bool = False
    slices: int | None = None
    slicing: str | None = None

    def reader(self, of: ReaderOptions) -> ReaderOptions:
        """A dataset's reader with these slices."""
        given = {"slices": self.slices, "slicing": self.slicing}
        section = {key: value for key, value in given.items() if value is not None}
        checked = reader_options(section)
        return replace(of, **{key: getattr(checked, key) for key in section})


def load_dataset(
    spec: str, *, root: Path | None = None, settings: Settings, options: SampleOptions | None = None
) -> Dataset:
    """Read and check the samples; no image is opened.

    Parameters
    ----------
    spec : a CSV, TSV or Parquet file with the columns sample_id and path (optional: patient_id, study_id, split,
        ``label.*``, ``attribute.*``; anything else is kept), a card FILE.toml, or a card's name.
    root : the dataset as its owner ships it.

    Raises
    ------
    DatasetError : no such file, card or root; or the table cannot be used as it stands. Never shows an id.
    """
    options = options or SampleOptions()
    file = Path(spec).expanduser()
    if is_table(spec):
        return _from_table(existing_file(file), root, settings, options)
    if file.suffix.lower() == ".toml":
        card = read_card(existing_file(file))
        return _from_card(card, root or set_root(card.name, settings) or file.parent, options)
    card = read_card(find_card(spec, settings))
    where = root or set_root(spec, settings)
    if where is None:
        raise DatasetError(
            f"Where the dataset {spec} lies is not known.",
            f"There is no --root and no [datasets.{spec}] root in fmcache.toml.",
            f'Add --root DIR, or in fmcache.toml: [datasets.{spec}] root = "/path/to/{spec}"',
        )
    return _from_card(card, where, options)


def card_files(settings: Settings) -> dict[str, Path]:
    """Every card that can be named → its file; a user's card wins over the package's of the same name."""
    files = {file.stem: file for file in sorted(OWN_CARDS.glob("*.toml"))}
    for folder in reversed(settings.card_folders()):
        files.update({file.stem: file for file in sorted(folder.glob("*.toml"))})
    files.update({name: Path(of["card"]) for name, of in settings.datasets.items() if "card" in of})
    return files


def find_card(name: str, settings: Settings) -> Path:
    """The file of the card `name`; did-you-mean when there is none."""
    files = card_files(settings)
    if name in files:
        return files[name]
    near = get_close_matches(name, files, n=1)
    do = f"Did you mean {near[0]}?" if near else "Type: fmcache datasets   or give a FILE.csv or FILE.toml"
    raise DatasetError(f"There is no dataset {name!r}.", f"Known: {', '.join(sorted(files)) or 'none'}.", do)


def _from_table(file: Path, root: Path | None, settings: Settings, options: SampleOptions) -> Dataset:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", file.name.split(".")[0]).strip("-.")[:80] or "dataset"
    table = read_table(file)
    numbers = numbers_among(table)
    # a split that is drawn anew replaces the table's own, which may then leak
    redrawn = options.split in ("patient", "paper")
    samples, notes = check_samples(
        table, file.name, numbers, uncertain=options.uncertain, allow_leakage=options.allow_leakage or redrawn
    )
    if options.task != "full":
        raise DatasetError(
            f"There is no task {options.task!r} for a bare table.",
            "Tasks are part of a card.",
            "Type: --task full",
        )
    card = {
        "name": name,
        "title": f"Table {name}",
        "task": "classification",
        "attributes": {key: _described(of) for key, of in numbers.items()},
        "labels": {column.removeprefix(LABEL): {} for column in samples.columns if column.startswith(LABEL)},
    }
    where = _root(root or set_root(name, settings) or file.parent)
    samples, split = _split(samples, options.split, (), options, notes)
    return _finished(name, card, where, samples, options.reader(ReaderOptions()), notes, split)


def _from_card(card: DatasetCard, root: Path, options: SampleOptions) -> Dataset:
    where = _root(root)
    tables = {name: load_table(name, of, where) for name, of in card.tables.items()}
    table = run_query(card.query, tables)
    what = f"The card {card.name}"
    absent = [
        f"The table {name} is not there ({card.tables[name].files[0]}); what comes from it is unknown."
        for name, of in tables.items()
        if of.is_empty() and card.tables[name].kind == "table"
    ]
    for name, raw in card.raw.items():
        _given(name, table.columns, card.name)
        if raw.values:
            check_codes(table[name], raw.values, what, raw.separator)
    policy = options.split or card.split_policy or None
    samples, notes = check_samples(
        table, what, card.attributes, labels=card.labels, uncertain=options.uncertain,
        allow_leakage=card.allow_leakage or options.allow_leakage or policy in ("patient", "paper"),
    )  # fmt: skip
    for section, prefix in ((card.labels, LABEL), (card.attributes, ATTRIBUTE)):
        for name in section:
            _given(prefix + name, samples.columns, card.name)
    samples, notes = samples.sort("sample_id"), absent + notes  # a join has no order of its own
    samples = _task(samples, card, options.task)
    samples, split = _split(samples, policy, card.stratify, options, notes)
    document = {**card.document, "uncertain": options.uncertain, "sample_task": options.task}
    if card.truth:
        document["truth"] = _truth(where, card.truth, card.name)
    if is_synthetic(where):
        document["synthetic"] = True
        notes.insert(
            0, f"These files are a synthetic miniature of {card.name}; no number from it means anything."
        )
    return _finished(card.name, document, where, samples, options.reader(card.reader), notes, split)


def is_table(spec: str) -> bool:
    """Whether `spec` names a bare table, by its suffix."""
    return Path(spec).suffix.lower() in _TABLES


def is_synthetic(root: Path) -> bool:
    """Whether the folder was made by ``fmcache datasets NAME --synthesize``."""
    return (root / SYNTHETIC).is_file()


def group_order(card: Mapping[str, Any]) -> dict[str, list[str]]:
    """attribute → its groups in the card's order, also of the attributes that cuts make."""
    order: dict[str, list[str]] = {}
    for name, of in card.get("attributes", {}).items():
        if of.get("groups"):
            order[name] = list(of["groups"])
        if of.get("cut"):
            cuts = AttributeCard(cut=tuple(of["cut"]), names=tuple(of.get("names", ())))
            order[f"{name}_group"] = list(cuts.group_names())
    return order


def _truth(root: Path, path: str, name: str) -> Any:
    """What a generated study says of the effect that was planted in it: rows that fit the tidy results."""
    try:
        return json.loads(read_input(root, path))["planted"]
    except (Undecodable, ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"The truth of {name} cannot be read from {path}.",
            str(error),
            "Make the study again, or remove `truth` from the card.",
        ) from None


def _given(column: str, columns: list[str], name: str) -> None:
    if column in columns:
        return
    near = get_close_matches(column, columns, n=1)
    raise DatasetError(
        f"The card {name} describes `{column}`, which its query does not give.",
        f"It gives: {', '.join(columns)}.",
        f"Did you mean {near[0]}?" if near else "Add the column to the query.",
    )


def _finished(
    name: str,
    card: Mapping[str, Any],
    root: Path,
    samples: pl.DataFrame,
    reader: ReaderOptions,
    notes: list[str],
    split: Mapping[str, Any],
) -> Dataset:
    for column in group_columns(samples):
        groups = samples[column].drop_nulls().unique().to_list()
        if len(groups) == 1:
            what = column.removeprefix(ATTRIBUTE)
            notes.append(
                f"Every known value of {what} is {groups[0]!r}: it has no second group to compare with."
            )
    document = {
        **card,
        "split": {**card.get("split", {}), **split},
        "counts": count_groups(samples, group_order(card)),
    }
    return Dataset(name, document, root, samples, reader, tuple(notes))


def _task(samples: pl.DataFrame, card: DatasetCard, task: str) -> pl.DataFrame:
    if task == "full":
        return samples
    if task not in card.tasks:
        known = ", ".join(["full", *card.tasks])
        raise DatasetError(
            f"The card {card.name} has no task {task!r}.", f"It has: {known}.", "Type: --task full"
        )
    of = card.tasks[task]
    dropped = [LABEL + name for name in card.labels if of.labels and name not in of.labels]
    if of.where:
        samples = run_query(f"SELECT * FROM samples WHERE {of.where}", {"samples": samples})
    if samples.is_empty():
        raise DatasetError(
            f"The task {task} of {card.name} keeps no sample.",
            f"It keeps those with {of.where}.",
            f"Look at the labels with: fmcache datasets {card.name}   or choose another --task.",
        )
    return samples.drop(dropped)


def _split(
    samples: pl.DataFrame,
    policy: str | None,
    strata: tuple[str, ...],
    options: SampleOptions,
    notes: list[str],
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """The samples with their split, and what the card keeps of it."""
    given = samples["split"].is_not_null().any()
    if policy == "official" and options.split is None and not given:
        policy = "patient"  # the card expects the owner's split; its list is not among these files
    if policy is None or policy == "official":
        if policy == "official" and not given:
            raise DatasetError(
                "There is no official split.",
                "The owner gives none for these samples.",
                "Type: --split patient",
            )
        return samples, split_document("given" if given else "none", samples, None)
    if policy not in POLICIES:
        near = get_close_matches(policy, POLICIES, n=1)
        do = f"Did you mean {near[0]}?" if near else "Type: --split patient"
        raise DatasetError(f"There is no split {policy!r}.", f"Splits: {', '.join(POLICIES)}.", do)
    groups = group_columns(samples)
    if policy == "patient":
        wanted = [ATTRIBUTE + name for name in strata if ATTRIBUTE + name in samples.columns]
        wanted = [LABEL + name for name in strata if LABEL + name in samples.columns] + (wanted or groups[:2])
        wanted = wanted or [name for name in samples.columns if name.startswith(LABEL)][:1]
        samples = samples.with_columns(split_by_patient(samples, wanted, options.split_seed))
        notes.append(
            f"Split by patient, 70/10/20, stratified by {', '.join(wanted)}, seed {options.split_seed}."
        )
        return samples, split_document("patient", samples, options.split_seed, stratify=wanted)
    if not groups:
        raise DatasetError(
            "The split `paper` balances an attribute.",
            "These samples have none with groups.",
            "Type: --balance ATTRIBUTE for one whose groups are known, or another --split.",
        )
    balance = ATTRIBUTE + options.balance if options.balance else groups[0]
    balance = balance if balance in groups else f"{balance}_group"
    if balance not in groups:
        names = ", ".join(name.removeprefix(ATTRIBUTE) for name in groups)
        raise DatasetError(
            f"There is no attribute {options.balance!r} with groups.",
            f"There are: {names}.",
            "Type: --balance and one of them.",
        )
    samples = samples.with_columns(split_as_paper(samples, balance, options.split_seed))
    leaking = leaking_patients(samples)
    if leaking and not options.allow_leakage:
        raise DatasetError(
            f"The paper's split is by image: {leaking:,} patients would be in training and in test.",
            "Their test scores would look better than those of new patients.",
            "Type: --split patient   or accept and record it: --split paper --allow-leakage",
        )
    if leaking:
        notes.append(f"Leakage as in the paper: {leaking:,} patients are in training and in test.")
    return samples, split_document(
        "paper", samples, options.split_seed, unit="sample", balance=balance.removeprefix(ATTRIBUTE)
    )


def _described(card: Any) -> dict[str, Any]:
    described: dict[str, Any] = {"unit": card.unit}
    if card.range:
        described["range"] = list(card.range)
    if card.cut:
        described |= {"cut": list(card.cut), "names": list(card.names)}
    return described


def existing_file(file: Path) -> Path:
    """The file, if it is there; did-you-mean among its neighbours if not."""
    if file.is_file():
        return file
    there = sorted(one.name for one in file.parent.iterdir() if one.is_file()) if file.parent.is_dir() else []
    near = get_close_matches(file.name, there, n=1)
    found = (
        "The folder does not exist." if not file.parent.is_dir() else f"Its folder holds {len(there)} files."
    )
    raise DatasetError(f"There is no file {file}.", found, f"Did you mean {near[0]}?" if near else "")


def set_root(name: str, settings: Settings) -> Path | None:
    """Where fmcache.toml says that a dataset lies."""
    root = settings.datasets.get(name, {}).get("root")
    return None if root is None else Path(root)


def _root(root: Path) -> Path:
    if root.is_dir():
        return root
    found = "It is a file." if root.exists() else "There is no such folder."
    raise DatasetError(f"The root {root} is not a folder.", found, "Give the dataset's folder with --root.")
