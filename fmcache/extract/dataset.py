"""From what the user names to a checked table of samples: ``--dataset FILE.csv | FILE.parquet | FILE.toml | NAME``.

A name is that of a card: the package's own (``datasets/*.toml``), one that fmcache.toml points to
(``[datasets.NAME] card = …``), or ``datasets/NAME.toml`` beside a fmcache.toml; a user's card wins over the package's.
The root is the flag, else ``[datasets.NAME] root``, else, for a table or a card given as a file, its folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import polars as pl

from fmcache.errors import DatasetError, UsageError
from fmcache.extract.dataset_card import DatasetCard, read_card
from fmcache.extract.dataset_tables import read_table, run_query
from fmcache.extract.inputs import read_input
from fmcache.extract.reader import ReaderOptions, Undecodable
from fmcache.extract.samples import ATTRIBUTE, LABEL, check_samples, numbers_among
from fmcache.settings import Settings

OWN_CARDS = Path(__file__).parent / "datasets"
_TABLES = (".csv", ".tsv", ".tab", ".parquet", ".gz")


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


def load_dataset(spec: str, *, root: Path | None = None, settings: Settings) -> Dataset:
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
    file = Path(spec).expanduser()
    suffix = file.suffix.lower()
    if suffix in _TABLES:
        return _from_table(_existing(file), root, settings)
    if suffix == ".toml":
        card = read_card(_existing(file))
        return _from_card(card, root or _set_root(card.name, settings) or file.parent, settings)
    card = read_card(find_card(spec, settings))
    where = root or _set_root(spec, settings)
    if where is None:
        raise DatasetError(
            f"Where the dataset {spec} lies is not known.",
            f"There is no --root and no [datasets.{spec}] root in fmcache.toml.",
            f'Add --root DIR, or in fmcache.toml: [datasets.{spec}] root = "/path/to/{spec}"',
        )
    return _from_card(card, where, settings)


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


def list_datasets(settings: Settings) -> list[dict[str, Any]]:
    """One row a card: name, title, task, licence, root (as fmcache.toml says)."""
    rows = []
    for name, file in sorted(card_files(settings).items()):
        root = _set_root(name, settings)
        row = {
            "name": name,
            "title": "",
            "task": "",
            "licence": "",
            "root": "" if root is None else str(root),
        }
        try:
            card = read_card(file)
            row |= {"title": card.title, "task": card.task, "licence": card.document.get("licence", "")}
        except UsageError as error:
            row["title"] = f"unusable: {error.what}"
        rows.append(row)
    return rows


def show_dataset(name: str, settings: Settings) -> list[dict[str, Any]]:
    """Everything a card says (a name or a FILE.toml), one row a field."""
    file = Path(name)
    card = read_card(_existing(file) if file.suffix.lower() == ".toml" else find_card(name, settings))
    root = _set_root(card.name, settings)
    rows = [("name", card.name), ("title", card.title), ("task", card.task)]
    rows += [(key, card.document.get(key, "")) for key in ("licence", "source")]
    rows += [("root", f"{root}{'' if root.is_dir() else ' (not there)'}" if root else "give --root")]
    rows += [(f"table {table}", path) for table, path in card.tables.items()]
    rows += [(f"label {label}", of.get("title", "")) for label, of in card.labels.items()]
    for attribute, of in card.attributes.items():
        cut = f"cut into {', '.join(of.group_names())}" if of.cut else ""
        rows.append((f"attribute {attribute}", "; ".join(filter(None, [", ".join(of.groups), of.unit, cut]))))
    rows += [(f"reader {key}", value) for key, value in card.document.get("reader", {}).items()]
    rows.append(("query", card.query.strip()))
    return [{"field": field, "value": value} for field, value in rows]


def _from_table(file: Path, root: Path | None, settings: Settings) -> Dataset:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", file.name.split(".")[0]).strip("-.")[:80] or "dataset"
    table = read_table(file)
    numbers = numbers_among(table)
    samples, notes = check_samples(table, file.name, numbers)
    card = {
        "name": name,
        "title": f"Table {name}",
        "task": "classification",
        "attributes": {key: _described(of) for key, of in numbers.items()},
        "labels": {column.removeprefix(LABEL): {} for column in samples.columns if column.startswith(LABEL)},
    }
    where = _root(root or _set_root(name, settings) or file.parent)
    return Dataset(name, card, where, samples, ReaderOptions(), tuple(notes))


def _from_card(card: DatasetCard, root: Path, settings: Settings) -> Dataset:
    where = _root(root)
    table = run_query(card.query, card.tables, where)
    what = f"The query of the card {card.name}"
    samples, notes = check_samples(table, what, card.attributes, allow_leakage=card.allow_leakage)
    for section, prefix in ((card.labels, LABEL), (card.attributes, ATTRIBUTE)):
        for name in section:
            if prefix + name not in samples.columns:
                near = get_close_matches(prefix + name, samples.columns, n=1)
                raise DatasetError(
                    f"The card {card.name} describes `{prefix}{name}`, which its query does not give.",
                    f"It gives: {', '.join(samples.columns)}.",
                    f"Did you mean {near[0]}?" if near else "Add the column to the query.",
                )
    document = {**card.document, "truth": _truth(where, card)} if "truth" in card.document else card.document
    return Dataset(card.name, dict(document), where, samples, card.reader, tuple(notes))


def _truth(root: Path, card: DatasetCard) -> Any:
    """What a generated study says of the effect that was planted in it: rows that fit the tidy results."""
    try:
        return json.loads(read_input(root, card.document["truth"]))["planted"]
    except (Undecodable, ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"The truth of {card.name} cannot be read from {card.document['truth']}.",
            str(error),
            "Make the study again, or remove `truth` from the card.",
        ) from None


def _described(card: Any) -> dict[str, Any]:
    described: dict[str, Any] = {"unit": card.unit}
    if card.range:
        described["range"] = list(card.range)
    if card.cut:
        described |= {"cut": list(card.cut), "names": list(card.names)}
    return described


def _existing(file: Path) -> Path:
    if file.is_file():
        return file
    there = sorted(one.name for one in file.parent.iterdir() if one.is_file()) if file.parent.is_dir() else []
    near = get_close_matches(file.name, there, n=1)
    found = (
        "The folder does not exist." if not file.parent.is_dir() else f"Its folder holds {len(there)} files."
    )
    raise DatasetError(f"There is no file {file}.", found, f"Did you mean {near[0]}?" if near else "")


def _set_root(name: str, settings: Settings) -> Path | None:
    root = settings.datasets.get(name, {}).get("root")
    return None if root is None else Path(root)


def _root(root: Path) -> Path:
    if root.is_dir():
        return root
    found = "It is a file." if root.exists() else "There is no such folder."
    raise DatasetError(f"The root {root} is not a folder.", found, "Give the dataset's folder with --root.")
