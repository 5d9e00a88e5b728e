"""Weights and tables that come as data files of installed packages."""

from __future__ import annotations

import pytest

from fmcache.demo import FINDINGS, nih_labels
from fmcache.errors import MissingExtra
from fmcache.extract.packages import installed_file


@pytest.mark.parametrize(
    ("requirement", "name", "found"),
    [
        ("no-such-package==1.0", "x", "It is not installed."),
        ("torchxrayvision==9.9", "x", "Installed is torchxrayvision 1.5.7."),
        ("torchxrayvision==1.5.7", "no.csv", "Its file no.csv is not there: the installation is damaged."),
    ],
)
def test_what_is_not_there_is_said_with_the_command_that_gets_it(
    requirement: str, name: str, found: str
) -> None:
    with pytest.raises(MissingExtra) as error:
        installed_file(requirement, name, "The study needs it.", "Type: pip install it")
    assert str(error.value).splitlines() == ["The study needs it.", found, "Type: pip install it"]


def test_the_labels_of_the_demo_are_the_published_ones() -> None:
    tables = nih_labels()
    assert tables.keys() == FINDINGS.keys()
    for finding, table in tables.items():
        assert table["sample_id"].n_unique() == table.height == 4376
        assert set(table["sex"].unique()) == {"female", "male"}
        assert set(table[finding].drop_nulls().unique()) == {0, 1}
        assert table["text_mined"].null_count() == 0
