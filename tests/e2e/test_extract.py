"""``fmcache extract`` as a user meets it: resume, append, change, relabel, reorder, reject, interrupt."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from fmcache.store.cache import open_cache
from tests.e2e.command import environment, fmcache
from tests.e2e.study import MODEL, OTHER, draw, make_study, make_weights, study_rows, write_table


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_weights(tmp_path_factory.mktemp("weights") / "a.safetensors")


@pytest.fixture(scope="module")
def other_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_weights(tmp_path_factory.mktemp("weights") / "b.safetensors", OTHER)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return make_study(tmp_path / "study")


def embed(study: Path, weights: Path, cwd: Path, *more: str, code: int | None = 0):
    return fmcache(
        "extract", "-m", MODEL, "--checkpoint", weights, "-d", study, "--executor", "serial", *more,
        cwd=cwd, code=code,
    )  # fmt: skip


def stored(cwd: Path, model: str = MODEL) -> dict[str, np.ndarray]:
    """sample_id → embedding, as the reading API gives them."""
    found = open_cache(cwd / "fmcache-cache").embeddings(model, "study")
    return dict(zip(found.samples["sample_id"], found.array(), strict=True))


def test_the_embeddings_are_those_of_the_model_and_ids_stay_text(
    study: Path, weights: Path, tmp_path: Path
) -> None:
    """Held to the network itself, fed by hand with Pillow and torch."""
    done = embed(study, weights, tmp_path, "--dtype", "float32")
    assert [row["embedded"] for row in done.rows] == [40]
    found = stored(tmp_path)
    assert list(found)[:3] == ["000", "001", "002"]

    import timm
    import torch
    from PIL import Image
    from safetensors.torch import load_file

    network = timm.create_model("test_vit", pretrained=False).eval()
    network.load_state_dict(load_file(weights))
    config = timm.data.resolve_data_config({}, model=network)
    transform = timm.data.create_transform(**config)
    picture = Image.open(study.parent / "images" / "7.png").convert("RGB")
    with torch.inference_mode():
        features = network.forward_head(network.forward_features(transform(picture)[None]), pre_logits=True)
    np.testing.assert_allclose(found["007"], features[0].numpy(), atol=2e-5)


def test_a_second_run_has_nothing_to_do(study: Path, weights: Path, tmp_path: Path) -> None:
    embed(study, weights, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "fmcache-cache").rglob("*.parquet")}
    again = embed(study, weights, tmp_path)
    assert (again.rows[0]["embedded"], again.rows[0]["stored before"]) == (0, 40)
    assert "nothing to do" in again.err
    assert before == {
        path: path.stat().st_mtime_ns for path in (tmp_path / "fmcache-cache").rglob("*.parquet")
    }


def test_new_changed_relabelled_and_reordered_rows(study: Path, weights: Path, tmp_path: Path) -> None:
    embed(study, weights, tmp_path)
    first = stored(tmp_path)

    rows = study_rows(44)
    for i in range(40, 44):
        draw(study.parent / "images" / f"{i}.png", i)
    write_table(study, rows)
    assert embed(study, weights, tmp_path).rows[0]["embedded"] == 4, "only the new images"

    draw(study.parent / "images" / "5.png", 1005)
    assert embed(study, weights, tmp_path).rows[0]["embedded"] == 1, "only the changed image"
    changed = stored(tmp_path)
    assert not np.array_equal(changed["005"], first["005"])
    np.testing.assert_array_equal(changed["006"], first["006"])

    for row in rows:
        row["label.finding"] = 1 - row["label.finding"]
    random.Random(0).shuffle(rows)
    write_table(study, rows)
    assert embed(study, weights, tmp_path).rows[0]["embedded"] == 0, "labels and order need no model"
    cache = open_cache(tmp_path / "fmcache-cache")
    table = cache.embeddings(MODEL, "study").samples
    truth = {row["sample_id"]: row["label.finding"] for row in rows}
    assert dict(table.select("sample_id", "label.finding").iter_rows()) == truth
    for sample_id, row in stored(tmp_path).items():
        np.testing.assert_array_equal(row, changed[sample_id])

    write_table(study, [row for row in rows if row["sample_id"] != "003"])
    embed(study, weights, tmp_path)
    assert "003" not in stored(tmp_path), "a removed row leaves the view"


def test_a_duplicate_image_is_embedded_once(study: Path, weights: Path, tmp_path: Path) -> None:
    draw(study.parent / "images" / "1.png", 0)
    done = embed(study, weights, tmp_path)
    assert done.rows[0]["embedded"] == 39
    found = stored(tmp_path)
    np.testing.assert_array_equal(found["000"], found["001"])


def test_other_weights_are_another_entry(study: Path, weights: Path, tmp_path: Path) -> None:
    first = embed(study, weights, tmp_path).rows[0]["key"]
    changed = make_weights(tmp_path / "other.safetensors", seed=1)
    second = embed(study, changed, tmp_path).rows[0]["key"]
    assert first != second
    assert {row["key"][:12] for row in fmcache("cache", "ls", cwd=tmp_path).rows} == {first, second}


@pytest.mark.slow
def test_workers_batches_shards_and_company_change_no_bit(
    study: Path, weights: Path, other_weights: Path, tmp_path: Path
) -> None:
    """One process, several processes, two models in one pass, shards: the same bytes."""
    alone, many, parts, both = (tmp_path / name for name in ("alone", "many", "parts", "both"))
    for folder in (alone, many, parts, both):
        folder.mkdir()
    embed(study, weights, alone)
    options = ["extract", "-m", MODEL, "--checkpoint", weights, "-d", study]
    fmcache(*options, "--executor", "process", "--workers", "3", cwd=many)
    for shard in ("2/3", "1/3", "3/3"):
        fmcache(*options, "--shard", shard, "--executor", "serial", cwd=parts)
    fmcache(
        "extract", "-m", MODEL, "-m", OTHER, "-d", study, "--checkpoint", f"{MODEL}={weights}",
        "--checkpoint", f"{OTHER}={other_weights}", "--executor", "serial", cwd=both,
    )  # fmt: skip
    expected = stored(alone)
    for folder in (many, parts, both):
        found = stored(folder)
        assert found.keys() == expected.keys()
        for sample_id, row in expected.items():
            np.testing.assert_array_equal(found[sample_id], row, err_msg=f"{folder.name} {sample_id}")
    assert len(stored(both, OTHER)) == 40


def test_a_bad_file_is_a_row_with_a_reason_and_exit_code_3(
    study: Path, weights: Path, tmp_path: Path
) -> None:
    images = study.parent / "images"
    whole = (images / "3.png").read_bytes()
    (images / "3.png").write_bytes(whole[: len(whole) // 2])
    (images / "4.png").write_bytes(b"")
    (images / "5.png").unlink()
    (images / "6.png").unlink()
    os.mkfifo(images / "6.png")
    done = embed(study, weights, tmp_path, code=3)
    assert (done.rows[0]["embedded"], done.rows[0]["rejected"]) == (37, 4)
    assert "4 inputs were rejected" in done.err
    assert embed(study, weights, tmp_path, code=3).rows[0]["embedded"] == 0
    missing = open_cache(tmp_path / "fmcache-cache").embeddings(MODEL, "study").missing
    assert sorted(missing["sample_id"]) == ["003", "004", "005", "006"]
    assert missing["reason"].str.len_chars().min() > 10
    (images / "3.png").write_bytes(whole)
    assert embed(study, weights, tmp_path, code=3).rows[0]["embedded"] == 1, "a mended file is taken"


def test_too_many_bad_files_stop_the_run(study: Path, weights: Path, tmp_path: Path) -> None:
    for i in range(20):
        (study.parent / "images" / f"{i}.png").write_bytes(b"no picture")
    done = embed(study, weights, tmp_path, code=3)
    assert "20 of 40 inputs cannot be used" in done.err
    assert done.out == ""
    accepted = embed(study, weights, tmp_path, "--max-reject", "1", code=3)
    assert accepted.rows[0]["embedded"] == 20


def test_dry_run_writes_no_segment(study: Path, weights: Path, tmp_path: Path) -> None:
    done = embed(study, weights, tmp_path, "--dry-run")
    assert "40 to embed" in done.err
    assert fmcache("cache", "ls", cwd=tmp_path).rows == []


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_keeps_what_is_finished(tmp_path: Path, weights: Path, number: int, code: int) -> None:
    """A block's journal record is waited for, then the signal is sent; the next run computes the rest only."""
    study = make_study(tmp_path / "study", 800)
    command = [
        sys.executable, "-m", "fmcache.cli", "extract", "-m", MODEL, "--checkpoint", str(weights), "-d", str(study),
        "--batch", "8",
    ]  # fmt: skip
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    staging = tmp_path / "fmcache-cache" / "staging"
    limit = time.monotonic() + 120
    while not list(staging.glob("*/journal/*")) and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.02)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "Run the same command again to go on." in err
    assert "Traceback" not in err
    assert fmcache("cache", "ls", cwd=tmp_path).rows == [], "nothing half-finished is published"
    done = fmcache(*command[3:], cwd=tmp_path)
    assert done.rows[0]["embedded"] == 800
    assert done.rows[0]["reused blocks"] >= 1
    assert len(stored(tmp_path)) == 800


def test_an_exhausted_device_gets_half_the_batch(
    study: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from fmcache.extract.command import extract_command
    from fmcache.extract.encode import Encoder
    from fmcache.settings import Settings

    embed(study, weights, tmp_path)
    forward = Encoder._forward

    def limited(self: Encoder, images: list[np.ndarray]) -> torch.Tensor:
        if len(images) > 8:
            raise torch.OutOfMemoryError("out of memory")
        return forward(self, images)

    monkeypatch.setattr(Encoder, "_forward", limited)
    summary = extract_command(
        models=[MODEL], dataset=str(study), root=None, cache=tmp_path / "small" / "fmcache-cache",
        checkpoint=[str(weights)], settings=Settings(), executor="serial",
    )  # fmt: skip
    assert summary.exit_code == 0
    entry = open_cache(tmp_path / "small" / "fmcache-cache").entry(MODEL, "study")
    provenance = entry.segments[0].published.content["provenance"]
    assert (provenance["batch"], provenance["batch_halved"]) == (8, 2)
    expected = stored(tmp_path)
    for sample_id, row in stored(tmp_path / "small").items():
        np.testing.assert_allclose(row, expected[sample_id], atol=2e-3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-m", "dinov2-smal", "-d", "study/study.csv"], "Did you mean"),
        (["-m", MODEL, "-d", "study/stdy.csv"], "Did you mean study.csv?"),
        (["-m", MODEL, "-d", "study/study.csv", "--checkpoint", "nothing.pth"], "There is no checkpoint"),
        (["-m", MODEL, "-d", "study/study.csv", "--dtype", "float8"], "--dtype float8 means nothing."),
        (["-m", MODEL, "-d", "study/study.csv", "--shard", "0/3"], "--shard 0/3 means nothing."),
        (["-m", MODEL, "-d", "study/study.csv", "--device", "cuda"], "This machine has no cuda."),
    ],
)
def test_a_wrong_call_is_three_lines(study: Path, tmp_path: Path, arguments: list[str], words: str) -> None:
    done = fmcache("extract", *arguments, cwd=tmp_path, code=2)
    assert words in done.err
    told = done.err.strip().splitlines()
    begins = next(
        number for number, line in enumerate(told) if words in line or line.startswith("There is no ")
    )
    assert len(told) - begins <= 3, "the error comes last, and has three lines"
    assert "Traceback" not in done.err
    assert not (tmp_path / "fmcache-cache").exists()
