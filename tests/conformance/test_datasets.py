"""Every card: miniature in the owner's layout → samples → inspection → pixels, against expectations by hand."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path

import polars as pl
import pytest

from fmcache.errors import DatasetError
from fmcache.extract.dataset import OWN_CARDS, Dataset, SampleOptions, load_dataset
from fmcache.extract.dataset_card import read_card
from fmcache.extract.dataset_check import check_dataset
from fmcache.extract.decode import Undecodable, decode, read_input
from fmcache.extract.inspect import inspect_inputs
from fmcache.extract.masks_reader import mask_card, read_mask
from fmcache.extract.samples import ATTRIBUTE, LABEL
from fmcache.extract.synthesize import synthesize
from fmcache.settings import Settings

EXPECTED = tomllib.loads((Path(__file__).parent / "expectations_datasets.toml").read_text(encoding="utf-8"))
CARDS = {file.stem: read_card(file) for file in sorted(OWN_CARDS.glob("*.toml")) if file.stem != "phantom"}
PAPER = {
    "chexpert", "mimic", "ham10000", "fairvlmed", "gf3300", "papila", "brset", "covid-ct-md", "adni", "ham10000-seg",
    "tusc", "fairseg", "montgomery", "kits23", "candi", "ircadb", "spider",
}  # fmt: skip


@pytest.fixture(scope="module")
def miniature(tmp_path_factory: pytest.TempPathFactory):
    """name → the folder of its miniature, made once."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            made[name] = synthesize(CARDS[name], tmp_path_factory.mktemp(name) / "root")
        return made[name]

    return make


def load(name: str, root: Path, **options) -> Dataset:
    return load_dataset(name, root=root, settings=Settings(), options=SampleOptions(**options))


def test_every_card_has_expectations_and_every_expectation_a_card() -> None:
    assert set(CARDS) == set(EXPECTED)
    assert set(CARDS) >= PAPER | {"nih-cxr14", "padchest", "vindr-cxr", "fitzpatrick17k"}


@pytest.mark.parametrize("name", sorted(CARDS))
def test_the_card_states_what_a_user_needs(name: str) -> None:
    facts = CARDS[name].document
    for key in (
        "owner",
        "licence",
        "access",
        "citation",
        "modality",
        "body_part",
        "dimension",
        "tree",
        "patient_is",
    ):
        assert facts.get(key), key
    assert facts["verified"]["layout"] in ("run", "read")
    assert ("paper" in CARDS[name].tasks) == (name in PAPER)
    if CARDS[name].task == "segmentation":
        assert mask_card(facts).classes
    else:
        assert facts["text"]["templates"]
        task = CARDS[name].tasks.get("paper")
        assert all(CARDS[name].labels[label].classes for label in (task.labels if task else ()))


@pytest.mark.parametrize("name", sorted(CARDS))
def test_rows_are_those_written_by_hand(name: str, miniature) -> None:
    wanted = EXPECTED[name]
    dataset = load(name, miniature(name))
    samples = dataset.samples
    assert samples.height == wanted["samples"]
    assert samples["patient_id"].n_unique() == wanted["patients"]
    assert [c.removeprefix(LABEL) for c in samples.columns if c.startswith(LABEL)] == wanted["labels"]
    assert [c.removeprefix(ATTRIBUTE) for c in samples.columns if c.startswith(ATTRIBUTE)] == wanted[
        "attributes"
    ]
    assert not set(wanted.get("columns_absent", ())) & set(samples.columns)
    assert dataset.card["synthetic"] is True
    assert "synthetic" in dataset.notes[0]
    for sample_id, of in wanted["rows"].items():
        found = samples.row(by_predicate=pl.col("sample_id") == sample_id, named=True)
        for column, value in of.items():
            if column == "null":
                assert {c: found[c] for c in value} == dict.fromkeys(value)
            else:
                assert (sample_id, column, found[column]) == (sample_id, column, value)


@pytest.mark.parametrize("name", sorted(CARDS))
def test_inputs_become_pixels_or_the_expected_reason(name: str, miniature) -> None:
    wanted = EXPECTED[name]
    dataset = load(name, miniature(name))
    samples = inspect_inputs(dataset, workers=1)
    rejected = {}
    for row in samples.iter_rows(named=True):
        try:
            data = read_input(dataset.root, row["path"])
            images = [decode(data, slice=i, reader=dataset.reader) for i in range(row["slices"] or 1)]
            assert all(
                image.shape[:2] == images[0].shape[:2] and image.max() > image.min() for image in images
            )
        except Undecodable as error:
            rejected[row["sample_id"]] = row["input_error"] or error.reason
    assert set(rejected) == set(wanted["rejected"])
    for sample_id, part in wanted["rejected"].items():
        assert part in rejected[sample_id]
    for sample_id, slices in wanted.get("slices", {}).items():
        assert samples.row(by_predicate=pl.col("sample_id") == sample_id, named=True)["slices"] == slices


@pytest.mark.parametrize("name", sorted(name for name in CARDS if CARDS[name].task == "segmentation"))
def test_masks_fit_their_images_and_hold_the_expected_classes(name: str, miniature) -> None:
    dataset = load(name, miniature(name))
    masks = mask_card(dataset.card)
    for sample_id, classes in EXPECTED[name]["masks"].items():
        row = dataset.samples.row(by_predicate=pl.col("sample_id") == sample_id, named=True)
        mask = read_mask(dataset.root, row["mask_path"], masks, dataset.reader)
        data = read_input(dataset.root, row["path"])
        image = decode(data, slice=0, reader=dataset.reader)
        assert mask.shape[-2:] == image.shape[:2]
        assert {masks.classes[value - 1] for value in set(mask.ravel().tolist()) - {0}} == set(classes)
    for sample_id, part in EXPECTED[name].get("mask_errors", {}).items():
        row = dataset.samples.row(by_predicate=pl.col("sample_id") == sample_id, named=True)
        with pytest.raises(Undecodable, match=part):
            read_mask(dataset.root, row["mask_path"], masks, dataset.reader)


@pytest.mark.parametrize("name", sorted(name for name in CARDS if "official" in EXPECTED[name]))
def test_the_official_split(name: str, miniature) -> None:
    split = dict(
        load(name, miniature(name), split="official").samples.select("sample_id", "split").iter_rows()
    )
    for sample_id, part in EXPECTED[name]["official"].items():
        assert split[sample_id] == part


@pytest.mark.parametrize("name", sorted(CARDS))
def test_the_default_split_never_parts_a_patient(name: str, miniature) -> None:
    dataset = load(name, miniature(name))
    assert dataset.samples["split"].null_count() == 0
    parts = dataset.samples.group_by("patient_id").agg(pl.col("split").n_unique())
    assert parts["split"].max() == 1
    assert dataset.card["split"]["leaking_patients"] == 0


@pytest.mark.parametrize("name", sorted(PAPER))
def test_the_papers_task(name: str, miniature) -> None:
    kept = load(name, miniature(name), task="paper").samples
    whole = load(name, miniature(name)).samples["sample_id"].to_list()
    assert kept["sample_id"].to_list() == EXPECTED[name].get("paper", whole)
    labels = [column for column in kept.columns if column.startswith(LABEL)]
    assert len(labels) == (1 if CARDS[name].task == "classification" else len(CARDS[name].labels))


CODED = [
    (name, kind, column)
    for name, card in CARDS.items()
    for kind in ("attributes", "labels")
    for column, of in getattr(card, kind).items()
    if of.codes and not (kind == "labels" and "no_finding" in card.labels and column != "no_finding")
]


@pytest.mark.parametrize(("name", "kind", "column"), CODED)
def test_a_code_that_the_card_does_not_know_stops_with_the_codes_found(
    name: str, kind: str, column: str, miniature, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = CARDS[name]
    strange = {"no such code": "" if kind == "attributes" else None}
    section = {**getattr(card, kind), column: dataclasses.replace(getattr(card, kind)[column], codes=strange)}
    monkeypatch.setattr(
        "fmcache.extract.dataset.read_card", lambda file: dataclasses.replace(card, **{kind: section})
    )
    with pytest.raises(DatasetError, match="which the card does not know") as caught:
        load(name, miniature(name))
    assert f"`{'attribute' if kind == 'attributes' else 'label'}.{column}`" in caught.value.what
    assert caught.value.found.startswith("Found: '")


@pytest.mark.parametrize("name", sorted(CARDS))
def test_the_check_finds_what_is_broken_and_what_is_extra(name: str, miniature) -> None:
    dataset = load(name, miniature(name))
    findings = list(check_dataset(dataset, CARDS[name]))
    missing = sum("no such file" in reason for reason in EXPECTED[name]["rejected"].values())
    files = next(one for one in findings if one.check == "image files")
    assert files.state == ("bad" if missing else "ok")
    assert files.found.startswith(f"{missing} of " if missing else "")
    broken = [one for one in findings if one.check.startswith("sampled input ")]
    expected = len(EXPECTED[name]["rejected"]) - missing + len(EXPECTED[name].get("mask_errors", {}))
    lacking = [one for one in broken if "no such file" in one.found]  # a mask that is not there
    assert len(broken) - len(lacking) == expected
    ids = [sample for sample in dataset.samples["sample_id"].to_list() if len(sample) > 4]
    assert not any(sample in one.found + one.check for one in findings for sample in ids)
