"""A recipe of a person's own: its file, templates and experiment in a package of their own, and a round of it.

Nothing in the project names it: the experiment names its module.
"""

import hashlib
from pathlib import Path

import pytest

from lance_assets.prompts import Templates, hash_words, list_steps
from lance_assets.recipes.contract import find_recipe, list_recipes
from lance_assets.rounds.nouns import identify as identify_noun
from lance_assets.settings.experiment import ExperimentSettings
from tests.assets.scripted_platform import SCRIPTED, without_drawing
from tests.assets.tiny_experiment import (
    build_tiny_settings,
    find_failures,
    open_world,
    plan_tiny,
    write_tiny_experiment,
)
from tests.recipes.scripted_ask import ScriptedAsk
from tests.recipes.scripted_round import EFT, NOT_TRAINED, build_inputs, identify, seeds

METHOD = '''
"""Rewrite: the model says each seed's completion in other words, and trains on what is not cut."""

import polars as pl
from pydantic import Field

from lance_assets.algorithms.filters.contract import Filter
from lance_assets.algorithms.filters.rules import Complete, EvaluationOverlap, SameAsSeed
from lance_assets.recipes.asking import build_requests
from lance_assets.recipes.axes import RecipeSettings, keep_rounds
from lance_assets.recipes.contract import Recipe, RoundInputs, Stage
from lance_assets.recipes.steps.rows import Seed, build_table, originate, read_rows, record_samples
from lance_assets.recipes.steps.sets import (
    build_no_pairs,
    review_without_scores,
    reviewed_as_sft_rows,
    start_sft_set,
    take_all_file_seeds,
)
from lance_assets.records import RAW_GENERATIONS


class RewriteSettings(RecipeSettings):
    """Rewrite's parameters."""

    losses: str = "sft"
    num_samples: int = Field(1, ge=1, description="Completions written for each seed.")

    @property
    def has_reviews(self) -> bool:
        """Nothing is reviewed."""
        return False


Inputs = RoundInputs[RewriteSettings]


def generate(inputs: Inputs, seeds: pl.DataFrame, trained: pl.DataFrame) -> pl.DataFrame:
    """Each seed's completion in other words."""
    rows, templates, number = read_rows(Seed, seeds), inputs.identity.templates, inputs.settings.num_samples
    asked = [
        (row.row_id, templates.render(f"{__name__}/rewrite", prompt=row.prompt, completion=row.completion))
        for row in rows
    ]
    requests = build_requests(inputs.identity, "rewrite", asked, number)
    samples = inputs.ask("rewrite", requests)
    origins = [
        originate(row := rows[index // number], index % number, prompt=row.prompt, completion=sample.text)
        for index, sample in enumerate(samples)
    ]
    return build_table(record_samples("rewritten", origins, requests, samples), RAW_GENERATIONS)


def list_filters(settings: RewriteSettings) -> list[Filter]:
    """Drop what was cut, evaluation prompts, and what is the seed's completion again."""
    return [Complete(), EvaluationOverlap(), SameAsSeed()]


def build_sft_set(inputs: Inputs, reviewed: pl.DataFrame, earlier: pl.DataFrame) -> pl.DataFrame:
    """This round's rows, and those that `trains_on` keeps."""
    kept = keep_rounds(earlier, trains_on=inputs.settings.trains_on, round_key=inputs.round_key)
    return pl.concat([reviewed_as_sft_rows(reviewed, round_key=inputs.round_key), kept])


RECIPE = Recipe(
    name="rewrite",
    settings=RewriteSettings,
    stages=(Stage("rewrite", role="writer"),),
    settings_of_step={
        "raw_generations": ("num_samples", "temperature", "top_p", "max_new_tokens"),
        "sft_set": ("trains_on",),
        "preference_pairs": ("losses",),
        "checkpoint": ("starts_from",),
    },
    build_seed_set=take_all_file_seeds,
    start_sft_set=start_sft_set,
    generate=generate,
    list_filters=list_filters,
    review=review_without_scores,
    build_sft_set=build_sft_set,
    build_pairs=build_no_pairs,
)
'''
TEMPLATE = "Say this in other words.\nTask: {{ prompt }}\nCompletion: {{ completion }}"


@pytest.fixture
def own_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of the module, in a package of a name that no other test has."""
    package = f"methods_{hashlib.sha256(str(tmp_path).encode()).hexdigest()[:8]}"
    folder = tmp_path / "site" / package
    (folder / "prompts" / "compact" / "rewrite").mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "rewrite.py").write_text(METHOD)
    (folder / "prompts" / "compact" / "rewrite" / "rewrite.j2").write_text(TEMPLATE)
    monkeypatch.syspath_prepend(tmp_path / "site")
    return f"{package}.rewrite"


@pytest.mark.slow
def test_a_round_of_it(own_recipe: str, tmp_path: Path) -> None:
    """r0000 trains on the seeds, r0001 on the rewritten ones too, each of which leads back to its seed."""
    changed = {"recipe": own_recipe, "num_samples": 2, "max_new_tokens": 64}
    with without_drawing(), open_world(tmp_path / "world", in_memory=True, **SCRIPTED, **changed) as world:
        for key in ("r0000", "r0001"):
            result = world.run(key)
            assert result.success, find_failures(result)
        this_round = world.round("r0001")
        seed_set, raw, new = (
            *(this_round.read(noun) for noun in ("seed_set", "raw_generations")),
            this_round.read("sft_set").filter(source_round="r0001"),
        )
        assert raw["seed_id"].to_list() == [row_id for row_id in seed_set["row_id"] for _ in range(2)]
        assert set(raw["kind"]) == {"rewritten"}
        assert 0 < len(new) <= len(raw)
        assert set(new["source_id"]) <= set(raw["row_id"])
        assert this_round.read("checkpoint")["is_trained"][0]
        asked_with = hash_words(Templates("compact"), [f"{own_recipe}/rewrite"])
        assert identify_noun(world.plan, "raw_generations")["settings"]["prompts"] == asked_with


def test_its_templates_lie_beside_it(own_recipe: str) -> None:
    assert list_steps("compact", own_recipe) == [f"{own_recipe}/rewrite"]
    asked = Templates("compact").render(f"{own_recipe}/rewrite", prompt="Sort 3 1.", completion="1 3")
    assert asked == "Say this in other words.\nTask: Sort 3 1.\nCompletion: 1 3"
    assert list_steps("full", own_recipe) == []
    with pytest.raises(ValueError, match=f"no prompt template full/{own_recipe}/rewrite"):
        Templates("full").render(f"{own_recipe}/rewrite", prompt="", completion="")
    with pytest.raises(ValueError, match=r"there is no module no_such\.method, beside which its prompt templates"):
        Templates("full").render("no_such.method/rewrite")
    before = hash_words(Templates("compact"), [f"{own_recipe}/rewrite"])
    file = Path(find_recipe(own_recipe).generate.__code__.co_filename).parent / "prompts/compact/rewrite/rewrite.j2"
    file.write_text("Other words.")
    assert hash_words(Templates("compact"), [f"{own_recipe}/rewrite"]) != before


def test_an_experiment_has_words_of_its_own_for_it(own_recipe: str, tmp_path: Path) -> None:
    """What its own templates show is what an own template may show; its system message lies beside them."""
    folder = write_tiny_experiment(tmp_path / "tiny")
    file = folder / "prompts" / "rewrite" / "rewrite.j2"
    file.parent.mkdir(parents=True)
    file.write_text("Once more: {{ completion }}")
    method = Path(find_recipe(own_recipe).generate.__code__.co_filename)
    (method.parent / "prompts" / "compact" / "rewrite" / "system.j2").write_text("You rewrite.")
    plan = plan_tiny(folder, recipe=own_recipe)
    assert plan.templates.render(f"{own_recipe}/rewrite", prompt="P", completion="C") == "Once more: C"
    assert plan.templates.system == "You rewrite."
    assert plan.list_templates("raw_generations") == [f"{own_recipe}/rewrite"]
    file.write_text("Once more: {{ answer }}")
    with pytest.raises(
        ValueError, match=r"rewrite\.j2:1: .*no variable 'answer'; The variables here are completion, prompt"
    ):
        plan_tiny(folder, recipe=own_recipe)


def test_its_steps_can_be_tried_without_a_platform(own_recipe: str) -> None:
    recipe, table = find_recipe(own_recipe), seeds({"a": None, "b": None})
    ask = ScriptedAsk(lambda stage, text, number: f"In other words: {text[-1]}")
    settings = recipe.settings()
    raw = recipe.generate(build_inputs(settings, ask=ask), table, NOT_TRAINED)
    assert raw["completion"].to_list() == ["In other words: a", "In other words: b"]
    cleaned = recipe.clean(build_inputs(settings, is_evaluation_prompt=lambda text: text.endswith("b")), raw, table)
    assert cleaned["drop_reason"].to_list() == [None, "evaluation_overlap"]
    reviewed = recipe.review(build_inputs(settings), cleaned, table, raw)
    first = recipe.start_sft_set(build_inputs(settings, identify("r0000")), table, EFT.clear())
    trained = recipe.build_sft_set(build_inputs(settings), reviewed, first)
    assert trained.select("completion", "source_round").rows() == [
        ("In other words: a", "r0001"),
        ("Good a", "r0000"),
        ("Good b", "r0000"),
    ]


def test_an_experiment_reads_its_parameters_and_roles(own_recipe: str) -> None:
    settings = build_tiny_settings(recipe=own_recipe, num_samples=3)
    assert settings.parameters.model_dump()["num_samples"] == 3
    assert find_recipe(own_recipe).roles == ("writer",)
    assert own_recipe not in {recipe.name for recipe in list_recipes()}
    with pytest.raises(ValueError, match="num_samples"):
        build_tiny_settings(recipe=own_recipe, num_samples=0)
    with pytest.raises(ValueError, match=f"recipe {own_recipe} has no role reader; it has: writer"):
        build_tiny_settings(recipe=own_recipe, roles={"reader": {"model": "small"}})
    schema = ExperimentSettings.model_json_schema()["properties"]["recipe"]
    assert "spin" in schema["then"]["enum"]
