"""A filter in one file and one line of the experiment goes through a round of any recipe, and drops with its reason."""

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from lance_assets.rounds.identity.own_code import hash_sources, open_hasher
from lance_assets.rounds.nouns import compute_code_versions, identify
from tests.assets.scripted_platform import SCRIPTED, without_drawing
from tests.assets.tiny_experiment import find_failures, open_world, plan_tiny, write_tiny_experiment

DOCUMENT = Path(__file__).parents[1] / "docs" / "adding-a-filter.md"
LINE = {"name": "my_filters:MostlyDigits", "max_rate": 0.3}
RECIPES: dict[str, dict[str, object]] = {
    "lance": {},
    "diverse_evol": {"recipe": "diverse_evol", "num_first": 4, "num_picks": 6},
}
"""LANCE has rules of its own; the others drop only what no recipe can use."""


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The page's example in a file that Python can import."""
    (block,) = re.findall(r"```python\n(   # my_filters.py\n.*?)   ```", DOCUMENT.read_text(encoding="utf-8"), re.S)
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "my_filters.py").write_text("\n".join(line.removeprefix("   ") for line in block.split("\n")))
    monkeypatch.syspath_prepend(folder)
    importlib.invalidate_caches()
    yield folder / "my_filters.py"
    sys.modules.pop("my_filters", None)


def is_mostly_digits(text: str | None) -> bool:
    written = re.findall(r"[A-Za-z0-9]", text or "")
    return sum(sign.isdigit() for sign in written) > 0.3 * len(written)


@pytest.mark.slow
@pytest.mark.usefixtures("own_module")
@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_it_goes_through_a_round(recipe: str, tmp_path: Path) -> None:
    """It drops every row that is mostly digits and what depends on it, and the round goes on without them."""
    arguments = SCRIPTED | RECIPES[recipe] | {"filters": [LINE]}
    with open_world(tmp_path / "world", in_memory=True, **arguments) as world, without_drawing():
        for key in ("r0000", "r0001"):
            result = world.run(key)
            assert result.success, find_failures(result)
        cleaned, reviewed = (world.round("r0001").read(noun) for noun in ("cleaned_set", "reviewed_set"))
        shown = world.metadata("cleaned_set", "r0001")
    dropped = cleaned.filter(drop_reason="mostly_digits")
    kept = cleaned.filter(pl.col("drop_reason").is_null())
    assert all(map(is_mostly_digits, dropped["completion"]))
    assert not any(map(is_mostly_digits, kept["completion"]))
    assert min(len(dropped), len(kept)) > 0
    assert f"| mostly_digits | {len(dropped)} |" in str(shown["drop_reasons"])
    assert set(kept.filter(kind="completion")["parent_id"]) == set(kept.filter(kind="new_prompt")["row_id"])
    assert set(reviewed["row_id"]).isdisjoint(dropped["row_id"])


def test_settings_and_code_are_in_the_identity_of_the_cleaned_set(own_module: Path, tmp_path: Path) -> None:
    """A docstring is no part of it, and without filters nothing is added to it."""
    folder = write_tiny_experiment(tmp_path / "tiny")

    def compute(*filters: dict[str, object]) -> dict[str, str]:
        """As a new process does: in one process each source file is read once."""
        open_hasher.cache_clear()
        hash_sources.cache_clear()
        return compute_code_versions(plan_tiny(folder, filters=list(filters)))

    plain, added, stricter = compute(), compute(LINE), compute(LINE | {"max_rate": 0.2})
    source = own_module.read_text()
    own_module.write_text(source.replace("Drops completions that", "Drops all completions that"))
    reworded = compute(LINE)
    own_module.write_text(source.replace("sign.isdigit()", "sign.isdecimal()"))
    changed = compute(LINE)
    assert added == reworded
    assert len({versions["cleaned_set"] for versions in (plain, added, stricter, changed)}) == 4
    assert "filters" not in identify(plan_tiny(folder), "cleaned_set")["settings"]
    before = {name for name in plain if plain[name] == stricter[name] == changed[name]}
    assert before == {"start_checkpoint", "seed_set", "raw_generations"}
