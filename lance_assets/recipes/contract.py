"""The contract of a recipe: what a round hands to its steps, and what a recipe has.

A recipe is one module with `RECIPE = Recipe(...)`, whose fields name the module's functions. Everything a recipe may
have is a field here, and every optional one has a default that says what its absence means. The type parameter is the
class of the recipe's settings, so that mypy checks each function against it.

Nothing registers a recipe. A module of `lance_assets.recipes` that has `RECIPE` is one, and so is any module that can
be imported and has `RECIPE`, such as `my_package.my_method`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from types import MappingProxyType, ModuleType
from typing import Any, Generic, Protocol, TypeVar

import polars as pl

from lance_assets.algorithms.filters.contract import Filter, filter_generations
from lance_assets.algorithms.forecast.round_forecast import Lengths, Pool, RoundForecast
from lance_assets.algorithms.verifying.verdict import RowVerifier
from lance_assets.dotted_names import IMPORT_ERRORS, describe_import_error
from lance_assets.prompts import PromptStep
from lance_assets.recipes.asking import (
    ReadStates,
    RoundIdentity,
    ask_nothing,
    list_no_texts,
    read_no_places,
    read_no_states,
    recognise_nothing,
)
from lance_assets.recipes.axes import AxisSettings, RecipeSettings
from lance_assets.records import SEED_SET, Ask, FollowUp, SamplingSettings, SeedPlaces
from lance_assets.worlds import Problem

S = TypeVar("S", bound=AxisSettings)
S_co = TypeVar("S_co", covariant=True)
S_contra = TypeVar("S_contra", bound=AxisSettings, contravariant=True)

ROUND_MODEL = "round_model"
"""The role of the round's own model, which answers every stage that names no other role."""


@dataclass(frozen=True)
class RoundInputs(Generic[S_co]):
    """What a round hands to every step of a recipe, beside the step's tables."""

    identity: RoundIdentity
    """The round: row ids and sampling seeds derive from it."""
    settings: S_co
    """The recipe's parameters, as the experiment's file has them."""
    ask: Ask = ask_nothing
    """Asks the models of the declared stages. Given to `generate`, `review` and `judge_pairs`."""
    is_evaluation_prompt: Callable[[str], bool] = recognise_nothing
    """Whether a prompt belongs to the evaluation. The filters ask it."""
    texts: pl.DataFrame = field(default_factory=list_no_texts)
    """Texts without prompts, columns `row_id` and `text`. Given to `generate` of a recipe with `needs_texts`."""
    seeds: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=SEED_SET))
    """The round's seeds, schema `SEED_SET`. Given to `score_rows`, `build_sft_set` and `word_prompt`; others are
    given them as a table."""
    read_places: Callable[[], SeedPlaces] = read_no_places
    """Where each seed stands in the experiment's file, as it was before any was left out. Given to `build_seed_set` and
    `start_sft_set`."""
    filters: Sequence[Filter] = ()
    """The experiment's filters. Given to `review`, for a recipe that has completions written there."""
    read_states: ReadStates = read_no_states
    """Opens a model to read states. Given to `generate`, `review` and `score_rows`, where the settings' `reads_states`
    and `reviews_by_reading` say whether it is used, and to `read_other_signals`."""
    verifier: RowVerifier | None = None
    """Judges completions by rule. Given to `generate` and `review` where the experiment has one; the platform adds its
    verdicts to what `review` returns."""

    @property
    def round_key(self) -> str:
        """The round, `r0000` and on."""
        return self.identity.round_key


@dataclass(frozen=True)
class Stage(Generic[S]):
    """One stage of asking: requests that go to the same model and are sampled alike."""

    name: str
    """The name that `RoundInputs.ask` is called with; row ids and sampling seeds derive from it."""
    role: str = ROUND_MODEL
    """Which model answers. An experiment may give the role a second model; without one the round's own answers."""
    sampling: Callable[[S], SamplingSettings] | None = None
    """How the stage is sampled, from the recipe's settings; None is `RecipeSettings.sampling`. What the settings'
    `stages` say of the stage comes before both."""
    asked_in: str | None = None
    """The asset whose step asks it: the UI shows there which engine answers, and how this stage alone is sampled marks
    that asset alone. None: every one that asks a model."""
    kind: str | None = None
    """The kind of its rows in raw_generations; None: the stage's name."""
    follow_up: Callable[[S], FollowUp | None] | None = None
    """What another stage asks about each of its samples, from the recipe's settings; an engine may ask it at once."""
    numbered: bool = False
    """Whether the stage is a family whose names end in a number: `lesson1`, `lesson2` and on."""
    mixes: bool = False
    """Whether other generators of the experiment may write a share of it, as of completions that are trained on."""

    def has(self, name: str) -> bool:
        """Whether a name of a stage means this one."""
        if not self.numbered:
            return name == self.name
        return name.startswith(self.name) and name.removeprefix(self.name).isdecimal()


class ForecastRounds(Protocol[S_contra]):
    """Computes the rows and tokens of an experiment's rounds before any of them runs."""

    def __call__(
        self, settings: S_contra, profile: str, lengths: Lengths, pool: Pool, *, num_rounds: int
    ) -> list[RoundForecast]:
        """The forecast of r0000 and of `num_rounds` rounds after it.

        Args:
            settings: the recipe's parameters.
            profile: the prompt profile, on which assumptions depend.
            lengths: of the experiment's seeds, in tokens.
            pool: what there is before r0000.
            num_rounds: rounds after r0000, 0 or more.
        """
        ...


@dataclass(frozen=True)
class Forecast(Generic[S]):
    """How a recipe forecasts its rounds."""

    expected: ForecastRounds[S]
    """Each round as it is expected."""
    at_most: ForecastRounds[S]
    """Upper bounds of every figure of each round."""
    list_assumptions: Callable[[str], list[str]]
    """The assumptions of a prompt profile with their sources, as lines to print."""
    words: Mapping[str, str] = field(default_factory=dict)
    """By prompt step the role in whose words it is asked; a step that is not here is asked in the round's own."""


def describe_nothing(inputs: RoundInputs[object], table: pl.DataFrame) -> dict[str, float | int]:
    """No figures beyond those that every recipe has."""
    return {}


def list_no_prompts(settings: object) -> tuple[PromptStep, ...]:
    """No step has a prompt template: prompts are asked as they are, or nothing is."""
    return ()


def list_no_libraries(settings: object) -> Mapping[str, tuple[str, ...]]:
    """The platform's libraries alone."""
    return {}


@dataclass(frozen=True)
class Recipe(Generic[S]):
    """A method over one round: its steps as functions, and what the platform must know of it.

    Tables have the schemas of `lance_assets.records`. A step may be given the same tables twice, and returns the same
    rows each time.
    """

    name: str
    """The last part of the module's name; experiments name the recipe by it, and its templates lie in that folder."""
    settings: type[S]
    """The class that the experiment's `parameters` are read as."""
    stages: tuple[Stage[S], ...]
    """Every stage of asking; empty for a recipe that asks no model."""
    settings_of_step: Mapping[str, tuple[str, ...]]
    """Which settings each asset depends on: a change of one marks exactly those assets as stale. How stages are sampled
    (`axes.SAMPLING`) need not be named: the platform knows which asset asks which stage."""
    build_seed_set: Callable[
        [RoundInputs[S], pl.DataFrame, dict[str, pl.DataFrame]], tuple[pl.DataFrame, dict[str, int]]
    ]
    """(inputs, seeds of the file, reviewed sets of r0001 and on by round) to the round's `SEED_SET` and counts."""
    start_sft_set: Callable[[RoundInputs[S], pl.DataFrame, pl.DataFrame], pl.DataFrame]
    """(inputs, seeds, EFT rows) to the `SFT_SET` of r0000."""
    generate: Callable[[RoundInputs[S], pl.DataFrame, pl.DataFrame], pl.DataFrame]
    """(inputs, seeds, SFT set of the round before) to `RAW_GENERATIONS`; may ask models and read states."""
    list_filters: Callable[[S], Sequence[Filter]]
    """The recipe's settings to the filters that keep or drop each candidate, in the order in which they are applied."""
    review: Callable[[RoundInputs[S], pl.DataFrame, pl.DataFrame, pl.DataFrame], pl.DataFrame]
    """(inputs, cleaned set, seeds, raw generations) to `REVIEWED_SET`; may ask models."""
    build_sft_set: Callable[[RoundInputs[S], pl.DataFrame, pl.DataFrame], pl.DataFrame]
    """(inputs, reviewed set, SFT set of the round before) to the round's `SFT_SET`."""
    build_pairs: Callable[[RoundInputs[S], pl.DataFrame, pl.DataFrame], pl.DataFrame]
    """(inputs, reviewed set, pairs of the round before) to the round's `PREFERENCE_PAIRS`."""
    judge_pairs: Callable[[RoundInputs[S], pl.DataFrame], pl.DataFrame] | None = None
    """(inputs, the round's new pairs) to `PAIR_JUDGEMENTS`; called where the settings' `judges_pairs` says so. None:
    pairs are never judged."""
    candidate_kinds: tuple[str, ...] | None = None
    """The kinds of raw generations that are candidates for training; None: all of them."""
    compared_prompts: tuple[str, ...] = ("new_prompt",)
    """The kinds whose prompt a model wrote: near-duplicate prompts of one kind are dropped, one kind after another."""
    compared_completions: tuple[str, ...] = ("completion",)
    """The kinds whose prompt and completion are compared, all kinds together. Rows of a kind that neither field names
    may well be alike, as items of a pool are, and are not compared."""
    answering_kinds: tuple[str, ...] | None = None
    """The kinds of raw generations whose completion is a model's own answer to the row's prompt: the samples of which a
    verifier with `without_gold: majority` takes the commonest answer. None: all candidates, so name them where one is
    meant to be worse, was shown the gold answer, or is not a model's. Empty: there are no such samples."""
    score_rows: Callable[[RoundInputs[S], pl.DataFrame], pl.DataFrame] | None = None
    """(inputs, rows with the columns of a kept `CLEANED_SET` row) to `REVIEWED_SET`: the reviewer on completions alone,
    as `review` has it. r0000 measures the reviewer with it. None: the reviewer is not measured."""
    write_worse: Callable[[RoundInputs[S], pl.DataFrame], pl.DataFrame] | None = None
    """(inputs, seeds) to `RAW_GENERATIONS`: at most one completion of each seed that a model was asked to make worse,
    as `generate` asks. r0000 measures the reviewer on these too. None: rounds write none."""
    read_other_signals: Callable[[RoundInputs[S], pl.DataFrame], pl.DataFrame] | None = None
    """(inputs, rows as for `score_rows`) to their `row_id`, and `likelihood`, `mutual_information` and `ifd` as the
    round's model reads them, null where there is none: what the setting `score_from` offers in place of the reviewer.
    r0000 measures them beside it. None: the recipe offers none."""
    settings_of_judging: tuple[str, ...] = ()
    """The settings that preference_pairs depends on in addition, where pairs are judged."""
    build_label_rows: Callable[[RoundInputs[S], pl.DataFrame], pl.DataFrame] | None = None
    """(inputs, seeds) to the `SFT_SET` that r0000 trains the model of the role `label` on, unless the experiment gives
    that role a model. None: there is no label model."""
    needs_verifier: bool = False
    """Whether the experiment must have a section `verifier`, whose verdict is the only score."""
    ignores_verifier: str | None = None
    """What decides which rows are trained on, in place of their review score, so that a section `verifier` is refused:
    words that follow "recipe NAME". None: the score decides."""
    labels_by_vote: bool = False
    """Whether what its SFT rows answer is right by a vote of the model alone, so that an experiment has to say which
    reward GRPO has: the vote's, or one that knows better."""
    needs_texts: bool = False
    """Whether the experiment must have a section `texts`; without this it must have none."""
    completes_left_out_seeds: bool = False
    """Whether later rounds are given the seeds that `seeds.confidence` kept out of r0000, too."""
    reports_vendi: bool = False
    """Whether each SFT set is shown with its Vendi score, on the base model's states."""
    describe_generations: Callable[[RoundInputs[S], pl.DataFrame], Mapping[str, float | int]] = describe_nothing
    """(inputs, raw generations) to figures shown beside them; by default none."""
    describe_reviews: Callable[[RoundInputs[S], pl.DataFrame], Mapping[str, float | int]] = describe_nothing
    """(inputs, reviewed set) to figures shown beside it; by default none."""
    explain_no_pairs: Callable[[RoundInputs[S], pl.DataFrame], str] | None = None
    """(inputs, reviewed set) to why a round brought no pair, in words. None: what holds of every recipe is said."""
    list_prompts: Callable[[S], tuple[PromptStep, ...]] | None = None
    """The recipe's settings to the steps that have a prompt template. None: every template beside the recipe's module
    is a step, and counts for every noun that asks a model."""
    word_prompt: Callable[[RoundInputs[S], str], str] | None = None
    """(inputs with the round's seeds, a prompt) to what a checkpoint is asked, by the evaluation's world and judge: the
    words that it was trained with. None: the prompt as it is."""
    list_libraries: Callable[[S], Mapping[str, tuple[str, ...]]] = list_no_libraries
    """The recipe's settings to the libraries that decide what a noun holds, beside the platform's, by noun."""
    score_set: (
        Callable[[RoundInputs[S], Mapping[str, pl.DataFrame], Sequence[Problem]], tuple[pl.DataFrame, pl.DataFrame]]
        | None
    ) = None
    """(inputs with the round's seeds, reviewed sets of r0001 and on by round, held-out problems of the world) to rows
    of `EVAL_REPORT` and `HARNESS_ITEMS`: scores of what the rounds' rows teach another model than the checkpoint, in
    benchmarks of their own. Called where the experiment has a world. None: the checkpoint alone is scored."""
    set_benchmarks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The benchmarks that `score_set` may give, each with its metrics."""
    forecast: Forecast[S] | None = None
    """How rounds are forecast before they run. None: the experiment has no forecast."""

    def __post_init__(self) -> None:
        """Check what the types cannot.

        Raises:
            ValueError: a stage leaves its sampling to settings that have none, or a step depends on a setting that does
                not exist.
        """
        named = {*self.settings_of_judging, *(name for names in self.settings_of_step.values() for name in names)}
        if unknown := sorted(named - set(self.settings.model_fields)):
            raise ValueError(
                f"recipe {self.name}: settings_of_step or settings_of_judging names {', '.join(unknown)}, and "
                f"{self.settings.__name__} has no such setting; it has {', '.join(self.settings.model_fields)}"
            )
        # A mistake here would otherwise show only when a round asks the stage.
        unsampled = [stage.name for stage in self.stages if stage.sampling is None]
        if unsampled and not issubclass(self.settings, RecipeSettings):
            raise ValueError(
                f"recipe {self.name}: the stages {', '.join(unsampled)} have no sampling, and "
                f"{self.settings.__name__} has none either; give each stage a sampling, or derive the settings from "
                "RecipeSettings"
            )

    def clean(
        self,
        inputs: RoundInputs[S],
        raw_generations: pl.DataFrame,
        seeds: pl.DataFrame,
        *,
        added: Sequence[Filter] = (),
        keeps_contrast: bool = False,
        shown: Sequence[str] = (),
        look_up: Mapping[str, Any] = MappingProxyType({}),
    ) -> pl.DataFrame:
        """Keep or drop each candidate with a reason, by the recipe's filters and then by added ones.

        Args:
            inputs: the round.
            raw_generations: schema `RAW_GENERATIONS`.
            seeds: schema `SEED_SET`.
            added: the filters of the experiment. What depends on a row that one of them drops is dropped with it.
            keeps_contrast: whether like completions are kept where they say something else.
            shown: what the templates showed the models that wrote (`Templates.list_shown`).
            look_up: further fields of `Known`, which the added filters may need.

        Returns:
            Schema `CLEANED_SET`, one row for each candidate.
        """
        return filter_generations(
            _take_kinds(raw_generations, self.candidate_kinds),
            seeds,
            filters=self.list_filters(inputs.settings),
            added=added,
            shown=shown,
            is_evaluation_prompt=inputs.is_evaluation_prompt,
            keeps_contrast=keeps_contrast,
            look_up=look_up,
        )

    def list_answers(self, raw_generations: pl.DataFrame) -> pl.DataFrame:
        """The samples in which a model answered a prompt as well as it could, whole ones alone.

        Args:
            raw_generations: schema `RAW_GENERATIONS`.

        Returns:
            Columns prompt and completion, in order.
        """
        answers = _take_kinds(_take_kinds(raw_generations, self.candidate_kinds), self.answering_kinds)
        return answers.filter(pl.col("finish_reason") == "stop").select("prompt", "completion").drop_nulls()

    @property
    def compared_together(self) -> list[tuple[str, ...]]:
        """The groups of kinds within which near-duplicates are dropped, in order: prompts before completions."""
        return [*((kind,) for kind in self.compared_prompts), self.compared_completions]

    @property
    def trains_label_model(self) -> bool:
        """Whether r0000 trains a label model where the experiment gives the role `label` no model."""
        return self.build_label_rows is not None

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles that an experiment may give a second model, in the order of the stages."""
        return tuple(dict.fromkeys(stage.role for stage in self.stages if stage.role != ROUND_MODEL))

    def find_stage(self, name: str) -> Stage[S]:
        """The declaration of a stage of asking.

        Raises:
            ValueError: the recipe declares no such stage.
        """
        for stage in self.stages:
            if stage.has(name):
                return stage
        declared = [f"{stage.name}<number>" if stage.numbered else stage.name for stage in self.stages]
        raise ValueError(
            f"recipe {self.name} declares no stage {name!r}; it declares: {', '.join(declared) or 'none'}. Add it to "
            "the recipe's stages"
        )

    def find_role(self, stage_name: str) -> str:
        """Which model answers a stage: a role, or `ROUND_MODEL`.

        Raises:
            ValueError: the recipe declares no such stage.
        """
        return self.find_stage(stage_name).role

    def find_sampling(self, stage_name: str, settings: S) -> SamplingSettings:
        """How a stage is sampled.

        Raises:
            ValueError: the recipe declares no such stage.
        """
        return self.sample_stage(self.find_stage(stage_name), settings)

    def find_follow_up(self, stage_name: str, settings: S) -> FollowUp | None:
        """What another stage asks about each sample of a stage; None where nothing is.

        Raises:
            ValueError: the recipe declares no such stage.
        """
        follow_up = self.find_stage(stage_name).follow_up
        return None if follow_up is None else follow_up(settings)

    def sample_stage(self, stage: Stage[S], settings: S) -> SamplingSettings:
        """How one of the recipe's stages is sampled; of a numbered family all are sampled alike."""
        if not isinstance(settings, RecipeSettings):
            assert stage.sampling is not None, "checked when the recipe was made"
            return stage.sampling(settings)
        sampling = settings.sampling if stage.sampling is None else stage.sampling(settings)
        stages = settings.stages
        return stages[stage.name].apply(sampling) if stage.name in stages else sampling


def _take_kinds(rows: pl.DataFrame, kinds: tuple[str, ...] | None) -> pl.DataFrame:
    """The rows of some kinds; None for all."""
    return rows if kinds is None else rows.filter(pl.col("kind").is_in(kinds))


AnyRecipe = Recipe[Any]
"""A recipe of which the caller does not know the settings' class."""


_ROOM = "lance_assets.recipes"


def _read_recipe(module: ModuleType) -> AnyRecipe | None:
    """The recipe of a module; None where it has none.

    Raises:
        ValueError: `RECIPE` is no `Recipe`, or its name is not the module's.
    """
    if not hasattr(module, "RECIPE"):
        return None
    recipe, own = module.RECIPE, module.__name__.rpartition(".")[2]
    if not isinstance(recipe, Recipe):
        raise ValueError(f"{module.__name__}.RECIPE must be a lance_assets.recipes.contract.Recipe, got {recipe!r}")
    # Experiments and folders of templates name a recipe by its module.
    if recipe.name != own:
        raise ValueError(f"{module.__name__}.RECIPE must have the name {own!r} of its module, got {recipe.name!r}")
    return recipe


@cache
def list_recipes() -> tuple[AnyRecipe, ...]:
    """Every recipe of `lance_assets.recipes`, sorted by name.

    >>> [recipe.name for recipe in list_recipes()][:3]
    ['clear', 'cllm', 'diverse_evol']
    """
    names = sorted(module.name for module in iter_modules(import_module(_ROOM).__path__))
    found = (_read_recipe(import_module(f"{_ROOM}.{name}")) for name in names)
    return tuple(recipe for recipe in found if recipe is not None)


def find_recipe(name: str) -> AnyRecipe:
    """The recipe of a name.

    Args:
        name: of one of `list_recipes`, or the dotted name of a module of a person's own that has `RECIPE`.

    Raises:
        ValueError: there is no such recipe, or what the module has is none.
    """
    if "." not in name:
        recipes = {recipe.name: recipe for recipe in list_recipes()}
        if name not in recipes:
            raise ValueError(
                f"there is no recipe {name!r}; choose one of {', '.join(recipes)}, or name a module of your own that "
                "has RECIPE, such as my_package.my_method"
            )
        return recipes[name]
    if not re.fullmatch(r"\w+(\.\w+)+", name):
        raise ValueError(f"{name[:200]!r} is no name of a module; write it as my_package.my_method")
    try:
        module = import_module(name)
    except IMPORT_ERRORS as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        # The module itself or a package above it is missing; a failed import within it is a mistake of its own.
        if missing is None or not f"{name}.".startswith(f"{missing}."):
            raise ValueError(
                f"the module {name} cannot be imported: {describe_import_error(error)}; correct it"
            ) from error
        raise ValueError(
            f"there is no module {name} (no {missing!r} can be imported); put its package where Python finds it, or "
            f"choose one of {', '.join(recipe.name for recipe in list_recipes())}"
        ) from error
    recipe = _read_recipe(module)
    if recipe is None:
        raise ValueError(f"the module {name} has no RECIPE; end it with RECIPE = Recipe(...)")
    return recipe
