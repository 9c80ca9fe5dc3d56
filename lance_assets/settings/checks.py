"""When texts are near-duplicates, the limits of the checks, and when the loop ends."""

from typing import Literal

from pydantic import Field

from lance_assets.settings.values import Settings


class NearDuplicateSettings(Settings):
    """When a text is a near-duplicate of one in the same or an earlier round. Each tier can be left out."""

    exact: bool = Field(True, description="Drop texts that are equal after normalisation.")
    lexical_threshold: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="ROUGE-L (precision, recall or F) above which a text is a near-duplicate. None: not compared.",
    )
    embedding_threshold: float | None = Field(
        0.999,
        ge=0,
        le=1,
        description="Cosine of embeddings above which a text is a near-duplicate. None: not compared.",
    )
    keeps_contrast: bool = Field(
        True,
        description="Whether texts that are alike are kept where they say something else: completions of one prompt "
        "with other numbers, negations or names, completions that share only their prompt, and short texts in long "
        "ones. False: every text above a threshold is dropped, as in the paper.",
    )


class CheckSettings(Settings):
    """The limits of the checks. A check whose limit is None never fails."""

    min_novelty: float | None = Field(
        None,
        ge=0,
        le=2,
        description="Smallest novelty: the mean of 1 - cosine to the nearest text of an earlier round.",
    )
    min_vendi_rate: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Smallest Vendi score of the kept texts, divided by their number; of more than 1,000 texts that of "
        "1,000 drawn ones, so that the bar does not depend on how many there are.",
    )
    min_distinct_2: float | None = Field(
        None, ge=0, le=1, description="Smallest share of distinct word pairs among all word pairs of the kept texts."
    )
    min_cluster_entropy: float | None = Field(
        None, ge=0, le=1, description="Smallest evenness of the kept texts over clusters."
    )
    max_length_drift: float | None = Field(
        None, ge=0, description="Largest absolute log ratio of the completions' length to the seeds'."
    )
    max_score_length_correlation: float | None = Field(
        None, ge=0, le=1, description="Largest absolute rank correlation of review score and completion length."
    )
    min_seed_share: float | None = Field(None, ge=0, le=1, description="Smallest share of seeds in the SFT set.")
    min_human_likeness: float | None = Field(
        None,
        ge=0,
        le=0.5,
        description="Smallest chance that a generated text looks more like people's than a seed does; 0.5 where a "
        "classifier on the vectors cannot tell them apart, 0 where it always can.",
    )
    max_unscored_rate: float = Field(
        0.2, ge=0, le=1, description="Largest share of rows without any score; above it the round stops."
    )
    min_review_auc: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Smallest AUC of r0000's reviewer on balanced pairs of seeds; below it r0000 ends without an "
        "evaluation and no round builds on its reviews. None: the check warns of a reviewer that may be at chance.",
    )
    min_gold_auc: float | None = Field(
        0.5,
        ge=0,
        le=1,
        description="Bar of the AUC of each round's review scores, right rows against wrong ones, where gold answers "
        "or the world's rule tell them; the round stops where the whole 95% interval lies below it. None: no bar.",
    )
    max_equal_score_rate: float = Field(
        0.98, ge=0, le=1, description="Largest share of a round's scored rows, 20 or more, that may have one score."
    )
    min_keep_rate: float = Field(
        0.02, ge=0, le=1, description="Smallest share that cleaning keeps of 20 or more new prompts, or completions."
    )
    max_one_wording_rate: float = Field(
        0.9,
        ge=0,
        le=1,
        description="Largest share of a round's own prompts, 20 or more, that may be one prompt or of one wording; it "
        "does not hold where the seeds are so.",
    )
    max_cut_off_rate: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Largest share of a kind of generations that reach their token limit, and so are never trained on.",
    )
    min_pairs: int = Field(1, ge=0, description="Fewest preference pairs that each round after r0000 should add.")
    min_kappa: float | None = Field(
        0.2,
        ge=-1,
        le=1,
        description="Smallest Cohen's kappa of people's decisions and the model's reviews, on 10 or more rows that "
        "both judged; below it the check warns. It is of experiments with human_review alone.",
    )
    min_backward_transfer: float | None = Field(
        None,
        le=0,
        description="Smallest mean change of the tasks since they were learned, in the scores' unit; the check "
        "no_forgetting warns when its whole 95% interval lies below. None: no bar.",
    )
    max_forgetting: float | None = Field(
        0.0,
        ge=0,
        description="Largest fall of a task or stratum from the best it ever had, in the score's unit. The check warns "
        "when the 95% interval of the fall lies wholly beyond it.",
    )


class StopSettings(Settings):
    """When the loop ends."""

    max_rounds: int = Field(4, ge=0, description="Rounds after r0000.")
    patience: int | None = Field(
        None, ge=1, description="Stop after this many rounds without a gain over the best. None: never."
    )
    max_tokens: int | None = Field(
        None, ge=1, description="Stop when the rounds have sampled this many tokens. None: never."
    )
    max_hours: float | None = Field(
        None, gt=0, description="Stop when the rounds have taken this many hours. None: never."
    )
    on_regression: Literal["stop", "rollback", "continue"] = Field(
        "rollback",
        description="After a round that is significantly worse than the best: 'stop' the loop, 'rollback' to continue "
        "from the best checkpoint, or 'continue' from the last one.",
    )
    rejected_data: Literal["keep", "leave_out"] = Field(
        "keep",
        description="The rows of a round that was rolled back or broke a floor: 'keep' them in the sets of later "
        "rounds as the paper does, or 'leave_out'.",
    )
