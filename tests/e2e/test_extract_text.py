"""`--kind text` at the command line, with CLIP's own tokenizer and a real architecture; read back as stage 2 does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

import fmcache
from fmcache.errors import DatasetError, ModelError, UsageError
from fmcache.extract.command import extract_command
from fmcache.extract.models.text import ClipTokenizer, WordPiece
from fmcache.extract.prompts import prompts_of
from fmcache.extract.registry import load_model, resolve_model
from fmcache.settings import Settings
from tests.golden import weights as seeded

CARD = """
name = "study"
title = "A study"
task = "classification"
licence = "CC0-1.0"
source = "made here"
query = 'SELECT id AS sample_id, id AS patient_id, file AS path, sick AS "label.sick", odd AS "label.odd" FROM t'
[tables]
t = "t.csv"
[labels.sick]
title = "Sick"
text = "pneumonia"
classes = ["normal", "pneumonia"]
[labels.odd]
title = "Odd"
[text]
templates = ["a chest X-ray of {}", "a radiograph showing {}"]
"""
VOCABULARY = ["[PAD]", *(f"[unused{i}]" for i in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]", "no", "pneumonia",
              "a", "chest", "x", "-", "ray", "of", "Normal", "normal", "##s"]  # fmt: skip


@pytest.fixture
def study(tmp_path: Path) -> Path:
    from PIL import Image

    root = tmp_path / "study"
    root.mkdir()
    names = [f"{i}.png" for i in range(4)]
    for name in names:
        Image.fromarray(seeded.image_u8(name, 64, 64)).save(root / name)
    table = pl.DataFrame(
        {"id": ["0", "1", "2", "3"], "file": names, "sick": [0, 1, 0, 1], "odd": [1, 0, 1, 0]}
    )
    table.write_csv(root / "t.csv")
    (root / "study.toml").write_text(CARD)
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small open_clip model with CLIP's vocabulary."""
    from fmcache.extract.models.loading import quiet
    from fmcache.extract.torchvision_fix import make_torchvision_importable

    make_torchvision_importable()
    import open_clip

    torch.manual_seed(0)
    with quiet():
        module = open_clip.create_model("ViT-S-32-alt", load_weights=False)
    file = tmp_path_factory.mktemp("weights") / "model.pt"
    torch.save(module.state_dict(), file)
    return file


MODEL = "open_clip/ViT-S-32-alt"


def run(study: Path, cache: Path, weights: Path, **more: object):  # type: ignore[no-untyped-def]
    return extract_command(
        models=[MODEL], dataset=str(study / "study.toml"), root=study, cache=cache, settings=Settings(),
        checkpoint=[str(weights)], kind="text", device="cpu", **more,  # type: ignore[arg-type]
    )  # fmt: skip


def test_prompts_become_templates_by_classes_by_d(study: Path, weights: Path, tmp_path: Path) -> None:
    summary = run(study, tmp_path / "cache", weights)
    assert (summary.models[0].embedded, summary.models[0].state) == (4, "done")
    assert any("odd" in note for note in summary.notes), "a label without class names is told, not guessed"
    texts = fmcache.open_cache(tmp_path / "cache").texts(MODEL, "study")
    assert texts.labels == {"sick": ("normal", "pneumonia")}
    array = texts.array("sick")
    assert (array.shape, array.dtype) == ((2, 2, 256), np.float32)
    loaded = load_model(resolve_model(MODEL), checkpoint=weights)
    tower = loaded.network.text
    assert tower is not None
    with torch.inference_mode():
        for t, sentences in enumerate(texts.sentences("sick")):
            direct = tower.encode(tower.tokenizer()(list(sentences))).numpy()
            assert np.abs(array[t] - direct).max() <= 1e-6
    assert texts.sentences("sick")[1][1] == "a radiograph showing pneumonia"
    assert texts.logit_scale == pytest.approx(tower.logit_scale)
    assert texts.document["model"]["weights_sha256"] == loaded.weights_sha256
    assert texts.document["tokenizer"]["kind"] == "clip-bpe"


def test_the_second_time_nothing_is_done_and_another_set_is_another_entry(
    study: Path, weights: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    first = run(study, cache, weights).models[0]
    again = run(study, cache, weights).models[0]
    assert (again.key, again.embedded, again.stored) == (first.key, 0, 4)
    other = run(study, cache, weights, prompts="chexzero").models[0]
    assert other.key != first.key
    store = fmcache.open_cache(cache)
    pairs = store.texts(MODEL, "study", key=other.key)
    assert pairs.sentences("sick") == (("no pneumonia", "pneumonia"),)
    assert pairs.sentences("odd") == (("no odd", "odd"),)
    assert len(store.entries(kind="text")) == 2


def test_a_changed_template_is_another_key(study: Path, weights: Path, tmp_path: Path) -> None:
    first = run(study, tmp_path / "cache", weights).models[0]
    card = study / "study.toml"
    card.write_text(card.read_text().replace("a radiograph showing", "an X-ray showing"))
    assert run(study, tmp_path / "cache", weights).models[0].key != first.key


def test_wrong_calls_are_told(study: Path, weights: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no prompt set 'chexzer'") as error:
        run(study, tmp_path / "cache", weights, prompts="chexzer")
    assert error.value.do == "Did you mean --prompts chexzero?"
    with pytest.raises(UsageError, match="dinov2-small has no text side"):
        extract_command(
            models=["dinov2-small"], dataset=str(study / "study.toml"), root=study, cache=tmp_path / "c",
            settings=Settings(), kind="text", device="cpu",
        )  # fmt: skip
    with pytest.raises(DatasetError, match="MedCLIP published prompts for five findings"):
        run(study, tmp_path / "cache", weights, prompts="medclip")
    card = study / "study.toml"
    card.write_text(card.read_text().replace('classes = ["normal", "pneumonia"]\n', ""))
    with pytest.raises(DatasetError, match="gives no text prompts") as missing:
        run(study, tmp_path / "cache", weights)
    assert "--prompts chexzero" in missing.value.do


def test_clips_tokens_are_the_official_ones() -> None:
    """The first row of the golden of CLIP; 49406 begins, 49407 ends, zeros fill up to 77."""
    folder = Path(seeded.__file__).parent
    official = np.load(folder / "golden_clip_vitb32.npz")["text_tokens"]
    ids = ClipTokenizer()(["a chest X-ray of a normal"])["ids"].numpy()
    decoded = {row.tobytes() for row in official.astype(np.int64)}
    assert ids.shape == (1, 77)
    assert ids.astype(np.int64)[0].tobytes() in decoded


@pytest.mark.parametrize("form", ["vocab.txt", "tokenizer.json"])
def test_wordpiece_from_the_files_as_published(form: str, tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY))
    if form == "tokenizer.json":
        from tokenizers.implementations import BertWordPieceTokenizer

        BertWordPieceTokenizer(str(tmp_path / "vocab.txt"), lowercase=True).save(str(tmp_path / form))
    tokenizer = WordPiece(tmp_path / form, context=12, padding="longest", lowercase=True)
    tokens = tokenizer(["No Pneumonia", "a chest X-ray of normals"])
    word = VOCABULARY.index
    expected = [word(of) for of in ("[CLS]", "a", "chest", "x", "-", "ray", "of", "normal", "##s", "[SEP]")]
    assert tokens["ids"][1].tolist() == expected
    assert (
        tokens["ids"][0].tolist() == [word("[CLS]"), word("no"), word("pneumonia"), word("[SEP]")] + [0] * 6
    )
    assert tokens["mask"][0].tolist() == [1] * 4 + [0] * 6
    full = WordPiece(tmp_path / form, context=12, padding="context", lowercase=True)
    assert full(["no"])["ids"].shape == (1, 12)
    short = WordPiece(tmp_path / form, context=4, padding="context", lowercase=True)
    assert short(["a chest x ray of"])["ids"][0].tolist()[-1] == word("[SEP]")
    assert len({str(of.document()) for of in (tokenizer, full, short)}) == 3


def test_a_cased_vocabulary_keeps_its_capitals(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY))
    cased = WordPiece(tmp_path / "vocab.txt", context=12, padding="longest", lowercase=False)
    assert cased(["Normal"])["ids"][0, 1] == VOCABULARY.index("Normal")


def test_a_file_that_is_no_vocabulary_is_named(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("hello\nworld\n")
    with pytest.raises(ModelError):
        WordPiece(tmp_path / "vocab.txt", context=12, padding="longest", lowercase=True)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be read as a tokenizer"):
        WordPiece(tmp_path / "tokenizer.json", context=12, padding="longest", lowercase=True)


def test_medclips_prompts_are_ten_a_finding() -> None:
    prompts = prompts_of({"labels": {}}, ["atelectasis", "cardiomegaly", "edema", "fracture"], "medclip")
    assert {label: len(of.sentences) for label, of in prompts.items()} == {
        "atelectasis": 10, "cardiomegaly": 10, "edema": 10,
    }  # fmt: skip
    assert prompts["edema"].sentences[0] == ("no acute cardiopulmonary process", "pulmonary edema")
