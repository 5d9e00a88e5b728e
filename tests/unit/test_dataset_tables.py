"""Tables as published: every kind of file becomes text cells, and a card's query can reach nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import openpyxl
import polars as pl
import pydicom
import pytest

from fmcache.errors import DatasetError
from fmcache.extract.dataset import load_dataset
from fmcache.extract.dataset_card import parse_card
from fmcache.extract.dataset_tables import load_table, run_query
from fmcache.extract.synthesize import _dicom
from fmcache.extract.table_card import TableCard, table_card
from fmcache.settings import Settings

CARD = {
    "name": "x",
    "title": "X",
    "query": "SELECT a AS sample_id, b AS path FROM t",
    "tables": {"t": "t.csv"},
}


def rows(table: pl.DataFrame) -> list[dict]:
    return table.to_dicts()


def test_a_workbook_with_extra_header_rows(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    for row in (
        ["Merged", None, None],
        [None, "Age", None],
        ["ID", None, None],
        ["#002", 47.0, 0],
        ["#004", 58.5, 1],
    ):
        book.active.append(row)
    book.save(tmp_path / "t.xlsx")
    card = TableCard(("t.xlsx",), skip=3, names=("ID", "Age", "Gender"))
    assert rows(load_table("t", card, tmp_path)) == [
        {"ID": "#002", "Age": "47", "Gender": "0"},
        {"ID": "#004", "Age": "58.5", "Gender": "1"},
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a;b\n1;2,5\n", [{"a": "1", "b": "2,5"}]),
        ('"a";"b"\n1;2\n', [{"a": "1", "b": "2"}]),
        ("a,b\n1;1,2\n", [{"a": "1;1", "b": "2"}]),  # commas in the header: semicolons are content
    ],
)
def test_a_csv_with_semicolons_as_spreadsheets_of_many_countries_write(
    tmp_path: Path, text: str, expected: list[dict]
) -> None:
    (tmp_path / "t.csv").write_text(text)
    assert rows(load_table("t", TableCard(("t.csv",)), tmp_path)) == expected


def test_a_sheet_that_is_not_there_names_the_nearest(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    book.active.title = "CheXpert Demo 11-14"
    book.active.append(["PATIENT"])
    book.save(tmp_path / "t.xlsx")
    with pytest.raises(DatasetError) as caught:
        load_table("t", TableCard(("t.xlsx",), sheet="CheXpert Demo 11-13"), tmp_path)
    assert caught.value.do == "Is it `CheXpert Demo 11-14`? Set `sheet` in the card."
    (tmp_path / "u.xlsx").write_bytes(b"no workbook")
    with pytest.raises(DatasetError, match="no workbook"):
        load_table("u", TableCard(("u.xlsx",)), tmp_path)


def test_a_json_list_keeps_text_and_nested_values(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(
        json.dumps([{"id": "007", "n": 1.5, "ok": True}, {"id": "8", "deep": {"a": 1}, "n": None}])
    )
    assert rows(load_table("t", TableCard(("t.json",)), tmp_path)) == [
        {"id": "007", "n": "1.5", "ok": "true", "deep": None},
        {"id": "8", "n": None, "ok": None, "deep": '{"a": 1}'},
    ]


def test_the_first_file_that_is_there_with_its_own_column_names(tmp_path: Path) -> None:
    card = TableCard(
        ("new.csv", "old.csv"), rename={"Patient Sex": "Patient Gender"}, columns=("Patient Gender", "Age")
    )
    (tmp_path / "old.csv").write_text("Patient Sex\nF\n")
    assert rows(load_table("t", card, tmp_path)) == [{"Patient Gender": "F", "Age": None}]
    (tmp_path / "new.csv").write_text("Patient Gender\nM\n")
    assert rows(load_table("t", card, tmp_path))[0]["Patient Gender"] == "M"


def test_an_optional_table_has_its_columns_and_no_rows(tmp_path: Path) -> None:
    table = load_table("t", TableCard(("t.csv",), optional=True, columns=("a", "b")), tmp_path)
    assert (table.columns, table.height) == (["a", "b"], 0)


def test_a_missing_table_says_where_it_may_be(tmp_path: Path) -> None:
    (tmp_path / "CheXpert-v1.0").mkdir()
    (tmp_path / "CheXpert-v1.0" / "train.csv").write_text("a\n")
    with pytest.raises(DatasetError) as caught:
        load_table("train", TableCard(("train.csv",)), tmp_path)
    assert caught.value.do == "It is one folder further down: --root …/CheXpert-v1.0"
    (tmp_path / "train.cvs").write_text("a\n")
    with pytest.raises(DatasetError) as caught:
        load_table("train", TableCard(("trian.csv",)), tmp_path)
    assert caught.value.do == "Did you mean train.cvs?"


def test_files_text_and_headers_as_tables(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "b.txt").write_bytes("Sex: F é".encode("latin-1"))
    (tmp_path / "r" / "a.txt").write_text("Sex: M")
    (tmp_path / "r" / "x.dicom").write_bytes(
        _dicom(np.zeros((2, 2), np.uint16), {"PatientSex": "F", "PatientAge": "045Y"}, 1)
    )
    (tmp_path / "r" / "y.dicom").write_bytes(b"no DICOM")
    assert rows(load_table("t", TableCard(("r/*.txt",), "files"), tmp_path)) == [
        {"file": "r/a.txt"},
        {"file": "r/b.txt"},
    ]
    assert rows(load_table("t", TableCard(("r/*.txt",), "text"), tmp_path))[1] == {
        "file": "r/b.txt",
        "text": "Sex: F é",
    }
    card = TableCard(("r/*.dicom",), "dicom", fields=("PatientSex", "PatientAge", "PatientName"))
    assert rows(load_table("t", card, tmp_path)) == [
        {"file": "r/x.dicom", "PatientSex": "F", "PatientAge": "045Y", "PatientName": None},
        {"file": "r/y.dicom", "PatientSex": None, "PatientAge": None, "PatientName": None},
    ]
    assert pydicom.dcmread(tmp_path / "r" / "x.dicom").PatientSex == "F"


def test_scalars_of_npz_and_one_dimensional_arrays_of_hdf5(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "a.npz",
        image=np.zeros((9, 9)),
        race=np.int64(2),
        age=56.56,
        md=np.float32("nan"),
        note=np.array("text"),
    )
    (tmp_path / "b.npz").write_bytes(b"broken")
    found = rows(load_table("t", TableCard(("*.npz",), "npz", columns=("gender",)), tmp_path))
    assert found[0] == {
        "file": "a.npz",
        "arrays": "image,md",
        "race": "2",
        "age": "56.56",
        "note": "text",
        "gender": None,
    }
    assert found[1]["arrays"] is None
    with h5py.File(tmp_path / "d.hdf5", "w") as file:
        file["image"], file["annot_id"], file["frame_num"] = (
            np.zeros((2, 3, 3)),
            np.array([b"10_", b"11_"]),
            [1, 2],
        )
    card = TableCard(("d.hdf5",), "hdf5", fields=("annot_id", "frame_num", "lost"))
    assert rows(load_table("t", card, tmp_path)) == [
        {"file": "d.hdf5", "i": "0", "annot_id": "10_", "frame_num": "1"},
        {"file": "d.hdf5", "i": "1", "annot_id": "11_", "frame_num": "2"},
    ]


def test_links_out_of_the_root_are_no_tables(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret.csv").write_text("a\n1\n")
    (root / "t.csv").symlink_to(tmp_path / "secret.csv")
    with pytest.raises(DatasetError, match="a link out of the root"):
        load_table("t", TableCard(("t.csv",)), root)
    (root / "t.txt").symlink_to(tmp_path / "secret.csv")
    assert rows(load_table("t", TableCard(("*.txt",), "text"), root)) == [{"file": "t.txt", "text": None}]


class TestQuery:
    TABLE = pl.DataFrame({"a": ["007"], "b": ["x.png"]})

    def test_it_can_reach_nothing_else(self, tmp_path: Path) -> None:
        (tmp_path / "secret.csv").write_text("a\n1\n")
        for sql in (
            f"SELECT * FROM '{tmp_path}/secret.csv'",
            f"SELECT * FROM read_text('{tmp_path}/secret.csv')",
            "SELECT * FROM glob('/etc/*')",
            "INSTALL httpfs",
            "SELECT 1; SELECT 2",
            f"COPY t TO '{tmp_path}/out.csv'",
            "ATTACH 'x.db'",
            "SET enable_external_access = true",
            "SELECT getenv('HOME')",
        ):
            with pytest.raises(DatasetError):
                run_query(sql, {"t": self.TABLE})
        assert sorted(one.name for one in tmp_path.iterdir()) == ["secret.csv"]

    def test_a_misspelt_column_names_those_there_are(self) -> None:
        with pytest.raises(DatasetError) as caught:
            run_query("SELECT aa FROM t", {"t": self.TABLE})
        assert "aa" in caught.value.found
        assert caught.value.do == "The tables have t: a, b"

    def test_a_failed_cast_shows_no_cell(self) -> None:
        with pytest.raises(DatasetError) as caught:
            run_query("SELECT CAST(b AS INT) FROM t", {"t": self.TABLE})
        assert "x.png" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"tabels": {}}, "Did you mean `tables`?"),
        ({"tables": {}}, "names no table"),
        ({"tables": {"t": "../t.csv"}}, "leaves the root"),
        ({"tables": {"t": {"file": "t.csv", "knd": "files"}}}, "Did you mean `kind`?"),
        ({"tables": {"t": {"file": "t.csv", "kind": "fils"}}}, "no kind 'fils'"),
        ({"tables": {"t": {"file": []}}}, "has no file"),
        ({"tables": {"t": {"file": "t.csv", "skip": "3"}}}, "wrong type"),
        ({"name": "a b"}, "is no dataset name"),
        ({"query": ""}, "has no `query`"),
        ({"task": "detection"}, "no task 'detection'"),
        ({"patient_is": "person"}, "no patient_is 'person'"),
        ({"attributes": {"sex": {"groups": ["f"], "codes": {"M": "m"}}}}, "names the group 'm'"),
        ({"attributes": {"sex": {"codes": ["M"]}}}, "no table of code"),
        ({"attributes": {"age": {"cut": [60, 40]}}}, "does not rise"),
        ({"attributes": {"age": {"cut": [60], "names": ["a"]}}}, "n cuts make n + 1 groups"),
        ({"attributes": {"age": {"range": [9, 1]}}}, "not [lowest, highest]"),
        ({"attributes": {"age": {"unit": "years", "codes": {"1": "x"}}}}, "has codes and is a number"),
        ({"labels": {"y": {"codes": {"a": 2}}}}, "no table of code = 0, 1"),
        ({"labels": {"y": {"classes": ["a"]}}}, "are not two"),
        ({"labels": {"y": {"policy": "u-maybe"}}}, "no policy 'u-maybe'"),
        ({"tasks": {"paper": {"labels": ["z"]}}}, "names the label z"),
        ({"split": {"policy": "random"}}, "no policy 'random'"),
        ({"text": {"templates": ["no place"]}}, "with {} in each"),
        ({"verified": {"layout": "surely"}}, "cannot be 'surely'"),
        ({"published": {"samples": "many"}}, "no whole number"),
        ({"reader": {"windw": [1, 2]}}, "Did you mean `window`?"),
        ({"reader": {"slicing": "random"}}, "cannot be 'random'"),
        ({"masks": {"classes": []}}, "no list of 1 to 255"),
        ({"synthetic": [{"text": "x"}]}, "a `file` each"),
    ],
)
def test_what_is_wrong_with_a_card(change: dict, part: str) -> None:
    with pytest.raises(DatasetError) as caught:
        parse_card({**CARD, **change}, "The card x.toml")
    assert part in str(caught.value)


def test_a_described_column_that_the_query_does_not_give(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n1,x.png\n")
    (tmp_path / "x.toml").write_text(
        'name = "x"\ntitle = "X"\nquery = "SELECT a AS sample_id, b AS path, a AS \\"attribute.sx\\" FROM t"\n'
        '[tables]\nt = "t.csv"\n[attributes.sex]\n'
    )
    with pytest.raises(DatasetError) as caught:
        load_dataset(str(tmp_path / "x.toml"), settings=Settings())
    assert caught.value.do == "Did you mean attribute.sx?"


def test_table_cards_from_text_and_section() -> None:
    assert table_card("t", "a.csv", "It") == TableCard(("a.csv",))
    assert table_card("t", {"file": ["a", "b"], "kind": "files"}, "It") == TableCard(("a", "b"), "files")
