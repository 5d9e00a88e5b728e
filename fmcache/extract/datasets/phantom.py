"""A study made of numbers: chest-radiograph-like images with a difference between men and women that is known.

The planted effect. Half of the images of either sex carry the label `lesion`. In a positive image of group g the
lesion can be seen with probability v_g; otherwise the image is drawn exactly like a negative one. For a reader who
sees every visible lesion and has nothing else to go by, the score of a visible positive is above that of every other
image and the scores of the rest are exchangeable, so that

    AUC_g = v_g · 1 + (1 − v_g) · 1/2 = (1 + v_g) / 2          TPR_g = v_g at FPR_g = 0.

The shares are exact and not drawn: within each split and sex, half of the images (rounded) are positive and the share
v_g of those (rounded) is visible. Splits are by patient and stratified by sex.

What a reader of the images cannot repair is thereby planted by default. Four parameters plant what a model *learns* to
do wrong, so that mitigation has something to repair; they leave AUC and TPR of the reader above as they are:

* ``prevalence``: the share of positive images by sex. Where the sexes differ, a model leans on the sex it can see.
* ``women``: the share of patients who are women. A small group is learned from few images.
* ``lucent``: the lesions of that sex are darker than the lung instead of brighter: another sign to learn.
* ``drain``: the share of positive images by sex in which a chest drain lies; of negative ones it is 1 - share. A model
  that takes the treatment for the disease is right where the share is high, and wrong where it is low.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from PIL import Image

from fmcache.errors import UsageError
from fmcache.extract.datasets.thorax import SIDE, noise_bank, thorax

VERSION = 1  # of the generator: a change that alters any byte needs the next number
VISIBLE: Mapping[str, float] = {"male": 0.95, "female": 0.65}
PREVALENCE: Mapping[str, float] = {"male": 0.5, "female": 0.5}
SPLITS: Mapping[str, float] = {"train": 0.5, "val": 0.2, "test": 0.3}
_TRUTH = "truth.json"
_WORKERS = 2


@dataclass(frozen=True)
class Plan:
    """What is drawn: one row a patient (patient_id, sex, age, split), one row an image (…, lesion, visible)."""

    patients: pl.DataFrame
    images: pl.DataFrame


def phantom_truth(visible: Mapping[str, float] = VISIBLE) -> dict[str, Any]:
    """What an ideal reader of the study reaches, by sex.

    Parameters
    ----------
    visible : sex → share of positive images in which the lesion can be seen, in [0, 1].

    Returns
    -------
    ``auc`` and ``tpr`` (sex → value in [0, 1]; TPR at a threshold between visible and not visible, where FPR is 0),
    ``auc_gap`` and ``tpr_gap`` (largest minus smallest).

    Examples
    --------
    >>> phantom_truth({"male": 0.9, "female": 0.5})["auc"]
    {'male': 0.95, 'female': 0.75}
    """
    auc = {sex: round((1 + share) / 2, 12) for sex, share in visible.items()}
    tpr = dict(visible)
    gaps = {
        f"{name}_gap": round(max(of.values()) - min(of.values()), 12)
        for name, of in (("auc", auc), ("tpr", tpr))
    }
    return {"auc": auc, "tpr": tpr, **gaps}


def planted(visible: Mapping[str, float] = VISIBLE) -> list[dict[str, Any]]:
    """`phantom_truth` as rows that fit the tidy results: label, attribute, group, metric, disparity, value."""
    truth = phantom_truth(visible)
    row = {"label": "lesion", "attribute": "sex"}
    groups = [
        row | {"group": sex, "metric": metric, "disparity": "", "value": value}
        for metric in ("auc", "tpr")
        for sex, value in truth[metric].items()
    ]
    gaps = [
        row | {"group": "", "metric": metric, "disparity": "gap", "value": truth[f"{metric}_gap"]}
        for metric in ("auc", "tpr")
    ]
    return groups + gaps


def synthesize_phantom(
    out: Path | str,
    *,
    patients: int = 700,
    images: int = 1200,
    visible: Mapping[str, float] = VISIBLE,
    prevalence: Mapping[str, float] = PREVALENCE,
    women: float = 0.5,
    lucent: str = "",
    drain: Mapping[str, float] | None = None,
    seed: int = 0,
) -> Path:
    """Write the study to `out`: ``images/*.png`` (512 x 512, 8-bit grey), two tables and ``truth.json``.

    The study appears at once, by one rename. The same parameters and seed give the same bytes (of the same Pillow and
    zlib); a study with the same parameters that is already there is used again.

    Parameters
    ----------
    out : a directory that does not exist, is empty, or holds this very study.
    patients, images : how many; every patient has at least one image.
    visible : ``{"male": share, "female": share}``, each in [0, 1].
    prevalence : of the lesion by sex, each above 0 and below 1. women : their share of the patients, likewise.
    lucent : ``female`` or ``male``, whose lesions are darker than the lung; "" for nobody's.
    drain : of positive images by sex, in [0, 1], with a chest drain; of negative ones 1 - share. None: no drains.

    Raises
    ------
    UsageError : a parameter is out of range, or `out` holds something else.
    """
    out = Path(out)
    parameters = _checked(patients, images, visible, seed) | _varied(prevalence, women, lucent, drain)
    if _is_there(out, parameters):
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        (scratch / "images").mkdir()
        plan = plan_study(patients, images, visible, seed, prevalence, women, drain)
        plan.patients.write_csv(scratch / "patients.csv")
        plan.images.write_csv(scratch / "images.csv")
        _draw(plan, scratch, seed, lucent)
        truth = {"parameters": parameters, "truth": phantom_truth(visible), "planted": planted(visible)}
        (scratch / _TRUTH).write_text(json.dumps(truth, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        scratch.chmod(0o755)
        scratch.rename(out)  # replaces an empty directory, fails on any other
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return out


def plan_study(
    patients: int,
    images: int,
    visible: Mapping[str, float],
    seed: int,
    prevalence: Mapping[str, float] = PREVALENCE,
    women: float = 0.5,
    drain: Mapping[str, float] | None = None,
) -> Plan:
    """The two tables of the study.

    Which lesion can be seen is in the column ``visible`` (1, 0; 0 for negatives), and which image shows a drain in
    ``drain``, if any does.
    """
    rng = np.random.default_rng([VERSION, seed])
    order = np.arange(patients) % 2 if women == 0.5 else np.arange(patients) < _round(women * patients)
    sex = rng.permutation(order.astype(np.int64))  # 0 male, 1 female
    split = np.empty(patients, dtype="U5")
    for s in (0, 1):
        members = rng.permutation(np.flatnonzero(sex == s))
        ends = np.round(np.cumsum(list(SPLITS.values())) * len(members)).astype(int)
        for name, part in zip(SPLITS, np.split(members, ends[:-1]), strict=True):
            split[part] = name
    age = np.clip(np.round(rng.normal(56, 17, patients)), 18, 95).astype(int)
    extra = rng.choice(patients, size=images - patients, replace=images > 2 * patients)
    owner = np.sort(np.concatenate([np.arange(patients), extra]))
    lesion, seen = np.zeros(images, int), np.zeros(images, int)
    for name in SPLITS:
        for s, label in enumerate(("male", "female")):
            members = rng.permutation(np.flatnonzero((split[owner] == name) & (sex[owner] == s)))
            positive = members[: _round(len(members) * prevalence[label])]
            lesion[positive] = 1
            seen[positive[: _round(visible[label] * len(positive))]] = 1
    patient_ids = np.array([f"p{i:05d}" for i in range(patients)])
    table = pl.DataFrame(
        {
            "image_id": [f"i{i:06d}" for i in range(images)],
            "patient_id": patient_ids[owner],
            "file": [f"images/i{i:06d}.png" for i in range(images)],
            "lesion": lesion,
            "visible": seen,
        }
    )
    people = pl.DataFrame(
        {"patient_id": patient_ids, "sex": np.array(["male", "female"])[sex], "age": age, "split": split}
    )
    if drain is not None:
        table = table.with_columns(
            pl.Series("drain", _drained(split[owner], sex[owner], lesion, drain, seed))
        )
    return Plan(people, table)


def _drained(
    split: np.ndarray, sex: np.ndarray, lesion: np.ndarray, share: Mapping[str, float], seed: int
) -> np.ndarray:
    """1 for images with a drain: exact shares in each split, sex and label, whatever of the lesion can be seen."""
    rng = np.random.default_rng([VERSION, seed, 4])
    drained = np.zeros(len(lesion), int)
    for name in SPLITS:
        for s, label in enumerate(("male", "female")):
            for positive in (0, 1):
                members = rng.permutation(np.flatnonzero((split == name) & (sex == s) & (lesion == positive)))
                wanted = share[label] if positive else 1 - share[label]
                drained[members[: _round(wanted * len(members))]] = 1
    return drained


def _draw(plan: Plan, folder: Path, seed: int, lucent: str) -> None:
    rows = plan.images.join(plan.patients, on="patient_id", how="left", maintain_order="left")
    bank = noise_bank(np.random.default_rng([VERSION, seed, 1]))

    def draw(row: dict[str, Any]) -> None:
        body = np.random.default_rng([VERSION, seed, 2, int(row["patient_id"][1:])])
        view, tube = (np.random.default_rng([VERSION, seed, k, int(row["image_id"][1:])]) for k in (3, 5))
        pixels = thorax(
            body, view, bank, female=row["sex"] == "female", age=row["age"], lesion=bool(row["visible"]),
            lucent=row["sex"] == lucent, drain=tube if row.get("drain") else None,
        )  # fmt: skip
        assert pixels.shape == (SIDE, SIDE)
        Image.fromarray(pixels).save(folder / row["file"], compress_level=1)

    with ThreadPoolExecutor(_WORKERS) as pool:
        for _ in pool.map(draw, rows.iter_rows(named=True)):
            pass


def _round(x: float) -> int:
    return math.floor(x + 0.5)


def _checked(patients: int, images: int, visible: Mapping[str, float], seed: int) -> dict[str, Any]:
    if patients < 10 or images < patients:
        raise UsageError(
            "A phantom study needs at least 10 patients and an image of each.",
            f"Asked for: {patients} patients, {images} images.",
            "Example: fmcache phantom OUT --patients 700 --images 1200",
        )
    if set(visible) != {"male", "female"} or not all(0 <= share <= 1 for share in visible.values()):
        raise UsageError(
            "`visible` must give a share in [0, 1] for male and for female.",
            f"It is {dict(visible)}.",
            "Example: fmcache phantom OUT --visible-male 0.95 --visible-female 0.65",
        )
    if seed < 0:
        raise UsageError("A seed is a whole number from 0.", f"It is {seed}.", "Example: --seed 0")
    shares = {sex: float(share) for sex, share in visible.items()}
    return {"generator": VERSION, "patients": patients, "images": images, "visible": shares, "seed": seed}


def _varied(
    prevalence: Mapping[str, float], women: float, lucent: str, drain: Mapping[str, float] | None
) -> dict[str, Any]:
    """The parameters that are not the default's, checked; none for the default study, whose bytes never change."""
    shares = {sex: float(prevalence.get(sex, math.nan)) for sex in VISIBLE}
    if set(prevalence) != set(VISIBLE) or not all(0 < share < 1 for share in (*shares.values(), women)):
        raise UsageError(
            "A prevalence and the share of women are above 0 and below 1.",
            f"Asked for: prevalence {dict(prevalence)}, women {women:g}.",
            "Example: fmcache phantom OUT --prevalence-female 0.25 --women 0.3",
        )
    if lucent not in ("", *VISIBLE):
        raise UsageError(
            f"Whose lesions are lucent is male, female or nobody; it is {lucent!r}.",
            "",
            "Example: fmcache phantom OUT --lucent female",
        )
    if drain is not None and not (
        set(drain) == set(VISIBLE) and all(0 <= share <= 1 for share in drain.values())
    ):
        raise UsageError(
            "`drain` must give a share in [0, 1] for male and for female.",
            f"It is {dict(drain)}.",
            "Example: fmcache phantom OUT --drain-male 0.9 --drain-female 0.1",
        )
    varied: dict[str, Any] = {"prevalence": shares} if shares != dict(PREVALENCE) else {}
    varied |= {"women": float(women)} if women != 0.5 else {}
    varied |= {"lucent": lucent} if lucent else {}
    return varied | ({"drain": {sex: float(drain[sex]) for sex in VISIBLE}} if drain is not None else {})


def _is_there(out: Path, parameters: Mapping[str, Any]) -> bool:
    if not out.exists() and not out.is_symlink():
        return False
    if out.is_dir() and not any(out.iterdir()):
        return False
    try:
        found = json.loads((out / _TRUTH).read_text(encoding="utf-8"))["parameters"]
    except (OSError, ValueError, KeyError, TypeError):
        found = None
    if found == parameters:
        return True
    held = "It holds other files." if found is None else f"It holds a study made with {json.dumps(found)}."
    raise UsageError(
        f"{out} is not empty; nothing was written.", held, "Name a new directory, or delete that one first."
    )
