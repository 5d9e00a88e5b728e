"""docs/datasets.md, made from the cards."""

from __future__ import annotations

from types import ModuleType

from fmcache.extract import (
    attribute_card,
    dataset_audit,
    dataset_card,
    decode,
    dicom,
    dicom_series,
    inputs,
    mha,
    sample_splits,
    samples,
    synthesize,
    table_card,
    volumes,
)
from fmcache.extract.dataset import OWN_CARDS
from fmcache.extract.dataset_card import FACTS, DatasetCard, read_card
from fmcache.extract.dataset_listing import describe_attribute, describe_label, describe_table, describe_task
from fmcache.extract.samples import SPLIT_ALIASES

_INTRODUCTION = f"""\
# Datasets

`fmcache extract --dataset` takes a table, a card, or a card's name.

## A table: `--dataset FILE.csv` (or .tsv, either also .gz, .parquet, .xlsx, .json)

| column | | |
|---|---|---|
| `sample_id` | required | text, unique; `007` stays `007`, only outer white space is removed |
| `path` | required | the file, relative to the root; never leaves it |
| `patient_id` | optional | without it every sample counts as a patient of its own, and fmcache says so |
| `split` | optional | train, val, test or empty ({", ".join(f"{a} = {s}" for a, s in SPLIT_ALIASES.items())}) |
| `label.NAME` | optional | 0, 1 or empty (unknown); anything else is an error |
| `attribute.NAME` | optional | text, or a number; empty is unknown |
| any other | | kept as it is |

`split` can also be drawn: `--split patient`.
The root is `--root`, else `[datasets.NAME] root` in fmcache.toml, else the table's folder.

NUMBERS

## A card: `--dataset FILE.toml`, or `NAME` for `datasets/NAME.toml` beside fmcache.toml

"""


def datasets_page() -> str:
    """The page as Markdown: the columns of a table, the keys of a card, the rules for pixels, every card."""
    numbers = (samples.numbers_among.__doc__ or "").split("\n\n", 1)[1]
    own = [read_card(file) for file in sorted(OWN_CARDS.glob("*.toml"))]
    parts = [
        _INTRODUCTION.replace("NUMBERS", _plain(numbers)),
        _with_example(dataset_card),
        "\n### Tables\n\n",
        _with_example(table_card),
        "\n### Codes\n\n",
        f"{_plain(attribute_card.__doc__ or '')}\n",
        "\n### Splits\n\n",
        f"{_plain(sample_splits.__doc__ or '')}\n",
        "\n### Masks\n\n",
        "decisions/170-masks.md says how a sample carries its mask.\n",
        "\n### Miniatures\n\n",
        _with_example(synthesize),
        "\n## Audit: `fmcache datasets NAME --audit`\n\n",
        _with_example(dataset_audit),
        "\n## How inputs become pixels\n",
    ]
    parts += [
        f"\n{_plain(module.__doc__ or '')}\n"
        for module in (inputs, decode, dicom, dicom_series, volumes, mha)
    ]
    parts += ["\n## Cards that come with fmcache\n\n", _overview(own)]
    parts += [_section(card) for card in own]
    return "".join(parts)


def _plain(text: str) -> str:
    lines = [line.strip() for line in text.strip().splitlines()]
    return "\n".join(lines).replace("``", "`")


def _with_example(module: ModuleType) -> str:
    """A module's text whose indented part is an example."""
    head, *rest = (module.__doc__ or "").split("\n\n")
    out = [_plain(head)]
    for part in rest:
        indented = part.startswith("    ")
        body = "\n".join(line.removeprefix("    ") for line in part.rstrip().splitlines())
        if indented and out[-1].endswith("\n```"):  # one example, interrupted by an empty line
            out[-1] = f"{out[-1].removesuffix('```')}\n{body}\n```"
        else:
            out.append(
                f"```toml\n{body}\n```"
                if indented
                else _plain(part)
                if "  " not in part.strip()
                else f"```\n{body}\n```"
            )
    return "\n\n".join(out) + "\n"


def _overview(cards: list[DatasetCard]) -> str:
    names = ("name", "task", "modality", "dimension", "samples", "patient_id is", "attributes")
    head = f"| {' | '.join(names)} |\n|---|---|---|---|---:|---|---|\n"
    rows = []
    for card in cards:
        facts = card.document
        count = card.published.get("samples")
        cells = [
            f"[`{card.name}`](#{card.name})",
            card.task,
            facts.get("modality", ""),
            facts.get("dimension", ""),
        ]
        cells += [
            "" if count is None else f"{count:,}",
            facts.get("patient_is", "patient"),
            ", ".join(card.attributes),
        ]
        rows.append(f"| {' | '.join(cells)} |\n")
    return head + "".join(rows)


def _section(card: DatasetCard) -> str:
    facts = card.document
    lines = [f"\n### {card.name}\n", f"{card.title}.\n"]
    lines += [f"* {key.replace('_', ' ')}: {facts[key]}" for key in FACTS if facts.get(key) and key != "tree"]
    lines += [f"* table `{name}`: `{describe_table(card, name)}`" for name in card.tables]
    lines += [f"* label `{name}`: {describe_label(of)}" for name, of in card.labels.items()]
    lines += [f"* attribute `{name}`: {describe_attribute(of)}" for name, of in card.attributes.items()]
    lines += [f"* task `{name}`: {describe_task(card, name)}" for name in card.tasks]
    if "masks" in facts:
        lines.append(f"* mask classes: {', '.join(facts['masks']['classes'])}")
    lines += (
        [f"* reader: {', '.join(f'{key} {value}' for key, value in facts['reader'].items())}"]
        if facts.get("reader")
        else []
    )
    lines += (
        [f"* published: {', '.join(f'{key} {value:,}' for key, value in card.published.items())}"]
        if card.published
        else []
    )
    lines += (
        [f"* known by: {', '.join(f'{key} {value}' for key, value in facts.get('verified', {}).items())}"]
        if facts.get("verified")
        else []
    )
    lines += [f"* {note}" for note in facts.get("notes", [])]
    tree = ["", "```", facts["tree"].strip(), "```"] if facts.get("tree") else []
    return "\n".join([*lines, *tree, "", "```sql", card.query.strip(), "```", ""])
