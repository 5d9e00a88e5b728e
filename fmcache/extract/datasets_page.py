"""docs/datasets.md, made from the cards."""

from __future__ import annotations

from fmcache.extract import decode, dicom, inputs, samples, volumes
from fmcache.extract.dataset import OWN_CARDS
from fmcache.extract.dataset_card import AttributeCard, DatasetCard, read_card
from fmcache.extract.samples import SPLIT_ALIASES

_INTRODUCTION = f"""\
# Datasets

`fmcache extract --dataset` takes a table, a card, or a card's name.

## A table: `--dataset FILE.csv` (or .tsv, either also .gz, or .parquet)

| column | | |
|---|---|---|
| `sample_id` | required | text, unique; `007` stays `007`, only outer white space is removed |
| `path` | required | the file, relative to the root; never leaves it |
| `patient_id` | optional | without it every sample counts as a patient of its own, and fmcache says so |
| `split` | optional | train, val, test or empty ({", ".join(f"{a} = {s}" for a, s in SPLIT_ALIASES.items())}) |
| `label.NAME` | optional | 0, 1 or empty (unknown); anything else is an error |
| `attribute.NAME` | optional | text, or a number; empty is unknown |
| any other | | kept as it is |

The root is `--root`, else `[datasets.NAME] root` in fmcache.toml, else the table's folder.

NUMBERS

## A card: `--dataset FILE.toml`, or `NAME` for `datasets/NAME.toml` beside fmcache.toml

"""


def datasets_page() -> str:
    """The page as Markdown: the columns of a table, the keys of a card, the rules for pixels, every card of the package."""
    numbers = (samples.numbers_among.__doc__ or "").split("\n\n", 1)[1]
    parts = [_INTRODUCTION.replace("NUMBERS", _plain(numbers)), _card_keys(), "\n## How inputs become pixels\n"]
    parts += [f"\n{_plain(module.__doc__ or '')}\n" for module in (decode, dicom, volumes, inputs)]
    parts.append("\n## Cards that come with fmcache\n")
    parts += [_section(read_card(file)) for file in sorted(OWN_CARDS.glob("*.toml"))]
    return "".join(parts)


def _plain(text: str) -> str:
    lines = [line.strip() for line in text.strip().splitlines()]
    return "\n".join(lines).replace("``", "`")


def _card_keys() -> str:
    from fmcache.extract import dataset_card

    head, example = (dataset_card.__doc__ or "").split("\n\n", 1)
    code = "\n".join(line.removeprefix("    ") for line in example.rstrip().splitlines())
    return f"{_plain(head)}\n\n```toml\n{code}\n```\n"


def _section(card: DatasetCard) -> str:
    facts = card.document
    lines = [f"\n### `{card.name}`: {card.title}\n"]
    lines += [f"* {key}: {facts[key]}" for key in ("task", "licence", "source") if facts.get(key)]
    lines += [f"* table `{name}`: `{path}`" for name, path in card.tables.items()]
    lines += [f"* label `{name}`: {of.get('title', name)}" for name, of in card.labels.items()]
    lines += [f"* attribute `{name}`: {_attribute(of)}" for name, of in card.attributes.items()]
    return "\n".join([*lines, "", "```sql", card.query.strip(), "```", ""])


def _attribute(card: AttributeCard) -> str:
    groups = f"groups {', '.join(card.groups)}" if card.groups else ""
    number = f"a number ({card.unit})" if card.unit else ("a number" if card.is_number else "")
    span = f"outside {card.range[0]:g} to {card.range[1]:g} is unknown" if card.range else ""
    cut = f"groups {', '.join(card.group_names())} by cuts at {', '.join(map(str, card.cut))}" if card.cut else ""
    return "; ".join(filter(None, (groups, number, span, cut))) or "text"
