"""A dataset card: one TOML file that says which tables to read, the one SQL query that makes samples of them, and what
the columns mean. Cards hold no path of a machine; the root is given at run time.

    name = "mimic"                       # required: [A-Za-z0-9._-], names the dataset in the cache
    title = "MIMIC-CXR-JPG 2.1.0"        # required
    task = "classification"              # classification (the default) or segmentation
    licence = "PhysioNet credentialed health data licence 1.5.0"
    source = "https://physionet.org/content/mimic-cxr-jpg/2.1.0/"
    patient_is = "patient"               # what patient_id stands for: patient, subject, lesion, nodule, sample
    query = "SELECT … AS sample_id, … AS path, … AS patient_id, … AS \\"label.x\\", … AS \\"attribute.y\\" …"
    truth = "truth.json"                 # what a generated study planted, below the root; stored with the dataset
    # also, as text: owner, version, access, citation, modality, body_part, dimension, tree; notes = ["…"];
    # allow_leakage = true accepts a patient in two splits

    [tables]                             # name in the query = file below the root; see "Tables"
    metadata = "mimic-cxr-2.0.0-metadata.csv.gz"

    [attributes.sex]
    groups = ["female", "male"]          # the order of the groups
    codes = { F = "female", M = "male", U = "" }   # raw code → group; "" is unknown; another code stops the extraction
    [attributes.age]
    unit = "years"                       # a number; see `cut`
    range = [0, 110]                     # a value outside is unknown
    unknown = [0]                        # values that mean "not known"
    cut = [40, 60]                       # also makes attribute.age_group; a value equal to a cut is in the upper group
    names = ["0-39", "40-59", "60+"]     # the names of those groups
    decades = true                       # also makes attribute.age_decade

    [labels.no_finding]
    title = "No finding"
    text = "no finding"                  # as it stands in a sentence
    classes = ["diseased", "normal"]     # the names of value 0 and value 1 in a text prompt
    codes = { "1.0" = 1, "0.0" = 0, "9" = "" }   # raw code → 0, 1 or "" (unknown); another code stops the extraction
    uncertain = ["-1.0"]                 # codes that mean "perhaps"
    policy = "u-ignore"                  # what becomes of them: u-ignore (unknown), u-zero, u-one; see --uncertain
    blank = 0                            # what an empty cell means; absent: unknown
    [label_defaults]                     # codes, uncertain, policy, blank of every label that has none of its own

    [raw.findings]                       # a column of the query that is kept as it is, and whose codes are checked
    values = ["No Finding", "Edema"]
    separator = "|"

    [text]
    templates = ["a chest radiograph with {}"]

    [split]
    policy = "official"                  # or "patient": 70/10/20, seeded; see "Splits"
    stratify = ["sex"]

    [tasks.paper]                        # what --task paper keeps
    labels = ["no_finding"]
    where = '"attribute.sex" IS NOT NULL'

    [published]                          # what the owner counts; `fmcache datasets NAME --root DIR` compares
    samples = 377110

    [verified]                           # how each fact is known: run, read, inferred or memory
    layout = "read"

    [reader]                             # see ReaderOptions: window, axis, slices, slicing, spacing, array, max_pixels
    window = [40, 400]

    [masks]                              # of a segmentation dataset; see "Masks"
    classes = ["kidney", "tumor"]

    [[synthetic]]                        # the files of `fmcache datasets NAME --synthesize DIR`; see "Miniatures"
    file = "train.csv"
    text = "…"
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from fmcache.errors import DatasetError
from fmcache.extract.attribute_card import POLICIES, AttributeCard, LabelCard
from fmcache.extract.masks import mask_card
from fmcache.extract.reader import ReaderOptions, reader_options
from fmcache.extract.table_card import TableCard, table_card

__all__ = ["AttributeCard", "DatasetCard", "LabelCard", "parse_card", "read_card"]

TASKS = ("classification", "segmentation")
UNITS = ("patient", "subject", "lesion", "nodule", "sample")
SPLIT_POLICIES = ("official", "patient")
TAGS = ("run", "read", "inferred", "memory")
FACTS = (
    "owner",
    "version",
    "licence",
    "access",
    "citation",
    "source",
    "modality",
    "body_part",
    "dimension",
    "tree",
)
_TEXTS = ("name", "title", "task", "query", "patient_is", "truth", *FACTS)
_SECTIONS = ("tables", "attributes", "labels", "label_defaults", "raw", "text", "split", "tasks", "published",
             "verified", "reader", "masks")  # fmt: skip
_KEYS = (*_TEXTS, "notes", "allow_leakage", *_SECTIONS, "synthetic")
_ATTRIBUTE = ("title", "groups", "codes", "unit", "range", "unknown", "cut", "names", "decades")
_LABEL = ("title", "text", "classes", "codes", "uncertain", "policy", "blank")
_DEFAULTS = ("codes", "uncertain", "policy", "blank")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


@dataclass(frozen=True)
class TaskCard:
    """What one task keeps of a dataset: these labels, and the samples for which the SQL condition `where` holds."""

    labels: tuple[str, ...] = ()
    where: str = ""


@dataclass(frozen=True)
class RawCard:
    """A raw column that is kept, the codes it may hold, and what separates several codes in one cell."""

    values: tuple[str, ...] = ()
    separator: str = ""


@dataclass(frozen=True)
class DatasetCard:
    """A checked card. `document` is its content as plain data, without a path of this machine or the miniature."""

    name: str
    title: str
    task: str
    query: str
    tables: Mapping[str, TableCard]
    attributes: Mapping[str, AttributeCard]
    labels: Mapping[str, LabelCard]
    raw: Mapping[str, RawCard]
    tasks: Mapping[str, TaskCard]
    reader: ReaderOptions
    split_policy: str
    stratify: tuple[str, ...]
    published: Mapping[str, int]
    allow_leakage: bool
    truth: str
    document: Mapping[str, Any] = field(repr=False)
    synthetic: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)


def read_card(file: Path) -> DatasetCard:
    """The card in a TOML file.

    Raises
    ------
    DatasetError : no such file, not TOML, an unknown key (with the nearest known one), a missing or a wrong value.
    """
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DatasetError(
            f"The card {file.name} cannot be read.",
            f"{error.strerror}.",
            "Give a file that you may read; look at it with: ls -l",
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DatasetError(
            f"The card {file.name} is not valid TOML.", str(error), "Mend that line."
        ) from None
    return parse_card(content, f"The card {file.name}")


def parse_card(content: Mapping[str, Any], what: str) -> DatasetCard:
    """A checked card from the content of its file; `what` begins the error messages."""
    _check_top(content, what)
    if not content.get("tables"):
        raise DatasetError(f"{what} names no table.", "", 'Add a section [tables] with NAME = "FILE.csv".')
    _check_text(content.get("text", {}), what)
    _check_facts(content, what)
    defaults = content.get("label_defaults", {})
    _known(defaults, _DEFAULTS, what, "[label_defaults] ")
    labels = {name: _label(name, of, defaults, what) for name, of in content.get("labels", {}).items()}
    split = content.get("split", {})
    _known(split, ("policy", "stratify"), what, "[split] ")
    policy = split.get("policy", "")
    if policy not in ("", *SPLIT_POLICIES):
        raise DatasetError(
            f"{what}: [split] there is no policy {policy!r}.",
            f"It is {' or '.join(SPLIT_POLICIES)}.",
            "Choose one; docs/datasets.md (Splits) says what each does.",
        )
    if content.get("masks"):
        mask_card(content, what)
    synthetic = content.get("synthetic", [])
    if not isinstance(synthetic, list) or not all(
        isinstance(one, dict) and "file" in one for one in synthetic
    ):
        raise DatasetError(
            f"{what}: [[synthetic]] is no list of sections with a `file` each.",
            f"It is {synthetic!r}.",
            'Write [[synthetic]] and below it file = "FILE.csv".',
        )
    return DatasetCard(
        name=content["name"],
        title=content["title"],
        task=content.get("task", TASKS[0]),
        query=content["query"],
        tables={name: table_card(name, of, what) for name, of in content["tables"].items()},
        attributes={name: _attribute(name, of, what) for name, of in content.get("attributes", {}).items()},
        labels=labels,
        raw={name: _raw(name, of, what) for name, of in content.get("raw", {}).items()},
        tasks={name: _task(name, of, labels, what) for name, of in content.get("tasks", {}).items()},
        reader=reader_options(content.get("reader", {})),
        split_policy=policy,
        stratify=_list(split, "stratify", f"{what}: [split] "),
        published=content.get("published", {}),
        allow_leakage=content.get("allow_leakage", False),
        truth=content.get("truth", ""),
        document={"task": TASKS[0], **{key: of for key, of in content.items() if key != "synthetic"}},
        synthetic=tuple(synthetic),
    )


def _check_top(content: Mapping[str, Any], what: str) -> None:
    _known(content, _KEYS, what, "")
    for key in ("name", "title", "query"):
        if not content.get(key):
            raise DatasetError(f"{what} has no `{key}`.", f"It has: {', '.join(content)}.", f"Add {key} = …")
    for key in _TEXTS:
        if not isinstance(content.get(key, ""), str):
            raise DatasetError(
                f"{what}: `{key}` is not text.", f"It is {content[key]!r}.", "Put it in quotes."
            )
    for key in _SECTIONS:
        if not isinstance(content.get(key, {}), dict):
            raise DatasetError(
                f"{what}: `{key}` is not a section.", "", f"Write [{key}] and its keys below it."
            )
    if not _NAME.fullmatch(content["name"]):
        found = "It needs 1 to 80 of the characters A-Z a-z 0-9 . _ - and begins with a letter or digit."
        raise DatasetError(f"{what}: {content['name']!r} is no dataset name.", found, "Choose another name.")
    for key, known in (("task", TASKS), ("patient_is", UNITS)):
        value = content.get(key, known[0])
        if value not in known:
            raise DatasetError(
                f"{what}: there is no {key} {value!r}.", f"It is one of {', '.join(known)}.", f"Mend `{key}`."
            )
    if not isinstance(content.get("allow_leakage", False), bool):
        raise DatasetError(
            f"{what}: `allow_leakage` is neither true nor false.",
            f"It is {content['allow_leakage']!r}.",
            "Write allow_leakage = true, without quotes, or leave it away.",
        )


def _check_facts(content: Mapping[str, Any], what: str) -> None:
    for name, count in content.get("published", {}).items():
        if type(count) is not int:
            raise DatasetError(
                f"{what}: [published] {name} is no whole number.",
                f"It is {count!r}.",
                "Write the number that the owner published, without quotes.",
            )
    for name, tag in content.get("verified", {}).items():
        if tag not in TAGS:
            raise DatasetError(
                f"{what}: [verified] {name} cannot be {tag!r}.",
                f"It is one of {', '.join(TAGS)}.",
                "Choose one; docs/datasets.md (A card) says what each means.",
            )
    _list(content, "notes", f"{what}: ")


def _attribute(name: str, section: Any, what: str) -> AttributeCard:
    where = f"[attributes.{name}] "
    _known(section, _ATTRIBUTE, what, where)
    for key in ("title", "unit"):
        if not isinstance(section.get(key, ""), str):
            raise DatasetError(
                f"{what}: {where}{key} is not text.", f"It is {section[key]!r}.", "Put it in quotes."
            )
    for key, kind in (("groups", str), ("names", str), ("range", float), ("cut", float), ("unknown", float)):
        values = section.get(key, [])
        wanted = (str,) if kind is str else (int, float)
        if not isinstance(values, list) or not all(type(value) in wanted for value in values):
            raise DatasetError(
                f"{what}: {where}{key} is no list of {'texts' if kind is str else 'numbers'}.",
                f"It is {values!r}.",
                "Write a list: [a, b].",
            )
    cut, names, span = section.get("cut", []), section.get("names", []), section.get("range")
    if list(cut) != sorted(set(cut)):
        raise DatasetError(
            f"{what}: {where}cut does not rise.", f"It is {cut}.", "Write it as in cut = [40, 60]."
        )
    if span is not None and (len(span) != 2 or span[0] >= span[1]):
        raise DatasetError(
            f"{what}: {where}range is not [lowest, highest].", f"It is {span}.", "Write range = [0, 120]."
        )
    if names and len(names) != len(cut) + 1:
        found = f"There are {len(cut)} cuts and {len(names)} names."
        raise DatasetError(f"{what}: {where}names does not fit cut.", found, "n cuts make n + 1 groups.")
    codes, groups = section.get("codes", {}), section.get("groups", [])
    if not isinstance(codes, dict) or not all(isinstance(group, str) for group in codes.values()):
        raise DatasetError(
            f'{what}: {where}codes is no table of code = "group".',
            f"It is {codes!r}.",
            'Write codes = { F = "female", M = "male" }; docs/datasets.md (Codes) shows it.',
        )
    if groups and (stray := sorted(set(codes.values()) - {*groups, ""})):
        raise DatasetError(
            f"{what}: {where}codes names the group {stray[0]!r}.", f"The groups are {', '.join(groups)}.",
            "Add it to groups, or mend the code.",
        )  # fmt: skip
    card = AttributeCard(
        title=section.get("title", ""),
        groups=tuple(groups),
        codes=codes,
        unit=section.get("unit", ""),
        range=None if span is None else (float(span[0]), float(span[1])),
        unknown=tuple(section.get("unknown", ())),
        cut=tuple(cut),
        names=tuple(names),
        decades=bool(section.get("decades", False)),
    )
    if card.codes and card.is_number:
        raise DatasetError(f"{what}: {where}has codes and is a number.", "", "Keep the one or the other.")
    return card


def _label(name: str, section: Any, defaults: Mapping[str, Any], what: str) -> LabelCard:
    where = f"[labels.{name}] "
    _known(section, _LABEL, what, where)
    of = {**defaults, **section}
    codes, classes = of.get("codes", {}), _list(of, "classes", f"{what}: {where}")
    if not isinstance(codes, dict) or not all(value in (0, 1, "") for value in codes.values()):
        raise DatasetError(
            f'{what}: {where}codes is no table of code = 0, 1 or "".',
            f"It is {codes!r}.",
            "Write codes = { yes = 1, no = 0 }; docs/datasets.md (Codes) shows it.",
        )
    if classes and len(classes) != 2:
        raise DatasetError(
            f"{what}: {where}classes are not two.",
            f"They are {', '.join(classes)}.",
            "Name the negative class first, then the positive one.",
        )
    if of.get("policy", POLICIES[0]) not in POLICIES:
        raise DatasetError(
            f"{what}: {where}there is no policy {of['policy']!r}.",
            f"Policies: {', '.join(POLICIES)}.",
            "Choose one; docs/datasets.md (Codes) says what each does.",
        )
    if of.get("blank") not in (None, 0, 1):
        raise DatasetError(
            f"{what}: {where}blank is neither 0 nor 1.",
            f"It is {of['blank']!r}.",
            "Write blank = 0 where an empty cell means no finding, or leave it away.",
        )
    return LabelCard(
        title=str(of.get("title", "")),
        text=str(of.get("text", "")),
        classes=classes,
        codes={code: None if value == "" else int(value) for code, value in codes.items()},
        uncertain=_list(of, "uncertain", f"{what}: {where}"),
        policy=of.get("policy", POLICIES[0]),
        blank=of.get("blank"),
    )


def _raw(name: str, section: Any, what: str) -> RawCard:
    _known(section, ("values", "separator"), what, f"[raw.{name}] ")
    return RawCard(_list(section, "values", f"{what}: [raw.{name}] "), str(section.get("separator", "")))


def _task(name: str, section: Any, labels: Mapping[str, LabelCard], what: str) -> TaskCard:
    _known(section, ("labels", "where"), what, f"[tasks.{name}] ")
    wanted = _list(section, "labels", f"{what}: [tasks.{name}] ")
    if stray := [label for label in wanted if label not in labels]:
        raise DatasetError(
            f"{what}: [tasks.{name}] names the label {stray[0]}.",
            f"Labels: {', '.join(labels)}.",
            f"Correct the name, or add the section [labels.{stray[0]}].",
        )
    return TaskCard(wanted, str(section.get("where", "")))


def _check_text(section: Mapping[str, Any], what: str) -> None:
    _known(section, ("templates",), what, "[text] ")
    templates = section.get("templates", [])
    if not isinstance(templates, list) or not all(isinstance(one, str) and "{}" in one for one in templates):
        raise DatasetError(
            f"{what}: [text] templates is no list of texts with {{}} in each.",
            f"It is {templates!r}.",
            'Write templates = ["a photo of {}."].',
        )


def _list(section: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    values = section.get(key, [])
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise DatasetError(
            f"{where}{key} is no list of texts.",
            f"It is {values!r}.",
            'Write a list of texts: ["no finding", …].',
        )
    return tuple(values)


def _known(section: Any, known: Iterable[str], what: str, where: str) -> None:
    if not isinstance(section, dict):
        raise DatasetError(
            f"{what}: {where.strip()} is not a section.",
            f"It is {section!r}.",
            "Write its keys below a heading in brackets; docs/datasets.md (A card) shows it.",
        )
    known = list(known)
    for key in section:
        if key not in known:
            near = get_close_matches(key, known, n=1)
            do = f"Did you mean `{near[0]}`?" if near else "Remove it."
            raise DatasetError(
                f"{what}: {where}`{key}` means nothing here.", f"Known: {', '.join(known)}.", do
            )
