"""Statements that try to leave `fmcache sql`, each refused or harmless; and the honest ones, which work."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from fmcache.errors import CorruptCache, FmcacheError, UsageError
from fmcache.store.cache import open_cache
from fmcache.store.sql import query, query_arrow, wanted_tables
from fmcache.store.sql_export import write_result
from tests.fault import worker

OUTSIDE = "ssn\n123-45-6789\n"
secret_python_variable = pl.DataFrame({"x": [42]})

# {secret}: a file beside the cache; {out}: a directory beside it; {cache}: the cache; {file}: a published table.
REACHES_OUT = {
    "read a CSV": "SELECT * FROM read_csv('{secret}')",
    "read text": "SELECT * FROM read_text('/etc/passwd')",
    "read a blob": "SELECT * FROM read_blob('/etc/passwd')",
    "a bare path": "SELECT * FROM '{secret}'",
    "a file of the cache": "SELECT count(*) FROM read_parquet('{file}')",
    "a glob over the cache": "SELECT count(*) FROM read_parquet('{cache}/runs/*/predictions.parquet')",
    "a link in the cache": "SELECT * FROM read_csv('{cache}/runs/evil.csv')",
    "dot dot": "SELECT * FROM read_csv('{cache}/../secret.csv')",
    "list a directory": "SELECT * FROM glob('/etc/*')",
    "list the cache": "SELECT count(*) FROM glob('{cache}/**')",
    "http": "SELECT * FROM read_csv('http://127.0.0.1:9/x.csv')",
    "s3": "SELECT * FROM read_parquet('s3://bucket/x.parquet')",
    "sniff": "SELECT * FROM sniff_csv('{secret}')",
    "parquet metadata": "SELECT * FROM parquet_metadata('{file}')",
    "query()": "SELECT * FROM query('SELECT * FROM read_text(''/etc/passwd'')')",
    "in a subquery": "SELECT (SELECT content FROM read_text('/etc/passwd'))",
    "in a CTE": "WITH t AS MATERIALIZED (FROM read_text('/etc/passwd')) FROM t",
    "in a lateral join": "SELECT * FROM samples, LATERAL (SELECT * FROM read_text('/etc/passwd')) AS t",
    "describe a file": "DESCRIBE SELECT * FROM '{secret}'",
    "summarize a file": "SUMMARIZE SELECT * FROM '{secret}'",
    "the file variables": "SELECT * FROM read_text(getvariable('prediction_files'))",
    "the environment": "SELECT getenv('HOME')",
    "a Python variable": "SELECT * FROM secret_python_variable",
    "an attached catalog": "SELECT * FROM files.predictions",
    "sqlite": "SELECT * FROM sqlite_scan('{secret}', 't')",
}
NOT_A_SELECT = {
    "install": "INSTALL httpfs",
    "load": "LOAD '{out}/evil.duckdb_extension'",
    "copy out": "COPY (SELECT 1) TO '{out}/x.csv'",
    "copy over the cache": "COPY (SELECT 1 AS x) TO '{file}' (FORMAT parquet)",
    "copy over the cache in place": "COPY (SELECT 1 AS x) TO '{file}' (FORMAT parquet, USE_TMP_FILE false)",
    "copy over the cache as csv": "COPY (SELECT 1 AS x) TO '{file}' (FORMAT csv, USE_TMP_FILE false)",
    "copy in": "COPY samples FROM '{secret}'",
    "export": "EXPORT DATABASE '{out}/exported'",
    "import": "IMPORT DATABASE '{out}'",
    "attach": "ATTACH '{out}/n.db' AS n",
    "attach in the cache": "ATTACH '{cache}/n.db' AS n",
    "unlock access": "SET enable_external_access = true",
    "unlock": "SET lock_configuration = false",
    "reset": "RESET enable_external_access",
    "pragma": "PRAGMA database_list",
    "temp directory": "SET temp_directory = '{out}'",
    "logging": "CALL enable_logging(storage = 'file', storage_path = '{out}/log.csv')",
    "profiling": "SET profiling_output = '{out}/profile.json'",
    "profiling by pragma": "PRAGMA profiling_output = '{out}/profile.json'",
    "secret": "CREATE PERSISTENT SECRET s (TYPE s3, KEY_ID 'a', SECRET 'b')",
    "create": "CREATE TABLE t AS SELECT 1",
    "macro": "CREATE MACRO auc(y, score) AS 1",
    "drop": "DROP VIEW samples",
    "insert": "INSERT INTO samples SELECT * FROM samples",
    "delete": "DELETE FROM predictions",
    "update": "UPDATE predictions SET y = 1",
    "two statements": "SELECT 1; COPY (SELECT 1) TO '{out}/y.csv'",
    "explain": "EXPLAIN SELECT 1",
    "explain analyze": "EXPLAIN ANALYZE COPY (SELECT 1) TO '{out}/x.csv'",
    "prepare": "PREPARE p AS SELECT 1",
    "execute": "EXECUTE p",
    "begin": "BEGIN",
    "checkpoint": "CHECKPOINT",
    "use": "USE memory",
    "variable": "SET VARIABLE x = 1",
    "call": "CALL pragma_version()",
    "vacuum": "VACUUM",
    "pivot without values": "PIVOT samples ON sex USING count(*)",
    "a comment": "-- nothing",
    "empty": "",
    "nonsense": "SELEKT 1",
}
READABLE_IN_PLACE = {"a file of the cache", "parquet metadata", "an attached catalog"}
HARMLESS = {  # they run, and reach nothing
    "secrets": "SELECT * FROM duckdb_secrets()",
    "which secret": "SELECT * FROM which_secret('s3://x', 's3')",
    "settings": "SELECT count(*) FROM duckdb_settings()",
    "a write into the copies": "WITH w AS (DELETE FROM runs RETURNING 1) SELECT count(*) FROM w",
}
WORKS = {
    "select": ("SELECT count(*) FROM predictions", [(300,)]),
    "group by": ("SELECT sex, count(*) FROM samples GROUP BY sex ORDER BY sex", [("female", 150), ("male", 150)]),
    "with": ("WITH t AS (SELECT 1 AS a) SELECT a FROM t", [(1,)]),
    "from first": ("FROM runs SELECT model", [("fault-model",)]),
    "values": ("VALUES (1), (2)", [(1,), (2,)]),
    "a semicolon": ("SELECT 1;", [(1,)]),
    "a comment before": ("-- how many\nSELECT 1", [(1,)]),
    "query_table": ("SELECT count(*) FROM query_table('samples')", [(300,)]),
    "a name made of parts": ("SELECT count(*) FROM query_table('sam' || 'ples')", [(300,)]),
    "quoted names": ('SELECT count(*) FROM "samples"', [(300,)]),
    "upper case": ("SELECT COUNT(*) FROM SAMPLES", [(300,)]),
    "cube": ("SELECT sex, count(*) FROM predictions GROUP BY CUBE (sex) ORDER BY sex NULLS FIRST",
             [(None, 300), ("female", 150), ("male", 150)]),
    "rollup": ("SELECT count(*) FROM (SELECT sex, split FROM samples GROUP BY ROLLUP (sex, split))", [(9,)]),
    "pivot with values": ("PIVOT samples ON sex IN ('female', 'male') USING count(*) GROUP BY label_free",
                          UsageError),
    "pivot": ("FROM (PIVOT (SELECT sex, split FROM samples) ON sex IN ('female', 'male') USING count(*)) "
              "SELECT split, female ORDER BY split LIMIT 1", [("test", 50)]),
    "window": ("SELECT max(r) FROM (SELECT rank() OVER (ORDER BY score) AS r FROM predictions)", [(300,)]),
    "join": ("SELECT count(*) FROM samples JOIN predictions USING (dataset, sample_id)", [(0,)]),
    "metrics": ("SELECT metric, value FROM metrics", [("auc", 0.5)]),
    "entries": ("SELECT model, kind, n, shape FROM entries", [("fault-model", "image", 300, [32])]),
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sandbox")
    cache = folder / "cache"
    assert worker.work([str(cache)]) == 0
    (folder / "secret.csv").write_text(OUTSIDE)
    (folder / "out").mkdir()
    (cache / "runs" / "evil.csv").write_text("")
    (file,) = cache.glob("runs/*/predictions.parquet")
    return {"cache": cache, "secret": folder / "secret.csv", "out": folder / "out", "file": file}


def fingerprint(folder: Path) -> dict[str, str]:
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "directory"
        for path in sorted(folder.parent.rglob("*"))
    }


@pytest.fixture
def untouched(place: dict[str, Path]) -> Iterator[dict[str, Path]]:
    before = fingerprint(place["cache"])
    yield place
    assert fingerprint(place["cache"]) == before


@pytest.mark.parametrize("in_place", [False, True], ids=["in memory", "in place"])
@pytest.mark.parametrize("name", REACHES_OUT)
def test_nothing_outside_can_be_read(untouched: dict[str, Path], name: str, in_place: bool) -> None:
    text = REACHES_OUT[name].format_map(untouched)
    if in_place and name in READABLE_IN_PLACE:  # what docs/sql.md says of this weaker mode
        assert "ssn" not in repr(query(open_cache(untouched["cache"]), text, in_place=True).rows)
        return
    with pytest.raises(UsageError) as refused:
        query(open_cache(untouched["cache"]), text, in_place=in_place)
    assert 2 <= len(str(refused.value).splitlines()) <= 3


@pytest.mark.parametrize("name", NOT_A_SELECT)
def test_only_one_select_is_run(untouched: dict[str, Path], name: str) -> None:
    for in_place in (False, True):
        with pytest.raises(UsageError) as refused:
            query(open_cache(untouched["cache"]), NOT_A_SELECT[name].format_map(untouched), in_place=in_place)
    assert 2 <= len(str(refused.value).splitlines()) <= 3
    assert list(untouched["out"].iterdir()) == []


@pytest.mark.parametrize("name", HARMLESS)
def test_what_is_allowed_is_harmless(untouched: dict[str, Path], name: str) -> None:
    result = query(open_cache(untouched["cache"]), HARMLESS[name])
    assert "ssn" not in repr(result.rows)
    assert query(open_cache(untouched["cache"]), "SELECT count(*) FROM runs").rows == [(1,)]


@pytest.mark.parametrize("in_place", [False, True], ids=["in memory", "in place"])
@pytest.mark.parametrize("name", WORKS)
def test_honest_queries_work(untouched: dict[str, Path], name: str, in_place: bool) -> None:
    text, expected = WORKS[name]
    cache = open_cache(untouched["cache"])
    if isinstance(expected, type):
        with pytest.raises(expected, match="Binder Error"):
            query(cache, text, in_place=in_place)
    else:
        assert query(cache, text, in_place=in_place).rows == expected


@pytest.mark.parametrize("form", ["DESCRIBE samples", "SHOW TABLES", "SHOW ALL TABLES", "SUMMARIZE samples"])
def test_the_catalog_can_be_looked_at(untouched: dict[str, Path], form: str) -> None:
    assert query(open_cache(untouched["cache"]), form).rows


def test_a_table_that_is_not_named_is_not_loaded() -> None:
    assert wanted_tables("SELECT 1 FROM Samples") == {"samples"}
    assert wanted_tables("SELECT samples_x FROM t") == set()
    every = {
        "coordinates",
        "entries",
        "masks",
        "metrics",
        "predictions",
        "results",
        "runs",
        "samples",
        "segments",
    }
    assert wanted_tables("FROM query_table('a' || 'b')") == every
    assert wanted_tables("show tables") == every


def test_time_is_up_after_the_time_given(untouched: dict[str, Path]) -> None:
    """The query would take hours."""
    with pytest.raises(FmcacheError, match=r"stopped after 0\.5 s") as stopped:
        query(
            open_cache(untouched["cache"]),
            "SELECT sum(a.i * b.i) FROM range(1000000) a(i), range(10000000) b(i) WHERE (a.i * b.i) % 7 = 3",
            timeout=0.5,
        )
    assert stopped.value.exit_code == 1


def test_memory_is_limited(untouched: dict[str, Path]) -> None:
    with pytest.raises(FmcacheError, match="more than 200MB"):
        query(
            open_cache(untouched["cache"]),
            "SELECT max(len(l)) FROM (SELECT list(i * random()) AS l FROM range(400000000) t(i))",
            memory="200MB",
        )
    with pytest.raises(UsageError):
        query(open_cache(untouched["cache"]), "SELECT 1", memory="lots")


@pytest.mark.parametrize("in_place", [False, True], ids=["in memory", "in place"])
def test_a_flipped_bit_is_found_before_the_query(
    place: dict[str, Path], tmp_path: Path, in_place: bool
) -> None:
    import shutil

    shutil.copytree(place["cache"], tmp_path / "cache")
    for pattern, table in (("runs/*/predictions.parquet", "predictions"), ("datasets/*/*/samples.parquet", "samples"),
                           ("results/*.parquet", "results"), ("runs/*/run.json", "runs")):  # fmt: skip
        (file,) = (tmp_path / "cache").glob(pattern)
        good = file.read_bytes()
        bad = bytearray(good)
        bad[len(bad) // 2] ^= 4
        file.write_bytes(bad)
        with pytest.raises(CorruptCache):
            query(open_cache(tmp_path / "cache"), f"SELECT count(*) FROM {table}", in_place=in_place)
        file.write_bytes(good)


def test_a_result_file_is_whole_private_and_defused(tmp_path: Path, place: dict[str, Path]) -> None:
    cache = open_cache(place["cache"])
    text = (
        "SELECT * FROM (VALUES ('=cmd|'' /C calc''!A0', 1::HUGEINT, [1, 2], -1.5), ('+1', 2, NULL, 2.5), "
        "('@SUM(A1)', 3, [3], 0.0), ('-2', 4, [], 1.0), (chr(9) || 'x', 5, [0], 1.0), ('plain', 6, [1], NULL)) "
        't("=name", n, l, x)'
    )
    table = query_arrow(cache, text)
    write_result(table, tmp_path / "r.csv")
    write_result(table, tmp_path / "r.parquet")
    lines = (tmp_path / "r.csv").read_text().splitlines()
    assert lines[0] == "'=name,n,l,x"
    assert [line.split(",")[0] for line in lines[1:]] == [
        "'=cmd|' /C calc'!A0", "'+1", "'@SUM(A1)", "'-2", "'\tx", "plain",
    ]  # fmt: skip
    assert lines[1].endswith(',1,"[1, 2]",-1.5')
    exact = pl.read_parquet(tmp_path / "r.parquet")
    assert exact["=name"][0] == "=cmd|' /C calc'!A0"
    assert exact.schema["n"] == pl.Int64
    assert {os.stat(tmp_path / name).st_mode & 0o777 for name in ("r.csv", "r.parquet")} == {0o600}
    with pytest.raises(FmcacheError, match="cannot be written"):
        write_result(table, Path("/dev/full/x.csv"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.csv", "r.parquet"]
