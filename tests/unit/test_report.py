"""What the report says and hides, without a browser."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.metrics import precision_recall_curve, roc_curve

from fmcache.analyze.audit import audit
from fmcache.analyze.coordinates import coordinates
from fmcache.analyze.curves import _curves
from fmcache.analyze.report import build
from fmcache.analyze.report.build import build_report, key_sentences
from fmcache.analyze.report.chosen import choose_runs
from fmcache.analyze.report.cloud import READINGS, clouds, stored_maps
from fmcache.analyze.report.compare import comparisons, front_sentence, more_is_better, short_names
from fmcache.analyze.report.compare_figures import front_figure
from fmcache.analyze.report.curves import precision_recall, roc
from fmcache.analyze.report.decision import _above, decision_figure
from fmcache.analyze.report.explorer import Explorer, explore
from fmcache.analyze.report.sentences import finding, headlines
from fmcache.analyze.report.truth import truth
from fmcache.analyze.report.views import Attribute, Disparities, Group, Number, View, told_apart
from fmcache.analyze.report.wording import decimal
from fmcache.analyze.run import run_metrics
from fmcache.analyze.values import audit_values
from fmcache.errors import MissingEntry, UsageError
from fmcache.store.cache import Cache, open_cache
from fmcache.store.keys import digest
from fmcache.store.schema import PREDICTION_COLUMNS
from tests.audited import CANARY, HOSTILE, TINY, audited, predictions


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return audited(tmp_path_factory.mktemp("report") / "cache")


@pytest.fixture(scope="module")
def html(cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> str:
    return build_report(cache, tmp_path_factory.mktemp("out") / "report.html").read_text(encoding="utf-8")


# ------------------------------------------------------------------------------------------------ the whole page


def test_no_id_and_no_path_is_in_the_page(cache: Cache, html: str) -> None:
    assert CANARY not in html
    assert str(cache.path) not in html


def test_the_policy_names_the_style_and_the_script_and_nothing_else(html: str) -> None:
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', html)
    assert policy is not None
    digests = {}
    for tag in ("style", "script"):
        text = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        assert len(text) == 1
        digests[tag] = base64.b64encode(hashlib.sha256(text[0].encode()).digest()).decode()
    assert policy[1].split("; ") == [
        "default-src 'none'",
        f"style-src 'sha256-{digests['style']}'",
        f"script-src 'sha256-{digests['script']}'",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    assert not re.search(r"(src|href)=\"(?!#)", html)
    assert not re.search(r"\son\w+=|style=\"", html)


def test_a_hostile_name_is_escaped_everywhere(html: str) -> None:
    assert HOSTILE not in html
    assert html.count("&lt;script&gt;document.title") >= 5
    assert html.count("<script") == 1 + html.count("data-explorer role")


def test_the_same_cache_gives_the_same_bytes(cache: Cache, html: str, tmp_path: Path) -> None:
    assert build_report(cache, tmp_path / "again.html").read_text(encoding="utf-8") == html


def test_of_a_tiny_group_there_is_only_its_name(cache: Cache, html: str) -> None:
    assert 7 in cache.results().filter(pl.col("group") == TINY)["n"]  # the cache knows it
    rows = re.findall(rf"<tr><th scope=\"row\">{TINY}</th>(.*?)</tr>", html, re.DOTALL)
    assert rows
    for row in rows:
        assert set(re.findall(r"<td>([^<]*)", row)) == {"&lt;11", "hidden"}
    assert re.findall(rf"[^<>]*{TINY}[^<>]*", html).count(TINY) == len(re.findall(TINY, html)) - html.count(
        f"× {TINY}"
    )


def test_everything_is_shown_when_asked(cache: Cache, tmp_path: Path) -> None:
    page = build_report(cache, tmp_path / "all.html", min_cell=1).read_text(encoding="utf-8")
    row = re.search(rf"<tr><th scope=\"row\">{TINY}</th>\s*<td>([^<]*)", page)
    assert row is not None
    assert row[1] == "7"
    assert "Small groups were not hidden" in page


def test_findings_of_the_data_come_before_the_numbers(tmp_path: Path) -> None:
    table = predictions().with_columns(pl.lit("M").alias("sex"))
    page = build_report(audited(tmp_path / "cache", table), tmp_path / "r.html").read_text(encoding="utf-8")
    problem = page.index("everyone whose sex is known is in one group (M)")
    assert page.index("Before you rely on these numbers") < problem < page.index('class="card"')


def test_rows_without_patients_count_as_their_own(tmp_path: Path) -> None:
    cache = open_cache(tmp_path / "cache", create=True)
    audit(predictions(600).drop("pid"), label="y", score="p", by=["sex"], draws=20, cache=cache)
    page = build_report(cache, tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<dd>test 600 (600 patients)</dd>" in page
    assert "There are no patient ids" in page


def test_what_is_not_there_is_said(tmp_path: Path, cache: Cache) -> None:
    with pytest.raises(MissingEntry, match="no runs to report on"):
        build_report(open_cache(tmp_path / "empty", create=True), tmp_path / "r.html")
    with pytest.raises(MissingEntry, match="There is no run nosuch"):
        build_report(cache, tmp_path / "r.html", runs=["nosuch"])
    with pytest.raises(UsageError, match="min_cell is 0"):
        build_report(cache, tmp_path / "r.html", min_cell=0)
    assert not (tmp_path / "r.html").exists()


# ------------------------------------------------------------------------------------------------------ sentences


def _view(**attributes: Attribute) -> View:
    overall = Group("overall", 1000, 300, 500, {"auc": Number(0.8, 0.77, 0.83)})
    info = {"model": "m", "dataset": "d", "usage": "lp", "method": "erm"}
    return View(
        "r",
        info,
        "edema",
        "test",
        0,
        [0],
        "fmcache",
        [],
        overall,
        list(attributes.values()),
        0.5,
        "0.5",
        0.95,
    )


def _attribute(name: str, metric: str, values: dict[str, float], null: float, p: float) -> Attribute:
    groups = [Group(g, 500, 100, 250, {metric: Number(v, v - 0.02, v + 0.02)}) for g, v in values.items()]
    gap = max(values.values()) - min(values.values())
    return Attribute(
        name, groups, [Disparities(metric, {"gap": Number(gap, gap - 0.03, gap + 0.03)}, null, p)]
    )


@pytest.mark.parametrize(
    ("metric", "text"),
    [
        ("tpr", "By sex: 60 % of the cases are found among female and 80 % among male, a difference of 20 points "
                "(95 % interval 17 to 23; by chance alone about 4.0; p\u00a0=\u00a00.010)."),
        ("fpr", "By sex: of the people without the finding, 60 % are flagged among female and 80 % among male, a "
                "difference of 20 points (95 % interval 17 to 23; by chance alone about 4.0; p\u00a0=\u00a00.010)."),
        ("auc", "By sex: cases are told from non-cases with an AUC of 0.60 among female and 0.80 among male, a "
                "difference of 0.20 (95 % interval 0.17 to 0.23; by chance alone about 0.04; p\u00a0=\u00a00.010)."),
    ],
)  # fmt: skip
def test_a_finding_in_words(metric: str, text: str) -> None:
    told = finding(_view(), _attribute("sex", metric, {"female": 0.6, "male": 0.8}, 0.04, 0.01))
    assert told.text == text
    assert told.verdict == "beyond"


def test_a_gap_that_chance_explains_is_said_to_be_so_and_comes_later() -> None:
    large = _attribute("race", "auc", {"a": 0.6, "b": 0.9}, 0.28, 0.4)
    small = _attribute("sex", "auc", {"f": 0.75, "m": 0.8}, 0.01, 0.001)
    view = _view(race=large, sex=small)
    assert finding(view, large).verdict == "chance"
    assert [one.attribute for one in headlines([view])] == ["sex", "race"]
    assert headlines([view])[0].text.startswith("m on d, edema. By sex: cases are told")


def test_a_gap_whose_interval_holds_none_is_not_called_more_than_chance() -> None:
    one_missed = _attribute("sex", "tpr", {"f": 17 / 18, "m": 1.0}, 0.05, 0.009)
    gap = Number(1 / 18, 0.0, 0.18)
    coarse = Attribute("sex", one_missed.groups, [Disparities("tpr", {"gap": gap}, 0.05, 0.009)])
    assert finding(_view(), coarse).verdict == "chance"
    wide = Attribute(
        "sex", one_missed.groups, [Disparities("tpr", {"gap": replace(gap, low=0.01)}, 0.05, 0.009)]
    )
    assert finding(_view(), wide).verdict == "beyond"


def test_no_difference_is_said_plainly() -> None:
    view = _view(sex=_attribute("sex", "auc", {"f": 0.8, "m": 0.8}, 0.01, 1.0))
    assert finding(view, view.attributes[0]).text == "By sex, the groups do not differ in AUC."
    assert headlines([view])[0].told == "By sex, the groups do not differ in AUC."
    some = Disparities("tpr", {"gap": Number(0.01)}, 0.03, 0.8)  # less than chance gives, but not nothing
    both = Attribute("sex", view.attributes[0].groups, [*view.attributes[0].disparities, some])
    assert "1.0 points" in finding(view, both).text


def test_extremes_are_not_named_if_a_group_is_hidden() -> None:
    one = _attribute("race", "auc", {"a": 0.6, "b": 0.9}, 0.01, 0.001)
    hidden = Attribute("race", [*one.groups, Group("c", None, None, None, {}, "small")], one.disparities)
    assert finding(_view(), hidden).text.startswith(
        "By race: how well cases are told from non-cases (AUC) differs between the groups by up to 0.30"
    )


def test_three_sentences_for_whoever_wants_no_more(cache: Cache) -> None:
    told = key_sentences(cache)
    assert len(told) == 2  # one an attribute, intersections left out
    assert told[0].startswith("external on clinic, y. By sex: ")
    assert "among female" in told[0]


def test_the_planted_truth_beside_the_estimate() -> None:
    view = _view(sex=_attribute("sex", "auc", {"female": 0.7, "male": 0.9}, 0.02, 0.001))
    row = {"label": "edema", "attribute": "sex", "group": "", "metric": "auc", "disparity": "gap"}
    inside, outside = (truth(view, [{**row, "value": value}]) for value in (0.19, 0.1))
    assert inside.sentence == (
        "The planted AUC gap by sex is 0.19; measured is 0.20, and its interval (0.17–0.23) covers the truth."
    )
    assert "does not cover" in outside.sentence
    assert [cell.text for _, cells in outside.table.rows for cell in cells] == [
        "0.100",
        "0.200",
        "0.170–0.230",
        "no",
    ]


# --------------------------------------------------------------------------------------------------- comparisons


def _run(model: str, auc: float, gap: float, female: float, male: float) -> View:
    view = _view(sex=_attribute("sex", "auc", {"female": female, "male": male}, 0.01, 0.01))
    one = Attribute("sex", view.attributes[0].groups, [Disparities("auc", {"gap": Number(gap)}, 0.01, 0.01)])
    overall = Group("overall", 1000, 300, 500, {"auc": Number(auc)})
    return View(
        model,
        {**view.info, "model": model},
        "edema",
        "test",
        0,
        [0],
        "fmcache",
        [],
        overall,
        [one],
        0.5,
        "0.5",
        0.95,
    )


def test_the_front_holds_those_that_none_beats_in_both() -> None:
    views = [
        _run("good", 0.9, 0.10, 0.8, 0.9),
        _run("fair", 0.8, 0.02, 0.79, 0.81),
        _run("worse", 0.85, 0.12, 0.8, 0.9),
    ]
    (one,) = comparisons(views)
    assert {point.name: point.best for point in one.points} == {"good": True, "worse": False, "fair": True}
    assert front_sentence(one) == "No other choice has a higher AUC and a smaller gap than good or fair."
    assert one.reference == "male"
    assert next((pair.name, pair.reference.value, pair.other.value) for pair in one.pairs) == (
        "good",
        0.9,
        0.8,
    )


def test_the_coefficients_of_a_method_are_a_path_in_the_front() -> None:
    plain, swept = _run("good", 0.9, 0.10, 0.8, 0.9), _run("swept", 0.88, 0.05, 0.82, 0.87)
    row = {"label": "edema", "seed": 0, "split": "test", "auc_gap": 0.02}
    front = [
        {**row, "coefficient": 1.0, "auc": 0.86},
        {**row, "coefficient": 0.1, "auc": 0.89, "auc_gap": 0.08},
        {**row, "coefficient": 5.0, "auc": None},
        {**row, "coefficient": 0.1, "auc": 0.95, "split": "val"},
    ]
    swept = replace(swept, info={**swept.info, "attribute": "sex", "front": front})
    (one,) = comparisons([plain, swept])
    assert [(path.name, path.steps) for path in one.paths] == [
        ("swept", [(0.1, 0.89, 0.08), (1.0, 0.86, 0.02)])
    ]
    drawn = front_figure(one, "t", "i")
    assert "swept, coefficient 0.1: AUC 0.890, gap 0.080" in drawn
    hidden = replace(swept.attributes[0], unnamed=1)
    assert comparisons([plain, replace(swept, attributes=[hidden])])[0].paths == []


def test_two_runs_of_one_name_are_told_apart() -> None:
    plain = _run("m", 0.9, 0.1, 0.8, 0.9)
    info = {**plain.info, "method": "group-dro"}
    by_sex, by_race = (
        replace(plain, run_id=run, info={**info, "attribute": attribute})
        for run, attribute in (("aaaaaaaa", "sex"), ("bbbbbbbb", "race"))
    )
    again = replace(plain, run_id="cccccccc")
    called = [view.what.removeprefix(plain.what) for view in told_apart([by_sex, by_race, plain, again])]
    assert called == [" · group-dro · sex", " · group-dro · race", f" · {plain.run_id[:6]}", " · cccccc"]
    assert short_names(told_apart([plain, by_sex, by_race])) == ["erm", "group-dro · sex", "group-dro · race"]
    assert told_apart([plain, by_sex]) == [plain, by_sex]  # nothing is added where names differ


def test_one_view_is_no_comparison() -> None:
    assert comparisons([_run("good", 0.9, 0.1, 0.8, 0.9)]) == []


@pytest.mark.parametrize(
    ("metric", "compared"),
    [("auc", True), ("auc_macro", True), ("dsc", True), ("dice_liver", True), ("fpr", False), ("ece_debiased", False),
     ("hd95", False), ("prevalence", False), ("volume_error", False)],
)  # fmt: skip
def test_only_what_is_better_when_larger_goes_into_the_front(metric: str, compared: bool) -> None:
    """The axes of the front say where better is; a column without a direction cannot be placed."""
    assert more_is_better(metric) == compared


# -------------------------------------------------------------------------------------------- curves and explorer


@given(st.integers(0, 2**32 - 1), st.integers(2, 400), st.sampled_from([1, 3, 40, 10**6]))
@example(12089, 186, 10**6)  # 100 positives: 0.55 * 100 is a little more than 55
@settings(max_examples=40, deadline=None)
def test_curves_lie_on_those_of_scikit_learn(seed: int, n: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    y, score = rng.integers(0, 2, n).astype(float), rng.integers(0, levels + 1, n) / levels
    if len(np.unique(y)) < 2:
        assert roc(y, score).size == precision_recall(y, score).size == 0
        return
    fpr, tpr, _ = roc_curve(y, score, drop_intermediate=False)
    drawn = roc(y, score)[:, 1:]
    low, high = np.interp(drawn[0] - 1e-9, fpr, tpr), np.interp(drawn[0] + 1e-9, fpr, tpr)
    assert ((drawn[1] >= low - 1e-6) & (drawn[1] <= high + 1e-6)).all()
    precision, recall, _ = precision_recall_curve(y, score)
    curve = dict(zip(*precision_recall(y, score), strict=True))
    for at, value in curve.items():
        same = precision[np.isclose(recall, at, atol=1e-12)]
        if len(same):
            assert value == pytest.approx(same.max())


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 5, 11]), st.booleans())
@settings(max_examples=25, deadline=None)
def test_no_step_of_the_explorer_is_about_a_few_patients(seed: int, floor: int, logits: bool) -> None:
    rng = np.random.default_rng(seed)
    groups, frames = [], []
    for slot, n in enumerate(rng.integers(100, 900, 3).tolist()):
        z = rng.normal(0, 2, n)
        frame = pl.DataFrame(
            {
                "y": rng.integers(0, 2, n),
                "score": z if logits else 1 / (1 + np.exp(-z)),
                "person": rng.integers(0, n // 2, n),
            }
        )
        frames.append(frame)
        groups.append((slot, Group(f"g{slot}", n, None, None, {}), frame))
    threshold = 0.0 if logits else 0.5
    made = explore(groups, threshold, floor)
    if made is None:
        return
    assert made.thresholds[made.start] == threshold
    assert list(made.thresholds) == sorted(made.thresholds)
    for moves in made.groups:
        frame = frames[moves.slot]
        for stop, at in enumerate(made.thresholds):
            above = frame.filter(pl.col("score") >= at)
            assert moves.tp[stop] == above.filter(pl.col("y") == 1).height
            assert moves.fp[stop] == above.filter(pl.col("y") == 0).height
        for low, high in zip(made.thresholds, made.thresholds[1:], strict=False):
            between = frame.filter((pl.col("score") >= low) & (pl.col("score") < high))
            assert between["person"].n_unique() not in range(1, floor)


@pytest.mark.parametrize("low", [0.0, 0.3])
def test_the_net_benefit_is_that_of_the_curves_table(low: float) -> None:
    """The same numbers as `--curves` writes, at the explorer's thresholds; the drawn lines lie on them."""
    rng = np.random.default_rng(1)
    groups = []
    for slot, (share, n) in enumerate([(0.4, 600), (0.1, 900)]):
        y = rng.random(n) < share
        score = np.clip(rng.beta(2, 5, n) + 0.4 * y * rng.random(n) + low, 0, 1)
        frame = pl.DataFrame(
            {"y": y.astype(int), "score": score, "person": np.arange(n), "probability": [True] * n}
        )
        groups.append((slot, Group(f"g{slot}", n, None, None, {}), frame))
    made = explore(groups, 0.5, 11)
    assert made is not None
    for moves, (_, _, frame) in zip(made.groups, groups, strict=True):
        written = {kind: dict(zip(x.tolist(), value.tolist(), strict=True)) for kind, _, x, value, _ in
                   _curves(frame["y"].to_numpy() == 1, frame["score"].to_numpy(), True)}  # fmt: skip
        ours = {t: moves.net(i, t) for i, t in enumerate(made.thresholds) if 0 < t < 1}
        assert len(ours) > 20
        assert ours == pytest.approx({t: written["decision"][t] for t in ours}, abs=1e-12)
    drawn = decision_figure(made, "Net benefit by g", "x")
    assert drawn is not None
    told = [f"{decimal(moves.net(made.start, 0.5))} at 0.5" for moves in made.groups]
    assert all(text in drawn for text in told)
    assert drawn.count("<polyline") == (
        3 if low else 4
    )  # a group's, and calling everyone of it; one lies too low
    assert decision_figure(replace(made, probability=False), "t", "x") is None


def test_a_line_is_cut_where_it_leaves_the_figure() -> None:
    points = [(0.0, 1.0), (0.2, -1.0), (0.4, 0.0), (0.5, 1.0), (0.6, -2.0)]
    cut = _above(points, -0.5)
    assert [[(round(t, 3), v) for t, v in part] for part in cut] == [
        [(0.0, 1.0), (0.15, -0.5)],
        [(0.3, -0.5), (0.4, 0.0), (0.5, 1.0), (0.55, -0.5)],
    ]


def test_a_decision_has_no_explorer_and_a_small_group_takes_no_part() -> None:
    rng = np.random.default_rng(0)

    def rows(n: int, decision: bool) -> pl.DataFrame:
        score = rng.random(n)
        return pl.DataFrame(
            {
                "y": rng.integers(0, 2, n),
                "score": np.round(score) if decision else score,
                "person": np.arange(n),
            }
        )

    def of(sizes: list[int], decision: bool = False) -> Explorer | None:
        named = [(i, Group(f"g{n}", n, None, None, {}), rows(n, decision)) for i, n in enumerate(sizes)]
        return explore(named, 0.5, 11)

    assert of([500, 500], decision=True) is None
    assert of([500, 50]) is None
    made = of([500, 400, 54])
    assert made is not None
    assert made.left_out == ["g54"]
    assert "\\u003c" not in made.data()
    assert json.loads(made.data())["start"] == made.start


def test_more_evaluations_than_a_page_holds_are_all_in_the_overview(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "MOST_SECTIONS", 2)
    for model in ("m1", "m2", "m3"):
        cache = audited(tmp_path / "cache", predictions(600), draws=20, model=model)
    assert len(choose_runs(cache, None, 11).views) == 3
    page = build_report(cache, tmp_path / "r.html").read_text(encoding="utf-8")
    assert all(f"{model} · clinic · y" in page for model in ("m1", "m2", "m3"))
    assert len(re.findall(r'<section id="v\d+">', page)) == 2
    assert "1 of these have no section of their own" in page
    assert "Utility and fairness" in page


def test_a_segmentation_is_reported_by_its_dice(tmp_path: Path) -> None:
    table = predictions(600).with_columns(
        (pl.col("p") / 2 + 0.4).alias("dsc"), (20 * pl.col("p")).alias("hd95")
    )
    measured = audit_values(table, ["dsc", "hd95"], ["sex"], patient="pid", draws=50)
    cache = open_cache(tmp_path / "cache", create=True)
    run = cache.publish_run(
        {"model": "sam", "dataset": "clinic", "usage": "sam", "method": "", "labels": ["lung"]},
        pl.DataFrame(schema={**PREDICTION_COLUMNS, "attribute.sex": pl.String()}),
    )
    cache.publish_results(
        run, measured.with_columns(pl.lit(run).alias("run_id"), pl.lit("lung").alias("label"))
    )
    page = build_report(cache, tmp_path / "r.html").read_text(encoding="utf-8")
    mean = table.group_by("sex").agg(pl.col("dsc").mean())
    for sex, value in mean.iter_rows():
        assert re.search(rf'<th scope="row">{sex}</th>(\s*<td>[^\n]*\n){{5}}', page)
        assert f"{value:.3f}" in page
    assert "the Dice is 0." in page
    assert "Dice by group" in page
    assert "AUC" not in page.split('id="checklists"')[0].split("</style>")[1].replace("(AUC, sensitivity", "")


def test_the_map_of_the_embedding_is_its_two_principal_components(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    n = 120
    x = (
        rng.normal(size=(n, 8))
        * np.array([6, 3, 1, 1, 1, 1, 1, 1])
        @ np.linalg.qr(rng.normal(size=(8, 8)))[0]
    )
    sex = ["female", "male"] * (n // 2)
    x[::2] += 4
    ids = [f"{CANARY}-{i:03d}" for i in range(n)]
    cache = open_cache(tmp_path / "cache", create=True)
    samples = {"sample_id": ids, "patient_id": ids, "path": ids, "split": ["test"] * n, "slices": [1] * n,
               "input_digest": [digest([i]) for i in range(n)], "input_error": [None] * n}  # fmt: skip
    table = pl.DataFrame(samples, schema_overrides={"input_error": pl.String})
    cache.publish_dataset("study", {}, table)
    units = table.select("input_digest", pl.lit(0).alias("slice"))
    rows = units.with_columns(table["sample_id"])
    with cache.segment(
        "m", "study", "image", {"model": "m", "weights_sha256": "ab" * 32}, units, rows, d=8, dtype="float32"
    ) as writer:
        for block in writer.blocks:
            writer.write(block.index, x[block.start : block.stop].astype(np.float32))
        writer.publish(
            {"energy_joule": 7200.0, "seconds": 9.0, "images": n, "device": "cuda", "source": "/home/u/w.pt"}
        )
    key = cache.entry("m", "study").key
    y = rng.integers(0, 2, n).astype(float)
    predictions = pl.DataFrame({"sample_id": ids, "patient_id": ids, "split": ["test"] * n, "label": ["y"] * n,
                                "seed": [0] * n, "y": y, "score": rng.random(n), "logit": [None] * n,
                                "attribute.sex": sex, "attribute.ward": [TINY] * 5 + list("abcde" * 23)})  # fmt: skip
    cache.publish_run(
        {"model": "m", "dataset": "study", "usage": "lp", "method": "erm", "kind": "image", "key": key},
        predictions,
    )
    run_metrics(cache, by=["sex", "ward"], threshold_policy="0.5", draws=20)
    view = choose_runs(cache, None, 11).views[0]
    (made,) = clouds(cache, stored_maps(cache), view, predictions)
    expected = PCA(2).fit(x)
    placed = made.points.sort("sample_id").select("x", "y").to_numpy()
    drawn = expected.transform(x)
    assert np.abs(placed) == pytest.approx(np.abs(drawn), abs=1e-3)
    first, second = (100 * expected.explained_variance_ratio_[:2]).round().astype(int)
    assert made.facts == f"first two components: {first} % and {second} % of the variance"
    page = build_report(cache, tmp_path / "r.html").read_text(encoding="utf-8")
    shown = [group.n or 0 for attribute in view.attributes for group in attribute.shown]
    assert n < sum(shown) < 2 * n - 5  # of the ward with five people, and of another one, nobody is drawn
    assert page.count("mark dot s") == sum(shown)
    assert "2.0 Wh on the device" in page
    assert "<dd>w.pt, SHA-256 abababababab…</dd>" in page
    assert "/home/u" not in page
    assert CANARY not in page
    # what is stored is drawn instead, without the people that were not evaluated, and is the same picture again
    entry, samples = cache.entry("m", "study"), table.with_columns(pl.Series("attribute.sex", sex))
    stored = coordinates(x, samples, entry, ["pca", "tsne"])
    cache.publish_coordinates(stored.with_columns(pl.col("x") + 100))
    linear, near = clouds(cache, stored_maps(cache), view, predictions.head(90))
    assert (linear.projection, near.projection) == ("pca", "tsne")
    for one in (linear, near):
        told = stored.filter(pl.col("projection") == one.projection, pl.col("sample_id").is_in(ids[:90]))
        assert one.points.sort("sample_id")["x"].to_list() == (told.sort("sample_id")["x"] + 100).to_list()
    assert near.facts.startswith("t-SNE, perplexity 30, seed 0, divergence ")
    page = build_report(cache, tmp_path / "r.html").read_text(encoding="utf-8")
    assert page.count("mark dot s") == 2 * sum(shown)
    assert page.count(": mean</title>") == len(shown)  # a mean of t-SNE positions is no place
    assert READINGS["tsne"] in page
    assert CANARY not in page
    assert build_report(cache, tmp_path / "again.html").read_text(encoding="utf-8") == page
