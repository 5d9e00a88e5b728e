"""``--kind mask`` with a model small enough to compute by hand: what is asked, what is stored, what is read back."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from fmcache.analyze.dice import dice_table, wide_table  # noqa: E402
from fmcache.errors import DatasetError, FmcacheError, UsageError  # noqa: E402
from fmcache.extract.dataset import load_dataset  # noqa: E402
from fmcache.extract.frame import Frame, FramePreprocess, Shades  # noqa: E402
from fmcache.extract.mask_options import MaskOptions  # noqa: E402
from fmcache.extract.mask_run import extract_masks  # noqa: E402
from fmcache.extract.models.card import Card, Network  # noqa: E402
from fmcache.extract.models.segmenter import Segmenter, Words  # noqa: E402
from fmcache.extract.options import ExtractOptions  # noqa: E402
from fmcache.extract.registry import LoadedModel  # noqa: E402
from fmcache.settings import Settings  # noqa: E402
from fmcache.store.cache import open_cache  # noqa: E402
from fmcache.store.maintenance import repair, show_entry, verify  # noqa: E402

SIDE, LOW = 32, 8
PREPROCESS = FramePreprocess(Frame("squash", SIDE, "nearest"), Shades((0, 0, 0), (1, 1, 1)))
calls = {"encode": 0, "decode": []}


def encode(x):
    calls["encode"] += len(x)
    return torch.nn.functional.avg_pool2d(x[:, :1], SIDE // LOW)


def decode(maps, points, boxes):
    """Mask m is the mean grey of a cell minus 100 m; the third has the largest predicted IoU. Boxes cut it off."""
    calls["decode"].append((len(maps), None if points is None else points.shape[1]))
    logits = torch.cat([maps - 100 * m for m in range(3)], 1)
    if boxes is not None:
        y, x = torch.meshgrid(torch.arange(LOW), torch.arange(LOW), indexing="ij")
        centre = torch.stack([x, y], -1) * (SIDE // LOW) + SIDE // LOW // 2
        inside = (centre >= boxes[:, None, None, :2]).all(-1) & (centre <= boxes[:, None, None, 2:]).all(-1)
        logits = torch.where(inside[:, None], logits, -50.0)
    return logits, torch.tensor([[0.1, -0.5, 0.7]]).expand(len(maps), -1)


def model(**changes):
    card = Card("toy-sam", "Toy", "segmentation", "toy", 1, "MIT", ("mean",), PREPROCESS)
    segmenter = Segmenter(encode, decode, (LOW, LOW), 3, ("center", "rand", "rands", "bbox"))
    network = Network(torch.nn.Identity(), {}, PREPROCESS, segmenter=segmenter)
    values = {"card": card, "pool": "mean", "preprocess": PREPROCESS, "d": 1, "weights_sha256": "0" * 64,
              "source": "toy", "network": network, **changes}  # fmt: skip
    return LoadedModel(**values)


@pytest.fixture
def study(tmp_path):
    """Five pictures: two classes, one class, empty mask, mask of another shape, no mask."""
    calls["encode"], calls["decode"] = 0, []
    rows = ["sample_id,patient_id,path,mask_path,attribute.sex"]
    for number in range(5):
        mask = np.zeros((40, 64), np.uint8)
        if number != 2:
            mask[10:30, 8:32] = 1
        if number == 0:
            mask[5:15, 48:60] = 2
        picture = np.where(mask > 0, 250, 60).astype(np.uint8) + np.uint8(number)
        if number == 3:
            mask = mask[:, :60]
        Image.fromarray(picture).save(tmp_path / f"{number}.png")
        Image.fromarray(mask).save(tmp_path / f"{number}_mask.png")
        mine = "" if number == 4 else f"{number}_mask.png"
        rows.append(f"s{number},p{number},{number}.png,{mine},{'FM'[number % 2]}")
    (tmp_path / "study.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def run(study, asked=None, options=None, which=None):
    dataset = load_dataset(str(study / "study.csv"), settings=Settings())
    options = options or ExtractOptions(batch=2, workers=2)
    cache = open_cache(study / "cache", create=True)
    return cache, extract_masks([which or model()], dataset, cache, options, asked or MaskOptions())


def test_what_is_stored(study):
    cache, summary = run(study)
    assert summary.exit_code == 3
    (row,) = summary.rows()
    assert (row["embedded"], row["rejected"], row["state"]) == (3, 2, "done")
    assert "1 samples have no mask_path and were left out." in summary.sentences()
    assert calls["encode"] == 2, "each picture goes through the encoder once"
    # two pictures, three masks in all: one call a kind of prompt
    assert sorted(calls["decode"], key=str) == sorted([(3, 1), (3, 1), (3, 5), (3, None)], key=str)
    masks = cache.masks("toy-sam", "study")
    assert masks.entry.shape == (2, 4, 1, LOW, LOW)
    assert masks.classes == ("1", "2")
    assert masks.samples["sample_id"].to_list() == ["s0", "s1"]
    reasons = dict(masks.missing.select("sample_id", "reason").iter_rows())
    assert reasons == {
        "s2": "rejected: The mask is empty: no pixel belongs to a class.",
        "s3": "rejected: The mask has another shape than its picture: 40x60 and 40x64.",
        "s4": "not extracted",
    }
    assert verify(cache) == []


def test_an_empty_class_of_a_picture_is_a_row_of_the_quarantine_and_no_reason_to_reject_it(study):
    cache, summary = run(study)
    (segment,) = cache.entry("toy-sam", "study", "mask").segments
    empty = "The class 2 is empty: no pixel of the mask belongs to it."
    rows = segment.quarantine.filter(pl.col("stage") == "mask").select("sample_id", "row", "reason").rows()
    assert sorted(rows) == [
        ("s1", None, empty),
        ("s2", None, "The mask is empty: no pixel belongs to a class."),
        ("s3", None, empty),
    ]
    assert any("2 in 2 of 4 masks" in sentence for sentence in summary.sentences())
    told = [row["value"] for row in show_entry(cache, "toy-sam/study") if row["field"].endswith(".rejected")]
    assert told[0] == f"2 x {empty}", "what `fmcache cache show` says"
    _, again = run(study)
    assert len(cache.entry("toy-sam", "study", "mask").segments) == 1, "nothing is written twice"
    assert any("2 in 2 of 4 masks" in sentence for sentence in again.sentences())


def test_ground_truth_is_lossless_and_prompts_are_in_pixels_of_the_picture(study):
    cache, _ = run(study)
    masks = cache.masks("toy-sam", "study")
    answers = {(a.sample, a.name, a.prompt): a for a in masks}
    assert len(answers) == 3 * 4
    with Image.open(study / "0_mask.png") as image:
        stored = np.asarray(image)
    for name in ("1", "2"):
        assert (answers[0, name, "bbox"].truth == (stored == int(name))).all()
    assert answers[0, "2", "bbox"].coordinates.tolist() == [[48, 5], [59, 14]]
    assert answers[0, "1", "center"].coordinates.tolist() == [[19, 19]]
    for (_, _, prompt), answer in answers.items():
        if prompt in ("rand", "rands", "center"):
            assert all(answer.truth[int(y), int(x)] for x, y in answer.coordinates)
        np.testing.assert_allclose(answer.iou, [0.1, -0.5, 0.7], rtol=1e-6)
        assert (answer.chosen, answer.logits.shape) == (2, (1, LOW, LOW))


def test_the_stored_mask_is_that_of_the_largest_predicted_iou(study):
    cache, _ = run(study)
    every, _ = run(study, MaskOptions(multimask="all"))
    best = {(a.sample, a.name, a.prompt): a for a in cache.masks("toy-sam", "study", key=key(cache, "best"))}
    for answer in every.masks("toy-sam", "study", key=key(cache, "all")):
        assert answer.logits.shape == (3, LOW, LOW)
        assert (answer.logits[2] == best[answer.sample, answer.name, answer.prompt].logits[0]).all()
        assert (answer.logits[0] - answer.logits[2] == 200).any()


def key(cache, multimask):
    found = [entry for entry in cache.entries(kind="mask") if entry.document["multimask"] == multimask]
    return found[0].key


def test_dice_by_hand(study):
    """The picture is 250 inside and 60 outside, mask 2 takes 200 off: inside exactly the true pixels, up to the
    resolution of the small logits; the box cuts the other class away."""
    cache, _ = run(study)
    table = dice_table(cache.masks("toy-sam", "study"))
    one = table.row(by_predicate=(pl.col("sample_id") == "s1") & (pl.col("prompt") == "center"), named=True)
    a, b, both = one["predicted_pixels"], one["true_pixels"], one["dice"]
    assert b == 20 * 24
    with Image.open(study / "1.png") as image:
        picture = np.asarray(image)
    maps = encode(PREPROCESS.batch([PREPROCESS.geometry.apply(picture)], "cpu")) - 200
    for size in ((SIDE, SIDE), picture.shape):  # the official way back, in torch
        maps = torch.nn.functional.interpolate(maps, size, mode="bilinear", align_corners=False)
    inside, true = maps[0, 0].numpy() > 0, picture > 200
    assert both == pytest.approx(2 * (inside & true).sum() / (inside.sum() + true.sum()))
    assert both > 0.8
    assert one["iou"] == pytest.approx(both / (2 - both))
    assert both == pytest.approx(2 * round(both * (a + b) / 2) / (a + b))
    assert one["predicted_iou"] == pytest.approx(0.7)
    assert (one["patient_id"], one["attribute.sex"]) == ("p1", "M")
    # without a box both objects answer to either class
    point, box = (
        table.filter(pl.col("sample_id") == "s0", pl.col("class") == "2", pl.col("prompt") == prompt)["dice"][
            0
        ]
        for prompt in ("center", "bbox")
    )
    assert point < 0.5 < box
    wide = wide_table(table)
    assert wide.columns == [
        "sample_id", "patient_id", "split", *(f"dsc_{p}" for p in ("bbox", "center", "rand", "rands")),
        *(f"iou_{p}" for p in ("bbox", "center", "rand", "rands")), "sex",
    ]  # fmt: skip
    mean = table.filter(pl.col("sample_id") == "s0", pl.col("prompt") == "bbox")["dice"].mean()
    assert wide["dsc_bbox"][0] == pytest.approx(mean)


def test_nothing_is_asked_twice_and_a_changed_mask_is_asked_anew(study):
    cache, _ = run(study)
    before = list(calls["decode"])
    _, summary = run(study)
    assert summary.rows()[0]["embedded"] == 1 - 1 + 0
    assert calls["decode"] == before
    with Image.open(study / "1_mask.png") as image:
        changed = np.asarray(image).copy()
    changed[10:20] = 0
    Image.fromarray(changed).save(study / "1_mask.png")
    _, summary = run(study)
    assert summary.rows()[0]["embedded"] == 1
    masks = cache.masks("toy-sam", "study")
    assert masks.samples["sample_id"].to_list().count("s1") == 1, "the newest of both counts"
    row = masks.samples["sample_id"].to_list().index("s1")
    truth = next(a.truth for a in masks if a.sample == row)
    assert (truth == (changed == 1)).all()


def test_any_order_batch_and_workers_give_the_same_bytes(study):
    cache, _ = run(study)
    other = open_cache(study / "other", create=True)
    dataset = load_dataset(str(study / "study.csv"), settings=Settings())
    extract_masks([model()], dataset, other, ExtractOptions(batch=1, workers=1), MaskOptions())
    one, two = cache.masks("toy-sam", "study"), other.masks("toy-sam", "study")
    assert one.prompt_table.sort("input_digest", "class", "prompt").equals(
        two.prompt_table.sort("input_digest", "class", "prompt")
    )
    for a, b in zip(one, two, strict=True):
        assert (a.logits == b.logits).all()


def test_an_interrupted_extraction_goes_on(study, monkeypatch):
    from fmcache.store.segment import SegmentWriter

    monkeypatch.setattr("fmcache.extract.mask_run.BLOCK", 1)
    write, written = SegmentWriter.write, []

    def stop_after_one(self, block, *rest):
        if written:
            raise KeyboardInterrupt
        written.append(block)
        return write(self, block, *rest)

    monkeypatch.setattr(SegmentWriter, "write", stop_after_one)
    with pytest.raises(KeyboardInterrupt):
        run(study)
    monkeypatch.setattr(SegmentWriter, "write", write)
    cache, summary = run(study)
    assert summary.rows()[0]["reused blocks"] == 1
    assert len(list(cache.masks("toy-sam", "study"))) == 12
    assert verify(cache) == []


def test_a_batch_that_does_not_fit_is_halved_and_gives_the_same_masks(study):
    """The device takes two pictures in the encoder, and one prompt at once in the decoder, where a picture has two."""

    def small_encoder(x):
        if len(x) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return encode(x)

    def small_decoder(maps, points, boxes):
        if len(maps) > 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        return decode(maps, points, boxes)

    segmenter = Segmenter(small_encoder, small_decoder, (LOW, LOW), 3, ("center", "rand", "rands", "bbox"))
    small = model(network=Network(torch.nn.Identity(), {}, PREPROCESS, segmenter=segmenter))
    cache, summary = run(study, options=ExtractOptions(batch=8, workers=1), which=small)
    assert summary.rows()[0]["embedded"] == 3
    (segment,) = cache.entry("toy-sam", "study", "mask").segments
    assert segment.published.content["provenance"]["batch"] == 1
    other = open_cache(study / "other", create=True)
    dataset = load_dataset(str(study / "study.csv"), settings=Settings())
    extract_masks([model()], dataset, other, ExtractOptions(batch=8, workers=1), MaskOptions())
    mine, theirs = cache.masks("toy-sam", "study"), other.masks("toy-sam", "study")
    for a, b in zip(mine, theirs, strict=True):
        assert (a.sample, a.name, a.prompt) == (b.sample, b.name, b.prompt)
        assert (a.logits == b.logits).all()
        assert (a.coordinates == b.coordinates).all()


def test_a_picture_that_does_not_fit_alone_ends_the_run_and_keeps_what_is_done(study, monkeypatch):
    monkeypatch.setattr("fmcache.extract.mask_run.BLOCK", 1)
    seen = []

    def full(x):
        seen.append(len(x))
        if len(seen) > 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return encode(x)

    segmenter = Segmenter(full, decode, (LOW, LOW), 3, ("center", "rand", "rands", "bbox"))
    small = model(network=Network(torch.nn.Identity(), {}, PREPROCESS, segmenter=segmenter))
    with pytest.raises(
        FmcacheError, match="does not fit into the memory of cpu, even with one prompt"
    ) as error:
        run(study, options=ExtractOptions(batch=1, workers=1), which=small)
    assert error.value.found == "CUDA out of memory. Tried to allocate 2 GiB"
    assert "--autocast bf16" in error.value.do
    _, summary = run(study)
    assert summary.rows()[0]["reused blocks"] == 1


def test_bfloat16_moves_logits_a_little_and_is_another_entry(study):
    """A decoder with weights, in bf16 on the CPU: the matrix product loses bits, what is stored stays float16."""
    weights = torch.nn.Conv2d(1, 3, 3, padding=1)
    torch.manual_seed(0)
    torch.nn.init.normal_(weights.weight, std=0.02)
    seen = []

    def decoder(maps, points, boxes):
        with torch.no_grad():
            out = weights(maps)
        seen.append(out.dtype)
        return out, torch.tensor([[0.1, -0.5, 0.7]], dtype=out.dtype).expand(len(maps), -1)

    segmenter = Segmenter(encode, decoder, (LOW, LOW), 3, ("center",))
    net = model(network=Network(torch.nn.Identity(), {}, PREPROCESS, segmenter=segmenter))
    found = []
    for autocast in ("fp32", "bf16"):
        cache, _ = run(study, options=ExtractOptions(batch=2, workers=1, autocast=autocast), which=net)
        (key,) = [e.key for e in cache.entries(kind="mask") if e.document["autocast"] == autocast]
        found.append(np.stack([answer.logits for answer in cache.masks("toy-sam", "study", key=key)]))
    assert set(seen) == {torch.float32, torch.bfloat16}
    assert found[0].dtype == found[1].dtype == np.float16
    apart = np.abs(found[0].astype(float) - found[1]).max()
    assert 0 < apart < 0.02 * np.abs(found[0]).max()


@pytest.mark.parametrize("what", ["masks", "prompts"])
def test_a_damaged_table_is_noticed_and_only_its_block_made_again(study, monkeypatch, what):
    monkeypatch.setattr("fmcache.extract.mask_run.BLOCK", 1)
    cache, _ = run(study)
    (segment,) = cache.entry("toy-sam", "study", "mask").segments
    file = segment.path / what / "00001.parquet"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.chmod(0o600)
    file.write_bytes(data)
    assert [problem.path.endswith(f"{what}/00001.parquet") for problem in verify(cache)] == [True]
    (row,) = repair(cache, "toy-sam/study")
    assert (row["kept"], row["lost"]) == (2, 1)
    _, summary = run(study)
    assert summary.rows()[0]["reused blocks"] == 2
    assert verify(cache) == []
    assert len(list(cache.masks("toy-sam", "study"))) == 12


def test_the_key_says_what_was_asked(study):
    keys = set()
    for asked in (
        MaskOptions(), MaskOptions(seed=1), MaskOptions(rule="fairmedfm"), MaskOptions(logits="mask"),
        MaskOptions(prompts=("bbox",)), MaskOptions(multimask="all"),
    ):  # fmt: skip
        cache, summary = run(study, asked)
        keys.add(summary.rows()[0]["key"])
    assert len(keys) == 6
    document = next(e.document for e in cache.entries(kind="mask") if e.document["logits"] == "mask")
    json.dumps(document)
    assert document["classes"] == ["1", "2"]


def test_a_model_without_masks_is_refused(study):
    plain = model(network=Network(torch.nn.Identity(), {}, PREPROCESS))
    with pytest.raises(UsageError) as error:
        run(study, which=plain)
    assert "makes no masks" in error.value.what


def test_a_dataset_without_masks_is_refused(study):
    text = (study / "study.csv").read_text()
    (study / "study.csv").write_text(text.replace("mask_path", "mask"))
    with pytest.raises(DatasetError) as error:
        run(study)
    assert "mask_path" in error.value.do


def test_volumes_go_slice_by_slice_and_empty_slices_are_left_out(tmp_path):
    volume = np.zeros((6, 40, 64), np.uint8)
    volume[2:4, 10:30, 8:32] = 250
    np.save(tmp_path / "v.npy", volume)
    np.save(tmp_path / "m.npy", (volume > 0).astype(np.uint8))
    (tmp_path / "study.csv").write_text("sample_id,path,mask_path\nv,v.npy,m.npy\n")
    cache, summary = run(tmp_path, MaskOptions(prompts=("center",)))
    assert summary.rows()[0]["embedded"] == 2
    masks = cache.masks("toy-sam", "study")
    assert masks.samples["slice"].to_list() == [2, 3]
    assert masks.classes == ("mask",)
    (row,) = dice_table(masks).to_dicts()
    assert (row["slices"], row["true_pixels"]) == (2, 2 * 20 * 24)


def volume_model(fit):
    """Sees a cube of 16 voxels (or the whole volume); a cell of 4 voxels is inside if it is bright."""
    from fmcache.extract.cubes import CubePreprocess

    size = (16, 16, 16) if fit == "crop" else (8, 16, 16)
    preprocess = CubePreprocess(fit, size, "positive" if fit == "crop" else "foreground")

    def answer(maps, points, boxes):
        seen.append(None if points is None else points.clone())
        return maps - (0.5 if fit == "crop" else 0.2), torch.full((len(maps), 1), 0.9)

    def see(x):
        encoded.append(len(x))
        return torch.nn.functional.avg_pool3d(x, 2)

    seen, encoded = [], []
    low = tuple(side // 2 for side in size)
    segmenter = Segmenter(see, answer, low, 1, ("rand", "rands", "bbox"))
    card = Card(
        "toy-3d", "Toy", "segmentation", "toy", 1, "MIT", ("mean",), preprocess, options={"volumes": True}
    )
    return (
        model(
            card=card,
            preprocess=preprocess,
            network=Network(torch.nn.Identity(), {}, preprocess, segmenter=segmenter),
        ),
        seen,
        encoded,
    )


@pytest.mark.parametrize("fit", ["crop", "resize"])
def test_whole_volumes(tmp_path, fit):
    """A NIfTI with two objects; the ground truth comes back at its own size, and a bright object is found."""
    import nibabel

    ras = np.full((30, 26, 40), 10, np.int16)
    mask = np.zeros(ras.shape, np.uint8)
    mask[4:12, 4:12, 6:20] = 1
    mask[18:26, 14:22, 24:36] = 2
    ras[mask > 0] = 1000 + np.random.default_rng(0).integers(0, 200, int((mask > 0).sum()))
    for name, data in (("v", ras), ("m", mask)):
        (tmp_path / f"{name}.nii").write_bytes(nibabel.Nifti1Image(data, np.diag([1, 1, 2, 1])).to_bytes())
    (tmp_path / "study.csv").write_text("sample_id,path,mask_path\nv,v.nii,m.nii\n")
    toy, seen, encoded = volume_model(fit)
    if fit == "crop":
        toy = replace(toy, card=replace(toy.card, options={"volumes": True, "spacing": 1.5}))
    options = ExtractOptions(batch=1, workers=2)
    cache, summary = run(tmp_path, MaskOptions(prompts=("rands",)), options, which=toy)
    assert summary.rows()[0]["embedded"] == 1
    assert any("voxels of 1.5 mm; they are as stored here" in one for one in summary.sentences()) == (
        fit == "crop"
    )
    masks = cache.masks("toy-3d", "study")
    answers = {answer.name: answer for answer in masks}
    assert set(answers) == {"1", "2"}
    for name, answer in answers.items():
        truth = answer.truth  # [s, h, w] on the light box; back in RAS+ it is the file's own
        assert (truth.transpose(2, 1, 0)[::-1, ::-1] == (mask == int(name))).all()
        assert all(truth[int(z), int(y), int(x)] for x, y, z in answer.coordinates)
    assert len(encoded) == {"crop": 2, "resize": 1}[fit], "once for all objects, where all see the same"
    assert max(encoded) == 1, "views are as many at once as the batch says"
    points = torch.cat(seen)
    assert points.shape == (2, 5, 3)
    assert (points >= 0).all()
    assert (points < torch.tensor(toy.preprocess.size)).all()
    table = dice_table(masks)
    assert table["slices"].to_list() == [1, 1]
    if fit == "crop":  # each object alone lies in its cube, but for what of the other one reaches into it
        assert (table["dice"] > 0.8).all()
    else:  # the whole volume is seen: either object answers for both
        total = int((mask > 0).sum())
        assert (abs(table["predicted_pixels"] - total) < 0.35 * total).all()


def test_points_lie_in_what_the_model_sees_of_an_object_larger_than_that(tmp_path):
    import nibabel

    mask = np.zeros((40, 12, 12), np.uint8)
    mask[1:39, 2:10, 2:10] = 1
    values = np.int16(1000) * mask.astype(np.int16) + np.arange(40, dtype=np.int16)[:, None, None]
    for name, data in (("v", values), ("m", mask)):
        (tmp_path / f"{name}.nii").write_bytes(nibabel.Nifti1Image(data, np.eye(4)).to_bytes())
    (tmp_path / "study.csv").write_text("sample_id,path,mask_path\nv,v.nii,m.nii\n")
    toy, seen, _ = volume_model("crop")
    cache, _ = run(tmp_path, MaskOptions(prompts=("rands",), seed=4), which=toy)
    (points,) = seen
    assert (points >= 0).all()
    assert (points < 16).all()
    (answer,) = cache.masks("toy-3d", "study")
    assert answer.truth.sum() == mask.sum(), "the ground truth stays whole"


@pytest.mark.parametrize("kind", ["text", "text-bbox"])
def test_a_model_that_reads_is_given_the_name_of_the_class(tmp_path, kind):
    import nibabel

    toy, *_ = volume_model("resize")
    asked = []

    def encode_sentence(sentence):
        asked.append(sentence)
        return torch.tensor([[float(len(sentence))]])

    def answer(maps, points, boxes, text=None):
        assert points is None
        assert (boxes is None) == (kind == "text")
        return maps - 0.2 + 0 * text[:, :, None, None, None], torch.full(
            (len(maps), 1), text[0, 0].item() / 100
        )

    words = Words("A scan of a {}.", encode_sentence)
    old = toy.network.segmenter
    segmenter = Segmenter(old.encode, answer, old.low, 1, ("bbox", "text", "text-bbox"), words=words)
    reads = model(card=toy.card, preprocess=toy.preprocess,
                  network=Network(torch.nn.Identity(), {}, toy.preprocess, segmenter=segmenter))  # fmt: skip
    mask = np.zeros((20, 18, 16), np.uint8)
    mask[2:8, 2:8, 2:8], mask[12:18, 10:16, 8:14] = 1, 2
    values = (mask > 0).astype(np.int16) * 1000
    for name, data in (("v", values), ("a", mask == 1), ("b", mask == 2)):
        (tmp_path / f"{name}.nii").write_bytes(
            nibabel.Nifti1Image(data.astype(np.int16), np.eye(4)).to_bytes()
        )
    table = tmp_path / "study.csv"
    table.write_text("sample_id,path,mask_path\nv,v.nii,left_lung=a.nii;spleen=b.nii\n")
    cache, _ = run(tmp_path, MaskOptions(prompts=(kind,)), which=reads)
    assert asked == ["A scan of a left lung.", "A scan of a spleen."]
    masks = cache.masks("toy-3d", "study")
    assert masks.entry.document["model"]["segmenter"]["sentence"] == "A scan of a {}."
    for answer in masks:
        assert answer.coordinates.shape == ((0,) if kind == "text" else (2, 3))
    assert dice_table(masks)["prompt"].to_list() == [kind, kind]
    # classes without names cannot be named; without a choice such prompts are left out
    table.write_text("sample_id,path,mask_path\nv,v.nii,a.nii\n")
    with pytest.raises(UsageError, match="these have no names"):
        run(tmp_path, MaskOptions(prompts=(kind,)), which=reads)


def test_pictures_are_no_volumes(study):
    toy, *_ = volume_model("crop")
    _, summary = run(study, MaskOptions(prompts=("rand",)), which=toy)
    assert (summary.rows()[0]["rejected"], summary.exit_code) == (4, 3)
