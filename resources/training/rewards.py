"""What a sampled completion earns in GRPO: 1 where it is right or agrees, else 0; or what a review or a function says.

A completion of which nothing can be told earns 0 as a wrong one does, since a model that hides its answer must not do
better than one that errs.

A completion is read from its tokens as everywhere else (`read_text`). TRL's own texts lack the tags of thoughts that
are special tokens, or that the prompt has opened, and what a thought says would be taken for the answer.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from lance_assets.algorithms.reviews.gold_answers import says_same_answer
from lance_assets.rewards import Reward, find_reward_function, tell_right
from lance_assets.worlds import find_world
from resources.models.chat_format import list_turn_ends, read_text
from resources.training.review_reward import ReviewReward
from resources.training.stage_settings import AGREED, GOLD, RIGHT, RewardSource

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def find_reward(source: RewardSource) -> Reward:
    """The reward.

    Raises:
        WorldError: there is no such world.
        RewardError: there is no such function.
    """
    if source.name == RIGHT:
        world = find_world(source.world or "", source.folder)
        return lambda prompt, completion, _: float(tell_right(prompt, completion, world=world, answer=None) is True)
    if source.name == GOLD:
        return lambda prompt, completion, answer: float(
            tell_right(prompt, completion, world=None, answer=answer, mark=source.mark) is True
        )
    if source.name == AGREED:
        return lambda prompt, completion, answer: float(
            answer is not None and says_same_answer(completion, answer, mark=source.mark)
        )
    return find_reward_function(source.name, source.folder)


def score_reviews(reviewer: ReviewReward, tokenizer: "PreTrainedTokenizerBase") -> Callable[..., list[float]]:
    """A reviewer's scores as TRL asks for them; see `score_batch`."""

    def reward_completions(*, completion_ids: list[list[int]], question: list[str], **_: Any) -> list[float]:
        return reviewer.score(question, _read_texts(tokenizer, completion_ids))

    return reward_completions


def score_batch(reward: Reward, tokenizer: "PreTrainedTokenizerBase") -> Callable[..., list[float | None]]:
    """The reward as TRL calls it, on the completions of a batch and the columns of their rows.

    Args:
        reward: of one completion.
        tokenizer: the model's, which reads the completions' tokens.
    """

    def reward_completions(
        *, completion_ids: list[list[int]], question: list[str], answer: list[str | None], **_: Any
    ) -> list[float | None]:
        texts = _read_texts(tokenizer, completion_ids)
        return [reward(*row) for row in zip(question, texts, answer, strict=True)]

    return reward_completions


def _read_texts(tokenizer: "PreTrainedTokenizerBase", completion_ids: Sequence[Sequence[int]]) -> list[str]:
    ends = list_turn_ends(tokenizer)
    return [read_text(tokenizer, ids[:-1] if ids and ids[-1] in ends else ids) for ids in completion_ids]
