"""The settings of training: its precision and adapters, and each stage, SFT and the losses of which one may follow it.

| loss | default | source of the defaults |
| --- | --- | --- |
| SFT, DPO | rates, beta 0.1 | LLaMA-Factory's examples |
| KTO | beta 0.1, both weights 1, rate 1e-6 | TRL's `KTOConfig`; the weights are for as many good rows as bad ones |
| ORPO | beta (the paper's lambda) 0.1, rate 8e-6 | arXiv 2403.07691, section 5 and appendix, and TRL's `ORPOConfig` |
| SimPO | beta 2, gamma 1, rate 1e-6 | arXiv 2405.14734, its setting of Llama-3-Base, and TRL's rate |
| GRPO | 8 completions of 512 tokens, temperature 1, beta 0, rate 1e-6 | TRL's `GRPOConfig` |

What a loss needs beside its rows follows from its class: the plan and the trainer read `is_paired` and `num_reads`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

TrainingDtype = Literal["auto", "float32", "bfloat16_autocast"]
"""What products are computed in; "auto" is what suits model and machine (`resources.training.precision`)."""
FrozenDtype = Literal["float32", "bfloat16"]
"""What weights that are not trained are held in."""
SaveDtype = Literal["auto", "float32", "bfloat16"]
"""What a checkpoint's weights are saved in."""
ORDERS_OF_PAIRS = ("shuffled", "best_first")
"""What `order` may be where a row of a batch is a pair."""


class LoraSettings(BaseModel):
    """Low-rank adapters (arXiv 2106.09685), merged into the weights after each stage."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    r: int = Field(16, ge=1, description="Rank.")
    alpha: int = Field(32, ge=1, description="Scale; the update is alpha / r times the product.")
    dropout: float = Field(0.0, ge=0, lt=1, description="On the adapters' input.")
    target_modules: tuple[str, ...] | Literal["all-linear"] = Field("all-linear", description="Layers with adapters.")


class SftSettings(BaseModel):
    """Supervised fine-tuning, loss on completions alone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    is_paired: ClassVar[bool] = False
    """Whether a row of a batch is a pair, of two sequences."""
    divides_batches: ClassVar[bool] = True
    """Whether a batch may be computed in as many parts as the memory asks for."""
    orders: ClassVar[tuple[str, ...]] = ("shuffled", "by_length", "best_first")
    """What `order` may be."""
    is_fused: ClassVar[bool] = True
    """Whether TRL's trainer scores by its fused output embedding alone, so that fewer positions may be scored."""

    learning_rate: float = Field(1e-5, gt=0, description="Peak rate.")
    num_epochs: float = Field(1.0, gt=0, description="Passes over the rows.")
    batch_size: int = Field(16, ge=1, description="Rows of one optimizer step, over all processes.")
    gradient_accumulation_steps: int | None = Field(
        None, ge=1, description="Parts a batch is computed in, to save memory. None: by memory and vocabulary."
    )
    max_length: int = Field(2048, ge=8, description="Tokens of prompt and completion; longer rows are cut and counted.")
    warmup_steps: float = Field(0.1, ge=0, description="Steps of rising rate; below 1 a share of all steps.")
    warmup_from_zero: bool = Field(
        False, description="The first step of a warm-up has rate 0, and trains nothing, as in transformers' schedules."
    )
    weight_decay: float = Field(0.0, ge=0, description="AdamW's.")
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = Field("cosine", description="Of the rate.")
    gradient_checkpointing: bool = Field(False, description="Recompute activations, to save memory.")
    order: Literal["shuffled", "by_length", "best_first"] = Field(
        "shuffled",
        description="Of the rows of each epoch: drawn by rng_seed; drawn so that rows of like length share a batch, "
        "for SFT; or people's first and then the best scored.",
    )

    @field_validator("order")
    @classmethod
    def _takes_the_order(cls, order: str) -> str:
        if order not in cls.orders:
            raise ValueError(
                f"{order} is not for this loss: best_first is for SFT and for losses on pairs, and by_length for SFT. "
                "KTO takes pairs apart and GRPO asks prompts, each in an order of its own. Remove it"
            )
        return order

    @property
    def num_reads(self) -> int:
        """Passes forward over a row beside those of training; above 0 one of them is by a reference model."""
        return 0

    @property
    def wanted_parts(self) -> int | None:
        """Parts that a batch is computed in whatever the memory; None where the memory decides."""
        return self.gradient_accumulation_steps or (None if self.divides_batches else 1)


class DpoSettings(SftSettings):
    """Direct preference optimization (arXiv 2305.18290)."""

    is_paired: ClassVar[bool] = True
    orders: ClassVar[tuple[str, ...]] = ORDERS_OF_PAIRS

    learning_rate: float = Field(5e-6, gt=0, description="Peak rate.")
    beta: float = Field(0.1, gt=0, description="Strength of the pull to the reference model.")
    sft_loss_weight: float = Field(0.0, ge=0, description="Weight of the chosen completions' NLL (RPO's alpha).")

    @property
    def num_reads(self) -> int:
        """The reference model's."""
        return 1


class KtoSettings(SftSettings):
    """Kahneman-Tversky optimization (arXiv 2402.01306), on single rows that are good or bad.

    Its KL is estimated within a part of a batch, by each prompt with the completion of another row; so a part has two
    rows at least, and a batch is one part unless the file says otherwise.
    """

    divides_batches: ClassVar[bool] = False
    orders: ClassVar[tuple[str, ...]] = ("shuffled",)

    learning_rate: float = Field(1e-6, gt=0, description="Peak rate.")
    batch_size: int = Field(16, ge=2, description="Rows of one optimizer step, over all processes; a pair is two.")
    gradient_accumulation_steps: int | None = Field(
        None, ge=1, description="Parts a batch is computed in, each of two rows at least. None: one."
    )
    beta: float = Field(0.1, gt=0, description="Strength of the pull to the reference model.")
    desirable_weight: float = Field(1.0, gt=0, description="Weight of the good rows' loss.")
    undesirable_weight: float = Field(1.0, gt=0, description="Weight of the bad rows' loss.")

    @property
    def num_reads(self) -> int:
        """The reference model's, and those of both models over the rows that the KL is estimated by."""
        return 3

    @model_validator(mode="after")
    def _has_two_rows_in_a_part(self) -> Self:
        parts = self.gradient_accumulation_steps or 1
        if self.batch_size < 2 * parts:
            raise ValueError(
                f"batch_size {self.batch_size} in {parts} parts leaves less than two rows for one, of which KTO "
                "estimates its KL; lower gradient_accumulation_steps or raise batch_size"
            )
        return self


class OrpoSettings(SftSettings):
    """Odds ratio preference optimization (arXiv 2403.07691): the chosen rows' NLL, and the odds ratio; no reference."""

    is_paired: ClassVar[bool] = True
    orders: ClassVar[tuple[str, ...]] = ORDERS_OF_PAIRS
    is_fused: ClassVar[bool] = False

    learning_rate: float = Field(8e-6, gt=0, description="Peak rate.")
    beta: float = Field(0.1, gt=0, description="Weight of the odds ratio beside the NLL, the paper's lambda.")


class SimpoSettings(SftSettings):
    """Simple preference optimization (arXiv 2405.14734): mean log-probabilities a token; no reference."""

    is_paired: ClassVar[bool] = True
    orders: ClassVar[tuple[str, ...]] = ORDERS_OF_PAIRS
    is_fused: ClassVar[bool] = False

    learning_rate: float = Field(1e-6, gt=0, description="Peak rate.")
    beta: float = Field(2.0, gt=0, description="Scale of the reward, which is the mean log-probability of a token.")
    gamma: float = Field(1.0, ge=0, description="By how much the chosen completion's reward should be above.")
    sft_loss_weight: float = Field(0.0, ge=0, description="Weight of the chosen completions' NLL; 0 in the paper.")


class GrpoSettings(SftSettings):
    """Group relative policy optimization (arXiv 2402.03300): completions that the model samples, and their reward."""

    is_fused: ClassVar[bool] = False
    """Its model generates too."""
    orders: ClassVar[tuple[str, ...]] = ("shuffled",)

    learning_rate: float = Field(1e-6, gt=0, description="Peak rate.")
    num_epochs: float = Field(1.0, gt=0, description="Passes over the prompts.")
    batch_size: int = Field(
        16, ge=2, description="Completions of one optimizer step, over all processes: a multiple of num_generations."
    )
    max_length: int = Field(
        2048, ge=8, description="Tokens of prompt and completion; a prompt without room for max_new_tokens is left out."
    )
    num_generations: int = Field(8, ge=2, description="Completions sampled of each prompt.")
    max_new_tokens: int = Field(512, ge=1, description="Tokens after which a completion is cut.")
    temperature: float = Field(1.0, gt=0, le=5, description="Sampling temperature.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus mass.")
    beta: float = Field(
        0.0, ge=0, description="Weight of the KL to the reference model, which is held only above 0; 0.04 in the paper."
    )
    reward: str = Field(
        "rule",
        description="What a completion earns: 'rule' for 1 where the world's rule finds it right, 'gold' for 1 where "
        "it says the seed's gold answer, 'agreed' for 1 where it comes to the same answer as the SFT set's own "
        "completion of the prompt, 'review' for its share of the review's scale, or a function of your own, "
        "package.module:NAME or my_reward.py:NAME, which is given prompt, completion and gold answer or None and "
        "returns a number.",
    )
    max_review_tokens: int = Field(
        256,
        ge=0,
        description="With reward: review, the most tokens of a review's rationale, before its score is read.",
    )

    @property
    def num_reads(self) -> int:
        """The reference model's, where there is one."""
        return int(self.beta > 0)

    @property
    def names_function(self) -> bool:
        """Whether the reward is a person's function."""
        return self.reward not in BUILT_IN

    def require_whole_groups_with_room(self) -> None:
        """Check what the settings must be together; an experiment that trains with another loss does not ask.

        Raises:
            ValueError: a step would have a part of a prompt's completions, or no prompt would have room.
        """
        if self.batch_size % self.num_generations:
            raise ValueError(
                f"batch_size {self.batch_size} is no multiple of num_generations {self.num_generations}: a step has "
                "all completions of a prompt; change one of them"
            )
        if self.max_new_tokens >= self.max_length:
            raise ValueError(
                f"max_new_tokens {self.max_new_tokens} leaves no room for a prompt in max_length {self.max_length}; "
                "raise max_length"
            )


RIGHT, GOLD, AGREED, REVIEW = "rule", "gold", "agreed", "review"
"""The rewards that are built in: by the rule of the evaluation's world, by the seeds' gold answers, by the answers of
the SFT set's own completions, which a recipe such as R-Zero takes from a vote, and by a reviewer."""
BUILT_IN = (RIGHT, GOLD, AGREED, REVIEW)
"""All of them; every other name is that of a function."""


class ReviewSource(BaseModel):
    """What a reviewer is asked about a completion, and who it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    profile: str = Field(description="The reviewer's profile of prompt templates.")
    recipe: str = Field(description="The recipe, whose system message is sent.")
    own: Mapping[str, str] = Field(default_factory=dict, description="The experiment's own words, by file.")
    step: str = Field(description="The template, as lance/review.")
    lowest: int = Field(ge=0, description="The smallest score.")
    highest: int = Field(le=10, description="The largest score.")
    max_review_tokens: int = Field(256, ge=0, description="Most tokens of a rationale.")
    model: Path | None = Field(None, description="Folder of a second model; None: the model that is trained.")
    server: Mapping[str, Any] | None = Field(None, description="Settings of a server's engine, in place of a model.")
    batch_size: int = Field(64, ge=1, description="Reviews that are computed together.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Of a second model.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", description="Of a second model.")


class RewardSource(BaseModel):
    """Where a reward comes from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(RIGHT, description="'rule', 'gold', 'agreed', 'review', or the name of a function.")
    world: str | None = Field(None, description="Of 'rule': the world's name.")
    folder: Path = Field(Path(), description="The experiment's, which files are relative to.")
    mark: str | None = Field(None, description="Of 'gold' and 'agreed': what announces the final answer.")
    content_hash: str | None = Field(None, description="Of the file or model that the name leads to; None for none.")
    review: ReviewSource | None = Field(None, description="Of 'review': what is asked, and of whom.")


SecondSettings = DpoSettings | KtoSettings | OrpoSettings | SimpoSettings | GrpoSettings
"""The settings of a loss that may follow SFT."""


class SftChanges(BaseModel):
    """What one training does in another way than the experiment's; a field that is left out is as everywhere else."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    learning_rate: float | None = Field(None, gt=0, description="Peak rate.")
    num_epochs: float | None = Field(None, gt=0, description="Passes over the rows.")
    warmup_steps: float | None = Field(None, ge=0, description="Steps of rising rate; below 1 a share of all steps.")


class DpoChanges(SftChanges):
    """The same of DPO."""

    beta: float | None = Field(None, gt=0, description="Strength of the pull to the reference model.")
    sft_loss_weight: float | None = Field(None, ge=0, description="Weight of the chosen completions' NLL.")


class KtoChanges(SftChanges):
    """The same of KTO."""

    beta: float | None = Field(None, gt=0, description="Strength of the pull to the reference model.")
    desirable_weight: float | None = Field(None, gt=0, description="Weight of the good rows' loss.")
    undesirable_weight: float | None = Field(None, gt=0, description="Weight of the bad rows' loss.")


class OrpoChanges(SftChanges):
    """The same of ORPO."""

    beta: float | None = Field(None, gt=0, description="Weight of the odds ratio beside the NLL.")


class SimpoChanges(SftChanges):
    """The same of SimPO."""

    beta: float | None = Field(None, gt=0, description="Scale of the reward.")
    gamma: float | None = Field(None, ge=0, description="By how much the chosen completion's reward should be above.")
    sft_loss_weight: float | None = Field(None, ge=0, description="Weight of the chosen completions' NLL.")


class GrpoChanges(SftChanges):
    """The same of GRPO."""

    beta: float | None = Field(None, ge=0, description="Weight of the KL to the reference model.")
    temperature: float | None = Field(None, gt=0, le=5, description="Sampling temperature.")


Stage = TypeVar("Stage", bound=SftSettings)


def change_stage(stage: Stage, changes: SftChanges | None) -> Stage:
    """A stage's settings with what differs in place of theirs; None changes nothing."""
    return stage if changes is None else stage.model_copy(update=changes.model_dump(exclude_none=True))
