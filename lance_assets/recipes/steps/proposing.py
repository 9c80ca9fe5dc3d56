"""How recipes propose: new prompts from seeds, and completions of them, every sample recorded."""

import random
from collections.abc import Sequence

from lance_assets.prompts import render_prompt
from lance_assets.recipes.asking import RoundIdentity, build_requests, read_final
from lance_assets.recipes.steps.rows import Generation, Origin, Shown, originate, record_samples
from lance_assets.records import Ask, derive_row_id


def propose_from_seeds(
    identity: RoundIdentity, ask: Ask, seeds: Sequence[Shown], *, kind: str, step: str, num_samples: int
) -> list[Generation]:
    """Ask one proposing step's template about each seed and record every sample.

    Args:
        identity: the round.
        ask: asks the model; the stage is `kind`.
        seeds: what is shown, one seed a prompt.
        kind: of the rows: "new_prompt", or another for completions of the seed's own prompt.
        step: the prompt template, given `prompt` and `completion`.
        num_samples: samples of each seed.
    """
    asked = [
        (seed.row_id, render_prompt(identity.prompt_profile, step, prompt=seed.prompt, completion=seed.completion))
        for seed in seeds
    ]
    requests = build_requests(identity, kind, asked, num_samples)
    samples = ask(kind, requests)
    origins = []
    for index, sample in enumerate(samples):
        seed, final = seeds[index // num_samples], read_final(sample)
        prompt, completion = (final, None) if kind == "new_prompt" else (seed.prompt, final)
        origins.append(originate(seed, index % num_samples, prompt=prompt, completion=completion))
    return record_samples(kind, origins, requests, samples)


def propose_in_manner_of(
    identity: RoundIdentity, ask: Ask, seeds: Sequence[Shown], *, step: str, num_examples: int, num_samples: int
) -> list[Generation]:
    """Ask for new prompts with some seeds shown as examples, and record every sample.

    Each seed is the first example once. The round draws the others, the same ones whatever the order of the seeds. The
    template is given `examples`, numbered, and the first one's `prompt` and `completion`.
    """
    asked, drawn_from = [], sorted(seeds, key=lambda seed: seed.row_id)
    for seed in seeds:
        rng = random.Random(derive_row_id(identity.rng_seed, identity.round_key, seed.row_id))
        others = [other for other in drawn_from if other.row_id != seed.row_id]
        shown = [seed, *rng.sample(others, min(num_examples - 1, len(others)))]
        examples = "\n".join(f"{number}. {row.prompt}" for number, row in enumerate(shown, start=1))
        texts = {"prompt": seed.prompt, "completion": seed.completion, "examples": examples}
        asked.append((seed.row_id, render_prompt(identity.prompt_profile, step, **texts)))
    requests = build_requests(identity, "new_prompt", asked, num_samples)
    samples = ask("new_prompt", requests)
    origins = [
        originate(seeds[index // num_samples], index % num_samples, prompt=read_final(sample), completion=None)
        for index, sample in enumerate(samples)
    ]
    return record_samples("new_prompt", origins, requests, samples)


def complete_new_prompts(
    identity: RoundIdentity, ask: Ask, new_prompts: Sequence[Generation], num_samples: int
) -> list[Generation]:
    """Sample completions of every new prompt that was read and not cut, by the stage `completion`."""
    readable = [(row, row.prompt) for row in new_prompts if row.prompt is not None and row.finish_reason == "stop"]
    requests = build_requests(identity, "completion", [(row.row_id, prompt) for row, prompt in readable], num_samples)
    samples = ask("completion", requests)
    origins = []
    for index, sample in enumerate(samples):
        row, prompt = readable[index // num_samples]
        completion = sample.text.strip() or None
        origins.append(Origin(row.seed_id, row.row_id, index % num_samples, prompt, completion))
    return record_samples("completion", origins, requests, samples)


def complete_prompts(identity: RoundIdentity, ask: Ask, rows: Sequence[Shown], *, stage: str) -> list[Generation]:
    """One completion of each row's own prompt, asked as it is and recorded as the kind `stage`."""
    requests = build_requests(identity, stage, [(row.row_id, row.prompt) for row in rows], 1)
    samples = ask(stage, requests)
    origins = [
        originate(row, 0, prompt=row.prompt, completion=sample.text.strip() or None)
        for row, sample in zip(rows, samples, strict=True)
    ]
    return record_samples(stage, origins, requests, samples)
