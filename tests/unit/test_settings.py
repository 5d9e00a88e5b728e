"""fmcache.toml: what is read, from where, and what a mistake is answered with."""

from __future__ import annotations

from pathlib import Path

import pytest

from fmcache.errors import UsageError
from fmcache.settings import Settings, cache_path, load_settings


@pytest.fixture(autouse=True)
def _no_user_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("FMCACHE_CACHE", raising=False)


def test_nothing_to_read(tmp_path: Path) -> None:
    assert load_settings(tmp_path) == Settings()


def test_paths_are_relative_to_the_file_not_to_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / "fmcache.toml").write_text(
        'cache = "c"\n[datasets.mimic]\nroot = "data"\ncard = "cards/mimic.toml"\n[models.dinov2]\npool = "mean"\n'
    )
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    settings = load_settings(below)
    assert settings.cache == tmp_path / "c"
    assert settings.datasets["mimic"] == {
        "root": str(tmp_path / "data"),
        "card": str(tmp_path / "cards" / "mimic.toml"),
    }
    assert settings.models["dinov2"] == {"pool": "mean"}
    assert settings.card_folders() == [tmp_path / "datasets"]


def test_the_project_wins_over_the_user_key_by_key(tmp_path: Path) -> None:
    user = tmp_path / "config" / "fmcache" / "fmcache.toml"
    user.parent.mkdir(parents=True)
    user.write_text('[datasets.mimic]\nroot = "/user"\ncard = "/user.toml"\n[datasets.ham]\nroot = "/ham"\n')
    project = tmp_path / "project"
    project.mkdir()
    (project / "fmcache.toml").write_text('[datasets.mimic]\nroot = "/project"\n')
    settings = load_settings(project)
    assert settings.datasets["mimic"] == {"root": "/project", "card": "/user.toml"}
    assert settings.datasets["ham"]["root"] == "/ham"
    assert settings.files == (project / "fmcache.toml", user)


@pytest.mark.parametrize(
    ("text", "what", "do"),
    [
        ("cache = [", "is not valid TOML", "Mend that line"),
        ('cach = "x"', "`cach`", "Did you mean `cache`?"),
        ('[datasets.mimic]\nrot = "x"', "[datasets.mimic] `rot`", "Did you mean `root`?"),
        ("[datasets.mimic]\nroot = 3", "[datasets.mimic] root", "Put it in quotes."),
        ('datasets = "x"', "`datasets`", "docs/cli.md"),
        ('[datasets]\nmimic = "x"', "`datasets.mimic`", "[datasets.mimic]"),
    ],
)
def test_a_mistake_names_itself_and_the_remedy(tmp_path: Path, text: str, what: str, do: str) -> None:
    (tmp_path / "fmcache.toml").write_text(text)
    with pytest.raises(UsageError) as caught:
        load_settings(tmp_path)
    assert what in caught.value.what
    assert do in caught.value.do
    assert str(caught.value).count("\n") == 2


def test_the_cache_is_flag_then_environment_then_file_then_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = Settings(cache=Path("/from/file"))
    assert cache_path(None, Settings()) == Path("fmcache-cache")
    assert cache_path(None, named) == Path("/from/file")
    monkeypatch.setenv("FMCACHE_CACHE", "/from/environment")
    assert cache_path(None, named) == Path("/from/environment")
    assert cache_path(Path("/flag"), named) == Path("/flag")
