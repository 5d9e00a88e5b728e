"""The dataset cards as rows: all of them, or everything that one says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fmcache.errors import UsageError
from fmcache.extract.dataset import card_files, existing_file, find_card, set_root
from fmcache.extract.dataset_card import FACTS, AttributeCard, DatasetCard, LabelCard, read_card
from fmcache.settings import Settings

_LISTED = ("modality", "dimension", "licence")


def list_datasets(settings: Settings) -> list[dict[str, Any]]:
    """One row a card: name, title, task, modality, dimension, published samples, attributes, licence, root."""
    rows: list[dict[str, Any]] = []
    for name, file in sorted(card_files(settings).items()):
        root = set_root(name, settings)
        try:
            card = read_card(file)
        except UsageError as error:
            rows.append({"name": name, "title": f"unusable: {error.what}"})
            continue
        published = card.published.get("samples")
        rows.append(
            {
                "name": name,
                "title": card.title,
                "task": card.task,
                **{key: card.document.get(key, "") for key in _LISTED},
                "samples": published,
                "attributes": ", ".join(card.attributes),
                "root": "" if root is None else str(root),
            }
        )
    return rows


def show_dataset(name: str, settings: Settings) -> list[dict[str, Any]]:
    """Everything a card says (a name or a FILE.toml), one row a field."""
    file = Path(name)
    card = read_card(existing_file(file) if file.suffix.lower() == ".toml" else find_card(name, settings))
    root = set_root(card.name, settings)
    there = f"{root}{'' if root.is_dir() else ' (not there)'}" if root else "give --root"
    rows = [("name", card.name), ("title", card.title), ("task", card.task)]
    rows += [(key.replace("_", " "), card.document[key]) for key in FACTS if card.document.get(key)]
    rows += [("patient_id is", card.document.get("patient_is", "patient")), ("root", there)]
    rows += [(f"table {table}", describe_table(card, table)) for table in card.tables]
    rows += [(f"label {label}", describe_label(of)) for label, of in card.labels.items()]
    rows += [(f"attribute {attribute}", describe_attribute(of)) for attribute, of in card.attributes.items()]
    rows += [(f"task {task}", describe_task(card, task)) for task in card.tasks]
    rows += [("split", card.split_policy or "as in the table")]
    rows += [(f"reader {key}", value) for key, value in card.document.get("reader", {}).items()]
    if "masks" in card.document:
        rows.append(("mask classes", ", ".join(card.document["masks"]["classes"])))
    rows += [(f"published {key}", f"{value:,}") for key, value in card.published.items()]
    rows += [(f"verified {key}", value) for key, value in card.document.get("verified", {}).items()]
    rows += [("note", note) for note in card.document.get("notes", [])]
    rows.append(("query", card.query.strip()))
    return [
        {"field": field, "value": value.strip() if isinstance(value, str) else value} for field, value in rows
    ]


def describe_table(card: DatasetCard, name: str) -> str:
    """Where a table lies and how it is read."""
    of = card.tables[name]
    kind = "" if of.kind == "table" else f" ({of.kind})"
    return f"{' or '.join(of.files)}{kind}{' (optional)' if of.optional else ''}"


def describe_label(card: LabelCard) -> str:
    """What is 1, what is 0, and what becomes of the uncertain."""
    by_value: dict[int | None, list[str]] = {}
    for code, value in card.codes.items():
        by_value.setdefault(value, []).append(code)
    parts = [card.title] if card.title else []
    for value, word in ((1, "positive"), (0, "negative"), (None, "unknown")):
        if value in by_value:
            parts.append(f"{word}: {', '.join(by_value[value])}")
    if card.uncertain:
        parts.append(f"uncertain: {', '.join(card.uncertain)} ({card.policy})")
    if card.blank is not None:
        parts.append(f"blank is {card.blank}")
    return "; ".join(parts)


def describe_attribute(card: AttributeCard) -> str:
    """Its groups in order, or its unit, range, unknown values and cuts."""
    unknown = [code for code, group in card.codes.items() if not group]
    parts = [
        card.title,
        f"groups {', '.join(card.groups)}" if card.groups else "",
        f"unknown: {', '.join(unknown)}" if unknown else "",
        f"a number ({card.unit})" if card.unit else ("a number" if card.is_number else ""),
        f"outside {card.range[0]:g} to {card.range[1]:g} is unknown" if card.range else "",
        f"{', '.join(f'{value:g}' for value in card.unknown)} is unknown" if card.unknown else "",
        f"groups {', '.join(card.group_names())} by cuts at {', '.join(map(str, card.cut))}"
        if card.cut
        else "",
        "and decades" if card.decades else "",
    ]
    return "; ".join(filter(None, parts)) or "text"


def describe_task(card: DatasetCard, name: str) -> str:
    """Which labels and samples a task keeps."""
    of = card.tasks[name]
    labels = f"label {', '.join(of.labels)}" if of.labels else "every label"
    return labels + (f" where {of.where}" if of.where else "")
