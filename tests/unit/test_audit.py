"""fmcache.audit on anybody's table: forms, typos, several labels, classes, bins, numbers a sample, curves."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from polars.testing import assert_frame_equal
from typer.testing import CliRunner

import fmcache
from fmcache.analyze.curves import CURVE_COLUMNS
from fmcache.analyze.metrics import auc
from fmcache.cli import app
from fmcache.errors import UsageError
from fmcache.store.groups import parse_bins


def table(n: int = 600) -> pl.DataFrame:
    random = np.random.default_rng(0)
    pid = random.integers(0, n // 2, n)
    sex = random.choice(["male", "female"], n)[pid]
    dx = random.choice(["mel", "nv", "bcc"], n, p=[0.3, 0.5, 0.2])
    z = random.normal(size=(n, 3)) + 1.5 * (dx[:, None] == np.array(["mel", "nv", "bcc"]))
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    y = (random.random(n) < 0.35).astype(int)
    return pl.DataFrame(
        {
            "pid": pid,
            "sex": sex,
            "age": random.integers(18, 90, n)[pid],
            "y": y,
            "p": (1 / (1 + np.exp(-(1.4 * y - 0.8 + random.normal(size=n))))).round(3),
            "other": random.integers(0, 2, n),
            "q": random.random(n),
            "dx": dx,
            "p_mel": p[:, 0],
            "p_nv": p[:, 1],
            "p_bcc": p[:, 2],
            "dsc": np.clip(random.beta(8, 2, n) - 0.05 * (sex == "female"), 0, 1),
            "split": np.where(pid % 3 == 0, "val", "test"),
        }
    )


def test_a_decimal_comma_is_named(tmp_path: Path) -> None:
    data = table(50).with_columns(pl.col("p").cast(pl.String).str.replace(".", ",", literal=True))
    data.write_csv(tmp_path / "a.csv", separator=";")
    with pytest.raises(UsageError, match="50 of 50 values are not, they have a decimal comma"):
        fmcache.audit(tmp_path / "a.csv", label="y", score="p", by=["sex"])


OPTIONS = {"draws": 30, "permutations": 10, "patient": "pid"}


@pytest.mark.parametrize(
    ("separator", "name"), [(";", "a.csv"), ("\t", "a.csv"), (";", "a.tsv"), (",", "a.csv.gz")]
)
def test_a_table_is_read_whatever_separates_its_columns(tmp_path: Path, separator: str, name: str) -> None:
    data = table(200)
    text = data.write_csv(separator=separator).encode("utf-8-sig")
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    options = {"label": "y", "score": "p", "by": ["sex"], **OPTIONS}
    assert_frame_equal(
        fmcache.audit(tmp_path / name, **options).drop("dataset"),
        fmcache.audit(data, **options).drop("dataset"),
    )


def value(results: pl.DataFrame, metric: str, disparity: str = "", **where: object) -> float:
    rows = results.filter(metric=metric, disparity=disparity, **where)
    assert len(rows) == 1
    return rows["value"][0]


def test_every_kind_of_table_gives_the_same_frame(tmp_path: Path) -> None:
    data = table()
    path = tmp_path / "preds.csv"
    data.write_csv(path)
    data.write_parquet(tmp_path / "preds.parquet")
    arrow = data.to_arrow()
    assert isinstance(arrow, pa.Table)
    frames = [
        data,
        data.lazy(),
        arrow,
        data.to_pandas(),
        duckdb.sql("SELECT * FROM data"),
        path,
        tmp_path / "preds.parquet",
    ]
    found = [fmcache.audit(one, label="y", score="p", by=["sex"], **OPTIONS) for one in frames]  # type: ignore[arg-type]
    assert all(isinstance(one, pl.DataFrame) for one in found)
    numbers = [one.drop("dataset") for one in found]
    assert all(one.equals(numbers[0]) for one in numbers[1:])
    expected = auc(data["y"].to_numpy() == 1, data["p"].to_numpy())
    assert value(found[0], "auc", group="overall") == pytest.approx(expected, abs=1e-15)
    assert found[0]._repr_html_().startswith("<div")
    with pytest.raises(UsageError, match="is no table"):
        fmcache.audit(42, label="y", score="p", by=[])


def test_several_labels_are_measured_side_by_side() -> None:
    found = fmcache.audit(table(), label=["y", "other"], score=["p", "q"], by=["sex"], **OPTIONS)  # type: ignore[arg-type]
    assert found["label"].unique().sort().to_list() == ["other", "y"]
    alone = fmcache.audit(table(), label="y", score="p", by=["sex"], **OPTIONS)  # type: ignore[arg-type]
    keep = ["metric", "disparity", "group", "value", "ci_low", "ci_high"]
    mine = (pl.col("label") == "y") & (pl.col("metric") != "finding")
    mine &= ~pl.col("disparity").str.contains("holm|bh|band")  # these know of the other label
    numbers = [one.filter(mine).select(keep) for one in (found, alone)]
    assert numbers[0].equals(numbers[1])
    with pytest.raises(UsageError, match="2 labels and 1 scores"):
        fmcache.audit(table(), label=["y", "other"], score=["p"], by=["sex"])


def test_classes_are_measured_one_by_one_and_together() -> None:
    data = table()
    scores = ["p_mel", "p_nv", "p_bcc"]
    found = fmcache.audit(data, label="dx", score=scores, by=["sex"], **OPTIONS)  # type: ignore[arg-type]
    assert set(found["label"]) == {"dx", "dx=mel", "dx=nv", "dx=bcc"}
    areas = [
        auc(data["dx"].to_numpy() == name, data[f"p_{name}"].to_numpy()) for name in ("mel", "nv", "bcc")
    ]
    assert value(found, "auc_macro", label="dx", group="overall") == pytest.approx(np.mean(areas))
    called = np.array(["mel", "nv", "bcc"])[data.select(scores).to_numpy().argmax(axis=1)]
    right = called == data["dx"].to_numpy()
    women = data["sex"].to_numpy() == "female"
    assert value(found, "accuracy", label="dx", group="female") == pytest.approx(right[women].mean())
    gap = abs(right[women].mean() - right[~women].mean())
    assert value(found, "accuracy", "gap", label="dx", attribute="sex") == pytest.approx(gap)
    assert 0 < value(found, "accuracy", "gap_p", label="dx", attribute="sex") <= 1
    with pytest.raises(UsageError) as error:
        fmcache.audit(data, label="dx", score=["p_mel", "p_nv"], by=["sex"])
    assert str(error.value).splitlines()[0] == "The class bcc of dx has no score."


def test_named_bins_and_their_mistakes() -> None:
    assert parse_bins("age=young:60:old")[1].names == ("young", "old")
    assert parse_bins("bmi=18.5:25")[1].names == ("<18.5", "18.5 to <25", ">=25")
    data = table()
    found = fmcache.audit(data, label="y", score="p", by=["age"], bins=["age=young:60:old"], **OPTIONS)  # type: ignore[arg-type]
    old = data.filter(pl.col("age") >= 60)
    row = found.filter(metric="auc", disparity="", group="old")
    assert row["n"].to_list() == [len(old)]
    for wrong in ("age", "age=", "age=60:40", "age=a:b:c", "age=x:60:x", "=40"):
        with pytest.raises(UsageError, match="bins"):
            parse_bins(wrong)
    with pytest.raises(UsageError, match="are not used"):
        fmcache.audit(data, label="y", score="p", by=["sex"], bins=["age=60"])


def test_a_threshold_for_every_group_is_chosen_on_its_validation_rows() -> None:
    from fmcache.analyze.thresholds import choose_threshold

    data = table()
    found = fmcache.audit(
        data, label="y", score="p", by=["sex"], split="split", threshold="youden", per_group=True, **OPTIONS
    )  # type: ignore[arg-type]
    for sex in ("male", "female"):
        val = data.filter(sex=sex, split="val")
        expected = choose_threshold(val["y"].to_numpy() == 1, val["p"].to_numpy(), "youden")
        row = found.filter(metric="tpr", disparity="", group=sex).row(0, named=True)
        assert row["threshold"] == expected
        assert row["threshold_policy"] == "youden per group"
    assert any("Every group has its own threshold" in text for text in found["reason"])


def test_a_threshold_chosen_on_the_test_rows_is_recorded_and_said() -> None:
    found = fmcache.audit(table(), label="y", score="p", by=["sex"], threshold="test-youden", **OPTIONS)  # type: ignore[arg-type]
    assert set(found.filter(metric="tpr")["threshold_policy"]) == {"test-youden"}
    assert any(
        text.startswith("warning: The threshold policy test-youden chose on the labels")
        for text in found["reason"]
    )


def test_wilson_for_independent_images_and_percentiles_for_patients_with_several() -> None:
    from fmcache.analyze.intervals import wilson

    data = table()
    alone = fmcache.audit(data, label="y", score="p", by=[], draws=30)
    row = alone.filter(metric="accuracy", disparity="").row(0, named=True)
    assert (row["ci_low"], row["ci_high"]) == pytest.approx(wilson(row["value"] * 600, 600, 0.95))
    clustered = fmcache.audit(data, label="y", score="p", by=[], draws=30, patient="pid")
    other = clustered.filter(metric="accuracy", disparity="").row(0, named=True)
    assert other["value"] == row["value"]
    assert other["ci_low"] != row["ci_low"]


def test_numbers_a_sample_are_averaged_and_compared() -> None:
    from fmcache.analyze.values import audit_values

    data = table()
    found = audit_values(data, ["dsc"], ["sex"], patient="pid", draws=200, definition=["fmcache", "harvard"])
    mean = {sex: data.filter(sex=sex)["dsc"].mean() for sex in ("male", "female")}
    ours = found.filter(definition="fmcache")
    for sex in mean:
        assert value(ours, "dsc", group=sex) == pytest.approx(mean[sex])
    assert value(ours, "dsc", "gap") == pytest.approx(mean["male"] - mean["female"])  # type: ignore[operator]
    assert value(ours, "dsc", "skew") == pytest.approx((1 - mean["female"]) / (1 - mean["male"]))  # type: ignore[operator]
    spread = list(mean.values())
    whole = data["dsc"].mean()
    assert value(ours, "dsc", "es") == pytest.approx(whole / (1 + np.std(spread)))  # type: ignore[operator,arg-type]
    assert value(found.filter(definition="harvard"), "dsc", "es") == pytest.approx(
        whole / (1 + np.std(spread, ddof=1))  # type: ignore[operator,arg-type]
    )
    assert value(ours, "dsc", "gap_p") < 0.05
    assert ours.filter(disparity="difference_p")["value"].to_list()[0] < 0.05


def test_a_spread_of_another_definition_has_its_own_interval() -> None:
    from fmcache.analyze.values import audit_values

    both = audit_values(
        table(), ["dsc"], ["sex"], patient="pid", draws=300, definition=["fmcache", "harvard"]
    )
    ours, theirs = (
        both.filter(definition=one, metric="dsc", disparity="es").row(0, named=True)
        for one in ("fmcache", "harvard")
    )
    assert theirs["ci_low"] < theirs["value"] < theirs["ci_high"]
    # √2 times the deviation of ours, so a wider interval, a little lower
    assert theirs["ci_high"] - theirs["ci_low"] > ours["ci_high"] - ours["ci_low"]
    assert theirs["ci_high"] < ours["ci_high"]


def adjusted(found: pl.DataFrame, metrics: list[str]) -> list[tuple[float, float]]:
    """(printed, computed) p-values of Holm over the differences of these metrics, label by label alike."""
    from fmcache.analyze.multiplicity import holm

    mine = found.filter(pl.col("metric").is_in(metrics))
    raw, printed = (
        mine.filter(disparity=kind)["value"].to_numpy() for kind in ("difference_p", "difference_p_holm")
    )
    assert mine.filter(disparity="difference_p_holm")["reason"].unique().to_list() == [
        f"one of {len(raw)} in the family"
    ]
    assert (mine.filter(disparity="difference_p_bh")["value"].to_numpy() >= raw).all()
    band, alone = (mine.filter(disparity=kind) for kind in ("difference_band", "difference"))
    assert ((band["ci_high"] - band["ci_low"]) > 1.01 * (alone["ci_high"] - alone["ci_low"])).all()
    return list(zip(printed.tolist(), holm(raw).tolist(), strict=True))


def test_classes_together_have_a_family_of_differences_too() -> None:
    data = table(1200)
    data = data.with_columns(
        site=pl.Series(np.random.default_rng(1).choice(["x", "y", "z"], 600)[data["pid"]])
    )
    options = {**OPTIONS, "draws": 300, "family": ["auc", "f1"]}
    found = fmcache.audit(data, label="dx", score=["p_mel", "p_nv", "p_bcc"], by=["sex", "site"], **options)  # type: ignore[arg-type]
    pairs = adjusted(found.filter(label="dx"), ["auc_macro", "f1_macro"])
    assert len(pairs) == 6
    assert [one for one, _ in pairs] == pytest.approx([other for _, other in pairs])
    notes = found.head(len(found.filter(metric="finding")))["reason"].to_list()
    assert any(
        "over 6 differences to the reference: f1_macro, auc_macro, by sex, site, 1 label." in one
        for one in notes
    )


def test_the_gap_of_the_macro_auc_has_its_gap_by_chance() -> None:
    data = table(900)
    random = np.random.default_rng(2)
    noise = random.dirichlet([1, 1, 1], 900) * 4 * (data["sex"].to_numpy() == "female")[:, None]
    worse = data.with_columns(pl.Series(f"p_{k}", (data[f"p_{k}"].to_numpy() + noise[:, i]) / (1 + noise.sum(axis=1)))
                              for i, k in enumerate(("mel", "nv", "bcc")))  # fmt: skip
    for frame, fair in ((data, True), (worse, False)):
        found = fmcache.audit(
            frame, label="dx", score=["p_mel", "p_nv", "p_bcc"], by=["sex"], patient="pid", draws=50
        )
        null = found.filter(label="dx", metric="auc_macro", disparity="gap_null").row(0, named=True)
        gap = value(found, "auc_macro", "gap", label="dx", attribute="sex")
        assert 0 <= null["ci_low"] < null["value"] < null["ci_high"] < 0.08
        assert (gap < null["ci_high"]) == fair
        assert (value(found, "auc_macro", "gap_p", label="dx", attribute="sex") > 0.05) == fair


def test_numbers_a_sample_have_a_family_of_differences_too() -> None:
    from fmcache.analyze.values import audit_values

    data = table(1200)
    data = data.with_columns(
        site=pl.Series(np.random.default_rng(1).choice(["x", "y", "z"], 600)[data["pid"]])
    )
    found = audit_values(data, ["dsc", "p_mel"], ["sex", "site"], patient="pid", draws=300)
    pairs = adjusted(found, ["dsc", "p_mel"])
    assert len(pairs) == 6
    assert [one for one, _ in pairs] == pytest.approx([other for _, other in pairs])
    one = audit_values(data, ["dsc", "p_mel"], ["sex", "site"], draws=50, family=["dsc"])
    assert one.filter(disparity="difference_p_holm")["metric"].to_list() == ["dsc"] * 3
    with pytest.raises(UsageError, match="no value 'dcs' for the family"):
        audit_values(data, ["dsc"], ["sex"], draws=50, family=["dcs"])


def test_numbers_a_sample_have_a_report(tmp_path: Path) -> None:
    data = table()
    data.write_csv(tmp_path / "dice.csv")
    arguments = ["audit", str(tmp_path / "dice.csv"), "--value", "dsc", "--by", "sex", "--patient", "pid"]
    page = tmp_path / "r.html"
    outcome = CliRunner().invoke(app, [*arguments, "--draws", "50", "--report", str(page)])
    assert outcome.exit_code == 0, outcome.output
    text = page.read_text(encoding="utf-8")
    assert "external · dice" in text
    mean = data.filter(sex="male")["dsc"].mean()
    assert f"{mean:.3f}" in text
    assert "Dice by group" in text
    refused = CliRunner().invoke(app, [*arguments, "--cache", str(tmp_path / "cache")])
    assert "no predictions to keep" in str(refused.exception)


def test_truth_and_call_are_not_swapped() -> None:
    """Macro recall of hand-made tables; with truth and call swapped it would be macro precision."""
    cells = {  # sex → (truth, call) → how many
        "female": {("a", "a"): 30, ("b", "b"): 5, ("b", "a"): 5},
        "male": {("a", "a"): 25, ("a", "b"): 5, ("b", "b"): 10},
    }
    data = pl.DataFrame([
        {"sex": sex, "dx": truth, "p_a": float(call == "a"), "p_b": float(call == "b")}
        for sex, counts in cells.items() for (truth, call), n in counts.items() for _ in range(n)
    ])  # fmt: skip
    found = fmcache.audit(data, label="dx", score=["p_a", "p_b"], by=["sex"], draws=20)
    assert value(found, "balanced_accuracy", label="dx", group="female") == pytest.approx((1 + 1 / 2) / 2)
    assert value(found, "balanced_accuracy", label="dx", group="male") == pytest.approx((25 / 30 + 1) / 2)
    gap = (25 / 30 + 1) / 2 - 0.75  # of precisions it would be 0.095
    assert value(found, "balanced_accuracy", "gap", label="dx", attribute="sex") == pytest.approx(gap)
    # and one class against the rest
    assert value(found, "tpr", label="dx=b", group="female") == pytest.approx(1 / 2)
    assert value(found, "ppv", label="dx=b", group="male") == pytest.approx(10 / 15)


def test_curves_are_those_of_scikit_learn(tmp_path: Path) -> None:
    from sklearn.calibration import calibration_curve
    from sklearn.metrics import roc_curve

    # a score on the edge of a bin belongs to the upper one here and to the lower one there
    data = table().filter((pl.col("p") * 1000).round().cast(pl.Int64) % 100 != 0)
    path = tmp_path / "curves.parquet"
    fmcache.audit(data, label="y", score="p", by=["sex"], curves=path, **OPTIONS)  # type: ignore[arg-type]
    curves = pl.read_parquet(path)
    assert curves.columns == list(CURVE_COLUMNS)
    mine = data.filter(sex="male")
    y, p = mine["y"].to_numpy(), mine["p"].to_numpy()
    roc = curves.filter(curve="roc", group="male")
    fpr, tpr, _ = roc_curve(y, p, drop_intermediate=False)
    assert roc["x"].to_numpy() == pytest.approx(fpr)
    assert roc["y"].to_numpy() == pytest.approx(tpr)
    share, mean = calibration_curve(y, p, n_bins=10)
    calibration = curves.filter(curve="calibration", group="male")
    assert calibration["y"].to_numpy() == pytest.approx(share)
    assert calibration["x"].to_numpy() == pytest.approx(mean)
    at = curves.filter(curve="decision", group="male", threshold=0.3).row(0, named=True)
    called = p >= 0.3
    benefit = ((called & (y == 1)).sum() - (called & (y == 0)).sum() * 0.3 / 0.7) / len(y)
    assert at["y"] == pytest.approx(benefit)


def test_the_command_line_says_what_is_wrong_and_what_to_type(tmp_path: Path) -> None:
    data = table(200)
    path = tmp_path / "preds.csv"
    data.write_csv(path)
    runner = CliRunner()

    def refused(*arguments: str) -> list[str]:
        outcome = runner.invoke(app, ["audit", str(path), *arguments])
        assert isinstance(outcome.exception, UsageError), outcome.output
        return str(outcome.exception).splitlines()

    assert refused("--label", "yy", "--score", "p", "--by", "sex")[2] == "Did you mean y?"
    assert refused("--label", "y", "--score", "p", "--by", "sxe")[2] == "Did you mean sex?"
    assert refused("--label", "y", "--score", "sex", "--by", "sex")[0] == "The score sex has to be a number."
    assert refused("--by", "sex")[0] == "An audit needs a label and a score."
    assert (
        refused("--label", "y", "--score", "p", "--by", "sex", "--engine", "quick")[1]
        == "Engines: exact, fast."
    )
    assert "auc" in refused("--label", "y", "--score", "p", "--by", "sex", "--family", "aucc")[1]
    assert refused("--label", "y", "--score", "p", "--by", "sex", "--reference", "sex")[-1].startswith(
        "Type: --reference"
    )
    outcome = runner.invoke(app, ["audit", str(path), "--label", "y", "--score", "p", "--by", "sex", "--patient", "pid",
                                  "--draws", "20", "--metric", "auc", "--format", "csv"])  # fmt: skip
    assert outcome.exit_code == 0, outcome.output
    lines = outcome.stdout.splitlines()
    assert ",finding," in lines[1]  # findings first, in every output
    empty = tmp_path / "empty.csv"
    empty.write_text("pid,sex,y,p\n")
    assert "has no rows" in str(
        runner.invoke(app, ["audit", str(empty), "--label", "y", "--score", "p"]).exception
    )


def test_an_auc_below_half_and_a_patient_on_both_sides_are_found() -> None:
    data = table().with_columns(p=1 - pl.col("p"))
    found = fmcache.audit(data, label="y", score="p", by=["sex"], **OPTIONS)  # type: ignore[arg-type]
    assert found["reason"][0].startswith("problem: y: the AUC is 0.")
    mixed = table().with_columns(split=pl.Series(["val", "test"] * 300))
    found = fmcache.audit(mixed, label="y", score="p", by=["sex"], split="split", **OPTIONS)  # type: ignore[arg-type]
    assert "in more than one split" in found["reason"][0]
    assert math.isfinite(value(found, "auc", group="overall"))
