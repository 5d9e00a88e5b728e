"""The report as a reader meets it: in headless Chromium, with the keyboard, on a phone, in print, without scripts.

Needs Debian's chromium (FMCACHE_CHROMIUM, or on the path), and for the accessibility test axe-core from npm
(FMCACHE_AXE, or where `make test` installs it). Pictures go to FMCACHE_ARTIFACTS.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from fmcache.analyze.report.build import build_report
from tests.audited import HOSTILE, TINY, audited, predictions

CHROMIUM = os.environ.get("FMCACHE_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
AXE = Path(
    os.environ.get("FMCACHE_AXE") or Path(__file__).parents[2] / ".venv/axe/node_modules/axe-core/axe.min.js"
)
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="chromium is not installed: apt-get install chromium")


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    return build_report(audited(folder / "cache"), folder / "report.html")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


def _open(browser: Browser, file: Path, **context: object) -> tuple[Page, list[str], list[str]]:
    """The page, what the console said, and what was requested beside the page itself."""
    page = browser.new_context(offline=True, **context).new_page()  # type: ignore[arg-type]
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    return page, said, [url for url in asked if url != file.as_uri()]


def _keep(page: Page, name: str) -> None:
    folder = os.environ.get("FMCACHE_ARTIFACTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(folder) / name, full_page=False)


def test_it_opens_offline_without_an_error_or_a_request_and_shows_its_figures(
    browser: Browser, page_file: Path
) -> None:
    page, said, asked = _open(browser, page_file, viewport={"width": 1280, "height": 1700})
    _keep(page, "report.png")
    assert (said, asked) == ([], [])
    for block in page.locator(".attribute").all():
        captions = block.locator("figcaption").all_text_contents()
        assert captions == [
            "AUC by group",
            "ROC curve and operating point",
            "Precision and recall",
            "Calibration",
            "Decision curve",
        ]
        for drawing in block.locator("figure svg").all():
            box = drawing.bounding_box()
            assert box is not None
            assert box["width"] > 200
            assert box["height"] > 100
        curve = block.locator("figure:nth-of-type(2) polyline.s0")
        assert len((curve.get_attribute("points") or "").split()) > 30


def test_a_script_in_a_group_name_stays_text(browser: Browser, page_file: Path) -> None:
    page, said, _ = _open(browser, page_file)
    assert page.title() == "Fairness report"
    assert page.get_by_role("rowheader", name=HOSTILE, exact=True).count() >= 3
    assert page.locator("script").count() == 1 + page.locator("[data-explorer]").count()
    assert said == []


def test_every_finding_has_a_verdict_that_can_be_seen(browser: Browser, tmp_path: Path) -> None:
    sites = predictions(600).with_columns(
        ("site " + (pl.int_range(pl.len()) % 30).cast(pl.String)).alias("race")
    )
    page, _, _ = _open(browser, build_report(audited(tmp_path / "cache", sites), tmp_path / "r.html"))
    chips = page.locator(".findings .chip").all()
    assert "Not shown" in [chip.inner_text() for chip in chips]
    assert all((chip.bounding_box() or {"width": 0})["width"] > 40 for chip in chips)


def test_no_script_but_the_reports_own_may_run(browser: Browser, page_file: Path) -> None:
    page, said, _ = _open(browser, page_file)
    page.evaluate(
        "const s = document.createElement('script'); s.textContent = 'document.title = 1'; document.body.append(s)"
    )
    page.evaluate("document.body.setAttribute('style', 'color: red')")
    assert page.title() == "Fairness report"
    assert len([line for line in said if "Content Security Policy" in line]) >= 1


@pytest.mark.parametrize("attribute", ["sex", "race"])
def test_the_explorer_shows_what_numpy_counts(browser: Browser, page_file: Path, attribute: str) -> None:
    table = predictions()
    page, said, _ = _open(browser, page_file)
    explorer = page.locator(".attribute", has=page.get_by_role("heading", name=f"By {attribute}", exact=True))
    explorer = explorer.locator("[data-explorer]")
    slider = explorer.get_by_role("slider")
    thresholds = explorer.locator("script").evaluate("e => JSON.parse(e.textContent).thresholds")
    start = int(slider.get_attribute("value") or "")
    assert thresholds[start] == 0.5
    before = _cells(explorer)
    slider.focus()
    for key, stop in (
        ("ArrowRight", start + 1),
        ("Home", 0),
        ("End", len(thresholds) - 1),
        ("ArrowLeft", -2),
    ):
        page.keyboard.press(key)
        threshold = thresholds[stop]
        assert explorer.locator("[data-threshold]").inner_text() == f"{threshold:.4g}"
        assert _cells(explorer) == _counted(table, attribute, threshold)
        spoken = explorer.get_by_role("status").text_content() or ""
        assert spoken.startswith(f"At threshold {threshold:.4g}, sensitivity differs by ")
        assert (slider.get_attribute("aria-valuetext") or "").endswith(f"{threshold:.4g}")
    explorer.get_by_role("button").click()
    assert _cells(explorer) == before
    assert explorer.locator("[data-threshold]").inner_text() == "0.5"
    assert said == []


def _cells(explorer: object) -> dict[str, list[str]]:
    rows = explorer.locator("tbody tr").all()  # type: ignore[attr-defined]
    return {row.locator("th").inner_text(): row.locator("td").all_text_contents() for row in rows}


def _counted(table: pl.DataFrame, attribute: str, threshold: float) -> dict[str, list[str]]:
    found = {}
    for (group,), rows in table.group_by(attribute):
        y, yes = rows["y"].to_numpy() == 1, rows["p"].to_numpy() >= threshold
        if group not in (TINY, "Black"):  # Black is hidden too, or Tinyton could be worked out
            rates = [yes.mean(), yes[y].mean(), yes[~y].mean(), y[yes].mean() if yes.any() else np.nan]
            odds = threshold / (1 - threshold) if threshold < 1 else np.nan
            rates.append((yes & y).mean() - (yes & ~y).mean() * odds)
            found[str(group)] = ["–" if np.isnan(rate) else f"{rate:.3f}".replace("-", "−") for rate in rates]
    return found


def test_the_markers_of_the_curves_follow_the_slider(browser: Browser, page_file: Path) -> None:
    page, _, _ = _open(browser, page_file, viewport={"width": 1280, "height": 900})
    block = page.locator(".attribute").first
    moving = block.locator("figure:nth-of-type(2) [data-axes]").first
    before = moving.bounding_box()
    block.get_by_role("slider").focus()
    page.keyboard.press("PageDown")
    after = moving.bounding_box()
    assert before is not None
    assert after is not None
    assert after["x"] > before["x"]  # a lower threshold flags more people: right and up
    assert after["y"] < before["y"]


def test_the_markers_of_the_decision_curve_lie_on_it(browser: Browser, page_file: Path) -> None:
    """At every stop of the slider the marker is where the table's net benefit is, or below the figure and unseen."""
    page, _, _ = _open(browser, page_file, viewport={"width": 1280, "height": 900})
    block = page.locator(".attribute").first
    figure = block.locator("figure", has=page.get_by_text("Decision curve", exact=True))
    group = figure.locator("[data-axes]").first
    wide, tall, least = (
        float(group.get_attribute(f"data-{name}") or "") for name in ("wide", "tall", "least")
    )
    block.get_by_role("slider").focus()
    places = {}
    for key in ("Home", *["PageUp"] * 4, "End"):
        page.keyboard.press(key)
        threshold = float(block.locator("[data-threshold]").inner_text())
        net = block.locator("[data-rate=net]").first.inner_text().replace("−", "-")
        moved = group.evaluate(
            "e => { const m = e.transform.baseVal.consolidate(); return m ? [m.matrix.e, m.matrix.f] : [0, 0] }"
        )
        value = float(net) if net != "–" else float("-inf")
        assert (group.get_attribute("visibility") == "visible") == (value >= least)
        if value >= least:
            places[threshold] = (value, *moved)
    assert len(places) >= 3
    (start, (first, across, up)), *rest = places.items()
    for threshold, (value, dx, dy) in rest:
        assert dx - across == pytest.approx(wide * (threshold - start), abs=0.3)
        assert dy - up == pytest.approx(-tall * (value - first), abs=tall * 0.001 + 0.3)


def test_without_scripts_the_rates_in_use_are_there_and_no_dead_control(
    browser: Browser, page_file: Path
) -> None:
    page, _, _ = _open(browser, page_file, java_script_enabled=False)
    explorer = page.locator("[data-explorer]").first
    assert _cells(explorer) == _counted(predictions(), "sex", 0.5)
    assert not explorer.locator("input").is_visible()
    assert explorer.locator(".without-script").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_violation(browser: Browser, page_file: Path, scheme: str) -> None:
    if not AXE.is_file():
        pytest.skip(f"axe-core is not there: npm install --prefix {AXE.parents[2]} axe-core")
    # the policy of the page refuses axe too, so it is switched off for axe alone
    page, _, _ = _open(browser, page_file, color_scheme=scheme, bypass_csp=True)
    _keep(page, f"report-{scheme}.png")
    page.add_script_tag(path=AXE)
    outcome = page.evaluate("axe.run({resultTypes: ['violations']})")
    assert len(outcome["passes"]) > 10  # it did look
    bad = [
        (v["id"], v["nodes"][0]["html"][:200])
        for v in outcome["violations"]
        if v["impact"] in ("serious", "critical")
    ]
    assert bad == []


def test_the_bar_of_links_scrolls_without_a_bar_of_its_own(browser: Browser, page_file: Path) -> None:
    page, _, _ = _open(browser, page_file, viewport={"width": 390, "height": 844})
    nav = page.locator("nav")
    assert nav.evaluate("one => one.scrollWidth > one.clientWidth"), "the links fit: the test shows nothing"
    assert nav.evaluate("one => getComputedStyle(one).scrollbarWidth") == "none"
    last = page.locator("nav a").last
    while not last.evaluate("one => one === document.activeElement"):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.closest('nav') !== null"), (
            "Tab left the bar before its last link"
        )
    box = last.bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390


def test_on_a_phone_nothing_is_wider_than_the_screen(browser: Browser, page_file: Path) -> None:
    page, _, _ = _open(browser, page_file, viewport={"width": 390, "height": 844})
    _keep(page, "report-phone.png")
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_in_print_it_is_black_on_white_without_controls(browser: Browser, page_file: Path) -> None:
    page, _, _ = _open(browser, page_file, color_scheme="dark")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator("nav").is_visible()
    assert not page.locator("[data-explorer] input").first.is_visible()
    assert page.locator("[data-explorer] table").first.is_visible()
    assert page.pdf()[:5] == b"%PDF-"
