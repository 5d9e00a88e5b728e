"""Tables for a paper, in the form of FairMedFM's Table 2, as LaTeX or Markdown.

One table for each dataset and attribute; a row for each model, usage, method and label; columns AUC (overall ↑, each
group ↑, Δ ↓), EqOdds ↑ (1 − gap, as that paper prints it), ECE Δ ↓ and AUC_ES ↑, in percent. The best of a column is
bold and the second best underlined, among the rows of one label.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from fmcache.analyze.report.views import HIDDEN, Attribute, Number, View
from fmcache.analyze.report.wording import clean, spoken
from fmcache.store.groups import UNKNOWN

Style = Literal["latex", "markdown"]
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "×": r"$\times$", "–": "--", "−": "$-$", "…": r"\ldots{}",
}  # fmt: skip


@dataclass(frozen=True)
class Column:
    """What a column holds, and whether more is better."""

    head: str
    latex: str
    more: bool
    of: Callable[[View, Attribute], Number]


def paper_tables(views: Sequence[View], style: Style, intervals: bool = False) -> str:
    """All tables of these views.

    Parameters
    ----------
    intervals : also print each number's interval.
    """
    found = []
    for dataset in dict.fromkeys(view.text("dataset") for view in views):
        mine = [view for view in views if view.text("dataset") == dataset]
        for name in dict.fromkeys(attribute.name for view in mine for attribute in view.attributes):
            rows = [(view, a) for view in mine for a in view.attributes if a.name == name]
            found.append(_table(dataset, name, rows, style, intervals))
    return "\n".join(found)


def _columns(rows: Sequence[tuple[View, Attribute]]) -> list[Column]:
    groups = dict.fromkeys(g.name for _, a in rows for g in a.groups if g.name != UNKNOWN)

    def of_group(name: str) -> Callable[[View, Attribute], Number]:
        def find(_: View, attribute: Attribute) -> Number:
            group = next((g for g in attribute.groups if g.name == name), None)
            if group is None:
                return HIDDEN if attribute.unnamed else Number()
            return HIDDEN if group.why else group.numbers.get("auc", Number())

        return find

    return [
        Column("AUC overall ↑", r"AUC$_{\text{overall}}$ $\uparrow$", True, _overall),
        *(
            Column(
                f"AUC {spoken(name)} ↑",
                rf"AUC$_{{\text{{{_tex(spoken(name))}}}}}$ $\uparrow$",
                True,
                of_group(name),
            )
            for name in groups
        ),
        Column("AUC Δ ↓", r"AUC$_\Delta$ $\downarrow$", False, _spread("auc", "gap")),
        Column("EqOdds ↑", r"EqOdds $\uparrow$", True, _eqodds),
        Column("ECE Δ ↓", r"ECE$_\Delta$ $\downarrow$", False, _spread("ece", "gap")),
        Column("AUC ES ↑", r"AUC$_{\text{ES}}$ $\uparrow$", True, _spread("auc", "es")),
    ]


def _overall(view: View, _: Attribute) -> Number:
    return HIDDEN if view.overall.why else view.overall.numbers.get("auc", Number())


def _spread(metric: str, disparity: str) -> Callable[[View, Attribute], Number]:
    def find(_: View, attribute: Attribute) -> Number:
        one = next((d for d in attribute.disparities if d.metric == metric), None)
        return Number() if one is None else one.numbers.get(disparity, Number())

    return find


def _eqodds(view: View, attribute: Attribute) -> Number:
    gap = _spread("eqodds", "gap")(view, attribute)
    return gap if gap.hidden or not gap.known else Number(1 - gap.value, 1 - gap.high, 1 - gap.low)


def _table(
    dataset: str, name: str, rows: Sequence[tuple[View, Attribute]], style: Style, intervals: bool
) -> str:
    columns = _columns(rows)
    several = len({view.label for view, _ in rows}) > 1
    numbers = [[column.of(view, attribute) for column in columns] for view, attribute in rows]
    ranks = [[0] * len(columns) for _ in rows]
    for label in dict.fromkeys(view.label for view, _ in rows):
        mine = [i for i, (view, _) in enumerate(rows) if view.label == label]
        for c, column in enumerate(columns):
            for i, rank in zip(mine, _ranks([numbers[i][c].value for i in mine], column.more), strict=True):
                ranks[i][c] = rank
    heads = ["Model", "Usage", "Method", *(["Label"] if several else [])]
    names = [
        [
            view.text("model"),
            view.text("usage"),
            view.text("method") or "–",
            *([view.label] if several else []),
        ]
        for view, _ in rows
    ]
    label = "" if several else f", {spoken(rows[0][0].label)}"
    caption = f"{clean(dataset)}{label}: fairness by {spoken(name)}, in percent"
    body = [
        [*texts, *(_cell(n, r, style, intervals) for n, r in zip(of, rank, strict=True))]
        for texts, of, rank in zip(
            [[_text(t, style) for t in row] for row in names], numbers, ranks, strict=True
        )
    ]
    if style == "markdown":
        return _markdown(caption, heads, columns, body)
    return _latex(caption, f"tab:{_slug(dataset)}-{_slug(name)}", heads, columns, body)


def _ranks(values: Sequence[float], more: bool) -> list[int]:
    """1 for the best, 2 for the second best, else 0; as printed, so that equal numbers look alike. One row: none."""
    shown = [round(100 * v, 2) for v in values]
    known = sorted({v for v in shown if math.isfinite(v)}, reverse=more)
    if len(known) < 2:
        return [0] * len(values)
    return [known.index(v) + 1 if v in known[:2] else 0 for v in shown]


def _cell(number: Number, rank: int, style: Style, intervals: bool) -> str:
    if number.hidden:
        return "hidden"
    if not number.known:
        return "–" if style == "markdown" else "--"
    text = f"{100 * number.value:.2f}"
    if rank:
        marks = {("markdown", 1): "**{}**", ("markdown", 2): "<u>{}</u>"} | {
            ("latex", 1): r"\textbf{{{}}}",
            ("latex", 2): r"\underline{{{}}}",
        }
        text = marks[style, rank].format(text)
    if intervals and math.isfinite(number.low) and math.isfinite(number.high):
        sure = f"({100 * number.low:.1f}–{100 * number.high:.1f})"
        text += f" {sure}" if style == "markdown" else rf" {{\scriptsize {sure.replace('–', '--')}}}"
    return text


def _markdown(
    caption: str, heads: Sequence[str], columns: Sequence[Column], body: Sequence[Sequence[str]]
) -> str:
    titles = [*heads, *(_text(column.head, "markdown") for column in columns)]
    rule = ["---"] * len(heads) + ["---:"] * len(columns)
    lines = [titles, rule, *body]
    return f"**{_text(caption, 'markdown')}**\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _latex(
    caption: str, anchor: str, heads: Sequence[str], columns: Sequence[Column], body: Sequence[Sequence[str]]
) -> str:
    lines = [
        "% needs \\usepackage{booktabs,amsmath}",
        r"\begin{table}[t]",
        r"\centering",
        rf"\caption{{{_tex(caption)}. Best in bold, second best underlined; EqOdds is 1 minus the gap.}}",
        rf"\label{{{anchor}}}",
        rf"\begin{{tabular}}{{{'l' * len(heads)}{'r' * len(columns)}}}",
        r"\toprule",
        " & ".join([*heads, *(column.latex for column in columns)]) + r" \\",
        r"\midrule",
        *(" & ".join(row) + r" \\" for row in body),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _text(text: str, style: Style) -> str:
    return _tex(clean(text)) if style == "latex" else _md(clean(text))


def _tex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def _md(text: str) -> str:
    """Escaped where Markdown or HTML would read more than text; ``&`` only where it begins an entity."""
    return re.sub(r"([\\|*_`<>\[\]]|&(?=#?\w+;))", r"\\\1", text)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40] or "x"
