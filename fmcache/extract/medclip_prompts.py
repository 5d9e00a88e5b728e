"""MedCLIP's zero-shot prompts: severity × subtype × location for five CheXpert findings, spelt as published.

Source: MedCLIP (Wang et al. 2022), after GLoRIA (Huang et al. 2021). They set findings against each other; as this
package asks for one finding at a time, each sentence stands against `NORMAL`.
"""

from __future__ import annotations

from itertools import product

NORMAL = "no acute cardiopulmonary process"
COUNT = 10  # sentences a finding, evenly spaced over the products; MedCLIP draws ten at random
_LOBES = ("left lower lobe", "right lower lobe")
_WORDS: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "atelectasis": (
        ("", "mild", "minimal"),
        tuple(
            f"{kind} atelectasis"
            for kind in ("subsegmental", "linear", "trace", "bibasilar", "retrocardiac", "bandlike", "residual")
        ),
        tuple(
            f"at the {place}"
            for place in (
                "mid lung zone", "upper lung zone", "right lung zone", "left lung zone", "lung bases",
                "right lung base", "left lung base", "bilateral lung bases", *_LOBES,
            )
        ),
    ),
    "cardiomegaly": (
        ("",),
        (
            "cardiac silhouette size is upper limits of normal",
            "cardiomegaly which is unchanged",
            "mildly prominent cardiac silhouette",
            "portable view of the chest demonstrates stable cardiomegaly",
            "portable view of the chest demonstrates mild cardiomegaly",
            "persistent severe cardiomegaly",
            "heart size is borderline enlarged",
            "cardiomegaly unchanged",
            "heart size is at the upper limits of normal",
            "redemonstration of cardiomegaly",
            "ap erect chest radiograph demonstrates the heart size is the upper limits of normal",
            "cardiac silhouette size is mildly enlarged",
            "mildly enlarged cardiac silhouette, likely left ventricular enlargement. "
            "other chambers are less prominent",
            "heart size remains at mildly enlarged",
            "persistent cardiomegaly with prominent upper lobe vessels",
        ),
        ("",),
    ),
    "consolidation": (
        ("", "increased", "improved", "apperance of"),
        tuple(
            f"{kind} consolidation"
            for kind in ("bilateral", "reticular", "retrocardiac", "patchy", "airspace", "partial")
        ),
        tuple(
            f"at the {place}"
            for place in (
                "lower lung zone", "upper lung zone", *_LOBES, "left upper lobe", "right uppper lobe",
                "right lung base", "left lung base",
            )
        ),
    ),
    "edema": (
        ("", "mild", "improvement in", "presistent", "moderate", "decreased"),
        ("pulmonary edema", "trace interstitial edema", "pulmonary interstitial edema"),
        ("",),
    ),
    "pleural_effusion": (
        ("", "stable", "small", "decreased", "large", "increased"),
        ("bilateral pleural effusion", "subpulmonic pleural effusion", "bilateral pleural effusion"),
        ("left", "right", "tiny"),
    ),
}  # fmt: skip
_OTHER_NAMES = {"effusion": "pleural_effusion", "oedema": "edema", "pulmonary_edema": "edema"}


def sentences(label: str) -> tuple[str, ...]:
    """`COUNT` sentences of a finding, the same ones always; empty where MedCLIP has none."""
    name = label.lower().replace(" ", "_")
    words = _WORDS.get(_OTHER_NAMES.get(name, name))
    if words is None:
        return ()
    every = [" ".join(part for part in parts if part) for parts in product(*words)]
    every = list(dict.fromkeys(every))
    count = min(COUNT, len(every))
    return tuple(every[i * len(every) // count] for i in range(count))
