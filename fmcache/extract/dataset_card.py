"""A dataset card: one TOML file that says which tables to read, the one SQL query that makes samples of them, and what
the columns mean. Cards hold no path of a machine; the root is given at run time.

    name = "mimic"                       # required: [A-Za-z0-9._-], names the dataset in the cache
    title = "MIMIC-CXR-JPG 2.1.0"        # required
    task = "classification"              # classification or segmentation; the default is classification
    licence = "PhysioNet credentialed health data licence 1.5.0"
    source = "https://physionet.org/content/mimic-cxr-jpg/2.1.0/"
    allow_leakage = false                # true: a patient may be in two splits
    truth = "truth.json"                 # what a generated study planted, below the root; stored with the dataset
    query = "SELECT … AS sample_id, … AS path, … AS patient_id, … AS \\"label.x\\", … AS \\"attribute.y\\" …"

    [tables]                             # name in the query = file below the root; * matches several files
    metadata = "mimic-cxr-2.0.0-metadata.csv.gz"

    [attributes.sex]
    groups = ["F", "M"]                  # the order of the groups; a value not listed is kept and comes after them
    [attributes.age]
    unit = "years"                       # a number; see `cut`
    range = [0, 110]                     # a value outside is unknown
    cut = [40, 60]                       # also makes attribute.age_group; a value equal to a cut is in the upper group
    names = ["0-39", "40-59", "60+"]     # the names of those groups

    [labels.no_finding]
    title = "No finding"
    text = "no finding"                  # as it stands in a sentence

    [text]
    templates = ["a chest radiograph with {}"]

    [reader]                             # see ReaderOptions: window, axis, slices, array, max_pixels
    window = [40, 400]
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Any

from fmcache.errors import DatasetError
from fmcache.extract.inputs import path_problem
from fmcache.extract.reader import ReaderOptions, reader_options

TASKS = ("classification", "segmentation")
_TEXTS = ("name", "title", "task", "licence", "source", "query", "truth")
_KEYS = (*_TEXTS, "allow_leakage", "tables", "attributes", "labels", "text", "reader")
_ATTRIBUTE = ("title", "groups", "unit", "range", "cut", "names")
_LABEL = ("title", "text")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


@dataclass(frozen=True)
class AttributeCard:
    """What a card says of one attribute; the module's text explains the keys."""

    title: str = ""
    groups: tuple[str, ...] = ()
    unit: str = ""
    range: tuple[float, float] | None = None
    cut: tuple[float, ...] = ()
    names: tuple[str, ...] = ()

    @property
    def is_number(self) -> bool:
        return bool(self.unit or self.range or self.cut)

    def group_names(self) -> tuple[str, ...]:
        """The names of the groups between the cuts.

        Examples
        --------
        >>> AttributeCard(cut=(40, 60)).group_names()
        ('<40', '40-<60', '60+')
        """
        if self.names or not self.cut:
            return self.names
        cuts = [f"{cut:g}" for cut in self.cut]
        between = [f"{low}-<{high}" for low, high in pairwise(cuts)]
        return (f"<{cuts[0]}", *between, f"{cuts[-1]}+")


@dataclass(frozen=True)
class DatasetCard:
    """A checked card. `document` is its content as plain data, without a comment or a path of this machine."""

    name: str
    title: str
    task: str
    query: str
    tables: Mapping[str, str]
    attributes: Mapping[str, AttributeCard]
    labels: Mapping[str, Mapping[str, str]]
    reader: ReaderOptions
    allow_leakage: bool
    document: Mapping[str, Any] = field(repr=False)


def read_card(file: Path) -> DatasetCard:
    """The card in a TOML file.

    Raises
    ------
    DatasetError : no such file, not TOML, an unknown key (with the nearest known one), a missing or a wrong value.
    """
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DatasetError(f"The card {file.name} cannot be read.", f"{error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DatasetError(
            f"The card {file.name} is not valid TOML.", str(error), "Mend that line."
        ) from None
    return parse_card(content, f"The card {file.name}")


def parse_card(content: Mapping[str, Any], what: str) -> DatasetCard:
    """A checked card from the content of its file; `what` begins the error messages."""
    _known(content, _KEYS, what, "")
    for key in ("name", "title", "query"):
        if not content.get(key):
            raise DatasetError(f"{what} has no `{key}`.", f"It has: {', '.join(content)}.", f"Add {key} = …")
    for key in _TEXTS:
        if not isinstance(content.get(key, ""), str):
            raise DatasetError(
                f"{what}: `{key}` is not text.", f"It is {content[key]!r}.", "Put it in quotes."
            )
    for key in ("tables", "attributes", "labels", "text", "reader"):
        if not isinstance(content.get(key, {}), dict):
            raise DatasetError(
                f"{what}: `{key}` is not a section.", "", f"Write [{key}] and its keys below it."
            )
    if not _NAME.fullmatch(content["name"]):
        found = "It needs 1 to 80 of the characters A-Z a-z 0-9 . _ - and begins with a letter or digit."
        raise DatasetError(f"{what}: {content['name']!r} is no dataset name.", found, "Choose another name.")
    task = content.get("task", TASKS[0])
    if task not in TASKS:
        raise DatasetError(
            f"{what}: there is no task {task!r}.", f"Tasks: {', '.join(TASKS)}.", "Mend `task`."
        )
    if not isinstance(content.get("allow_leakage", False), bool):
        raise DatasetError(f"{what}: `allow_leakage` is neither true nor false.")
    tables = content.get("tables", {})
    if not tables:
        raise DatasetError(f"{what} names no table.", "", 'Add a section [tables] with NAME = "FILE.csv".')
    for name, path in tables.items():
        if not isinstance(path, str) or path_problem(path):
            why = path_problem(path) if isinstance(path, str) else "is not text"
            raise DatasetError(
                f"{what}: the path of table `{name}` {why}.",
                f"It is {path!r}.",
                "Paths are relative to the root.",
            )
    _check_text(content.get("text", {}), what)
    labels = content.get("labels", {})
    for name, section in labels.items():
        _known(section, _LABEL, what, f"[labels.{name}] ")
    return DatasetCard(
        name=content["name"],
        title=content["title"],
        task=task,
        query=content["query"],
        tables=tables,
        attributes={name: _attribute(name, of, what) for name, of in content.get("attributes", {}).items()},
        labels=labels,
        reader=reader_options(content.get("reader", {})),
        allow_leakage=content.get("allow_leakage", False),
        document={"task": task, **content},
    )


def _attribute(name: str, section: Any, what: str) -> AttributeCard:
    where = f"[attributes.{name}] "
    _known(section, _ATTRIBUTE, what, where)
    for key in ("title", "unit"):
        if not isinstance(section.get(key, ""), str):
            raise DatasetError(f"{what}: {where}{key} is not text.")
    for key, kind in (("groups", str), ("names", str), ("range", float), ("cut", float)):
        values = section.get(key, [])
        wanted = (str,) if kind is str else (int, float)
        if not isinstance(values, list) or not all(type(value) in wanted for value in values):
            raise DatasetError(f"{what}: {where}{key} is no list of {'texts' if kind is str else 'numbers'}.")
    cut, names, span = section.get("cut", []), section.get("names", []), section.get("range")
    if list(cut) != sorted(set(cut)):
        raise DatasetError(
            f"{what}: {where}cut does not rise.", f"It is {cut}.", "Write it as in cut = [40, 60]."
        )
    if span is not None and (len(span) != 2 or span[0] >= span[1]):
        raise DatasetError(f"{what}: {where}range is not [lowest, highest].", f"It is {span}.")
    if names and len(names) != len(cut) + 1:
        found = f"There are {len(cut)} cuts and {len(names)} names."
        raise DatasetError(f"{what}: {where}names does not fit cut.", found, "n cuts make n + 1 groups.")
    return AttributeCard(
        title=section.get("title", ""),
        groups=tuple(section.get("groups", ())),
        unit=section.get("unit", ""),
        range=None if span is None else (float(span[0]), float(span[1])),
        cut=tuple(cut),
        names=tuple(names),
    )


def _check_text(section: Mapping[str, Any], what: str) -> None:
    _known(section, ("templates",), what, "[text] ")
    templates = section.get("templates", [])
    if not isinstance(templates, list) or not all(isinstance(one, str) and "{}" in one for one in templates):
        raise DatasetError(f"{what}: [text] templates is no list of texts with {{}} in each.")


def _known(section: Any, known: Iterable[str], what: str, where: str) -> None:
    if not isinstance(section, dict):
        raise DatasetError(f"{what}: {where.strip()} is not a section.")
    known = list(known)
    for key in section:
        if key not in known:
            near = get_close_matches(key, known, n=1)
            do = f"Did you mean `{near[0]}`?" if near else "Remove it."
            raise DatasetError(
                f"{what}: {where}`{key}` means nothing here.", f"Known: {', '.join(known)}.", do
            )
