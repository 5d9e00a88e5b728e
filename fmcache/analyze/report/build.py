"""One self-contained HTML file of all results: no network, no ids, no small cells; one script, named by its hash."""

from __future__ import annotations

import base64
import hashlib
import os
import shlex
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import polars as pl
from markupsafe import Markup

from fmcache.analyze.report import figures, sentences, series, tables
from fmcache.analyze.report.checklists import checklists
from fmcache.analyze.report.chosen import CacheLike, choose_runs
from fmcache.analyze.report.cloud import CAPTIONS, READINGS, Cloud, cloud_figure, clouds, stored_maps
from fmcache.analyze.report.compare import Comparison, comparisons, consistency_sentence, front_sentence
from fmcache.analyze.report.compare_figures import consistency_figure, front_figure
from fmcache.analyze.report.decision import READING as DECISION_READING
from fmcache.analyze.report.decision import decision_figure
from fmcache.analyze.report.explorer import Explorer, explore
from fmcache.analyze.report.overview import overview
from fmcache.analyze.report.provenance import facts, provenance
from fmcache.analyze.report.rank_figures import rank_figure, rankings
from fmcache.analyze.report.truth import planted, truth
from fmcache.analyze.report.views import Attribute, View
from fmcache.analyze.report.wording import clean, decimal, metric_name, printed, spoken
from fmcache.store.durable import storage_errors

TITLE = "Fairness report"
MOST_SECTIONS = 12  # views with figures of their own; more make a page that no browser opens with ease


@dataclass(frozen=True)
class Drawing:
    """A figure and its caption."""

    caption: str
    svg: Markup
    reading: str = ""


@dataclass(frozen=True)
class Block:
    """One attribute of one view, ready to print."""

    name: str
    identity: str
    finding: sentences.Finding
    groups: tables.Table
    differences: tables.Table
    disparities: tables.Table
    others: tables.Table
    figures: Sequence[Drawing]
    explorer: Explorer | None
    strip: Markup | None
    remarks: Sequence[str]


@dataclass(frozen=True)
class Compared:
    """Figures that compare the models and methods of one study by one attribute."""

    title: str
    figures: Sequence[Drawing]


@dataclass(frozen=True)
class Section:
    """One view, ready to print."""

    identity: str
    view: View
    lead: str
    facts: Sequence[tuple[str, str]]
    blocks: Sequence[Block]
    provenance: Sequence[tuple[str, str]]
    command: str


def build_report(
    cache: CacheLike,
    out: Path,
    runs: Sequence[str] | None = None,
    title: str | None = None,
    min_cell: int = 11,
) -> Path:
    """Write the report of the runs and their stored results; the same cache gives the same bytes.

    Parameters
    ----------
    out : the HTML file; replaced by one rename, so that a reader never sees half of it.
    runs : run ids or their first characters; default: every run that has results.
    min_cell : groups with 1 to min_cell - 1 images, patients, positives or negatives are hidden, with those from which
        they could be worked out; 1 shows everything.

    Raises
    ------
    MissingEntry : no runs, no such run, or no results yet. UsageError : min_cell below 1.
    """
    html = render(cache, runs=runs, title=title, min_cell=min_cell)
    write_text(Path(out), html)
    return Path(out)


def key_sentences(
    cache: CacheLike, runs: Sequence[str] | None = None, most: int = 3, min_cell: int = 11
) -> list[str]:
    """The most important findings, each in one sentence that names model, dataset and label.

    What was planted in a generated study comes first, then what is beyond chance, by how far.
    """
    chosen = choose_runs(cache, runs, min_cell)
    truths = [one for view in chosen.views if (one := truth(view, planted(cache, view))).sentence]
    told = [f"{one.what}: {one.sentence}" for one in truths]
    told += [one.text for one in sentences.headlines(chosen.views, most)]
    return [sentence.replace("\u00a0", " ") for sentence in told[:most]]


def render(
    cache: CacheLike,
    runs: Sequence[str] | None = None,
    title: str | None = None,
    min_cell: int = 11,
) -> str:
    """The report's text; see `build_report`."""
    chosen = choose_runs(cache, runs, min_cell)
    drawn = _drawn(chosen.views)
    places = {i: f"v{i + 1}" for i in drawn}
    loaded: tuple[str, pl.DataFrame | None] = ("", None)
    maps = stored_maps(cache)
    sections: list[Section] = []
    for i in drawn:
        view = chosen.views[i]
        if loaded[0] != view.run_id:
            loaded = (view.run_id, chosen.predictions[view.run_id].predictions())
        assert loaded[1] is not None
        sections.append(_section(cache, places[i], view, loaded[1], maps, min_cell))
    found = [truth(view, rows) for view in chosen.views if (rows := planted(cache, view))]
    ranked = rankings(cache.results(), [view.run_id for view in chosen.views], min_cell)
    css, script = _resource("report.css"), _resource("explorer.js")
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_resource),
        autoescape=True,
        finalize=printed,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        title=title or TITLE,
        css=Markup(css),
        css_digest=_digest(css),
        script=Markup(script) if any(block.explorer for one in sections for block in one.blocks) else None,
        script_digest=_digest(script),
        decimal=decimal,
        spoken=spoken,
        headlines=[
            (one, next((places[i] for i in drawn if chosen.views[i] is one.view), ""))
            for one in (sentences.headlines(chosen.views) if len(chosen.views) > 1 else ())
        ],
        looked_at=sentences.looked_at(chosen.views),
        warnings=chosen.warnings,
        overview=overview(chosen.views, places),
        comparisons=[_compared(i, one) for i, one in enumerate(comparisons(chosen.views))],
        ranked=[
            Drawing(one.caption, rank_figure(one, f"r{i}-cd"), one.reading) for i, one in enumerate(ranked)
        ],
        sections=sections,
        undrawn=len(chosen.views) - len(sections),
        verdicts=sentences.VERDICTS,
        truths=found,
        checklists=checklists(chosen.views, min_cell),
        without=chosen.without,
        min_cell=min_cell,
        models=_names(view.text("model") for view in chosen.views),
        datasets=_names(view.text("dataset") for view in chosen.views),
        several=len(sections) > 1,
    )


def _drawn(found: Sequence[View]) -> list[int]:
    """The views that get a section of their own: all, or the MOST_SECTIONS that have most to tell, in their order."""
    if len(found) <= MOST_SECTIONS:
        return list(range(len(found)))
    ranked = [one.view for one in sentences.headlines(found, most=len(found) * 50)]
    chosen = list(dict.fromkeys(id(view) for view in ranked))[:MOST_SECTIONS]
    return [i for i, view in enumerate(found) if id(view) in chosen]


def _compared(i: int, one: Comparison) -> Compared:
    drawn = []
    title = f"{one.study}, by {one.attribute}"
    if len(one.points) > 1:
        drawing = front_figure(one, f"{one.metric} and its gap, {title}", f"c{i}-front")
        reading = front_sentence(one)
        if one.paths:
            reading += " Thin lines join what a method reaches with each of its coefficients."
        drawn.append(Drawing("Utility and fairness", drawing, reading))
    if len({pair.name for pair in one.pairs}) > 1:
        drawing = consistency_figure(one, f"{one.metric} of two groups, {title}", f"c{i}-same")
        drawn.append(Drawing("Whom the models serve better", drawing, consistency_sentence(one)))
    return Compared(title, drawn)


def _resource(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    """For the content security policy: the page may run and use just this text."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _names(names: Iterable[str]) -> list[str]:
    return sorted({name for name in names if name})


def _section(
    cache: CacheLike, identity: str, view: View, predictions: pl.DataFrame, maps: pl.DataFrame, floor: int
) -> Section:
    rows = series.of_view(predictions, view)
    whole = series.whole_roc(rows)
    where = clouds(cache, maps, view, rows)
    return Section(
        identity=identity,
        view=view,
        lead=sentences.lead(view),
        facts=facts(cache, view, predictions, floor),
        blocks=[
            _block(f"{identity}-{i + 1}", view, attribute, rows, whole, where, floor)
            for i, attribute in enumerate(view.attributes)
        ],
        provenance=provenance(cache, view, floor),
        command=_command(view),
    )


def _block(
    identity: str,
    view: View,
    attribute: Attribute,
    rows: pl.DataFrame,
    whole: Any,
    where: Sequence[Cloud],
    floor: int,
) -> Block:
    name, first = spoken(attribute.name), metric_name(view.measured[0])
    drawn: list[Drawing] = []
    remarks = []
    grouped = series.rows_by_group(rows, view, attribute)
    curves = series.all_series(grouped, floor)
    slots = series.slots(view, attribute)
    explorer = explore(grouped, view.threshold, floor)
    if attribute.shown:
        drawing = figures.forest(
            attribute.shown, slots, view.overall, view.measured[0], f"{first} by {name}", f"{identity}-forest"
        )
        drawn.append(Drawing(f"{first} by group", drawing))
    if curves:
        drawing = figures.roc_figure(curves, f"ROC curves by {name}", f"{identity}-roc", whole)
        drawn.append(Drawing("ROC curve and operating point", drawing))
        drawing = figures.pr_figure(curves, f"Precision-recall curves by {name}", f"{identity}-pr")
        drawn.append(Drawing("Precision and recall", drawing))
    calibrated = [one for one in curves if one.bins]
    if calibrated:
        drawing = figures.calibration_figure(calibrated, f"Calibration by {name}", f"{identity}-cal")
        drawn.append(Drawing("Calibration", drawing))
    elif curves:
        remarks.append(
            "No calibration curve and no decision curve: the score is a decision or not a probability."
        )
    benefit = explorer and decision_figure(explorer, f"Net benefit by {name}", f"{identity}-net")
    if benefit:
        drawn.append(Drawing("Decision curve", benefit, DECISION_READING))
    for one in where:
        title, place = f"{CAPTIONS[one.projection]}, by {name}", f"{identity}-{one.projection}"
        scattered = cloud_figure(one, grouped, title, place)
        if scattered:
            drawn.append(Drawing(CAPTIONS[one.projection], scattered, READINGS[one.projection]))
    if attribute.shown and not curves:
        remarks.append("No curves: the stored predictions do not hold this attribute's groups.")
    if len(attribute.shown) > figures.SERIES:
        remarks.append(f"Curves are drawn for the {figures.SERIES} largest groups.")
    return Block(
        name=name,
        identity=identity,
        finding=sentences.finding(view, attribute),
        groups=tables.group_table(view, attribute, floor),
        differences=tables.difference_table(view, attribute),
        disparities=tables.disparity_table(view, attribute),
        others=tables.disparity_table(view, attribute, main=False),
        figures=drawn,
        explorer=explorer,
        strip=figures.explorer_figure(
            explorer, f"Sensitivity and false alarms by {name}", f"{identity}-strip"
        )
        if explorer
        else None,
        remarks=remarks,
    )


def _command(view: View) -> str:
    def quoted(text: str) -> str:
        return "'" + clean(text).replace("'", "''") + "'"

    sql = (
        'SELECT attribute, "group", metric, disparity, value, ci_low, ci_high, n FROM metrics '
        f"WHERE run_id = {quoted(view.run_id)} AND label = {quoted(view.label)} AND split = {quoted(view.split)} "
        'ORDER BY attribute, "group", metric'
    )
    return f"fmcache sql {shlex.quote(sql)}"


def write_text(out: Path, text: str) -> None:
    """Write beside `out`, make it durable, rename: absent, old or complete, never partial."""
    out = out.absolute()
    work = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}.tmp")
    with storage_errors("writing the report", out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            with work.open("xb") as file:
                file.write(text.encode("utf-8"))
                file.flush()
                os.fsync(file.fileno())
            work.replace(out)
        finally:
            work.unlink(missing_ok=True)
        descriptor = os.open(out.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
