"""What an experiment's file may say beside its recipe's parameters: models, seeds, training, checks, stop rules.

Every field has a range and a description, so that a wrong one is reported with file, line, value and remedy, and the
launch of a round never meets one.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    SerializeAsAny,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
    model_validator,
)

from lance_assets.recipes import RECIPES
from lance_assets.recipes.axes import AxisSettings
from lance_assets.settings.engines import EngineSettings, RoleSettings
from lance_assets.settings.schema import simplify_schema
from lance_assets.settings.values import FromEnvironment, ModelName, Owner, PromptProfile, Settings
from resources.training.trainer import DpoSettings, LoraSettings, SftSettings


def _find_recipe(name: str) -> str:
    if name not in RECIPES:
        raise ValueError(f"there is no recipe {name!r}; choose one of {', '.join(sorted(RECIPES))}")
    return name


def _read_parameters(value: Any, _: ValidatorFunctionWrapHandler, info: ValidationInfo) -> AxisSettings:
    """The parameters of the recipe that the file names; a mistake keeps its place."""
    recipe = info.data.get("recipe")
    if recipe is None:  # told already
        return AxisSettings()
    settings: type[AxisSettings] = RECIPES[recipe].SETTINGS
    return value if isinstance(value, settings) else settings.model_validate(value)


RecipeName = Annotated[str, AfterValidator(_find_recipe), WithJsonSchema({"enum": sorted(RECIPES)})]
"""The name of a recipe."""

Parameters = Annotated[
    SerializeAsAny[AxisSettings],
    WrapValidator(_read_parameters),
    WithJsonSchema({"type": "object"}),
]
"""A recipe's own settings; which fields they have depends on the recipe, so `model_json_schema` adds them."""


class SeedSettings(Settings):
    """Where the seeds come from."""

    path: FromEnvironment = Field(description="JSONL or Parquet file of seeds, relative to the experiment's folder.")
    prompt_field: str = Field("prompt", description="The field that holds the prompt.")
    completion_field: str = Field("completion", description="The field that holds the completion.")
    answer_field: str | None = Field(None, description="The field that holds the gold answer, where there is one.")
    answer_after: str | None = Field(
        None, description="Take the gold answer from after this mark in the completion, as GSM8K's '####'."
    )
    strip_calculator_marks: bool = Field(False, description="Remove GSM8K's <<...>> from completions.")
    limit: int | None = Field(None, ge=1, description="Use the first rows only.")
    eft_path: str | None = Field(
        None, description="JSONL file of EFT rows (prompt, completion) mixed into every SFT set."
    )


class TextSettings(Settings):
    """Where texts without prompts come from."""

    path: FromEnvironment = Field(
        description="JSONL, Parquet, or plain text with a blank line between texts, relative to the folder."
    )
    field: str = Field("text", description="The field or column that holds the text.")
    limit: int | None = Field(None, ge=1, description="Use the first texts only.")


class EmbedderSettings(Settings):
    """What turns texts into vectors for the history."""

    model: str = Field("minilm", description="'minilm' for the packaged all-MiniLM-L6-v2, or a folder or hub id.")
    batch_size: int = Field(64, ge=1, description="Texts embedded together.")
    device: str = Field("cpu", pattern=r"^(cpu|cuda(:\d+)?)$", description="Where it runs: cpu, cuda, or one GPU.")


class TrainingSettings(Settings):
    """How a round's checkpoint is trained."""

    sft: SftSettings = Field(default_factory=SftSettings, description="The first stage.")
    dpo: DpoSettings = Field(default_factory=DpoSettings, description="The second stage.")
    lora: LoraSettings | None = Field(None, description="Adapters; none trains all parameters.")
    token_budget: int | None = Field(
        None,
        ge=1,
        description="Tokens a round after r0000 trains on: pairs by their epochs, the rest SFT. None: num_epochs.",
    )
    launcher: tuple[str, ...] | None = Field(
        None, description="Before the training process, as ['torchrun', '--nproc-per-node', '2']."
    )
    accelerate_config: FromEnvironment | None = Field(
        None,
        description="File of `accelerate config`, as for FSDP, relative to the experiment's folder; not with launcher.",
    )
    min_free_gpu_rate: float = Field(
        0.9, ge=0, le=1, description="Share of each GPU's memory that must be free before training starts."
    )
    handover_seconds: float = Field(
        120.0, ge=0, description="How long to wait for engines to end and memory to be free; then the step fails."
    )

    @model_validator(mode="after")
    def _has_one_launcher(self) -> Self:
        if self.launcher is not None and self.accelerate_config is not None:
            raise ValueError("launcher and accelerate_config both say how training is started; keep one of them")
        return self


class WorldSettings(Settings):
    """Evaluation on the held-out problems of a checkable task, by its rule."""

    name: str = Field(
        description="The lance_assets.worlds.World: package.module:NAME, or my_task.py:NAME in the experiment's folder."
    )
    per_stratum: int = Field(12, ge=1, le=200, description="Problems for each task and stratum of the world.")
    max_new_tokens: int = Field(160, ge=8, description="Tokens after which a completion is cut.")
    sampled_temperature: float = Field(
        0.7, gt=0, le=5, description="Temperature of the sampled accuracy beside the greedy one."
    )


class LmEvalSettings(Settings):
    """Evaluation by lm-evaluation-harness in its own process."""

    tasks: list[str] = Field(min_length=1, description="Task names of the harness, or of local task files.")
    include_path: str | None = Field(
        None, description="Folder of local task YAML files, relative to the experiment's folder."
    )
    num_fewshot: int | None = Field(None, ge=0, description="Examples before each item; none leaves the task's own.")
    limit: int | None = Field(None, ge=1, description="Items of each task; none takes all.")
    apply_chat_template: bool = Field(False, description="Whether items are asked as chat messages.")
    batch_size: int = Field(8, ge=1, description="Fixed, since scores move with it.")


class JudgeSettings(RoleSettings):
    """Evaluation on open-ended prompts: a judge, the same in every round, compares completions with an opponent's."""

    path: FromEnvironment = Field(description="JSONL file of prompts, relative to the experiment's folder.")
    prompt_field: str = Field("prompt", description="The field that holds the prompt.")
    completion_field: str = Field("completion", description="The field that holds the opponent's completion.")
    opponent: Literal["reference", "backbone"] = Field(
        "reference", description="Whose completions are compared with: those of the file, or the raw base model's."
    )
    by: Literal["verdict", "score"] = Field(
        "verdict", description="Both shown together, in both orders, or each reviewed alone and the scores compared."
    )
    limit: int | None = Field(None, ge=1, description="Use the first prompts only.")
    max_new_tokens: int = Field(512, ge=8, description="Tokens after which a completion is cut.")
    max_judge_tokens: int = Field(512, ge=8, description="Tokens after which a verdict or review is cut.")
    max_unread_rate: float = Field(
        0.2, ge=0, le=1, description="Share of items without a verdict or score, at most; above it the step fails."
    )


class NearDuplicateSettings(Settings):
    """Which texts are too like another of the round, or of any round before it; each tier can be left out."""

    exact: bool = Field(True, description="Drop texts that are equal after normalisation.")
    lexical_threshold: float | None = Field(
        None, ge=0, lt=1, description="ROUGE-L (precision, recall or F) above which texts are too like; none: no tier."
    )
    embedding_threshold: float | None = Field(
        0.999, ge=0, le=1, description="Cosine above which texts are too like; none: no tier."
    )


class EvaluationSettings(Settings):
    """What every round's checkpoint is scored on."""

    world: WorldSettings | None = Field(None, description="The held-out problems of a checkable task.")
    lm_eval: LmEvalSettings | None = Field(None, description="Tasks of lm-evaluation-harness.")
    judge: JudgeSettings | None = Field(None, description="Open-ended prompts, by a judge.")
    protected_prompts: FromEnvironment | None = Field(
        None, description="JSONL file of evaluation prompts that generated data may not contain."
    )
    protected_field: str = Field("prompt", description="The field of that file that holds the prompt.")
    ngram: int = Field(13, ge=1, description="Words in a row that a prompt may not share with a protected prompt.")
    max_similarity: float | None = Field(
        None, ge=0, le=1, description="Cosine to an evaluation prompt above which a prompt is left out; none: no bar."
    )


class CheckSettings(Settings):
    """The bars of the checks."""

    min_novelty: float | None = Field(
        None, ge=0, le=2, description="Mean of 1 - cosine to the nearest text of an earlier round, at least."
    )
    min_vendi_rate: float | None = Field(
        None, ge=0, le=1, description="Vendi score of the kept texts over their number, at least."
    )
    min_distinct_2: float | None = Field(
        None, ge=0, le=1, description="Share of different word pairs among all of the kept texts, at least."
    )
    min_cluster_entropy: float | None = Field(
        None, ge=0, le=1, description="Evenness of the kept texts over clusters, at least."
    )
    max_length_drift: float | None = Field(
        None, ge=0, description="Log ratio of the completions' length to the seeds', at most, either way."
    )
    max_score_length_correlation: float | None = Field(
        None, ge=0, le=1, description="Rank correlation of review score and completion length, at most, either way."
    )
    min_seed_share: float | None = Field(None, ge=0, le=1, description="Share of seeds in the SFT set, at least.")
    max_unscored_rate: float = Field(
        0.2, ge=0, le=1, description="Share of rows without any score, at most; above it the round stops."
    )
    min_pairs: int = Field(1, ge=0, description="Preference pairs a round should bring, after r0000.")


class StopSettings(Settings):
    """When the loop ends."""

    max_rounds: int = Field(4, ge=0, description="Rounds after r0000.")
    patience: int | None = Field(None, ge=1, description="Stop after so many rounds without a gain over the best.")
    max_tokens: int | None = Field(None, ge=1, description="Stop once the rounds have sampled so many tokens.")
    max_hours: float | None = Field(None, gt=0, description="Stop once the rounds have taken so many hours.")
    on_regression: Literal["stop", "rollback", "continue"] = Field(
        "rollback",
        description="After a round worse than the best beyond the noise band: end, start from the best, or go on.",
    )


class ExperimentSettings(Settings):
    """One run of rounds: the `attributes` of an experiment's `defs.yaml`."""

    recipe: RecipeName = Field(description="The method, a module of lance_assets.recipes.")
    parameters: Parameters = Field(
        default_factory=dict,
        validate_default=True,
        description="The recipe's parameters; what is left out has the paper's value.",
    )
    model: ModelName = Field(
        description="'small' for the packaged model, package.module:NAME for another one, a folder, or a hub id."
    )
    model_revision: str | None = Field(None, description="Revision of a hub model.")
    prompt_profile: PromptProfile = Field(
        "full", description="'full' templates for instruction-tuned models, 'compact' for the small model."
    )
    rng_seed: int = Field(0, ge=0, lt=2**31, description="The seed of everything random.")
    description: str = Field("", description="What the experiment is for, shown in the UI.")
    owners: list[Owner] = Field(default_factory=list, description="E-mail addresses, or team:name.")
    seeds: SeedSettings = Field(description="Where the seeds come from.")
    engine: EngineSettings = Field(default_factory=EngineSettings, description="What runs the rounds' model.")
    roles: dict[str, RoleSettings] = Field(
        default_factory=dict, description="Second models by the recipe's job for them, such as 'reviewer'."
    )
    texts: TextSettings | None = Field(None, description="Texts without prompts, for a recipe that names them.")
    embedder: EmbedderSettings = Field(default_factory=EmbedderSettings, description="What embeds kept texts.")
    training: TrainingSettings = Field(default_factory=TrainingSettings, description="How checkpoints are trained.")
    evaluation: EvaluationSettings = Field(description="What checkpoints are scored on.")
    near_duplicates: NearDuplicateSettings = Field(
        default_factory=NearDuplicateSettings, description="Which texts are too like earlier ones."
    )
    checks: CheckSettings = Field(default_factory=CheckSettings, description="The bars of the checks.")
    stop: StopSettings = Field(default_factory=StopSettings, description="When the loop ends.")

    @model_validator(mode="after")
    def _has_a_metric(self) -> Self:
        evaluation = self.evaluation
        if evaluation.world is None and evaluation.lm_eval is None and evaluation.judge is None:
            raise ValueError("evaluation needs world, lm_eval or judge: without a score no round can be compared")
        return self

    @model_validator(mode="after")
    def _has_the_recipes_roles(self) -> Self:
        known = RECIPES[self.recipe].ROLES
        if unknown := sorted(set(self.roles) - set(known)):
            has = ", ".join(known) or "none"
            raise ValueError(f"recipe {self.recipe} has no role {', '.join(unknown)}; it has: {has}")
        return self

    @model_validator(mode="after")
    def _has_the_recipes_texts(self) -> Self:
        needs = getattr(RECIPES[self.recipe], "NEEDS_TEXTS", False)
        if needs and self.texts is None:
            raise ValueError(f"recipe {self.recipe} names the prompts of texts: add a section texts with path")
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
        """What `dg check yaml` validates against."""
        by_recipe = [
            {
                "if": {"properties": {"recipe": {"enum": [name]}}},
                "then": {"properties": {"parameters": recipe.SETTINGS.model_json_schema()}},
            }
            for name, recipe in RECIPES.items()
        ]
        return simplify_schema(super().model_json_schema(*args, **kwargs) | {"allOf": by_recipe})
