"""``fmcache datasets`` and ``fmcache extract --dataset NAME`` as a user meets them, on miniatures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from fmcache.store.cache import open_cache
from tests.e2e.command import fmcache
from tests.e2e.study import MODEL, make_weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_weights(tmp_path_factory.mktemp("weights") / "a.safetensors")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project folder with miniatures and a fmcache.toml that says where MIMIC lies."""
    project = tmp_path_factory.mktemp("project")
    for name in ("mimic", "ircadb", "chexpert"):
        fmcache("datasets", name, "--synthesize", project / name, cwd=project)
    (project / "fmcache.toml").write_text('[datasets.mimic]\nroot = "mimic"\n')
    return project


@pytest.fixture
def project(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "project")
    return tmp_path / "project"


def extract(project: Path, weights: Path, *more: str | Path, code: int = 0):
    return fmcache(
        "extract", "-m", MODEL, "--checkpoint", weights, "--executor", "serial", "--max-reject", "1", *more,
        cwd=project, code=code,
    )  # fmt: skip


def field(rows: list[dict], name: str) -> str:
    return next(row["value"] for row in rows if row["field"] == name)


def test_the_list_and_one_card(project: Path) -> None:
    rows = {row["name"]: row for row in fmcache("datasets", cwd=project).rows}
    assert len(rows) >= 22
    assert rows["mimic"]["root"].endswith("mimic")
    assert rows["kits23"]["samples"] == 489
    card = fmcache("datasets", "chexpert", cwd=project).rows
    assert field(card, "access").startswith("Register")
    assert "train/patient00001/study1/view1_frontal.jpg" in field(card, "tree")
    assert (
        field(card, "label pneumonia")
        == "Pneumonia; positive: 1.0; negative: 0.0; uncertain: -1.0 (u-ignore); blank is 0"
    )
    assert field(card, "published train") == "223,414"
    wrong = fmcache("datasets", "chexprt", cwd=project, code=2)
    assert wrong.err.splitlines()[-1] == "Did you mean chexpert?"


def test_mimic_as_it_stands_after_its_root_is_set(project: Path, weights: Path) -> None:
    done = extract(project, weights, "--dataset", "mimic", code=3)
    assert (done.rows[0]["embedded"], done.rows[0]["rejected"]) == (5, 1)
    assert "synthetic miniature" in done.err
    assert "sex: female 4 (3 patients), male 1 (1 patient), unknown 1 (1 patient)" in done.err
    version = open_cache(project / "fmcache-cache").dataset("mimic")
    assert version.card["counts"]["attributes"]["sex"]["unknown"] == {"samples": 1, "patients": 1}
    assert version.card["synthetic"] is True
    rows = fmcache("sql", "SELECT sex, count(*) AS n FROM samples GROUP BY 1 ORDER BY 1", cwd=project).rows
    assert {row["sex"]: row["n"] for row in rows} == {"female": 4, "male": 1, None: 1}
    again = extract(project, weights, "--dataset", "mimic", "--uncertain", "u-one", code=3)
    assert again.rows[0]["embedded"] == 0  # labels are in no key
    assert fmcache("sql", "SELECT sum(pneumonia) AS n FROM samples", cwd=project).rows == [{"n": 1}]


def test_a_dicom_series_and_the_papers_task(project: Path, weights: Path) -> None:
    done = extract(project, weights, "--dataset", "ircadb", "--root", project / "ircadb", "--task", "paper")
    assert (done.rows[0]["samples"], done.rows[0]["embedded"]) == (4, 4 * 12)
    found = open_cache(project / "fmcache-cache").embeddings(MODEL, "ircadb")
    assert len(found.array()) == 48
    other = extract(
        project, weights, "-d", "ircadb", "--root", project / "ircadb", "--slices", "3", "--slicing", "linear"
    )
    assert other.rows[0]["embedded"] == 4 * 3
    assert other.rows[0]["key"] != done.rows[0]["key"]  # other pixels
    wrong = extract(
        project, weights, "-d", "ircadb", "--root", project / "ircadb", "--slicing", "cubic", code=2
    )
    assert wrong.err.splitlines()[-2].startswith('It is "pick" or "linear"')


def test_the_papers_split_leaks_and_has_to_be_asked_for(project: Path, weights: Path) -> None:
    table = project / "many.csv"
    lines = [f"{i},x{i}.png,p{i // 4},{'F' if i % 3 else 'M'}" for i in range(200)]
    table.write_text("sample_id,path,patient_id,attribute.sex\n" + "\n".join(lines) + "\n")
    refused = extract(project, weights, "-d", table, "--split", "paper", "--dry-run", code=2)
    what, _, do = refused.err.splitlines()[-3:]
    assert what.startswith("The paper's split is by image: ")
    assert do.endswith("--split paper --allow-leakage")
    accepted = extract(project, weights, "-d", table, "--split", "paper", "--allow-leakage", "--dry-run")
    assert "Leakage as in the paper: " in accepted.err
    assert open_cache(project / "fmcache-cache").dataset("many").card["split"]["balance"] == "sex"


def test_the_check_before_any_gpu_time(project: Path) -> None:
    done = fmcache("datasets", "chexpert", "--root", project / "chexpert", cwd=project, code=3)
    rows = {row["check"]: row for row in done.rows}
    assert rows["image files"] == {
        "check": "image files",
        "state": "bad",
        "found": "1 of 8 are missing (train: 1)",
        "expected": "",
    }
    assert "patient0000" not in done.out + done.err
    named = fmcache("datasets", "chexpert", "--root", project / "chexpert", "--show-ids", cwd=project, code=3)
    assert "train/patient00006/study1/view1_frontal.jpg" in named.out
    (project / "chexpert" / "SYNTHETIC.txt").unlink()
    rows = {
        row["check"]: row
        for row in fmcache("datasets", "chexpert", "--root", project / "chexpert", cwd=project, code=3).rows
    }
    assert rows["rows of train"] == {
        "check": "rows of train",
        "state": "note",
        "found": "7",
        "expected": "223,414 published",
    }
    wrong = fmcache("datasets", "chexpert", "--root", project, cwd=project, code=2)
    assert wrong.err.splitlines()[-1] == "It is one folder further down: --root …/chexpert"


def test_a_code_of_another_release_stops_before_anything_is_stored(project: Path, weights: Path) -> None:
    table = project / "chexpert" / "train.csv"
    table.write_text(table.read_text().replace(",Male,", ",M,"))
    done = extract(project, weights, "-d", "chexpert", "--root", project / "chexpert", code=2)
    assert "`attribute.sex` holds 'M', which the card does not know." in done.err
    assert "Found: " in done.err
    assert not (project / "fmcache-cache" / "datasets").exists() or not list(
        (project / "fmcache-cache" / "datasets").iterdir()
    )


def test_the_audit_as_table_page_and_croissant(project: Path) -> None:
    (project / "ref.csv").write_text("attribute,group,share\nsex,female,0.5\nsex,male,0.5\n")
    done = fmcache(
        "datasets",
        "mimic",
        "--audit",
        "--reference",
        "ref.csv",
        "--html",
        "a.html",
        "--croissant",
        "c.json",
        cwd=project,
    )
    shift = {row["group"]: row["value"] for row in done.rows if row["section"] == "shift"}
    assert shift["female"] == pytest.approx(4 / 5 - 0.5)
    page = (project / "a.html").read_text()
    assert "Synthetic miniature" in page
    assert ">hidden<" in page  # below eleven
    assert json.loads((project / "c.json").read_text())["name"] == "mimic"


def test_a_miniature_never_lands_on_something(project: Path) -> None:
    done = fmcache("datasets", "mimic", "--synthesize", project / "mimic", cwd=project, code=2)
    assert "is not empty; nothing was written." in done.err
