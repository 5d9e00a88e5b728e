"""The text side of a model: sentences become tokens, tokens become embeddings that lie beside those of images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from fmcache.errors import ModelError

if TYPE_CHECKING:
    import torch


class Tokenizer(Protocol):
    """Sentences → the named tensors of a text tower; and the part of a key that names the tokenizer."""

    def __call__(self, sentences: Sequence[str]) -> Mapping[str, torch.Tensor]: ...

    def document(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class TextTower:
    """How a model embeds sentences, and how a zero-shot logit is made of the result.

    Attributes
    ----------
    tokenizer : makes the tokenizer when it is needed: images can be embedded where its files are missing.
    encode : its tensors → [n, d], as the model projects them, not normalised.
    logit_scale, logit_bias : logit = scale · cosine + bias.
    image_pool : the image embedding that lies beside the texts.
    image_tokens : vectors in one such embedding; the logit is the largest over them.
    padding_matters : an embedding depends on the longest sentence of its batch.
    """

    tokenizer: Callable[[], Tokenizer]
    encode: Callable[[Mapping[str, torch.Tensor]], torch.Tensor]
    logit_scale: float
    logit_bias: float = 0.0
    image_pool: str = "projected"
    image_tokens: int = 1
    padding_matters: bool = False


class ClipTokenizer:
    """Byte-pair encoding of CLIP, 49,408 words; open_clip carries the vocabulary. Padded to the context with zeros."""

    def __init__(self, context: int = 77) -> None:
        from open_clip.tokenizer import SimpleTokenizer

        self._context, self._tokenizer = context, SimpleTokenizer(context_length=context)

    def __call__(self, sentences: Sequence[str]) -> Mapping[str, torch.Tensor]:
        return {"ids": self._tokenizer(list(sentences))}

    def document(self) -> dict[str, Any]:
        from open_clip.tokenizer import default_bpe

        return {"kind": "clip-bpe", "context": self._context, "vocabulary": _sha256(Path(default_bpe()))}


class WordPiece:
    """BERT's tokenizer, from the ``tokenizer.json`` or ``vocab.txt`` of a folder.

    Parameters
    ----------
    context : longer sentences are cut, with [SEP] kept at the end.
    padding : ``context`` (every row has that length) or ``longest`` (of the batch).
    lowercase : only for a vocab.txt, which does not say it.
    """

    def __init__(self, file: Path, *, context: int, padding: str, lowercase: bool) -> None:
        from tokenizers import BertWordPieceTokenizer
        from tokenizers import Tokenizer as Fast

        self._file, self._context, self._padding = file, context, padding
        self._lowercase = lowercase if file.name == "vocab.txt" else None
        try:
            if file.name == "vocab.txt":
                self._tokenizer: Any = BertWordPieceTokenizer(str(file), lowercase=lowercase)
            else:
                self._tokenizer = Fast.from_file(str(file))
        except Exception as error:  # the library raises plain Exception
            what = f"{file} cannot be read as a tokenizer."
            raise ModelError(what, str(error).splitlines()[0], "Download it again.") from None
        self._pad = self._tokenizer.token_to_id("[PAD]")
        if self._pad is None or self._tokenizer.token_to_id("[CLS]") is None:
            raise ModelError(
                f"{file} is not a vocabulary of BERT.",
                "It has no [PAD] or no [CLS].",
                "Take the model's own file.",
            )
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length=context)

    def __call__(self, sentences: Sequence[str]) -> Mapping[str, torch.Tensor]:
        import torch

        rows = [encoded.ids for encoded in self._tokenizer.encode_batch(list(sentences))]
        width = self._context if self._padding == "context" else max(map(len, rows))
        ids = torch.tensor([row + [self._pad] * (width - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        return {"ids": ids, "mask": mask}

    def document(self) -> dict[str, Any]:
        return {
            "kind": "wordpiece",
            "context": self._context,
            "padding": self._padding,
            "lowercase": self._lowercase,
            "vocabulary": _sha256(self._file),
        }


def find_vocabulary(
    model: str, folder: Path | None, names: Sequence[str], hub: str, revision: str = ""
) -> Path:
    """The tokenizer's file: in the folder of the weights, else from the hub.

    Raises
    ------
    ModelError : in neither; with what to fetch and where to put it.
    """
    for name in names:
        if folder is not None and (folder / name).is_file():
            return folder / name
    from fmcache.extract.hub import small_file

    return small_file(model, hub, names[-1], revision, folder)


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


_TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "tokenizer.model",
)


def folder_digest(folder: Path) -> str:
    """sha256 over the vocabulary files of a folder."""
    sha = hashlib.sha256()
    for name in (*_TOKENIZER_FILES, "tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).is_file():
            sha.update(f"{name}\n{_sha256(folder / name)}\n".encode())
    return sha.hexdigest()
