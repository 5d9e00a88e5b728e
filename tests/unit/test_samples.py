"""A table of samples: ids stay text, and whatever is wrong with it is said in three lines that show no id."""

from __future__ import annotations

import gzip
from pathlib import Path

import polars as pl
import pytest

from fmcache.errors import DatasetError
from fmcache.extract.attribute_card import AttributeCard, LabelCard
from fmcache.extract.dataset import Dataset, SampleOptions, load_dataset
from fmcache.extract.samples import check_samples
from fmcache.settings import Settings


def table(tmp_path: Path, text: str, name: str = "study.csv", **options) -> Dataset:
    (tmp_path / name).write_text(text, encoding="utf-8")
    return load_dataset(str(tmp_path / name), settings=Settings(), options=SampleOptions(**options))


def refusal(tmp_path: Path, text: str, **options) -> str:
    with pytest.raises(DatasetError) as caught:
        table(tmp_path, text, **options)
    assert len(str(caught.value).splitlines()) <= 3
    return str(caught.value)


class TestIds:
    def test_they_stay_text(self, tmp_path: Path) -> None:
        text = "sample_id,patient_id,path\n007,1e5,a.png\n7,00,b.png\n 12 ,x,c.png\nA,y,d.png\na,z,e.png\n"
        samples = table(tmp_path, text).samples
        assert samples["sample_id"].to_list() == ["007", "7", "12", "A", "a"]
        assert samples["patient_id"].to_list() == ["1e5", "00", "x", "y", "z"]

    @pytest.mark.parametrize("text", ["\ufeffsample_id,path\r\n01,a.png\r\n", "sample_id,path\n01,a.png"])
    def test_a_byte_order_mark_and_either_line_end(self, text: str, tmp_path: Path) -> None:
        assert table(tmp_path, text).samples["sample_id"].to_list() == ["01"]

    def test_gzipped_tab_separated(self, tmp_path: Path) -> None:
        (tmp_path / "t.tsv.gz").write_bytes(gzip.compress(b"sample_id\tpath\n007\ta.png\n"))
        assert load_dataset(str(tmp_path / "t.tsv.gz"), settings=Settings()).samples[
            "sample_id"
        ].to_list() == ["007"]

    def test_an_all_female_column_is_not_a_boolean(self, tmp_path: Path) -> None:
        samples = table(tmp_path, "sample_id,path,attribute.sex\n1,a,F\n2,b,F\n").samples
        assert samples["attribute.sex"].to_list() == ["F", "F"]

    def test_everyone_in_one_group_is_said(self, tmp_path: Path) -> None:
        notes = table(tmp_path, "sample_id,path,attribute.sex\n1,a,F\n2,b,F\n3,c,\n").notes
        assert "Every known value of sex is 'F': it has no second group to compare with." in notes

    def test_duplicates_are_counted_by_row_not_by_id(self, tmp_path: Path) -> None:
        said = refusal(tmp_path, "sample_id,path\nsecret-1,a\nother,b\nsecret-1,c\n")
        assert said.splitlines() == [
            "study.csv has a sample_id that another row has too.",
            "2 rows: 2, 4 (the header is row 1).",
            "Ids must be unique.",
        ]

    def test_an_empty_one(self, tmp_path: Path) -> None:
        assert "an empty sample_id" in refusal(tmp_path, "sample_id,path\n1,a\n  ,b\n")

    def test_patients_in_some_rows_only(self, tmp_path: Path) -> None:
        said = refusal(tmp_path, "sample_id,path,patient_id\n1,a,p\n2,b,\n")
        assert "an empty patient_id" in said
        notes = table(tmp_path, "sample_id,path\n1,a\n").notes
        assert notes == ("patient_id is not given: every sample counts as a patient of its own.",)


class TestColumns:
    def test_a_missing_one_names_the_nearest(self, tmp_path: Path) -> None:
        said = refusal(tmp_path, "sampel_id,path\n1,a\n").splitlines()
        assert said[0] == "study.csv has no column `sample_id`."
        assert said[2] == "Did you mean `sampel_id`? Rename it to sample_id."

    @pytest.mark.parametrize(
        ("text", "part"),
        [
            ("", "is empty"),
            ("sample_id,path\n", "has no rows"),
            ("sample_id,path,path\n1,a,b\n", "a column `path` twice"),
            ("name,path,split\nx,a,test\n", "Add a column sample_id."),
            ("sample_id,path,slices\n1,a,3\n", "fmcache fills it itself"),
            ('sample_id,path\n1,"a\n', "well-formed"),
            ("sample_id,path\n1,a,b,c\n", "well-formed"),
        ],
    )
    def test_what_is_no_table(self, text: str, part: str, tmp_path: Path) -> None:
        assert part in refusal(tmp_path, text)

    def test_bytes_that_are_no_text(self, tmp_path: Path) -> None:
        (tmp_path / "x.csv").write_bytes(b"sample_id,path\n1,\xff\xfe\n")
        with pytest.raises(DatasetError, match="not UTF-8"):
            load_dataset(str(tmp_path / "x.csv"), settings=Settings())

    def test_a_misspelt_file_names_its_neighbour(self, tmp_path: Path) -> None:
        (tmp_path / "study.csv").write_text("sample_id,path\n1,a\n")
        with pytest.raises(DatasetError) as caught:
            load_dataset(str(tmp_path / "studdy.csv"), settings=Settings())
        assert caught.value.do == "Did you mean study.csv?"


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("../a.png", "leaves the root"),
        ("a/../../b", "leaves the root"),
        ("a\\..\\b", "leaves the root"),
        ("/etc/passwd", "is absolute"),
        ("\\\\host\\share", "is absolute"),
        ("C:\\x.png", "is absolute"),
        ("", "is empty"),
    ],
)
def test_paths_that_leave_the_root(path: str, problem: str, tmp_path: Path) -> None:
    said = refusal(tmp_path, f'sample_id,path\nfine,a.png\nbad,"{path}"\n')
    assert f"a path that {problem}" in said
    assert "1 row: 3" in said


@pytest.mark.parametrize("path", ["a..b.png", "über/ü.png", "~/a.png", "CON", "x" * 300, "a b/c'd.png"])
def test_odd_but_harmless_paths(path: str, tmp_path: Path) -> None:
    assert table(tmp_path, f'sample_id,path\n1,"{path}"\n').samples["path"].to_list() == [path]


class TestSplits:
    def test_aliases(self, tmp_path: Path) -> None:
        rows = "".join(
            f"{i},a,{name}\n"
            for i, name in enumerate(["Training", "valid", "validate", "testing", "", "dev"])
        )
        samples = table(tmp_path, f"sample_id,path,split\n{rows}").samples
        assert samples["split"].to_list() == ["train", "val", "val", "test", None, "val"]

    def test_an_unknown_one(self, tmp_path: Path) -> None:
        assert "an unknown split (holdout)" in refusal(tmp_path, "sample_id,path,split\n1,a,holdout\n")

    def test_a_patient_in_two(self, tmp_path: Path) -> None:
        text = "sample_id,path,patient_id,split\n1,a,p,train\n2,b,p,test\n3,c,q,test\n"
        said = refusal(tmp_path, text)
        assert "a patient who is in two splits (1 patients)" in said
        assert "2 rows: 2, 3" in said
        dataset = table(tmp_path, text, allow_leakage=True)
        assert dataset.card["split"]["leaking_patients"] == 1
        assert any("more than one split" in note for note in dataset.notes)

    def test_a_split_drawn_anew_replaces_a_leaking_one(self, tmp_path: Path) -> None:
        text = "sample_id,path,patient_id,split\n1,a,p,train\n2,b,p,test\n3,c,q,test\n"
        assert table(tmp_path, text, split="patient").card["split"]["leaking_patients"] == 0


class TestValues:
    def test_labels_are_0_1_or_empty(self, tmp_path: Path) -> None:
        samples = table(tmp_path, "sample_id,path,label.x\n1,a,1.0\n2,b,0\n3,c,\n4,d,nan\n").samples
        assert samples["label.x"].to_list() == [1, 0, None, None]
        said = refusal(tmp_path, "sample_id,path,label.x\n1,a,-1\n2,b,2\n")
        assert "other than 0, 1 and empty (such as -1, 2)" in said

    def test_an_implausible_age_is_unknown_not_young(self, tmp_path: Path) -> None:
        dataset = table(
            tmp_path, "sample_id,path,attribute.age\n1,a,155\n2,b,-1\n3,c,\n4,d,59\n5,e,60\n6,f,nan\n"
        )
        assert dataset.samples["attribute.age"].to_list() == [None, None, None, 59, 60, None]
        assert dataset.samples["attribute.age_group"].to_list() == [None, None, None, "40-59", "60+", None]
        assert any("2 values of age are outside 0 to 120" in note for note in dataset.notes)

    def test_an_age_that_is_a_group_already_is_not_cut_again(self, tmp_path: Path) -> None:
        said = refusal(tmp_path, "sample_id,path,attribute.age\n1,a,0\n2,b,1\n3,c,1\n").splitlines()
        assert said == [
            "study.csv: `attribute.age` holds only 0 and 1: a group, not a number of years.",
            "Cut at 40, 60 it would put everyone into one group.",
            "Rename it to attribute.age_group.",
        ]
        samples = table(tmp_path, "sample_id,path,attribute.age_group\n1,a,0\n2,b,1\n").samples
        assert samples["attribute.age_group"].to_list() == ["0", "1"]


CARD = AttributeCard(groups=("female", "male"), codes={"F": "female", "M": "male", "U": "", "O": ""})


def coded(values: list, card: AttributeCard = CARD, **more) -> tuple[pl.DataFrame, list[str]]:
    frame = pl.DataFrame(
        {"sample_id": [str(i) for i in range(len(values))], "path": "a", "attribute.sex": values, **more}
    )
    return check_samples(frame, "It", {"sex": card})


class TestCodes:
    def test_unknown_is_a_value_and_never_a_group(self) -> None:
        samples, _ = coded(["F", "M", "U", "O", "", None, " M "])
        assert samples["attribute.sex"].to_list() == ["female", "male", None, None, None, None, "male"]

    def test_a_new_code_stops_with_the_list(self) -> None:
        with pytest.raises(DatasetError) as caught:
            coded(["male", "female", "F", "male"])  # the mistake that put everyone into one group
        assert (
            caught.value.what == "It: `attribute.sex` holds 'male', 'female', which the card does not know."
        )
        assert caught.value.found.startswith("Found: 'male' (2), ")
        assert "Known: 'F', 'M', 'U', 'O'" in caught.value.found

    def test_numbers_are_the_same_code_however_they_are_written(self) -> None:
        card = AttributeCard(codes={"0": "male", "1": "female"})
        samples, _ = coded(["0", "1.0", "00", "1"], card)
        assert samples["attribute.sex"].to_list() == ["male", "female", "male", "female"]

    def test_a_patient_with_two_sexes_is_told(self) -> None:
        _, notes = coded(["F", "M", "U"], patient_id=["p", "p", "q"])
        assert "1 patients have more than one value of sex; each row keeps its own." in notes

    @pytest.mark.parametrize(("policy", "value"), [("u-ignore", None), ("u-zero", 0), ("u-one", 1)])
    def test_uncertain_labels(self, policy: str, value: int | None) -> None:
        card = LabelCard(codes={"1.0": 1, "0.0": 0}, uncertain=("-1.0",), blank=0)
        frame = pl.DataFrame(
            {"sample_id": ["a", "b", "c", "d"], "path": "x", "label.y": ["1.0", "0.0", "-1.0", None]}
        )
        samples, notes = check_samples(frame, "It", {}, labels={"y": card}, uncertain=policy)
        assert samples["label.y"].to_list() == [1, 0, value, 0]
        assert any(policy in note and "y 1" in note for note in notes)

    def test_a_label_code_that_is_not_known(self) -> None:
        card = LabelCard(codes={"mel": 1, "nv": 0})
        frame = pl.DataFrame({"sample_id": ["a", "b"], "path": "x", "label.y": ["mel", "scc"]})
        with pytest.raises(DatasetError, match="'scc', which the card does not know"):
            check_samples(frame, "It", {}, labels={"y": card})

    def test_zero_from_a_cast_and_decades(self) -> None:
        card = AttributeCard(
            unit="years", range=(0, 120), unknown=(0,), cut=(60,), names=("<60", "60+"), decades=True
        )
        frame = pl.DataFrame(
            {"sample_id": list("abcd"), "path": "x", "attribute.age": ["0", "59.9", "60", "101"]}
        )
        samples, notes = check_samples(frame, "It", {"age": card})
        assert samples["attribute.age"].to_list() == [None, 59.9, 60, 101]
        assert samples["attribute.age_group"].to_list() == [None, "<60", "60+", "60+"]
        assert samples["attribute.age_decade"].to_list() == [None, "50-59", "60-69", "100-109"]
        assert any("stands for unknown" in note for note in notes)
