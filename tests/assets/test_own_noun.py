"""A noun is added in two files: one declaration in the table, and the module that makes it."""

import sys
from pathlib import Path

import polars as pl
import pytest

from lance_assets.assets.names import find_key
from lance_assets.rounds import nouns
from lance_assets.rounds.plan import Check, Noun
from tests.assets.scripted_platform import SCRIPTED, without_drawing
from tests.assets.tiny_experiment import find_failures, open_world

MAKER = '''
"""longest_prompt: the longest prompt that a round proposed."""

import polars as pl

from lance_assets.rounds.report import Judged, Made, Report
from lance_assets.rounds.round import Round


def make_longest_prompt(this_round: Round) -> Made:
    prompts = this_round.read("raw_generations")["prompt"].drop_nulls().to_list()
    return Made(pl.DataFrame({"prompt": [max(prompts, key=len, default="")]}))


def report_longest_prompt(this_round: Round) -> Report:
    return {"num_characters": len(this_round.read("longest_prompt")["prompt"][0])}


def is_short(this_round: Round) -> Judged:
    longest = len(this_round.read("longest_prompt")["prompt"][0])
    return Judged(passed=longest < 500, facts={"longest": longest, "bar": 500})
'''
DECLARATION = Noun(
    "longest_prompt",
    "The longest prompt that a round proposed.",
    "own_maker",
    pl.Schema({"prompt": pl.String}),
    inputs=("raw_generations",),
    checks=(Check("is_short", "The longest prompt has fewer than 500 characters.", is_blocking=True),),
)


@pytest.mark.slow
def test_a_noun_of_ones_own_goes_through_a_round(
    tmp_path: Path, scripted_start: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "own_maker.py").write_text(MAKER)
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    monkeypatch.setitem(nouns.NOUNS, DECLARATION.name, DECLARATION)
    with without_drawing(), open_world(tmp_path / "world", made_before=scripted_start, **SCRIPTED) as world:
        graph = world.definitions.resolve_asset_graph()
        node = graph.get(find_key(world.plan, "longest_prompt"))
        assert {key.path[-1] for key in node.parent_keys} == {"raw_generations"}
        result = world.run("r0001")
        assert result.success, find_failures(result)
        checks = [check for check in result.get_asset_check_evaluations() if check.check_name == "is_short"]
        assert [check.passed for check in checks] == [True]
        longest = world.round("r0001").read("longest_prompt")["prompt"][0]
        assert world.metadata("longest_prompt", "r0001")["num_characters"] == len(longest) > 0
    sys.modules.pop("own_maker")
