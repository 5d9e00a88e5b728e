"""A dataset as Croissant metadata (MLCommons, with the responsible-AI fields that its card and its audit can fill).

What is described are the owner's tables as published: their files with sha256, their columns as text. No row leaves
them. Fields that nobody stated are left out rather than guessed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fmcache.errors import FmcacheError, MissingExtra
from fmcache.extract.dataset import Dataset
from fmcache.extract.dataset_audit import AuditRow
from fmcache.extract.dataset_card import DatasetCard
from fmcache.extract.dataset_tables import load_table, table_files

_FORMATS = {".csv": "text/csv", ".tsv": "text/tab-separated-values", ".tab": "text/tab-separated-values"}


def write_croissant(dataset: Dataset, card: DatasetCard | None, rows: Sequence[AuditRow], out: Path) -> Path:
    """Write the JSON-LD, validated by mlcroissant, and return its path.

    Raises
    ------
    MissingExtra : mlcroissant is not installed. FmcacheError : it refuses the description.
    """
    try:
        import mlcroissant as mlc
    except ModuleNotFoundError:
        raise MissingExtra(
            "A Croissant export needs mlcroissant.",
            "It is not installed.",
            'Type: pip install "fmcache[croissant]"',
        ) from None
    facts = dict(dataset.card)
    files, records = _tables(mlc, dataset, card)
    metadata = mlc.Metadata(
        name=dataset.name,
        description=_description(facts),
        license=[facts["licence"]] if facts.get("licence") else None,
        url=facts.get("source") or f"urn:fmcache:dataset:{dataset.name}",
        cite_as=facts.get("citation"),
        version=_version(str(facts.get("version", ""))),
        distribution=files,
        record_sets=records,
        **_responsible(facts, rows),
    )
    if problems := sorted(metadata.ctx.issues.errors):
        raise FmcacheError(
            "The dataset cannot be described in Croissant.", problems[0], "Mend that in its card."
        )
    out.write_text(
        json.dumps(metadata.to_json(), indent=2, ensure_ascii=False, default=str) + "\n", encoding="utf-8"
    )
    return out


def _tables(mlc: Any, dataset: Dataset, card: DatasetCard | None) -> tuple[list[Any], list[Any]]:
    files, records = [], []
    for name, of in ({} if card is None else card.tables).items():
        if of.kind != "table":
            continue
        for path in table_files(of, dataset.root):
            suffix = next((part for part in path.suffixes if part in _FORMATS), "" if path.suffix else ".csv")
            ident = path.relative_to(dataset.root).as_posix()
            form = _FORMATS.get(suffix, "application/octet-stream")
            files.append(
                mlc.FileObject(
                    id=ident, name=path.name, content_url=ident, encoding_formats=[form],
                    sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
                )
            )  # fmt: skip
            if suffix not in _FORMATS or path.suffix == ".gz" or of.names:
                continue
            columns = [
                column
                for column in load_table(name, of, dataset.root).columns
                if column and not column.startswith("unnamed")
            ]
            fields = [
                mlc.Field(
                    id=f"{name}/{column}", name=column, data_types=mlc.DataType.TEXT,
                    source=mlc.Source(file_object=ident, extract=mlc.Extract(column=column)),
                )
                for column in columns
            ]  # fmt: skip
            records.append(mlc.RecordSet(id=name, name=name, fields=fields))
            break
    return files, records


def _description(facts: dict[str, Any]) -> str:
    counts = facts["counts"]
    parts = [facts.get("title", facts["name"])]
    parts += [
        f"{key.replace('_', ' ')}: {facts[key]}"
        for key in ("modality", "body_part", "dimension", "task")
        if facts.get(key)
    ]
    parts.append(
        f"{counts['samples']:,} samples of {counts['patients']:,} {facts.get('patient_is', 'patient')}s"
    )
    if facts.get("synthetic"):
        parts.insert(0, "SYNTHETIC MINIATURE")
    return "; ".join(parts) + "."


def _version(text: str) -> str:
    """Croissant wants MAJOR.MINOR.PATCH; what the owner wrote otherwise stands in the description."""
    parts = text.split(",")[0].split(".")
    numbers = [part for part in parts if part.isdecimal()]
    return ".".join([*numbers, "0", "0", "0"][:3]) if numbers and len(numbers) == len(parts) else "1.0.0"


def _responsible(facts: dict[str, Any], rows: Sequence[AuditRow]) -> dict[str, Any]:
    """The RAI fields: what the card states, and what the audit measured."""
    attributes = sorted(facts["counts"]["attributes"])
    missing = [
        f"{row.attribute or row.label}: {row.value:.1%} unknown"
        for row in rows
        if row.section == "missingness" and row.value and not row.hidden
    ]
    shares: dict[str, list[str]] = {}
    for row in rows:
        if row.section == "representation" and "*" not in row.attribute and row.value is not None:
            shares.setdefault(row.attribute, []).append(f"{row.group} {row.value:.1%}")
    policy = facts.get("label_defaults", {}).get("policy", "")
    coded = [f"{name} {of.get('policy', policy)}".strip() for name, of in facts.get("labels", {}).items()]
    filled = {
        "data_biases": [f"{name}: {', '.join(parts)}" for name, parts in shares.items()],
        "data_collection_missing_data": "; ".join(missing) or None,
        "data_limitations": list(facts.get("notes", [])) or None,
        "data_annotation_protocol": f"Binary labels {', '.join(coded)}." if coded else None,
        "data_preprocessing_protocol": [
            f"Split: {facts['split'].get('policy')}",
            f"Reader: {json.dumps(facts.get('reader', {}))}",
        ],
        "personal_sensitive_information": attributes or None,
        "data_use_cases": [
            "Measuring how fair a frozen model's predictions are across the attributes above."
        ],
    }
    return {key: value for key, value in filled.items() if value}
