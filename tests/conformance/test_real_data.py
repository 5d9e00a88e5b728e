"""Real tables and real volumes that packages carry: counts against the published ones, and anatomy on the right side.

No row of them enters the repository. A test whose package is not installed says which one it needs.
"""

from __future__ import annotations

import gzip
import plistlib
import shutil
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from fmcache.extract.dataset import Dataset, load_dataset
from fmcache.extract.decode import ReaderOptions, Undecodable, count_slices, decode
from fmcache.extract.masks_reader import MaskCard, read_mask
from fmcache.settings import Settings

MRICRON = Path("/usr/share/mricron/templates")
CRANIUM = Path("/usr/share/doc/invesalius-examples/examples/Cranium.inv3")
needs_mricron = pytest.mark.skipif(not MRICRON.is_dir(), reason="apt-get install mricron-data (16 MB)")
needs_cranium = pytest.mark.skipif(
    not CRANIUM.is_file(), reason="apt-get install invesalius-examples (19 MB)"
)


def packaged(name: str) -> Path:
    try:
        distribution = metadata.distribution("torchxrayvision")
    except metadata.PackageNotFoundError:
        pytest.skip("pip install --no-deps torchxrayvision==1.5.7 (make test does)")
    return next(
        Path(str(distribution.locate_file(file))) for file in distribution.files or () if file.name == name
    )


def published(tmp_path: Path, name: str, source: str, target: str) -> Dataset:
    """The dataset from its owner's table; bench/commands.py says how long it takes."""
    with gzip.open(packaged(source)) as packed, (tmp_path / target).open("wb") as file:
        shutil.copyfileobj(packed, file)
    return load_dataset(name, root=tmp_path, settings=Settings())


def images(dataset: Dataset, attribute: str) -> dict[str, int]:
    return {group: of["samples"] for group, of in dataset.card["counts"]["attributes"][attribute].items()}


def positives(dataset: Dataset) -> dict[str, int]:
    return {label: of["1"] for label, of in dataset.card["counts"]["labels"].items()}


def test_nih_chestxray14(tmp_path: Path) -> None:
    dataset = published(tmp_path, "nih-cxr14", "Data_Entry_2017_v2020.csv.gz", "Data_Entry_2017_v2020.csv")
    assert (dataset.samples.height, dataset.samples["patient_id"].n_unique()) == (112_120, 30_805)
    assert images(dataset, "sex") == {"female": 48_780, "male": 63_340}
    assert images(dataset, "view") == {"AP": 44_810, "PA": 67_310}
    assert (dataset.samples["attribute.age"].min(), dataset.samples["attribute.age"].max()) == (0, 95)
    assert positives(dataset) == {
        "no_finding": 60_361,
        "infiltration": 19_894,
        "effusion": 13_317,
        "atelectasis": 11_559,
        "nodule": 6_331,
        "mass": 5_782,
        "pneumothorax": 5_302,
        "consolidation": 4_667,
        "pleural_thickening": 3_385,
        "cardiomegaly": 2_776,
        "emphysema": 2_516,
        "edema": 2_303,
        "fibrosis": 1_686,
        "pneumonia": 1_431,
        "hernia": 227,
    }
    assert dataset.card["split"]["leaking_patients"] == 0


def test_chexpert(tmp_path: Path) -> None:
    dataset = published(tmp_path, "chexpert", "chexpert_train.csv.gz", "train.csv")
    assert (dataset.samples.height, dataset.samples["patient_id"].n_unique()) == (223_414, 64_540)
    assert dataset.samples["study_id"].n_unique() == 187_641
    assert images(dataset, "sex") == {"female": 90_777, "male": 132_636, "unknown": 1}
    assert images(dataset, "view")["Lateral"] == 32_387 + 16 + 1
    assert positives(dataset)["no_finding"] == 22_381
    assert dataset.samples["attribute.age"].null_count() == 3
    assert (dataset.samples["attribute.age"] == 90).sum() == 7_579
    assert dataset.card["split"]["leaking_patients"] == 0


def test_padchest(tmp_path: Path) -> None:
    name = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
    dataset = published(tmp_path, "padchest", f"{name}.gz", name)
    assert (dataset.samples.height, dataset.samples["patient_id"].n_unique()) == (160_861, 67_625)
    assert dataset.samples["study_id"].n_unique() == 109_931
    assert images(dataset, "sex") == {"female": 79_919, "male": 80_920, "unknown": 22}  # O 18, blank 4
    assert images(dataset, "label_method") == {"Physician": 39_053, "RNN_model": 121_808}
    assert positives(dataset)["pneumonia"] == 7_953  # 3,474 if spaces were not stripped, 8,174 by substring
    assert dataset.card["counts"]["labels"]["normal"]["unknown"] == 103
    assert not any("informe" in column.lower() or column == "Report" for column in dataset.samples.columns)


def test_rsna_headers_through_a_card_of_ones_own(tmp_path: Path) -> None:
    shutil.copy(packaged("kaggle_stage_2_train_images_dicom_headers.csv.gz"), tmp_path / "headers.csv.gz")
    (tmp_path / "rsna.toml").write_text(
        """
name = "rsna"
title = "RSNA pneumonia challenge"
query = '''SELECT replace(Filename, '.dcm', '') AS sample_id, PatientID AS patient_id, 'images/' || Filename AS path,
PatientSex AS "attribute.sex", PatientAge AS "attribute.age", ViewPosition AS "attribute.view" FROM headers'''
[tables]
headers = "headers.csv.gz"
[attributes.sex]
codes = { F = "female", M = "male" }
[attributes.age]
unit = "years"
range = [0, 110]
cut = [60]
"""
    )
    dataset = load_dataset(str(tmp_path / "rsna.toml"), settings=Settings())
    assert dataset.samples.height == 26_684
    assert images(dataset, "sex") == {"female": 11_518, "male": 15_166}
    assert any("are outside 0 to 110" in note for note in dataset.notes)  # 155 among them


def test_lung_masks_of_mixed_formats(tmp_path: Path) -> None:
    with zipfile.ZipFile(packaged("semantic_masks_v7labs_lungs.zip")) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        assert len(names) == 517
        chosen = names[::40]
        archive.extractall(tmp_path, chosen)
    card = MaskCard(("lung",), above=127)
    shares = [float((read_mask(tmp_path, name, card, ReaderOptions()) == 1).mean()) for name in chosen]
    assert max(shares) < 0.7
    assert sum(share > 0.1 for share in shares) > len(shares) / 2


@needs_mricron
def test_a_real_brain_is_shown_as_on_a_light_box() -> None:
    """AAL 37 and 38 are the left and right hippocampus, 1 and 2 the precentral gyri, 91 and 92 the cerebellum."""
    names = dict(
        line.split()[:2] for line in (MRICRON / "aal.nii.txt").read_text().splitlines() if line.strip()
    )
    assert (names["37"], names["38"]) == ("Hippocampus_L", "Hippocampus_R")
    card = MaskCard(
        ("left", "right", "cortex", "cerebellum"),
        {"left": (37,), "right": (38,), "cortex": (1, 2), "cerebellum": (91, 92)},
        ignore=None,
    )
    axial = read_mask(MRICRON, "aal.nii.gz", card, ReaderOptions(slices=1000))
    head = (MRICRON / "ch2.nii.gz").read_bytes()
    assert count_slices(head, ReaderOptions(slices=1000)) == len(axial) == 181
    assert decode(head, slice=90, reader=ReaderOptions(slices=1000)).shape == axial[90].shape
    places = {name: np.argwhere(axial == k + 1).mean(0) for k, name in enumerate(card.classes)}
    assert places["right"][2] < axial.shape[2] / 2 < places["left"][2]  # the patient's right is on the left
    assert places["cerebellum"][0] < places["cortex"][0]  # slices run from feet to head
    assert places["cerebellum"][1] > places["cortex"][1]  # the front is at the top
    coronal = read_mask(MRICRON, "aal.nii.gz", card, ReaderOptions(slices=1000, axis=1))
    places = {name: np.argwhere(coronal == k + 1).mean(0) for k, name in enumerate(card.classes)}
    assert places["cortex"][1] < places["cerebellum"][1]  # the head is at the top


@needs_mricron
@pytest.mark.parametrize("name", ["ch2.nii.gz", "ch2bet.nii.gz", "inia19-t1-brain.nii.gz"])
def test_real_volumes_give_slices_and_a_cut_file_a_reason(name: str) -> None:
    data, reader = (MRICRON / name).read_bytes(), ReaderOptions(slices=8)
    found = [decode(data, slice=i, reader=reader) for i in range(count_slices(data, reader))]
    assert len(found) == 8
    assert max(image.max() for image in found) > 100
    with pytest.raises(Undecodable, match=r"too early|damaged"):
        decode(data[: len(data) // 2], slice=0, reader=reader)


@needs_cranium
def test_a_real_head_ct_with_its_mask(tmp_path: Path) -> None:
    """InVesalius keeps CT numbers and masks as bare arrays; a mask there is a range of the CT numbers."""
    with tarfile.open(CRANIUM) as archive:
        files = {Path(member.name).name: archive.extractfile(member) for member in archive if member.isfile()}
        parts = {
            name: file.read()
            for name, file in files.items()
            if file and name in ("matrix.dat", "mask_0.dat", "mask_0.plist")
        }
    volume = np.frombuffer(parts["matrix.dat"], "<i2").reshape(-1, 256, 256)
    mask = np.frombuffer(parts["mask_0.dat"], "u1").reshape(len(volume) + 1, 257, 257)[1:, 1:, 1:]
    np.save(tmp_path / "ct.npy", volume)
    np.save(tmp_path / "mask.npy", mask)
    low, high = plistlib.loads(parts["mask_0.plist"])["threshold_range"]
    reader = ReaderOptions(window=((low + high) / 2, high - low), slices=10_000)
    data = (tmp_path / "ct.npy").read_bytes()
    image = np.stack([decode(data, slice=i, reader=reader) for i in range(count_slices(data, reader))])
    inside = read_mask(tmp_path, "mask.npy", MaskCard(("bone",), above=127), reader)
    assert image.shape == inside.shape == volume.shape
    wanted = (volume >= low) & (volume <= high)
    assert ((inside == 1) == wanted).mean() > 0.99
    assert (image[volume < low] == 0).all()
    assert pl.Series(np.unique(inside).tolist()).to_list() in ([0, 1], [1])
