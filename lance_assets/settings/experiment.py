"""The settings of an experiment's file; each of its sections is in a module of its own, but for the short ones.

Every field has a range and a description. So a wrong value is reported with file, line, value and remedy when the file
is loaded, and not when a round runs.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    SerializeAsAny,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
    model_validator,
)
from pydantic_core import InitErrorDetails

from lance_assets.algorithms.filters.confidence import ConfidenceRule
from lance_assets.dotted_names import is_dotted_name
from lance_assets.recipes.asking import Thoughts
from lance_assets.recipes.axes import AxisSettings, RecipeSettings
from lance_assets.recipes.contract import find_recipe, list_recipes
from lance_assets.records import SECOND_LOSSES
from lance_assets.settings.checks import CheckSettings, NearDuplicateSettings, StopSettings
from lance_assets.settings.engines import EngineSettings, GeneratorSettings, RoleSettings, StepRequest
from lance_assets.settings.evaluation import EvaluationSettings
from lance_assets.settings.filters import NamedFilter
from lance_assets.settings.outward import ExportSettings, TrackingSettings
from lance_assets.settings.retention import RetentionSettings
from lance_assets.settings.schema import simplify_schema
from lance_assets.settings.training import TrainingSettings
from lance_assets.settings.values import FromEnvironment, HumanReview, ModelName, Owner, PromptProfile, Settings
from resources.readers.column_templates import check_template
from resources.readers.row_kinds import Format, Origins, SeedFields
from resources.readers.sources import Source, find_source
from resources.readers.turns import Turns
from resources.training.stage_settings import (
    AGREED,
    BUILT_IN,
    REVIEW,
)
from resources.verifying.settings import VerifierSettings


def _check_recipe(name: str) -> str:
    find_recipe(name)
    return name


def _read_parameters(value: Any, _: ValidatorFunctionWrapHandler, info: ValidationInfo) -> AxisSettings:
    """The parameters as the settings of the recipe that the file names, so that a mistake in them keeps its line."""
    recipe = info.data.get("recipe")
    if recipe is None:  # its own mistake is reported already
        return AxisSettings()
    settings: type[AxisSettings] = find_recipe(recipe).settings
    read = value if isinstance(value, settings) else settings.model_validate(value)
    known = [stage.name for stage in find_recipe(recipe).stages]
    stages = read.stages if isinstance(read, RecipeSettings) else {}
    told = f"recipe {recipe} has no such stage of asking; it has: {', '.join(known) or 'none'}"
    unknown: list[InitErrorDetails] = [
        {"type": "value_error", "loc": ("stages", name), "input": own, "ctx": {"error": ValueError(told)}}
        for name, own in stages.items()
        if name not in known
    ]
    if unknown:
        # Raised as pydantic's own, so that the mistake keeps its line.
        raise ValidationError.from_exception_data("parameters", unknown)
    return read


RecipeName = Annotated[str, AfterValidator(_check_recipe)]
"""The name of a recipe: one of ours, or the module of a person's own; `model_json_schema` adds which there are."""

Parameters = Annotated[
    SerializeAsAny[AxisSettings],
    WrapValidator(_read_parameters),
    WithJsonSchema({"type": "object"}),
]
"""A recipe's own settings. Their fields depend on the recipe, so `model_json_schema` adds them."""


GeneratorName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
"""What an experiment calls a generator; the round's model is its own."""
RowTemplate = Annotated[str, AfterValidator(check_template)]
"""A template over the columns of a row."""


class SeedSettings(Settings):
    """Where the seeds come from."""

    path: FromEnvironment = Field(
        description="JSONL, JSON, CSV, TSV, Parquet or Arrow, also with .gz or .zst; a folder or a pattern of such "
        "files, relative to the experiment's folder; or the id of a data set of the hub."
    )
    prompt_field: str | None = Field(None, description="The column that holds the prompt. None: recognised.")
    completion_field: str | None = Field(None, description="The column that holds the completion. None: recognised.")
    split: str | None = Field(None, description="The part of a data set, or of a folder by the names of files: train.")
    subset: str | None = Field(None, description="The configuration of a data set of the hub, such as 'main'.")
    revision: str | None = Field(None, description="The commit, tag or branch of a data set of the hub.")
    format: Format = Field("auto", description="The kind of the rows. 'auto' recognises it by their columns.")
    prompt: RowTemplate | None = Field(
        None, description="A Jinja template of the prompt, such as '{{ question }} {{ context }}', for prompt_field."
    )
    completion: RowTemplate | None = Field(
        None, description="A Jinja template of the completion, in place of completion_field."
    )
    turns: Turns = Field(
        "carry",
        description="A row's system message and earlier turns: 'carry' them as turns, 'split' the conversation into a "
        "row for each completion, 'join' them into the prompt, use the 'last' user turn alone, or 'refuse' the row.",
    )
    ignore: tuple[str, ...] = Field((), description="Columns that are left out, although they belong to the task.")
    answer_field: str | None = Field(
        None, description="The field that holds the gold answer. None: the rows have none."
    )
    answer_after: str | None = Field(
        None, description="The gold answer is what follows this mark in the completion, such as GSM8K's '####'."
    )
    answer_json: bool = Field(
        False,
        description="Whether answer_field may hold lists and objects, such as tests or rules; they are kept as JSON.",
    )
    strip_calculator_marks: bool = Field(False, description="Remove GSM8K's <<...>> from completions.")
    license: str | None = Field(
        None, min_length=1, description="The licence of all rows, as the hub names it: apache-2.0. None: not stated."
    )
    license_field: str | None = Field(
        None, description="The column that holds each row's licence, before `license`. None: the rows have none."
    )
    source: str | None = Field(
        None, min_length=1, description="Where all rows are from, in words: a name or an address."
    )
    source_field: str | None = Field(
        None, description="The column that holds where each row is from, before `source`. None: the rows have none."
    )
    allowed_licenses: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="Licences of rows that are used, such as [mit, cc0-1.0]; rows of another or of no stated one are "
        "left out and counted. None: all rows are used.",
    )
    limit: int | None = Field(None, ge=1, description="Use only this many rows, from the first. None: all.")
    confidence: ConfidenceRule | None = Field(
        None,
        description="How r0000 measures the model's confidence in each seed's completion, and which seeds it leaves "
        "out, of all rounds (CLEAR). None: all seeds are used.",
    )
    eft_path: str | None = Field(
        None, description="File of EFT rows (prompt, completion): examples of reviewing, added to every SFT set."
    )

    @property
    def row_fields(self) -> SeedFields:
        """How rows are read."""
        return SeedFields(
            format=self.format,
            prompt=self.prompt or self.prompt_field,
            completion=self.completion or self.completion_field,
            turns=self.turns,
            ignore=self.ignore,
            answer=self.answer_field,
            answer_after=self.answer_after,
            answer_json=self.answer_json,
            strip_marks=self.strip_calculator_marks,
            origins=Origins(
                license=self.license,
                license_field=self.license_field,
                source=self.source,
                source_field=self.source_field,
                allowed=self.allowed_licenses,
            ),
        )

    @property
    def states_origins(self) -> bool:
        """Whether anything is said of licences or sources."""
        return any((self.license, self.license_field, self.source, self.source_field))

    def find(self, folder: Path) -> Source:
        """Where the rows are, for an experiment in a folder."""
        return find_source(self.path, folder, subset=self.subset, split=self.split, revision=self.revision)

    @model_validator(mode="after")
    def _names_each_part_once(self) -> Self:
        for part in ("prompt", "completion"):
            if getattr(self, part) is not None and getattr(self, f"{part}_field") is not None:
                raise ValueError(f"{part} and {part}_field both say what the {part} is; keep one of them")
        return self

    @model_validator(mode="after")
    def _states_what_it_allows(self) -> Self:
        if self.allowed_licenses is not None and self.license is None and self.license_field is None:
            raise ValueError(
                "allowed_licenses needs license or license_field: no row has a stated licence, so all would be left out"
            )
        return self


class TextSettings(Settings):
    """Where unlabelled texts, which have no prompts, come from."""

    path: FromEnvironment = Field(
        description="A file, folder, pattern or data set as of seeds, or plain text with blank lines between texts."
    )
    split: str | None = Field(None, description="The part of a data set, or of a folder by the names of files: train.")
    subset: str | None = Field(None, description="The configuration of a data set of the hub.")
    revision: str | None = Field(None, description="The commit, tag or branch of a data set of the hub.")
    field: str = Field("text", description="The field or column that holds the text.")
    license: str | None = Field(None, min_length=1, description="The licence of all texts. None: not stated.")
    source: str | None = Field(None, min_length=1, description="Where all texts are from, in words.")
    limit: int | None = Field(None, ge=1, description="Use only this many texts, from the first. None: all.")

    def find(self, folder: Path) -> Source:
        """Where the rows are, for an experiment in a folder."""
        return find_source(self.path, folder, subset=self.subset, split=self.split, revision=self.revision)


class EmbedderSettings(Settings):
    """The model that turns texts into vectors for the history."""

    model: str = Field("minilm", description="'minilm' for the packaged all-MiniLM-L6-v2, a folder, or a hub id.")
    batch_size: int = Field(64, ge=1, description="Texts embedded together.")
    device: str = Field(
        "cpu", pattern=r"^(cpu|cuda(:\d+)?)$", description="Where it runs: cpu, cuda, or one GPU such as cuda:1."
    )
    copies_on: Literal["machine", "ray"] = Field(
        "machine",
        description="Where the model is held: 'machine' for the step's own, 'ray' for nodes of the Ray cluster that "
        "RAY_ADDRESS names. The vectors are the same.",
    )
    num_copies: int = Field(
        2, ge=1, description="With copies_on 'ray', most copies at once; each has one core, or one GPU with cuda."
    )


class ExperimentSettings(Settings):
    """One run of rounds: the `attributes` of an experiment's `defs.yaml`."""

    recipe: RecipeName = Field(description="The method, a module of lance_assets.recipes.")
    parameters: Parameters = Field(
        default_factory=dict,
        validate_default=True,
        description="The recipe's parameters; one that is left out has the paper's value.",
    )
    model: ModelName = Field(
        description="'small' for the packaged model, package.module:NAME for another one, a folder, or a hub id."
    )
    model_revision: str | None = Field(None, description="Revision of a hub model.")
    prompt_profile: PromptProfile = Field(
        "full",
        description="'full' templates for instruction-tuned models, 'full_zh' the same in Chinese, 'small' for those "
        "below about a billion parameters, 'compact' for the packaged small model.",
    )
    thoughts: Thoughts = Field(
        "strip",
        description="What becomes of a model's thoughts (<think> and its relatives) in completions: 'strip' removes "
        "them, 'keep' trains on them. Prompts, reviews, verdicts and evaluations are read without them.",
    )
    rng_seed: int = Field(0, ge=0, lt=2**31, description="The seed of all random numbers.")
    description: str = Field("", description="What the experiment is for, shown in the UI.")
    owners: list[Owner] = Field(default_factory=list, description="E-mail addresses, or team:name.")
    seeds: SeedSettings = Field(description="Where the seeds come from.")
    engine: EngineSettings = Field(default_factory=EngineSettings, description="What runs the rounds' model.")
    roles: dict[str, RoleSettings] = Field(
        default_factory=dict, description="Second models, by the recipe's role that each one plays, such as 'reviewer'."
    )
    generators: dict[GeneratorName, GeneratorSettings] = Field(
        default_factory=dict,
        description="Other models that write a share of the completions, by a name of your own, such as other: "
        "{share: 0.5, model: models/other}. Empty: the round's own model writes all.",
    )
    texts: TextSettings | None = Field(None, description="Unlabelled texts, for a recipe that writes prompts for them.")
    embedder: EmbedderSettings = Field(
        default_factory=EmbedderSettings, description="The model that embeds kept texts."
    )
    training: TrainingSettings = Field(default_factory=TrainingSettings, description="How checkpoints are trained.")
    evaluation: EvaluationSettings = Field(description="What checkpoints are scored on.")
    near_duplicates: NearDuplicateSettings = Field(
        default_factory=NearDuplicateSettings, description="When a text counts as a near-duplicate."
    )
    filters: tuple[NamedFilter, ...] = Field(
        (), description="Further filters of generated rows, applied after the recipe's own in this order."
    )
    num_signal_pairs: int = Field(
        16,
        ge=0,
        le=10_000,
        description="Pairs of each kind, made of the seeds, on which r0000 measures whether its reviewer tells better "
        "completions from worse ones; 0 measures nothing.",
    )
    verifier: VerifierSettings | None = Field(
        None,
        description="What judges completions by rule beside the recipe's reviewer, or in its place: gold answers, "
        "tests, rules of form, or a function of your own. None: only the recipe's own signal.",
    )
    human_review: HumanReview = Field(
        "none",
        description="About which reviewed rows people decide before a round trains: none, all, or 'sample N', which "
        "spreads N rows over scores and outcomes. The round waits for them without holding anything.",
    )
    checks: CheckSettings = Field(default_factory=CheckSettings, description="The limits of the checks.")
    stop: StopSettings = Field(default_factory=StopSettings, description="When the loop ends.")
    retention: RetentionSettings = Field(
        default_factory=RetentionSettings, description="What is kept of finished rounds. Tables always are."
    )
    export: ExportSettings | None = Field(
        None, description="Where each round's training sets are written for other tools. None: nowhere."
    )
    requests: dict[str, StepRequest] = Field(
        default_factory=dict,
        description="What steps ask a cluster for (LANCE_DEPLOYMENT), by the asset's name; 'any' for those without an "
        "entry. It has no effect on this machine.",
    )
    tracking: TrackingSettings = Field(
        default_factory=TrackingSettings, description="Trackers that finished rounds are written to. None by default."
    )

    @model_validator(mode="after")
    def _has_a_metric(self) -> Self:
        evaluation = self.evaluation
        if evaluation.world is None and evaluation.lm_eval is None and evaluation.judge is None:
            raise ValueError("evaluation needs world, lm_eval or judge: without a score no round can be compared")
        if evaluation.lm_eval is not None:
            evaluation.lm_eval.choose_backend(self.engine)
        return self

    @model_validator(mode="after")
    def _has_the_recipes_roles(self) -> Self:
        known = find_recipe(self.recipe).roles
        if unknown := sorted(set(self.roles) - set(known)):
            has = ", ".join(known) or "none"
            raise ValueError(f"recipe {self.recipe} has no role {', '.join(unknown)}; it has: {has}")
        return self

    @model_validator(mode="after")
    def _has_completions_for_its_generators(self) -> Self:
        if not self.generators:
            return self
        if not any(stage.mixes for stage in find_recipe(self.recipe).stages):
            can = ", ".join(recipe.name for recipe in list_recipes() if any(stage.mixes for stage in recipe.stages))
            raise ValueError(
                f"recipe {self.recipe} has no completions that other generators may write; remove generators, or use "
                f"one of {can}"
            )
        if "own" in self.generators:
            raise ValueError(
                "generators.own: own is the round's model, whose share is what the others leave; rename it"
            )
        if (total := sum(one.share for one in self.generators.values())) > 1 + 1e-9:
            raise ValueError(f"the shares of generators are {total:g} together; lower them to 1 or less")
        return self

    @model_validator(mode="after")
    def _reads_with_its_own_model(self) -> Self:
        if self.parameters.reviews_by_reading and "reviewer" in self.roles:
            signal = getattr(self.parameters, "score_from", "this signal")
            raise ValueError(
                f"parameters.score_from: {signal} reads with the round's own model; remove roles.reviewer, or "
                "use score_from: yes_no or expected"
            )
        return self

    @model_validator(mode="after")
    def _has_what_verifies(self) -> Self:
        recipe, verifier = find_recipe(self.recipe), self.verifier
        if verifier is None:
            if recipe.needs_verifier:
                raise ValueError(
                    f"recipe {self.recipe} keeps what is right: add a section verifier, as {{kind: answer}}"
                )
            return self
        if recipe.needs_verifier and not verifier.is_alone:
            raise ValueError(f"recipe {self.recipe} asks no reviewer, so verifier.weight must be 1: {verifier.weight}")
        ignores = recipe.ignores_verifier or (None if self.parameters.has_reviews else "chooses no row by a score here")
        if ignores is not None:
            raise ValueError(f"recipe {self.recipe} {ignores}; remove the section verifier")
        if verifier.without_gold == "majority" and recipe.answering_kinds == ():
            raise ValueError(
                f"verifier.without_gold: majority takes the commonest of several answers to a prompt, and recipe "
                f"{self.recipe} samples none before it reviews; use without_gold: unverified"
            )
        if verifier.kind == "function" and not self.evaluation.allow_task_code:
            raise ValueError(
                f"verifier.name: {verifier.name} runs Python, and evaluation.allow_task_code is false; read what it "
                "runs, then set allow_task_code: true in the section evaluation"
            )
        has_answers = self.seeds.answer_field is not None or self.seeds.answer_after is not None
        if not has_answers and (
            verifier.kind in ("answer", "code") or (verifier.kind == "rules" and not verifier.rules)
        ):
            what = {"answer": "gold answers", "code": "tests", "rules": "rules"}[verifier.kind]
            raise ValueError(f"verifier.kind: {verifier.kind} needs {what}: name their column as seeds.answer_field")
        return self

    @model_validator(mode="after")
    def _can_write_the_users_turn(self) -> Self:
        proposals = getattr(self.parameters, "proposals", "template")
        if proposals == "template":
            return self
        role = find_recipe(self.recipe).find_role("new_prompt")
        where, engine = (
            (f"roles.{role}.engine", self.roles[role].engine) if role in self.roles else ("engine", self.engine)
        )
        if engine.kind == "openai":
            raise ValueError(
                f"parameters.proposals: {proposals} has the model write the user's turn, and {where}.kind is openai, "
                "whose chat API only answers; use transformers or vllm there, or proposals: template"
            )
        return self

    @model_validator(mode="after")
    def _has_the_judge_that_filters_ask(self) -> Self:
        asking = [*((f"filters: {one.name}", one) for one in self.filters), ("seeds.confidence", self.seeds.confidence)]
        for what, one in asking:
            if self.evaluation.judge is None and getattr(one, "asks", None) == "judge":
                raise ValueError(
                    f"{what} asks the judge, and evaluation.judge is none; set it, or asks: model, which asks the "
                    "round's own model"
                )
        return self

    @model_validator(mode="after")
    def _has_the_recipes_label_model(self) -> Self:
        if self.training.label is not None and not find_recipe(self.recipe).trains_label_model:
            raise ValueError(f"recipe {self.recipe} trains no label model; remove training.label")
        return self

    @model_validator(mode="after")
    def _trains_with_the_loss_it_sets(self) -> Self:
        loss = self.parameters.second_loss
        if loss is None:
            return self
        told = f"parameters.losses: {self.parameters.losses} trains with {SECOND_LOSSES[loss]}, and"
        said = [name for name in SECOND_LOSSES if name in self.training.model_fields_set]
        if said and loss not in said:
            others = ", ".join(f"training.{name}" for name in said)
            raise ValueError(
                f"{told} {others} would be left unread: write what {SECOND_LOSSES[loss]} needs under training.{loss}, "
                "or correct losses"
            )
        for key, changes in self.training.by_round.items():
            for name in SECOND_LOSSES:
                if name != loss and getattr(changes, name) is not None:
                    raise ValueError(
                        f"{told} training.by_round.{key}.{name} would be left unread: name {loss} there, or correct "
                        "losses"
                    )
        return self

    @model_validator(mode="after")
    def _has_what_grpo_needs(self) -> Self:
        if self.parameters.second_loss != "grpo":
            return self
        try:
            self.training.grpo.require_whole_groups_with_room()
        except ValueError as error:
            raise ValueError(f"training.grpo: {error}") from None
        if find_recipe(self.recipe).labels_by_vote and "reward" not in self.training.grpo.model_fields_set:
            raise ValueError(
                f"recipe {self.recipe} takes the commonest of its own answers for right: say training.grpo.reward: "
                "agreed for that, or rule or gold for what is right"
            )
        reward, seeds = self.training.grpo.reward, self.seeds
        if reward == "rule" and self.evaluation.world is None:
            raise ValueError(
                "training.grpo.reward: rule is that of a world, and evaluation.world is none; set it, or use reward: "
                "gold or a function of your own"
            )
        if reward == "gold" and seeds.answer_field is None and seeds.answer_after is None:
            raise ValueError(
                "training.grpo.reward: gold compares with the seeds' answers, and they have none; set "
                "seeds.answer_field or seeds.answer_after"
            )
        if self.training.grpo.names_function and not (is_dotted_name(reward) or ".py:" in reward):
            raise ValueError(
                f"training.grpo.reward: {reward!r} is none of {', '.join(BUILT_IN)}, and names no function; write "
                "package.module:NAME or my_reward.py:NAME"
            )
        if reward == REVIEW:
            self._require_reviewer()
        return self

    @property
    def own_reward(self) -> str | None:
        """The function of a person's own that GRPO's reward names; None where there is none."""
        reward = self.training.grpo.reward
        return reward if self.parameters.second_loss == "grpo" and self.training.grpo.names_function else None

    @property
    def reward_mark(self) -> str | None:
        """What announces the final answer where GRPO's reward reads one: the recipe's own mark, where it votes."""
        own = getattr(self.parameters, "answer_mark", None) if self.training.grpo.reward == AGREED else None
        return own or self.seeds.answer_after

    def _require_reviewer(self) -> None:
        """Check that somebody can review while the model trains."""
        if not hasattr(self.parameters, "rubric"):
            raise ValueError(
                f"training.grpo.reward: review needs a recipe with a rubric, and {self.recipe} has none; use reward: "
                "rule, gold or a function of your own"
            )
        if "reviewer" in self.roles and self.roles["reviewer"].engine.kind == "vllm":
            raise ValueError(
                "training.grpo.reward: review has its reviewer beside the model that trains, and roles.reviewer has "
                "engine.kind vllm, which takes the memory; use kind transformers, or a server (openai)"
            )

    @model_validator(mode="after")
    def _has_the_recipes_texts(self) -> Self:
        needs = find_recipe(self.recipe).needs_texts
        if needs and self.texts is None:
            raise ValueError(f"recipe {self.recipe} writes prompts for texts: add a section texts with a path")
        if not needs and self.texts is not None:
            raise ValueError(f"recipe {self.recipe} reads no texts; remove the section texts")
        return self

    @model_validator(mode="after")
    def _serves_what_it_trains(self) -> Self:
        openai = self.engine.openai
        if self.engine.kind == "openai" and openai is not None:
            if not openai.load_adapters:
                raise ValueError(
                    "engine.kind is openai: a server cannot be given the weights that each round trains; set "
                    "engine.openai.load_adapters with training.lora, or use the server for a role alone"
                )
            if self.training.lora is None:
                raise ValueError("engine.openai.load_adapters needs training.lora: full weights cannot be loaded")
        return self

    @classmethod
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The schema that `dg check yaml` validates against.

        It leaves out the parameters of a person's own recipe, which are checked when the experiment loads.
        """
        schema, recipes = super().model_json_schema(*args, **kwargs), list_recipes()
        ours: dict[str, Any] = {"enum": [recipe.name for recipe in recipes]}
        # A dotted name is a person's own module. Of any other name the error says which there are.
        schema["properties"]["recipe"] |= {"if": {"not": {"pattern": r"\."}}, "then": ours}
        parameters = {recipe.name: recipe.settings.model_json_schema() for recipe in recipes}
        for own in parameters.values():
            # References are looked up from the root of the whole schema.
            schema["$defs"] |= own.pop("$defs", {})
        by_recipe = [
            {
                "if": {"properties": {"recipe": {"enum": [name]}}},
                "then": {"properties": {"parameters": own}},
            }
            for name, own in parameters.items()
        ]
        return simplify_schema(schema | {"allOf": by_recipe})
