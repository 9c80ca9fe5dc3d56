"""The settings of evaluation: a world, lm-evaluation-harness or a judge, and which scores decide."""

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, model_validator

from lance_assets.algorithms.measures.headline import ALL_TASKS, Wanted, name_metric, name_score
from lance_assets.settings.engines import EngineSettings, RoleSettings
from lance_assets.settings.values import FromEnvironment, Settings


class ScoreSettings(Settings):
    """One score of the evaluation."""

    benchmark: str = Field(description="The world's name, a task of the harness, or 'judge'.")
    metric: str = Field(description="Such as 'greedy', or the harness's metric, such as 'exact_match'.")
    filter: str | None = Field(
        None, description="The harness's filter of the metric, such as 'flexible-extract'. None: the one named none."
    )
    task: str = Field(ALL_TASKS, description="A task of the world; 'all' for every task.")
    stratum: int | None = Field(None, description="A stratum of the world. None: every stratum.")

    @property
    def wanted(self) -> Wanted:
        """The score by the names of eval_report."""
        return Wanted(self.benchmark, name_metric(self.metric, self.filter), self.task, self.stratum)


class HeadlineSettings(ScoreSettings):
    """One score of the headline."""

    weight: float = Field(1.0, gt=0, description="Its weight in the mean of the headline's scores.")

    @property
    def wanted(self) -> Wanted:
        """The score by the names of eval_report, with its weight."""
        named = super().wanted
        return Wanted(named.benchmark, named.metric, named.task, named.stratum, self.weight)


class FloorSettings(ScoreSettings):
    """The worst that one score may become."""

    worst: float | None = Field(
        None, description="The worst score allowed: the smallest, or the largest where a lower one is better."
    )
    max_fall: float | None = Field(
        None, ge=0, description="The largest fall allowed from the best of the earlier rounds, in the score's unit."
    )

    @model_validator(mode="after")
    def _has_a_bar(self) -> Self:
        if self.worst is None and self.max_fall is None:
            raise ValueError(f"the floor of {name_score(self.wanted)} sets no bar; give it worst or max_fall")
        return self


def check_named_once(scores: tuple[ScoreSettings, ...], *, what: str) -> None:
    """No score is named twice.

    Raises:
        ValueError: one is.
    """
    names = [name_score(score.wanted) for score in scores]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{what} names {', '.join(twice)} twice; name each score once")


class WorldSettings(Settings):
    """Evaluation on the held-out problems of a checkable task, by its rule."""

    name: str = Field(
        description="The world: package.module:NAME, or my_task.py:NAME for a file in the experiment's folder."
    )
    per_stratum: int = Field(12, ge=1, le=200, description="Held-out problems for each task and stratum of the world.")
    max_new_tokens: int = Field(160, ge=8, description="Most tokens of a completion; a longer one is cut.")
    sampled_temperature: float | None = Field(
        0.7,
        gt=0,
        le=5,
        description="Temperature of the sampled accuracy, which is reported beside the greedy one. None: nothing is "
        "sampled, which takes half the time.",
    )

    @property
    def metrics(self) -> tuple[str, ...]:
        """What is measured of each problem."""
        return ("greedy",) if self.sampled_temperature is None else ("greedy", "sampled")


class TaskSettings(Settings):
    """What differs for one task of the harness."""

    num_fewshot: int | None = Field(None, ge=0, description="Examples before each item. None: as the other tasks.")
    limit: int | None = Field(None, ge=1, description="Items of the task. None: as the other tasks.")


class LmEvalSettings(Settings):
    """Evaluation by lm-evaluation-harness in its own process."""

    tasks: list[str] = Field(min_length=1, description="Names of the harness's tasks, or of tasks in include_path.")
    include_path: str | None = Field(
        None, description="Folder of your own task files (YAML), relative to the experiment's folder."
    )
    num_fewshot: int | None = Field(None, ge=0, description="Examples before each item. None: the task's own number.")
    limit: int | None = Field(None, ge=1, description="Items of each task. None: all.")
    by_task: Mapping[str, TaskSettings] = Field(
        default_factory=dict,
        description="What differs for single tasks, such as mmlu: {num_fewshot: 5, limit: 20}.",
    )
    apply_chat_template: bool | None = Field(
        None,
        description="Whether items are sent as chat messages, with the recipe's system message. None: where the model "
        "has a chat template, since training teaches it to answer chats.",
    )
    fewshot_as_multiturn: bool = Field(
        True, description="Whether the examples of a chat are earlier turns of it, or part of its one message."
    )
    backend: Literal["auto", "engine", "batched", "hf"] = Field(
        "auto",
        description="What runs the model: 'engine' for the round's own engine, of kind vllm, on all of its copies; "
        "'batched' for the platform's own loops, whose scores equal the harness's to rounding and take less time; 'hf' "
        "for the harness's own model. 'auto': 'engine' where the engine's kind is vllm, otherwise 'batched'.",
    )
    batch_size: int = Field(
        32,
        ge=1,
        description="Items evaluated together; it is fixed because scores change slightly with it. It has no effect "
        "where the engine answers.",
    )

    @model_validator(mode="after")
    def _changes_tasks_that_it_has(self) -> Self:
        if unknown := sorted(self.by_task.keys() - set(self.tasks)):
            raise ValueError(f"by_task names {', '.join(unknown)}; name a task of tasks: {', '.join(self.tasks)}")
        return self

    def asks_engine(self, engine: EngineSettings) -> bool:
        """Whether the round's own engine answers the harness."""
        return self.choose_backend(engine) == "engine"

    def choose_backend(self, engine: EngineSettings) -> Literal["engine", "batched", "hf"]:
        """What runs the model, given the round's own engine.

        Raises:
            ValueError: the engine is to answer, and cannot.
        """
        if self.backend == "engine" and engine.kind != "vllm":
            raise ValueError(
                f"evaluation.lm_eval.backend: engine needs the log-likelihoods of given tokens, and an engine of kind "
                f"{engine.kind} gives none; set engine.kind: vllm, or backend: auto"
            )
        if self.backend != "auto":
            return self.backend
        return "engine" if engine.kind == "vllm" else "batched"

    def split(self) -> list[Self]:
        """The tasks by how they are asked: the settings of each group, in the order of its first task."""
        groups: dict[tuple[int | None, int | None], list[str]] = {}
        for task in self.tasks:
            own = self.by_task[task] if task in self.by_task else TaskSettings()
            num_fewshot = self.num_fewshot if own.num_fewshot is None else own.num_fewshot
            groups.setdefault((num_fewshot, self.limit if own.limit is None else own.limit), []).append(task)
        return [
            self.model_copy(update={"tasks": tasks, "num_fewshot": num_fewshot, "limit": limit, "by_task": {}})
            for (num_fewshot, limit), tasks in groups.items()
        ]


class JudgeSettings(RoleSettings):
    """Evaluation on open-ended prompts: a judge, the same in every round, compares completions with an opponent's."""

    path: FromEnvironment = Field(description="File of prompts as of seeds, relative to the experiment's folder.")
    prompt_field: str | None = Field(None, description="The column that holds the prompt. None: recognised.")
    completion_field: str | None = Field(
        None, description="The column that holds the opponent's completion. None: recognised."
    )
    opponent: Literal["reference", "backbone"] = Field(
        "reference",
        description="The opponent: 'reference' for the completions of the file, 'backbone' for the base model's.",
    )
    by: Literal["verdict", "score"] = Field(
        "verdict",
        description="'verdict': the judge compares both completions, in both orders. 'score': it reviews each alone.",
    )
    limit: int | None = Field(None, ge=1, description="Use only this many prompts, from the first. None: all.")
    max_new_tokens: int = Field(512, ge=8, description="Most tokens of a completion; a longer one is cut.")
    max_judge_tokens: int = Field(512, ge=8, description="Most tokens of a verdict or review; a longer one is cut.")
    force_ending: bool = Field(
        True,
        description="Whether a verdict or review that was cut or cannot be read is made to end: the judge goes on from "
        "'verdict: ' or 'score: ', and the probabilities there count.",
    )
    max_unread_rate: float = Field(
        0.2, ge=0, le=1, description="Largest share of items without a verdict or score; above it the step fails."
    )


class EvaluationSettings(Settings):
    """What the checkpoint of every round is scored on."""

    world: WorldSettings | None = Field(None, description="The held-out problems of a checkable task.")
    lm_eval: LmEvalSettings | None = Field(None, description="Tasks of lm-evaluation-harness.")
    judge: JudgeSettings | None = Field(None, description="Open-ended prompts, whose completions a judge compares.")
    allow_task_code: bool = Field(
        False,
        description="Whether the harness's task files under include_path may run Python: !function and metrics "
        "that are scripts. Read them first: they run with your rights.",
    )
    headline: tuple[HeadlineSettings, ...] = Field(
        (),
        description="What rounds are compared by: one score, or several whose mean it is. Empty: the world's greedy "
        "accuracy; else the mean of the main metrics of the harness's tasks; else the length-controlled win rate.",
    )
    floors: tuple[FloorSettings, ...] = Field(
        (), description="Bars of single scores. A round that breaks one is rejected, whatever its headline."
    )
    task_order: tuple[str, ...] = Field(
        (),
        description="The tasks in the order in which rounds learn them, the first in r0000, for the overall "
        "performance and backward transfer of continual learning. Empty: every task is learned from r0000 on.",
    )
    higher_is_better: dict[str, bool] = Field(
        default_factory=dict,
        description="Whether a higher score is better, by metric, where the harness does not know: {my_metric: false}.",
    )
    protected_prompts: FromEnvironment | None = Field(
        None, description="File of evaluation prompts, as of seeds, that generated data may not contain."
    )
    protected_field: str | None = Field(
        None, description="The column of that file that holds the prompt. None: recognised."
    )
    ngram: int = Field(
        13, ge=1, description="A prompt that shares this many words in a row with a protected prompt is left out."
    )
    max_similarity: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Cosine to an evaluation prompt above which a prompt is left out. None: not compared.",
    )

    @model_validator(mode="after")
    def _names_scores_once(self) -> Self:
        check_named_once(self.headline, what="evaluation.headline")
        check_named_once(self.floors, what="evaluation.floors")
        return self

    @property
    def asks_harness_chats(self) -> bool:
        """Whether tasks of lm-evaluation-harness are sent as chats to a model that has a chat template."""
        return self.lm_eval is not None and self.lm_eval.apply_chat_template is not False
