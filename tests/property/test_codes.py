"""Raw codes: nobody is lost, nobody changes group, and an unforeseen code is never passed on."""

from __future__ import annotations

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from fmcache.errors import DatasetError
from fmcache.extract.attribute_card import AttributeCard, look_up, same_code
from fmcache.extract.samples import check_samples

NAMES = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Z")), min_size=1, max_size=6)
GROUPS = st.sampled_from(["", "a", "b"])


@given(
    codes=st.dictionaries(NAMES, GROUPS, min_size=1, max_size=6),
    values=st.lists(st.one_of(st.none(), NAMES), min_size=1),
)
def test_every_row_gets_the_group_of_its_code_or_the_table_is_refused(codes: dict, values: list) -> None:
    frame = pl.DataFrame(
        {"sample_id": [str(i) for i in range(len(values))], "path": "x", "attribute.g": values},
        schema_overrides={"attribute.g": pl.String},
    )
    known = {}
    for value in {value for value in values if value and value.lower() != "nan"}:
        try:
            known[value] = look_up(value, codes) or None
        except KeyError:
            known = None
            break
    try:
        samples, _ = check_samples(frame, "It", {"g": AttributeCard(codes=codes)})
    except DatasetError as error:
        assert known is None
        assert "which the card does not know" in error.what  # noqa: PT017
        return
    assert known is not None
    assert samples["attribute.g"].to_list() == [known.get(value) if value else None for value in values]


@given(number=st.integers(-1000, 1000), spelling=st.sampled_from(["{}", "{}.0", "{}.00", "0{}"]))
def test_numbers_are_the_same_code_in_any_spelling(number: int, spelling: str) -> None:
    text = spelling.format(number)
    if text.startswith("0-"):
        return
    assert same_code(text, str(number))
    assert not same_code(text, str(number + 1))


@given(name=NAMES, rest=st.text(max_size=5))
def test_a_star_stands_for_what_begins_so(name: str, rest: str) -> None:
    name = name.replace("*", "x")
    assert look_up(name + rest, {f"{name}*": "a"}) == "a"
