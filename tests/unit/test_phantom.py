"""What the phantom study plants, counted in its tables and seen in its pixels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image
from typer.testing import CliRunner

from fmcache.cli import app
from fmcache.errors import UsageError
from fmcache.extract.datasets.phantom import plan_study, synthesize_phantom

VISIBLE = {"male": 0.9, "female": 0.5}


def _rows(**how: object) -> pl.DataFrame:
    plan = plan_study(400, 800, VISIBLE, 0, **how)  # type: ignore[arg-type]
    return plan.images.join(plan.patients, on="patient_id", how="left")


@pytest.mark.parametrize("prevalence", [{"male": 0.5, "female": 0.5}, {"male": 0.8, "female": 0.2}])
def test_prevalence_and_visibility_are_exact_in_every_split_and_sex(prevalence: dict[str, float]) -> None:
    for (split, sex), part in _rows(prevalence=prevalence).group_by("split", "sex"):
        positive = int(part["lesion"].sum())
        assert positive == round(prevalence[sex] * part.height), (split, sex)
        assert int(part["visible"].sum()) == pytest.approx(VISIBLE[sex] * positive, abs=0.5)
        assert part.filter(visible=1)["lesion"].min() == 1


@pytest.mark.parametrize("women", [0.15, 0.5, 0.8])
def test_the_share_of_women_is_exact_and_the_splits_keep_it(women: float) -> None:
    plan = plan_study(400, 800, VISIBLE, 0, women=women)
    assert (plan.patients["sex"] == "female").sum() == round(women * 400)
    for _, part in plan.patients.group_by("split"):
        assert (part["sex"] == "female").mean() == pytest.approx(women, abs=0.01)


def _pictures(study: Path) -> dict[str, np.ndarray]:
    """The pixels of every image, by its path."""
    return {
        name: np.asarray(Image.open(study / name)).astype(float)
        for name in pl.read_csv(study / "images.csv")["file"]
    }


def test_lucent_lesions_are_darker_in_that_sex_only(tmp_path: Path) -> None:
    """The same seed draws the same bodies: the lesion is where it was, only its sign differs."""
    seen = {"male": 1.0, "female": 1.0}
    usual, lucent = (
        synthesize_phantom(tmp_path / name, patients=16, images=24, visible=seen, seed=3, lucent=sex)
        for name, sex in (("usual", ""), ("lucent", "female"))
    )
    rows = pl.read_csv(usual / "images.csv").join(pl.read_csv(usual / "patients.csv"), on="patient_id")
    bright, dark = _pictures(usual), _pictures(lucent)
    darkest = []
    for row in rows.iter_rows(named=True):
        change = dark[row["file"]] - bright[row["file"]]
        if row["sex"] == "female" and row["visible"]:
            assert change.max() <= 0
            darkest.append(change.min())
        else:
            assert not change.any()
    assert len(darkest) >= 5
    assert max(darkest) < -5  # grey values of 255


def test_drains_stand_with_the_lesion_in_one_sex_and_without_it_in_the_other() -> None:
    """Exact shares in every split, sex and label; whether the lesion can be seen makes no difference."""
    share = {"male": 0.9, "female": 0.2}
    rows = _rows(drain=share)
    for (split, sex, lesion), part in rows.group_by("split", "sex", "lesion"):
        wanted = share[sex] if lesion else 1 - share[sex]
        assert int(part["drain"].sum()) == pytest.approx(wanted * part.height, abs=0.5), (split, sex, lesion)
    hidden = rows.filter(pl.col("sex") == "male", pl.col("lesion") == 1).group_by("visible")
    for _, part in hidden.agg(pl.col("drain").mean()).iter_rows():
        assert part == pytest.approx(0.9, abs=0.1)
    assert rows.drop("drain").equals(_rows())  # all else is as it is without


def test_a_drain_is_a_bright_tube_and_nothing_else_changes(tmp_path: Path) -> None:
    without, drained = (
        synthesize_phantom(tmp_path / name, patients=16, images=24, seed=3, drain=share)
        for name, share in (("without", None), ("drained", {"male": 1.0, "female": 0.0}))
    )
    plain, tubes = _pictures(without), _pictures(drained)
    rows = pl.read_csv(drained / "images.csv").join(pl.read_csv(drained / "patients.csv"), on="patient_id")
    assert "drain" not in pl.read_csv(without / "images.csv").columns
    assert 0 < rows["drain"].sum() < rows.height
    for row in rows.iter_rows(named=True):
        change = tubes[row["file"]] - plain[row["file"]]
        assert row["drain"] == (row["lesion"] if row["sex"] == "male" else 1 - row["lesion"])
        if row["drain"]:
            assert change.min() >= 0
            assert 0.005 < (change > 20).mean() < 0.05  # of the image
        else:
            assert not change.any()


def test_the_command_passes_its_options_on(tmp_path: Path) -> None:
    words = (
        "--patients 12 --images 20 --prevalence-male 0.8 --prevalence-female 0.25 --women 0.25 --lucent male "
        "--drain-male 0.9 --drain-female 0"
    )
    told = CliRunner().invoke(app, ["phantom", str(tmp_path / "study"), *words.split()])
    assert told.exit_code == 0, told.output
    parameters = json.loads((tmp_path / "study" / "truth.json").read_text())["parameters"]
    assert parameters["prevalence"] == {"male": 0.8, "female": 0.25}
    assert (parameters["women"], parameters["lucent"]) == (0.25, "male")
    assert parameters["drain"] == {"male": 0.9, "female": 0.0}


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"prevalence": {"male": 1.0, "female": 0.5}}, "above 0 and below 1"),
        ({"prevalence": {"male": 0.5}}, "above 0 and below 1"),
        ({"women": 0.0}, "above 0 and below 1"),
        ({"lucent": "women"}, "it is 'women'"),
        ({"drain": {"male": 0.9}}, "for male and for female"),
        ({"drain": {"male": 1.5, "female": 0.1}}, "for male and for female"),
    ],
)
def test_what_cannot_be_planted_is_refused(how: dict[str, object], says: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=says):
        synthesize_phantom(tmp_path / "study", **how)  # type: ignore[arg-type]
    assert not (tmp_path / "study").exists()
