"""``fmcache cache``: what a user sees and types, on a small cache that is sound, then damaged, then mended."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fmcache.cli import app
from fmcache.errors import FmcacheError
from fmcache.store.cache import open_cache
from fmcache.store.maintenance import collect_garbage
from tests.fault import worker
from tests.fault.harness import call

KEY = worker._key()


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = tmp_path_factory.mktemp("commands") / "cache"
    assert worker.work([str(cache)]) == 0
    return cache


@pytest.fixture
def cache(sound: Path, tmp_path: Path) -> Path:
    shutil.copytree(sound, tmp_path / "cache")
    return tmp_path / "cache"


def run(cache: Path, *words: str) -> tuple[int, str, str]:
    """Exit code, stdout, stderr; errors as `main` prints them."""
    result = CliRunner().invoke(app, ["cache", *words, "--cache", str(cache)])
    if isinstance(result.exception, FmcacheError):
        return result.exception.exit_code, result.stdout, str(result.exception)
    return result.exit_code, result.stdout, result.stderr


def rows(text: str) -> list[dict[str, object]]:
    return json.loads(text)


def test_ls_has_one_row_an_entry(cache: Path) -> None:
    code, out, _ = run(cache, "ls")
    (row,) = rows(out)
    assert code == 0
    assert (row["model"], row["dataset"], row["kind"], row["rows"], row["d"]) == (
        "fault-model",
        "study",
        "image",
        300,
        "32",
    )
    assert (row["dtype"], row["segments"], row["quarantined"]) == ("float16", 1, 0)
    assert KEY.startswith(str(row["key"]))
    (line,) = csv.DictReader(io.StringIO(run(cache, "ls", "--format", "csv")[1]))
    assert line["model"] == "fault-model"


@pytest.mark.parametrize("name", [KEY[:6], KEY, "fault-model/study"])
def test_show_tells_everything_of_an_entry(cache: Path, name: str) -> None:
    code, out, _ = run(cache, "show", name)
    told = {str(row["field"]): row["value"] for row in rows(out)}
    assert code == 0
    assert told["key"] == KEY
    assert told["key.weights"] == worker.DOCUMENT["weights"]
    assert told["segment.0000.provenance.device"] == "none"
    assert told["segment.0000.n"] == 300


def test_a_wrong_name_is_answered_with_the_nearest(cache: Path) -> None:
    code, _, err = run(cache, "show", "fault-model/studi")
    assert code == 6
    assert "Did you mean fault-model/study?" in err
    assert len(err.splitlines()) == 3


def test_verify_is_quiet_about_a_sound_cache(cache: Path) -> None:
    code, out, err = run(cache, "verify")
    assert (code, rows(out)) == (0, [])
    assert "Every published byte is as it was written." in err


def test_verify_names_the_changed_file_and_repair_mends_it(cache: Path) -> None:
    (chunk,) = cache.glob("entries/*/*/*/segments/0000/data.zarr/c.1.0")
    data = bytearray(chunk.read_bytes())
    data[100] ^= 1
    chunk.write_bytes(data)
    code, out, _ = run(cache, "verify")
    (problem,) = rows(out)
    assert code == 5
    assert str(problem["path"]).endswith("data.zarr/c.1.0")
    assert f"fmcache cache repair {KEY[:12]}" in str(problem["do"])
    assert run(cache, "verify", KEY[:8])[0] == 5
    code, out, _ = run(cache, "repair", KEY[:8])
    (done,) = rows(out)
    assert (code, done["kept"], done["lost"]) == (0, 4, 1)
    assert worker.work([str(cache)]) == 0
    assert run(cache, "verify")[0] == 0
    assert rows(run(cache, "repair", KEY[:8])[1]) == []


def test_a_stray_file_is_named_but_harms_nothing(cache: Path) -> None:
    (cache / "notes.txt").write_text("x")
    code, out, err = run(cache, "verify")
    assert (code, [row["path"] for row in rows(out)]) == (0, ["notes.txt"])
    assert "Nothing that was published is damaged." in err


def test_gc_lists_first_and_deletes_when_told(cache: Path) -> None:
    store = open_cache(cache)
    store.publish_dataset("study", {"title": "second version"}, worker.samples())
    store.publish_dataset("study", {"title": "third version"}, worker.samples())
    (cache / "staging" / "00" ).mkdir()  # fmt: skip
    listed = rows(run(cache, "gc")[1])
    assert sorted(str(row["path"]).split("/")[0] for row in listed) == [
        "datasets",
        "datasets",
        "staging",
        "staging",
    ]
    assert {row["deleted"] for row in listed} == {"no"}
    assert len(list((cache / "datasets" / "study").iterdir())) == 3
    assert {row["deleted"] for row in rows(run(cache, "gc", "--yes")[1])} == {"yes"}
    assert len(list((cache / "datasets" / "study").iterdir())) == 1
    assert rows(run(cache, "gc")[1]) == []
    assert run(cache, "verify")[0] == 0


def test_gc_leaves_what_is_being_written(cache: Path) -> None:
    import polars as pl

    units = pl.DataFrame({"input_digest": ["f" * 64], "slice": [0]})
    rows_ = units.with_columns(sample_id=pl.lit("s")).select("sample_id", "slice", "input_digest")
    with open_cache(cache).segment(
        "fault-model", "study", "image", {"other": 1}, units, rows_, d=2
    ) as writer:
        assert all(
            row["deleted"] != "yes" for row in rows(run(cache, "gc", "--yes")[1]) if "lock" not in row["path"]
        )
        writer.write(0, __import__("numpy").zeros((1, 2), "float32"))
        assert writer.publish({}) is not None


def collect(cache: Path) -> None:
    collect_garbage(open_cache(cache), dry_run=False)


@pytest.mark.parametrize("point", ["gc:before_delete"])
def test_a_killed_gc_leaves_a_sound_cache(cache: Path, point: str) -> None:
    store = open_cache(cache)
    store.publish_dataset("study", {"title": "second version"}, worker.samples())
    for kill in range(1, 3):
        call(collect, cache, fault=f"kill@{point}#{kill}")
        assert run(cache, "verify")[0] == 0
    assert run(cache, "gc", "--yes")[0] == 0
    assert rows(run(cache, "gc")[1]) == []
    assert run(cache, "verify")[0] == 0


def test_path_prints_the_directory(cache: Path) -> None:
    assert run(cache, "path")[1].strip() == str(cache)


def test_a_terminal_escape_in_a_name_is_not_printed(cache: Path) -> None:
    """D7: control characters of a group name reach no terminal, as table or CSV; JSON escapes them."""
    text = r"SELECT 'a' || chr(27) || ']0;owned' || chr(7) AS name, chr(155) || '31m' AS c1"
    for form in ("table", "csv", "json"):
        result = CliRunner().invoke(app, ["sql", text, "--cache", str(cache), "--format", form])
        assert result.exit_code == 0
        assert not any(
            (ord(char) < 32 and char != "\n") or 127 <= ord(char) < 160 for char in result.stdout
        ), form
