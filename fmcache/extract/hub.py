"""Files of the Hugging Face hub: one commit, resumed where a download broke off, checked, offline where asked for."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

from fmcache.errors import ModelError
from fmcache.extract.models.card import Card, Published

# what a model's folder may hold beside its weights
SMALL_FILES = ("*.json", "*.txt", "*.model")
WEIGHT_FILES = ("*.safetensors", "*.safetensors.index.json")
PICKLED_FILES = ("*.bin", "*.bin.index.json")


def hub_file(card: Card) -> tuple[Path, str]:
    """The weights file of a card from the hub, downloaded if it is not in the hub's cache.

    Returns
    -------
    The path and the commit it came from.

    Raises
    ------
    ModelError : offline, no such repository or file, not allowed (gated), or not the published bytes.
    """
    from huggingface_hub import errors, hf_hub_download

    where = card.published
    do = f"Fetch {where.file} of {_page(where)} and type: --checkpoint FILE"

    def fetch() -> str:
        try:
            return hf_hub_download(where.hub, where.file, revision=where.revision or None)
        except errors.RemoteEntryNotFoundError:
            if where.file != "model.safetensors":
                raise
            # repositories from before safetensors
            return hf_hub_download(where.hub, "pytorch_model.bin", revision=where.revision or None)

    path = Path(_reach(card.id, where, fetch, do))
    commit = _commit(path)
    if where.sha256:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != where.sha256:
            path.resolve().unlink()  # the blob that the snapshot links to: the next call downloads it again
            path.unlink(missing_ok=True)
            raise ModelError(
                f"{where.hub}/{where.file} is not the file that the card of {card.id} names; it was removed.",
                f"Its sha256 is {found}, not {where.sha256}.",
                "Type the command again; if it fails again, the source was changed: do not use it.",
            )
    return path, commit


def hub_folder(card: Card) -> tuple[Path, str]:
    """Configuration, tokenizer and weights of a repository, as one folder.

    Raises
    ------
    ModelError : as `hub_file`.
    """
    from huggingface_hub import snapshot_download

    where = card.published

    def fetch(patterns: tuple[str, ...]) -> str:
        return snapshot_download(where.hub, revision=where.revision or None, allow_patterns=list(patterns))

    do = f"Fetch the files of {_page(where)} and type: --checkpoint DIR"
    folder = Path(_reach(card.id, where, lambda: fetch(SMALL_FILES + WEIGHT_FILES), do))
    if not list(folder.glob("*.safetensors")):
        folder = Path(_reach(card.id, where, lambda: fetch(SMALL_FILES + PICKLED_FILES), do))
    return folder, folder.name


def small_file(model: str, hub: str, file: str, revision: str, folder: Path | None) -> Path:
    """A file that a model needs beside its weights, such as a vocabulary.

    Raises
    ------
    ModelError : it cannot be had; says where to put it.
    """
    from huggingface_hub import hf_hub_download

    where = Published(hub=hub, file=file, revision=revision)
    place = f"put it beside the weights, in {folder}" if folder else "give --checkpoint DIR with it in DIR"
    do = f"Fetch {file} of https://huggingface.co/{hub} and {place}."
    return Path(_reach(model, where, lambda: hf_hub_download(hub, file, revision=revision or None), do))


def _commit(path: Path) -> str:
    """``…/snapshots/COMMIT/file`` → COMMIT."""
    parts = path.parts
    return parts[parts.index("snapshots") + 1] if "snapshots" in parts else ""


def _page(where: Published) -> str:
    return f"https://huggingface.co/{where.hub}" + (f"/tree/{where.revision}" if where.revision else "")


def _reach(model: str, where: Published, fetch: Callable[[], str], do: str) -> str:
    """Call `fetch`; say in three lines why it failed and what helps."""
    from huggingface_hub import errors

    retries = logging.getLogger("huggingface_hub.utils._http")
    level = retries.level
    retries.setLevel(logging.ERROR)  # the outcome is told once, below
    try:
        return fetch()
    except errors.GatedRepoError:
        found = where.gated or f"Its owner asks you to accept terms at https://huggingface.co/{where.hub}."
        raise ModelError(
            f"{where.hub} is not open to you.",
            found,
            "Accept them, then type: hf auth login   and try again.",
        ) from None
    except errors.RevisionNotFoundError:
        found = f"It has no revision {where.revision or 'main'}."
        raise ModelError(f"{where.hub} cannot be downloaded.", found, do) from None
    except errors.RemoteEntryNotFoundError:
        what = f"{where.hub} cannot be downloaded."
        raise ModelError(what, f"It has no file {where.file}.", do) from None
    except errors.RepositoryNotFoundError:
        found = "The hub has no public repository of that name."
        raise ModelError(
            f"{where.hub} cannot be downloaded.", found, "Check the name, or type: hf auth login"
        ) from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        what = f"{where.file or where.hub} of {model} is not on this machine."
        found = "The hub cannot be reached (or offline mode is on) and its cache does not hold the file."
        raise ModelError(what, found, do) from None
    except Exception as error:
        # the HTTP library behind the hub changes its name between versions (httpx, httpx2)
        if not isinstance(error, OSError) and not type(error).__module__.startswith("httpx"):
            raise
        found = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        what = f"{where.file or where.hub} of {model} could not be downloaded."
        raise ModelError(what, found, do) from None
    finally:
        retries.setLevel(level)
