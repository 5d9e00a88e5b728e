"""The whole on a phantom study with a planted cause: erm finds the gap, balancing shrinks it, the front is stored.

Men have the lesion four times as often as women; it can be seen equally well in both. A model that leans on the sex it
sees misses women. The embedding is a thumbnail of each image, so that the test needs no torch.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from fmcache.extract.datasets.phantom import synthesize_phantom
from fmcache.probe.mitigation.front import Reached, reached, youden
from fmcache.probe.run import probe_lp
from fmcache.store.cache import Cache, open_cache
from fmcache.store.keys import digest

SIDE = 16
METHODS = (
    "erm",
    "resampling",
    "resampling-label",
    "reweighing",
    "group-dro-label",
    "dfr",
    "group-thresholds",
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    folder = tmp_path_factory.mktemp("mitigation")
    study = synthesize_phantom(
        folder / "study",
        patients=210,
        images=360,
        visible={"male": 0.9, "female": 0.9},
        prevalence={"male": 0.8, "female": 0.2},
        seed=1,
    )
    images = pl.read_csv(study / "images.csv")
    rows = images.join(
        pl.read_csv(study / "patients.csv"), on="patient_id", how="left", maintain_order="left"
    )
    samples = rows.select(
        sample_id="image_id", patient_id="patient_id", path="file", split="split",
        slices=pl.lit(1, pl.Int32), input_digest=pl.Series([digest(name) for name in rows["file"]]),
        input_error=pl.lit(None, pl.String),
    ).with_columns(
        pl.Series("label.lesion", rows["lesion"].to_numpy().astype(np.float32)), pl.Series("attribute.sex", rows["sex"])
    )  # fmt: skip
    x = np.stack([_thumbnail(study / name) for name in rows["file"]])
    cache = open_cache(folder / "cache", create=True)
    cache.publish_dataset("phantom", {}, samples)
    units = samples.select("input_digest", slice=pl.lit(0, pl.Int32))
    placed = units.with_columns(samples["sample_id"])
    with cache.segment(
        "thumbnail", "phantom", "image", {"model": "thumbnail"}, units, placed, d=x.shape[1]
    ) as writer:
        for block in writer.blocks:
            writer.write(block.index, x[block.start : block.stop])
        writer.publish({})
    return cache


def _thumbnail(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        small = image.resize((SIDE, SIDE), Image.Resampling.BOX)
    return (np.asarray(small, np.float32) / 64 - 2).astype(np.float16).ravel()


def _reached(cache: Cache, run_id: str) -> Reached:
    """What the run reaches on test rows, at the threshold of the validation rows (0 where the method sets it)."""
    run = cache.run(run_id)
    table = run.predictions()
    split = table["split"].to_numpy()
    z, y = table["logit"].to_numpy()[:, None], table["y"].to_numpy().astype(float)
    own = bool(run.info["attribute_at_test"])
    threshold = np.zeros(1) if own else youden(z[split == "val"], y[split == "val"])
    test = split == "test"
    group = (table["attribute.sex"] == "female").to_numpy().astype(int)
    return reached(z[test], y[test], group[test], 2, threshold)


def test_erm_finds_the_planted_gap_and_balancing_shrinks_it(cache: Cache) -> None:
    ids = probe_lp(cache, methods=METHODS, attribute="sex")
    of = {cache.run(run_id).info["method"]: _reached(cache, run_id) for run_id in ids}
    assert set(of) == set(METHODS)
    gap = {name: of[name].eqodds_gap[0] for name in METHODS}
    assert of["erm"].auc[0] > 0.85
    assert gap["erm"] > 0.2
    for name in ("resampling-label", "reweighing", "group-dro-label", "dfr", "group-thresholds"):
        assert gap[name] < gap["erm"] - 0.05, name
    # both sexes are equally many: balancing groups alone has nothing to balance
    assert abs(gap["resampling"] - gap["erm"]) < 0.05


def test_the_run_records_what_it_needs_and_the_front(cache: Cache) -> None:
    ids = probe_lp(cache, methods=("group-thresholds", "group-dro-label"), attribute="sex")
    post, dro = (cache.run(run_id).info for run_id in ids)
    assert (post["attribute_at_test"], dro["attribute_at_test"]) == (True, False)
    assert post["attribute"] == dro["attribute"] == "sex"
    assert post["front"] == []
    rows = dro["front"]
    assert {(row["split"], row["coefficient"]) for row in rows} == {
        (split, coefficient) for split in ("val", "test") for coefficient in (0.0, 1.0, 3.0)
    }
    assert sum(row["chosen"] for row in rows) == 2
    chosen = next(row for row in rows if row["chosen"] and row["split"] == "test")
    of = _reached(cache, ids[1])
    assert chosen["auc"] == pytest.approx(of.auc[0])
    assert chosen["eqodds_gap"] == pytest.approx(of.eqodds_gap[0])
    assert any(row["pareto"] for row in rows if row["split"] == "test")
