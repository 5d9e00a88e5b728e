"""What a user is told when something is wrong: what happened, what is there, what to type."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import fmcache.errors
from fmcache.errors import FmcacheError

PACKAGE = Path(fmcache.errors.__file__).parent
KINDS = {
    name
    for name, kind in vars(fmcache.errors).items()
    if isinstance(kind, type) and issubclass(kind, FmcacheError)
}


def raised() -> list[tuple[str, ast.Call]]:
    """Every place in the package that makes an error of ours from arguments written there."""
    return [
        (f"{file.relative_to(PACKAGE)}:{node.lineno}", node)
        for file in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", None) in KINDS
        and not any(isinstance(argument, ast.Starred) for argument in node.args)
    ]


def test_every_error_says_what_to_do() -> None:
    places = raised()
    assert len(places) > 200
    short = [
        place
        for place, call in places
        if len(call.args) + len(call.keywords) < 3
        or (isinstance(call.args[-1], ast.Constant) and not call.args[-1].value)
    ]
    assert short == []


def test_its_text_is_those_lines_and_an_empty_one_is_left_out() -> None:
    assert str(FmcacheError("No a.", "There is b.", "Type: c")) == "No a.\nThere is b.\nType: c"
    assert str(FmcacheError("No a.", "", "Type: c")) == "No a.\nType: c"


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_has_an_exit_code_that_a_script_can_tell_from_success(kind: str) -> None:
    assert getattr(fmcache.errors, kind).exit_code > 0
