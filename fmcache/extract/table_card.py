"""What a dataset card says of one table: where it lies and how its rows are read.

    [tables]
    metadata = "mimic-cxr-2.0.0-metadata.csv.gz"       # short for file = "…"

    [tables.demo]
    file = ["CHEXPERT DEMO.xlsx", "chexpert_demo.csv"] # the first that is there
    sheet = "CheXpert Demo 11-13"                      # of a workbook; default: the first sheet
    skip = 3                                           # rows before the data (with `names`) or before the header
    names = ["ID", "Age"]                              # the columns' names, for a file without a usable header
    rename = { "Patient Sex" = "Patient Gender" }      # where another release has another name
    columns = ["PATIENT", "PRIMARY_RACE"]              # exist in the query even if the file lacks them (then null)
    optional = true                                    # not there: a table of `columns` without rows

    [tables.photos]
    kind = "files"                                     # one row a file: `file`, relative to the root
    file = ["images/*.png", "images_*/images/*.png"]   # every pattern counts; * and ** as in a shell

Kinds: ``table`` (CSV, TSV, either .gz, Parquet, XLSX, JSON list), ``files`` (names only), ``text`` (`file`, `text`),
``npz`` (`file`, `arrays`, and every scalar by its name), ``hdf5`` (`file`, `i`, and the one-dimensional arrays in
`fields`), ``dicom`` (`file`, and the header's `fields`). Cells are text, exactly as written; an empty cell is null.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from fmcache.errors import DatasetError
from fmcache.extract.inputs import path_problem

KINDS = ("table", "files", "text", "npz", "hdf5", "dicom")
_KEYS = ("file", "kind", "sheet", "skip", "names", "rename", "columns", "optional", "fields")


@dataclass(frozen=True)
class TableCard:
    """One table; the module's text explains the keys."""

    files: tuple[str, ...]
    kind: str = "table"
    sheet: str = ""
    skip: int = 0
    names: tuple[str, ...] = ()
    rename: Mapping[str, str] = field(default_factory=dict)
    columns: tuple[str, ...] = ()
    optional: bool = False
    fields: tuple[str, ...] = ()


def table_card(name: str, section: Any, what: str) -> TableCard:
    """The table `name` of a card; `what` begins the error messages.

    Raises
    ------
    DatasetError : an unknown key, a value of the wrong kind, or a path that leaves the root.
    """
    where = f"[tables.{name}] "
    if isinstance(section, str):
        section = {"file": section}
    if not isinstance(section, dict):
        raise DatasetError(
            f"{what}: table `{name}` is neither a path nor a section.",
            f"It is {section!r}.",
            f'Write {name} = "FILE.csv", or a section [tables.{name}] with a `path`.',
        )
    for key in section:
        if key not in _KEYS:
            near = get_close_matches(key, _KEYS, n=1)
            do = f"Did you mean `{near[0]}`?" if near else "Remove it."
            raise DatasetError(
                f"{what}: {where}`{key}` means nothing here.", f"Known: {', '.join(_KEYS)}.", do
            )
    files = section.get("file", [])
    files = (files,) if isinstance(files, str) else tuple(files)
    if not files or not all(isinstance(file, str) for file in files):
        raise DatasetError(f"{what}: {where}has no file.", "", 'Write file = "TABLE.csv".')
    for file in files:
        if problem := path_problem(file):
            raise DatasetError(
                f"{what}: the path of table `{name}` {problem}.",
                f"It is {file!r}.",
                "Paths are relative to the root.",
            )
    kind = section.get("kind", KINDS[0])
    if kind not in KINDS:
        raise DatasetError(
            f"{what}: {where}there is no kind {kind!r}.",
            f"Kinds: {', '.join(KINDS)}.",
            "Choose one, or leave `kind` away for a table; docs/datasets.md (Tables) says what each reads.",
        )
    wrong = [key for key in ("names", "columns", "fields") if not _texts(section.get(key, []))]
    wrong += [key for key in ("optional",) if not isinstance(section.get(key, False), bool)]
    wrong += [key for key in ("skip",) if type(section.get(key, 0)) is not int]
    wrong += [key for key in ("rename",) if not isinstance(section.get(key, {}), dict)]
    wrong += [key for key in ("sheet",) if not isinstance(section.get(key, ""), str)]
    if wrong:
        raise DatasetError(
            f"{what}: {where}{wrong[0]} is of the wrong type.",
            f"It is {section[wrong[0]]!r}.",
            "Correct it in the card; docs/datasets.md (Tables) says what each key holds.",
        )
    return TableCard(
        files=files,
        kind=kind,
        sheet=section.get("sheet", ""),
        skip=section.get("skip", 0),
        names=tuple(section.get("names", ())),
        rename=section.get("rename", {}),
        columns=tuple(section.get("columns", ())),
        optional=section.get("optional", False),
        fields=tuple(section.get("fields", ())),
    )


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)
