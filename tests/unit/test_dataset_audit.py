"""The audit's numbers against values by hand; hidden cells; the page and the Croissant file."""

from __future__ import annotations

import json
import math
from pathlib import Path

import polars as pl
import pytest

from fmcache.errors import DatasetError
from fmcache.extract.audit_page import write_audit_page
from fmcache.extract.croissant import write_croissant
from fmcache.extract.dataset import OWN_CARDS, Dataset, load_dataset
from fmcache.extract.dataset_audit import audit_dataset, cramers_v, read_reference, wilson
from fmcache.extract.dataset_card import read_card
from fmcache.extract.synthesize import synthesize
from fmcache.settings import Settings

# 20 samples of 10 patients: 12 women (3 of 10 labelled positive), 6 men (3 of 6), 2 of unknown sex
ROWS = (
    [("f", 1)] * 3 + [("f", 0)] * 7 + [("f", None)] * 2 + [("m", 1)] * 3 + [("m", 0)] * 3 + [(None, 1), (None, 0)]
)  # fmt: skip


@pytest.fixture
def study(tmp_path: Path) -> Dataset:
    frame = pl.DataFrame(
        {
            "sample_id": [f"s{i}" for i in range(20)],
            "patient_id": [f"p{i // 2}" for i in range(20)],
            "path": ["x.png"] * 20,
            "label.y": [label for _, label in ROWS],
            "attribute.sex": [sex for sex, _ in ROWS],
            "attribute.site": ["a"] * 12 + ["b"] * 8,
        }
    )
    frame.write_csv(tmp_path / "study.csv")
    return load_dataset(str(tmp_path / "study.csv"), settings=Settings())


def pick(rows: list, section: str, **of: str) -> list:
    return [
        row
        for row in rows
        if row.section == section and all(getattr(row, key) == value for key, value in of.items())
    ]


def test_representation_missingness_and_prevalence(study: Dataset) -> None:
    rows = audit_dataset(study)
    women, men, unknown = pick(rows, "representation", attribute="sex")
    assert (women.group, women.samples, women.patients, women.value) == ("f", 12, 6, 0.6)
    assert (men.group, men.samples, men.patients, men.value) == ("m", 6, 3, 0.3)
    assert (unknown.group, unknown.samples, unknown.patients) == ("unknown", 2, 1)
    pairs = {row.group: row.samples for row in pick(rows, "representation", attribute="sex*site")}
    assert pairs == {"f*a": 12, "m*b": 6, "unknown*b": 2}
    assert [(row.samples, row.value) for row in pick(rows, "missingness", attribute="sex")] == [(2, 0.1)]
    assert [(row.samples, row.value) for row in pick(rows, "missingness", label="y")] == [(2, 0.1)]
    women, men, unknown = pick(rows, "prevalence", attribute="sex", label="y")
    assert (women.samples, women.value) == (10, 0.3)
    assert (women.low, women.high) == pytest.approx((0.10779, 0.60322), abs=1e-5)  # Wilson, 3 of 10
    assert (men.samples, men.value) == (6, 0.5)
    assert (unknown.group, unknown.samples) == ("unknown", 2)


def test_association_is_cramers_v(study: Dataset) -> None:
    (row,) = pick(audit_dataset(study), "association", attribute="sex*site")
    assert (row.samples, row.value) == (18, pytest.approx(1.0))
    # 2 x 2 with counts 8 2 / 3 7: χ² = 20 · (8·7 − 2·3)² / (10 · 10 · 11 · 9), V = √(χ² / 20)
    one, other = pl.Series(["a"] * 10 + ["b"] * 10), pl.Series(["x"] * 8 + ["y"] * 2 + ["x"] * 3 + ["y"] * 7)
    assert cramers_v(one, other) == pytest.approx(math.sqrt((8 * 7 - 2 * 3) ** 2 / (10 * 10 * 11 * 9)))
    assert cramers_v(one, pl.Series(["x"] * 20)) is None
    assert wilson(0, 10)[0] == 0.0
    assert wilson(10, 10)[1] == pytest.approx(1.0)


def test_shift_against_a_reference_population(study: Dataset, tmp_path: Path) -> None:
    (tmp_path / "ref.csv").write_text("attribute,group,count\nsex,f,51\nsex,m,48\nsex,x,1\n")
    rows = pick(audit_dataset(study, reference=read_reference(str(tmp_path / "ref.csv"))), "shift")
    # of the 18 whose sex is known, 12/18 are women
    assert {row.group: row.value for row in rows} == pytest.approx(
        {"f": 12 / 18 - 0.51, "m": 6 / 18 - 0.48, "x": -0.01, "total variation": 12 / 18 - 0.51}
    )


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("attribute,share\nsex,1\n", "lacks a column"),
        ("attribute,group,share\nsex,f,most\n", "no number from 0"),
        ("attribute,group,share\nsex,f,-1\n", "no number from 0"),
    ],
)
def test_a_reference_that_cannot_be_used(text: str, part: str, tmp_path: Path) -> None:
    (tmp_path / "ref.csv").write_text(text)
    with pytest.raises(DatasetError, match=part):
        read_reference(str(tmp_path / "ref.csv"))


def test_a_reference_of_an_attribute_that_is_not_there(study: Dataset) -> None:
    reference = pl.DataFrame({"attribute": ["race"], "group": ["x"], "share": [1.0]})
    with pytest.raises(DatasetError, match="'race', the dataset has not"):
        audit_dataset(study, reference=reference)


def test_small_cells_are_hidden_and_never_a_single_one(study: Dataset) -> None:
    rows = pick(audit_dataset(study, min_cell=5), "representation", attribute="sex")
    assert [row.hidden for row in rows] == [
        False,
        True,
        True,
    ]  # 2 is small; 6 goes with it, or 20 − 12 − 6 tells
    prevalence = pick(audit_dataset(study, min_cell=5), "prevalence", attribute="sex")
    assert [row.hidden for row in prevalence] == [True, True, True]  # 3 positives are fewer than 5
    assert all(row.samples is None and row.value is None for row in rows if row.hidden)


def test_the_page_is_self_contained_escaped_and_hides_small_cells(study: Dataset, tmp_path: Path) -> None:
    card = {**study.card, "title": "<script>alert(1)</script>", "notes": ["a & b"]}
    hostile = Dataset(study.name, card, study.root, study.samples, study.reader)
    page = write_audit_page(
        hostile, audit_dataset(hostile, min_cell=5), tmp_path / "a.html", min_cell=5
    ).read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "a &amp; b" in page
    assert "default-src 'none'" in page
    assert "http" not in page.replace("http-equiv", "")
    assert ">hidden<" in page
    assert not any(f">{sample}<" in page for sample in study.samples["sample_id"])


@pytest.mark.filterwarnings("ignore:ConjunctiveGraph is deprecated:DeprecationWarning")
def test_croissant_is_valid_and_says_what_the_card_and_the_audit_know(tmp_path: Path) -> None:
    mlc = pytest.importorskip("mlcroissant", reason="pip install mlcroissant (make test does)")
    card = read_card(OWN_CARDS / "ham10000.toml")
    root = synthesize(card, tmp_path / "ham")
    dataset = load_dataset("ham10000", root=root, settings=Settings())
    out = write_croissant(dataset, card, audit_dataset(dataset), tmp_path / "c.json")
    assert not mlc.Dataset(jsonld=str(out)).metadata.issues.errors
    text = json.loads(out.read_text())
    assert text["license"] == "CC BY-NC 4.0"
    assert "SYNTHETIC MINIATURE" in text["description"]
    assert any("sex: female 36.4%, male 45.5%, unknown 18.2%" in one for one in text["rai:dataBiases"])
    assert "age" in text["rai:dataCollectionMissingData"]
    assert [file["name"] for file in text["distribution"]] == ["HAM10000_metadata"]
    assert len(text["distribution"][0]["sha256"]) == 64
    fields = [field["name"] for field in text["recordSet"][0]["field"]]
    assert fields == ["lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization", "dataset"]
    assert "ISIC_0027419" not in out.read_text()
