"""The SQL views and aggregates: hand-computed, against the metrics of the package, and in both engines."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, brier_score_loss, f1_score, roc_auc_score

from fmcache.store.cache import Cache, open_cache
from fmcache.store.catalog import TABLES, catalog_text, macros
from fmcache.store.schema import MASK_COLUMNS, PROMPT_COLUMNS
from fmcache.store.sql import MACROS, add_functions, query, tables

CLIENT = shutil.which("duckdb", path=str(Path(sys.executable).parent)) or shutil.which("duckdb")


def engine(vectorised: bool) -> duckdb.DuckDBPyConnection:
    """A connection with the aggregates: as fmcache sql has them, or as plain DuckDB has them."""
    connection = duckdb.connect()
    connection.execute(macros())
    if vectorised:
        add_functions(connection)
    return connection


@pytest.fixture(params=[True, False], ids=["fmcache", "plain DuckDB"])
def sql(request: pytest.FixtureRequest) -> duckdb.DuckDBPyConnection:
    return engine(request.param)


def one(sql: duckdb.DuckDBPyConnection, what: str, rows: str) -> object:
    return sql.sql(f"SELECT {what} FROM (VALUES {rows}) t(y, score)").fetchall()[0][0]


@pytest.mark.parametrize(
    ("what", "rows", "expected"),
    [
        ("auc(y, score)", "(0, 0.1), (0, 0.4), (1, 0.4), (1, 0.8)", 0.875),
        ("auc(y, score)", "(1, 0.1), (0, 0.9)", 0.0),
        ("auc(y, score)", "(0, 0.5), (1, 0.5), (1, 0.5)", 0.5),
        ("auc(y, score)", "(1, 0.5), (1, 0.7)", None),
        ("auc(y, score)", "(0, 0.1), (1, 0.2), (NULL, 0.9), (1, NULL), (0, 'nan'::DOUBLE), (-1, 0.3)", 1.0),
        ("auc(y = 1, score)", "(0, 0.1), (0, 0.4), (1, 0.4), (1, 0.8)", 0.875),
        ("auc(y, score)", "(0, '-inf'::DOUBLE), (1, 'inf'::DOUBLE), (0, 'inf'::DOUBLE)", 0.75),
        ("auprc(y, score)", "(1, 0.9), (0, 0.8), (1, 0.7)", (1 + 2 / 3) / 2),
        ("auprc(y, score)", "(1, 0.5), (0, 0.5)", 0.5),
        ("auprc(y, score)", "(0, 0.5)", None),
        ("tpr(y, score)", "(1, 0.5), (1, 0.4), (0, 0.9)", 0.5),
        ("tpr(y, score, 0.4)", "(1, 0.5), (1, 0.4), (0, 0.9)", 1.0),
        ("fpr(y, score, 0.95)", "(1, 0.5), (1, 0.4), (0, 0.9)", 0.0),
        ("fpr(y, score)", "(1, 0.5)", None),
        ("brier(y, score)", "(1, 0.5), (0, 0.0)", 0.125),
        ("ece(y, score)", "(1, 0.9), (0, 0.3)", 0.2),
        ("ece(y, score)", "(1, 1.0), (0, 0.0)", 0.0),
        ("dice(y, score)", "(1, 0.9), (1, 0.1), (0, 0.8), (0, 0.2)", 0.5),
        ("dice(y, score, 0.95)", "(0, 0.9)", None),
    ],
)
def test_by_hand(sql: duckdb.DuckDBPyConnection, what: str, rows: str, expected: float | None) -> None:
    found = one(sql, what, rows)
    assert found == (None if expected is None else pytest.approx(expected, abs=1e-15))


def test_every_grouping_set_is_that_of_scikit_learn(sql: duckdb.DuckDBPyConnection) -> None:
    """CUBE and ROLLUP over two attributes, scores with heavy ties, to 1e-12."""
    rng = np.random.default_rng(0)
    y = rng.random(4000) < 0.15
    score = np.clip(np.round(rng.normal(0.4 + 0.2 * y, 0.2), 2), 0, 1)
    sex, race = rng.choice(["f", "m"], 4000), rng.choice(["a", "b", "c"], 4000)
    table = pa.table({"y": y.astype(np.float32), "score": score, "sex": sex, "race": race})
    sql.register("t", table)
    rows = sql.sql(
        "SELECT sex, race, auc(y, score), auprc(y, score), brier(y, score), dice(y, score), count(*) "
        "FROM t GROUP BY CUBE (sex, race)"
    ).fetchall()
    assert len(rows) == 12
    for group_sex, group_race, auc, auprc, brier, dice, n in rows:
        here = np.ones(4000, bool)
        if group_sex is not None:
            here &= sex == group_sex
        if group_race is not None:
            here &= race == group_race
        assert here.sum() == n
        expected = (
            roc_auc_score(y[here], score[here]),
            average_precision_score(y[here], score[here]),
            brier_score_loss(y[here], score[here]),
            f1_score(y[here], score[here] >= 0.5),
        )
        assert (auc, auprc, brier, dice) == pytest.approx(expected, abs=1e-12)
    rolled = sql.sql("SELECT auc(y, score) FROM t GROUP BY ROLLUP (sex, race)").fetchall()
    assert len(rolled) == 9


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.booleans(), st.sampled_from([-0.0, 0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 1e-300, 0.1 + 2**-54])),
        min_size=1,
        max_size=30,
    )
)  # fmt: skip
def test_both_engines_and_the_metrics_agree(rows: list[tuple[bool, float]]) -> None:
    from fmcache.analyze import metrics

    y = np.array([truth for truth, _ in rows])
    score = np.array([value for _, value in rows])
    table = pa.table({"y": y, "score": score})
    both = []
    for connection in ENGINES:
        connection.register("t", table)
        both.append(
            connection.sql("SELECT auc(y, score), auprc(y, score), ece(y, score) FROM t").fetchall()[0]
        )
    expected = [metrics.auc(y, score), metrics.auprc(y, score), metrics.ece(y, score)]
    for found in both:
        for ours, theirs in zip(found, expected, strict=True):
            assert (ours is None and np.isnan(theirs)) or ours == pytest.approx(theirs, abs=1e-14)


ENGINES = (engine(True), engine(False))


# ------------------------------------------------------------------------------------------------------------- views


def samples(dataset: str, n: int, **columns: object) -> pl.DataFrame:
    table = {
        "sample_id": [f"{dataset}{i}" for i in range(n)],
        "patient_id": [f"p{i}" for i in range(n)],
        "path": [f"{i}.png" for i in range(n)],
        "split": ["test"] * n,
        "slices": [1] * n,
        "input_digest": [f"{i:064x}" for i in range(n)],
        "input_error": [None] * n,
    }
    return pl.DataFrame(table, schema_overrides={"input_error": pl.String}).with_columns(
        **{name: pl.lit(value) for name, value in columns.items()}
    )


def predictions(ids: list[str], **columns: object) -> pl.DataFrame:
    n = len(ids)
    table = pl.DataFrame({"sample_id": ids, "patient_id": ids, "split": ["test"] * n, "label": ["a"] * n})
    return table.with_columns(
        seed=pl.lit(0), y=pl.Series([i % 2 for i in range(n)]), score=pl.Series([i / n for i in range(n)]),
        logit=pl.lit(None, pl.Float64), **{name: pl.lit(value) for name, value in columns.items()},
    )  # fmt: skip


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """Two datasets (one in two versions), an image and a mask entry, two runs with different attributes."""
    cache = open_cache(tmp_path / "it's a cache", create=True)
    cache.publish_dataset("chest", {}, samples("chest", 4, **{"attribute.sex": "old"}))
    cache.publish_dataset(
        "chest", {}, samples("chest", 4, **{"label.a": 1.0, "attribute.sex": "female", "sex": "F"})
    )
    cache.publish_dataset("eye/left", {}, samples("eye", 3, **{"attribute.age": 61.5}))
    units = pl.DataFrame({"input_digest": [f"{i:064x}" for i in range(4)], "slice": [0] * 4})
    rows = units.with_columns(sample_id=pl.Series([f"chest{i}" for i in range(4)]))
    rows = rows.select("sample_id", "slice", "input_digest")
    with cache.segment("timm/x", "chest", "image", {"kind": "image"}, units, rows, d=8) as writer:
        writer.write(0, np.zeros((4, 8), np.float32))
        writer.publish({"device": "cpu"})
    # a mask unit has a digest of its own; its tables lead back to the picture
    mask_units = units.with_columns(input_digest=pl.Series([f"{i:064x}" for i in range(10, 14)]))
    mask_rows = rows.with_columns(input_digest=mask_units["input_digest"])
    truth = mask_units.with_columns(
        image_digest=units["input_digest"],
        shape=pl.lit("30x42"),
        pixels=pl.Series([5, 6, 7, 8]),
        bits=pl.lit(""),
    ).with_columns(pl.lit("lung").alias("class"))
    asked = mask_units.with_columns(
        pl.lit("lung").alias("class"), prompt=pl.lit("bbox"), coordinates=pl.lit("[[1, 2], [3, 4]]"),
        chosen=pl.lit(0, pl.Int32), iou_1=pl.lit(0.9, pl.Float32), iou_2=pl.lit(None, pl.Float32),
        iou_3=pl.lit(None, pl.Float32),
    )  # fmt: skip
    with cache.segment(
        "sam", "chest", "mask", {"kind": "mask"}, mask_units, mask_rows, d=(1, 1, 1, 4, 4), compressed=True
    ) as writer:
        tables = {"masks": truth.select(list(MASK_COLUMNS)), "prompts": asked.select(list(PROMPT_COLUMNS))}
        writer.write(0, np.zeros((4, 1, 1, 1, 4, 4), np.float32), tables=tables)
        writer.publish({"device": "cpu"})
    cache.publish_run(
        {"model": "timm/x", "dataset": "chest", "usage": "lp", "method": "erm"},
        predictions([f"chest{i}" for i in range(4)], **{"attribute.sex": "female"}),
    )
    cache.publish_run(
        {"model": "other", "dataset": "eye/left", "usage": "external", "method": ""},
        predictions(["eye0", "eye1", "eye2"], **{"attribute.age": 61.5, "attribute.split": "x"}),
    )
    return cache


def test_the_views_say_what_is_there(cache: Cache) -> None:
    def rows(text: str) -> list[tuple[object, ...]]:
        return query(cache, text).rows

    assert rows("SELECT dataset, count(*), any_value(sex), any_value(sex_1), any_value(age), any_value(a) FROM samples "
                "GROUP BY ALL ORDER BY dataset") == [
        ("chest", 4, "female", "F", None, 1.0), ("eye/left", 3, None, None, 61.5, None)]  # fmt: skip
    assert rows("SELECT model, dataset, kind, n, shape, dtype, segments FROM entries ORDER BY kind") == [
        ("timm/x", "chest", "image", 4, [8], "float16", 1),
        ("sam", "chest", "mask", 4, [1, 1, 1, 4, 4], "float16", 1),
    ]
    assert rows(
        "SELECT model, class, prompt, sample_id, row, pixels, mask_shape, sex FROM masks ORDER BY row LIMIT 1"
    ) == [("sam", "lung", "bbox", "chest0", 0, 5, "30x42", "female")]
    assert rows("SELECT count(*) FROM masks") == [(4,)]
    assert rows("SELECT model, usage, method FROM runs ORDER BY model") == [
        ("other", "external", ""),
        ("timm/x", "lp", "erm"),
    ]
    assert rows("SELECT model, dataset, count(*), any_value(sex), any_value(age), any_value(split) FROM predictions "
                "GROUP BY ALL ORDER BY model") == [
        ("other", "eye/left", 3, None, 61.5, "test"), ("timm/x", "chest", 4, "female", None, "test")]  # fmt: skip
    assert rows("SELECT count(*) FROM results") == rows("SELECT count(*) FROM metrics") == [(0,)]
    assert rows("SELECT info ->> 'usage' FROM runs WHERE model = 'other'") == [("external",)]


@pytest.mark.parametrize("table", [table.name for table in TABLES])
def test_no_view_says_a_column_twice(cache: Cache, table: str) -> None:
    """What only fmcache writes: a `_1` here is for names that the user's data bring, and these bring none."""
    cache.publish_run(
        {"model": "timm/x", "dataset": "chest", "usage": "lp", "method": "group-dro"},
        predictions(["chest0", "chest1"], **{"method": "group-dro", "attribute.sex": "female"}),
    )
    cache.publish_dataset("chest", {}, samples("chest", 4, **{"attribute.sex": "female"}))
    columns = query(cache, f"SELECT * FROM {table}").columns
    own = [name for name in columns if not re.search(r"iou_[123]$", name)]
    repeated = [name for name in own if re.sub(r"_\d+$", "", name) != name]
    assert repeated == (
        ["split_1"] if table == "predictions" else []
    )  # the attribute split of the run of eye/left
    assert len(set(columns)) == len(columns)


def test_the_method_of_a_prediction_is_that_of_its_run(cache: Cache) -> None:
    """Probes write it into the table as well, tables that others publish lack it."""
    cache.publish_run(
        {"model": "timm/x", "dataset": "chest", "usage": "lp", "method": "dann"},
        predictions(["chest0"], method="dann", **{"attribute.method": "biopsy"}),
    )
    text = "SELECT method, any_value(method_1) FROM predictions GROUP BY 1 ORDER BY 1"
    assert query(cache, text).rows == [("", None), ("dann", "biopsy"), ("erm", None)]


def test_names_that_come_twice_are_told_apart(cache: Cache) -> None:
    assert query(cache, "SELECT 1 AS a, 2 AS a, 0.5::DECIMAL(3, 1) AS b").columns == ["a", "a_1", "b"]
    assert query(cache, "SELECT 1 AS a, 2 AS a, 0.5::DECIMAL(3, 1) AS b").rows == [(1, 2, 0.5)]


def test_the_schema_names_every_table_and_macro(cache: Cache) -> None:
    listed = tables(cache)
    assert [table.name for table in TABLES] == list(
        dict.fromkeys(row["table"] for row in listed if row["table"])
    )
    assert [row["column"].partition("(")[0] for row in listed if not row["table"]] == list(MACROS)


@pytest.mark.parametrize("fill", [False, True], ids=["empty cache", "filled cache"])
def test_the_plain_client_sees_the_same(cache: Cache, tmp_path: Path, fill: bool) -> None:
    """The real duckdb client, without fmcache: every view, every column, every aggregate."""
    assert CLIENT, "the duckdb client is not installed: pip install duckdb-cli"
    if not fill:
        cache = open_cache(tmp_path / "empty", create=True)

    def client(text: str) -> str:
        command = [CLIENT, "-init", "catalog.sql", "-csv", "-c", text]
        clean = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
        done = subprocess.run(command, cwd=cache.path, capture_output=True, text=True, check=True, env=clean,
                              stdin=subprocess.DEVNULL)  # fmt: skip
        assert "rror" not in done.stderr, done.stderr
        return done.stdout

    for table in TABLES:
        ours = query(cache, f"SELECT column_name, column_type FROM (DESCRIBE {table.name})").rows
        theirs = client(f"SELECT column_name, column_type FROM (DESCRIBE {table.name})").splitlines()[1:]
        assert [",".join(row) for row in ours] == [line.replace('"', "") for line in theirs], table.name
        (count,) = query(cache, f"SELECT count(*) FROM {table.name}").rows
        assert client(f"SELECT count(*) AS n FROM {table.name}").split() == ["n", str(count[0])]
    if fill:
        text = (
            "SELECT model, "
            + ", ".join(f"{name}(y, score)" for name in MACROS)
            + " FROM predictions GROUP BY 1 ORDER BY 1"
        )
        theirs = [line.split(",") for line in client(text).splitlines()[1:]]
        for our, their in zip(query(cache, text).rows, theirs, strict=True):
            assert [float(v) if v is not None else None for v in our[1:]] == pytest.approx(
                [float(v) if v else None for v in their[1:]], abs=1e-14
            )


def test_the_catalog_is_written_and_renewed(cache: Cache) -> None:
    path = cache.path / "catalog.sql"
    assert path.read_text() == catalog_text()
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text("-- of an earlier version")
    open_cache(cache.path, create=True)
    assert path.read_text() == catalog_text()


def test_no_heavy_library_is_imported_for_a_query(cache: Cache) -> None:
    code = (
        "import sys; from fmcache.store.cache import open_cache; from fmcache.store.sql import query\n"
        f"query(open_cache({str(cache.path)!r}), 'SELECT auc(y, score) FROM predictions')\n"
        "print([name for name in ('jax', 'torch', 'pandas', 'scipy', 'zarr', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]"]
