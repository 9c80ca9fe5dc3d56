"""The table of nouns: what each declaration names exists."""

import inspect

import pytest

from lance_assets.rounds.nouns import NOUNS, list_schemas
from lance_assets.rounds.plan import Noun


@pytest.mark.parametrize("noun", NOUNS.values(), ids=NOUNS)
def test_a_nouns_module_makes_it_shows_it_and_judges_it(noun: Noun) -> None:
    for name in (f"make_{noun.name}", f"report_{noun.name}", *(check.name for check in noun.checks)):
        function = noun.find_function(name)
        assert function is not None, f"{noun.made_by} has no {name}"
        assert list(inspect.signature(function).parameters) == ["this_round"]


def test_inputs_are_made_before_what_is_made_from_them() -> None:
    names = list(NOUNS)
    for noun in NOUNS.values():
        assert all(names.index(name) < names.index(noun.name) for name in noun.inputs), noun.name


def test_no_two_tables_have_one_name() -> None:
    num_tables = sum(1 + len(noun.tables) for noun in NOUNS.values())
    assert len(list_schemas()) == num_tables
