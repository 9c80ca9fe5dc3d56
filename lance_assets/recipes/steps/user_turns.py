"""New prompts that a model writes as the user's turn of a chat, in place of being asked for them (Magpie).

Xu et al., "Magpie" (arXiv 2406.08464): an aligned model that is given its chat template up to where the user speaks
goes on with what a user would ask. Nothing explains a task, so nothing is explained back, and no marker is needed.

| `proposals` | what stands before the user's turn |
| --- | --- |
| magpie | the system message alone, where there is one, as in the paper |
| magpie_seeded | other seeds, then the row's own, each as a user's turn with the model's: another like them follows |

Differences: the paper samples at high temperatures and filters by difficulty and reward; here the stage's sampling and
the experiment's filters hold. The second way is ours, since LANCE's low branch is about a seed.
"""

from collections.abc import Sequence
from dataclasses import replace

from lance_assets.algorithms.reviews.thoughts import strip_thinking
from lance_assets.conversations import Turn, quote_prompt, read_conversation, write_conversation
from lance_assets.recipes.asking import RoundIdentity, build_requests, close_thoughts
from lance_assets.recipes.axes import Proposals
from lance_assets.recipes.steps.rows import (
    Generation,
    Shown,
    draw_examples,
    originate,
    propose_in_manner_of,
    record_samples,
    sort_pool,
)
from lance_assets.records import Ask


def propose_user_turns(
    identity: RoundIdentity,
    ask: Ask,
    seeds: Sequence[Shown],
    *,
    num_samples: int,
    pool: Sequence[Shown] = (),
    num_examples: int = 0,
    is_seeded: bool,
) -> list[Generation]:
    """Let the model write the user's turn for each seed, and record every sample, by the stage `new_prompt`.

    Args:
        identity: the round, with the words of the model that is asked: its system message alone is used.
        ask: asks the model.
        seeds: what prompts are proposed for.
        num_samples: samples of each seed.
        pool: the seeds that the examples are drawn from; a seed never sees itself twice.
        num_examples: other seeds before the row's own.
        is_seeded: whether seeds stand before the user's turn; otherwise all requests differ by their sampling seed
            alone.
    """
    ordered, asked = sort_pool(pool), []
    for seed in seeds:
        others = draw_examples(identity, seed.row_id, ordered, number=num_examples) if is_seeded else []
        turns = [turn for row in [*others, seed] for turn in _show_exchange(row)] if is_seeded else []
        asked.append((seed.row_id, write_conversation([*turns, Turn("user", "")])))
    requests = [
        # What the user would say is for the model to write.
        replace(request, messages=request.messages[:-1], writes="user")
        for request in build_requests(identity, "new_prompt", asked, num_samples)
    ]
    samples = close_thoughts(ask("new_prompt", requests))
    origins = []
    for place, sample in enumerate(samples):
        said = strip_thinking(sample.text).strip()
        prompt = quote_prompt(said) if said else None
        origins.append(originate(seeds[place // num_samples], place % num_samples, prompt=prompt, completion=None))
    return record_samples("new_prompt", origins, requests, samples)


def propose_prompts(
    identity: RoundIdentity,
    ask: Ask,
    seeds: Sequence[Shown],
    *,
    proposals: Proposals,
    step: str,
    num_examples: int,
    num_samples: int,
) -> list[Generation]:
    """New prompts such as the seeds: asked for by the step's template (`propose_in_manner_of`), or as user's turns.

    Of the `num_examples` seeds that are shown the row's own is one.
    """
    if proposals == "template":
        return propose_in_manner_of(identity, ask, seeds, step=step, num_examples=num_examples, num_samples=num_samples)
    return propose_user_turns(
        identity,
        ask,
        seeds,
        num_samples=num_samples,
        pool=seeds,
        num_examples=num_examples - 1,
        is_seeded=proposals == "magpie_seeded",
    )


def _show_exchange(row: Shown) -> list[Turn]:
    """A seed as turns; a system message of its own holds for its own conversation, and is left out."""
    said = [turn for turn in read_conversation(row.prompt) if turn.role != "system"]
    return [*said, Turn("assistant", row.completion)]
