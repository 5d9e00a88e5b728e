"""Files of the Hugging Face hub: one commit, resumed where a download broke off, checked, offline where asked for."""

from __future__ import annotations

import hashlib
from pathlib import Path

from fmcache.errors import MissingExtra, ModelError
from fmcache.extract.models.card import Card

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
    from huggingface_hub import hf_hub_download

    where = card.published
    path = Path(
        _reach(
            card, where.file, lambda: hf_hub_download(where.hub, where.file, revision=where.revision or None)
        )
    )
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

    folder = Path(_reach(card, "the repository", lambda: fetch(SMALL_FILES + WEIGHT_FILES)))
    if not list(folder.glob("*.safetensors")):
        folder = Path(_reach(card, "the repository", lambda: fetch(SMALL_FILES + PICKLED_FILES)))
    return folder, folder.name


def _commit(path: Path) -> str:
    """``…/snapshots/COMMIT/file`` → COMMIT."""
    parts = path.parts
    return parts[parts.index("snapshots") + 1] if "snapshots" in parts else ""


def _reach(card: Card, file: str, fetch):  # type: ignore[no-untyped-def]
    """Call `fetch`; say in three lines why it failed and what helps."""
    try:
        from huggingface_hub import errors
    except ModuleNotFoundError:
        raise MissingExtra(
            f"Downloading {card.id} needs the package huggingface_hub.",
            "It is not installed.",
            'Type: python -m pip install "fmcache[extract]"   or give --checkpoint FILE',
        ) from None
    where = card.published
    at = f"https://huggingface.co/{where.hub}" + (f"/tree/{where.revision}" if where.revision else "")
    do = f"Fetch {file} of {at} and type: --checkpoint " + ("DIR" if file == "the repository" else "FILE")
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
        raise ModelError(f"{where.hub} cannot be downloaded.", f"It has no file {where.file}.", do) from None
    except errors.RepositoryNotFoundError:
        found = "The hub has no public repository of that name."
        raise ModelError(
            f"{where.hub} cannot be downloaded.", found, "Check the name, or: hf auth login"
        ) from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        found = "The hub cannot be reached (or offline mode is on) and its cache does not hold the file."
        raise ModelError(f"The weights of {card.id} are not on this machine.", found, do) from None
    except Exception as error:
        # the HTTP library behind the hub changes its name between versions (httpx, httpx2)
        if not isinstance(error, (OSError, errors.HfHubHTTPError)) and not type(error).__module__.startswith(
            "httpx"
        ):
            raise
        found = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise ModelError(f"The weights of {card.id} could not be downloaded.", found, do) from None
