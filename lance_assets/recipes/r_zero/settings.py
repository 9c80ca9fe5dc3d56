"""R-Zero's parameters, with the paper's constants as defaults."""

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from lance_assets.recipes.axes import Losses, Proposals, RecipeSettings, StageSampling, StartsFrom, TrainsOn


class RZeroSettings(RecipeSettings):
    """R-Zero's parameters; the defaults are the paper's constants."""

    own_stages: ClassVar[Mapping[str, StageSampling]] = {"new_prompt": StageSampling(top_p=0.95)}

    starts_from: StartsFrom = "previous"
    trains_on: TrainsOn = "latest"
    losses: Losses = "grpo"
    sft_on_seeds: bool = Field(False, description="Whether r0000 trains on the seeds; the paper has none.")
    temperature: float = Field(1.0, ge=0, le=5, description="Sampling temperature of questions and answers.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus mass of answers; of questions it is 0.95.")
    max_new_tokens: int = Field(4096, ge=1, description="Tokens after which a sample is cut.")
    max_seeds: int | None = Field(None, ge=1, description="Seeds that a round's questions are modelled on; none: all.")
    num_examples: int = Field(3, ge=1, le=32, description="Seeds shown for a question; the compact templates show one.")
    num_prompts: int = Field(4, ge=1, le=64, description="Questions sampled for each seed; pairs compare these.")
    num_answers: int = Field(10, ge=2, le=256, description="Answers sampled of each question, which vote (m).")
    delta: float = Field(
        0.25, ge=0, le=0.5, description="A question is trained on where the share that agrees is 1/2 within this."
    )
    repetition_weight: float = Field(
        1.0, ge=0, le=10, description="What a question loses of its reward for the share of the round that is like it."
    )
    cluster_distance: float = Field(
        0.5, gt=0, le=1, description="Questions are alike below this mean distance of 1 - BLEU."
    )
    max_questions: int | None = Field(
        None, ge=1, description="Questions trained on in a round, those of the highest reward; none: all at the edge."
    )
    answer_mark: str | None = Field(
        None,
        min_length=1,
        description="What announces the final answer in a completion. None: 'answer is' or 'answer:', else the last "
        "number is the answer.",
    )
    trains_proposer: bool = Field(
        True, description="With a loss on pairs: whether a seed's best and worst questions are a pair too."
    )
    proposals: Proposals = Field(
        "template",
        description="How questions are proposed: asked for by the template; or written by the model as the user's turn "
        "of its own chat template, after nothing (magpie) or after the seed and others (magpie_seeded).",
    )

    @property
    def has_scale(self) -> bool:
        """An answer agrees or not; a question's reward lies in 0 to 1."""
        return False

    @property
    def pairs_questions(self) -> bool:
        """Whether questions are paired: a prompt that asks for them is needed, which magpie has none of."""
        return self.trains_proposer and self.builds_pairs and self.proposals == "template"
