"""What SELF-GUIDE asks of its model: inputs of the task in waves, and ten annotations of each."""

import random
from collections.abc import Sequence
from dataclasses import replace

from lance_assets.algorithms.reviews.thoughts import strip_thinking
from lance_assets.algorithms.selection.annotated_inputs import (
    Annotated,
    Bounds,
    choose_consistent,
    measure_bounds,
    select_inputs,
)
from lance_assets.conversations import show_prompt
from lance_assets.recipes.asking import build_requests, close_thoughts, read_completion, read_new_prompt
from lance_assets.recipes.contract import RoundInputs
from lance_assets.recipes.self_guide.settings import SelfGuideSettings
from lance_assets.recipes.steps.rows import Generation, Origin, Seed, record_samples, show_examples
from lance_assets.records import derive_row_id

INPUT_STEP = "self_guide/input"
ANNOTATE_STEP = "self_guide/annotate"

Inputs = RoundInputs[SelfGuideSettings]

_UNREAD = {"stop": "empty", "length": "cut_off", "error": "generation_failed"}
"""Why an input could not be read, by how its sample ended."""


def choose_demos(seeds: Sequence[Seed], settings: SelfGuideSettings) -> list[Seed]:
    """The demonstrations: the first seeds of the file, the same in every round.

    Raises:
        ValueError: there are fewer seeds.
    """
    if len(seeds) < settings.num_demos:
        raise ValueError(
            f"num_demos: {settings.num_demos} demonstrations are wanted, and there are {len(seeds)} seeds; give more, "
            "or lower num_demos"
        )
    return list(seeds[: settings.num_demos])


def word_task(inputs: RoundInputs[SelfGuideSettings], demos: Sequence[Seed], prompt: str) -> str:
    """An input of the task as a model is asked it: after the instruction and the demonstrations."""
    settings = inputs.settings
    return inputs.identity.templates.render(
        ANNOTATE_STEP,
        prompt=prompt,
        examples=show_examples(demos),
        instruction=settings.instruction,
        labels=", ".join(settings.labels),
    )


def propose(inputs: Inputs, demos: Sequence[Seed]) -> list[Generation]:
    """Inputs of every wave, each kept or refused with a reason; as kind "new_prompt".

    A wave is asked once the one before has ended, since it shows what that one brought.
    """
    settings, rows, accepted = inputs.settings, list[Generation](), list[str]()
    own = [show_prompt(demo.prompt) for demo in demos]
    bounds = measure_bounds(own) if settings.filters_input_length else None
    for wave in range(1, settings.num_waves + 1):
        for row in _ask_wave(inputs, demos, accepted, wave, bounds):
            rows.append(row)
            if row.refused_reason is None and row.prompt is not None:
                accepted.append(row.prompt)
    return rows


def _ask_wave(
    inputs: Inputs, demos: Sequence[Seed], accepted: Sequence[str], wave: int, bounds: Bounds | None
) -> list[Generation]:
    identity, settings, stage = inputs.identity, inputs.settings, f"input{wave}"
    starts = [demos[number % len(demos)] for number in range(settings.wave_size)]
    asked = []
    for number, demo in enumerate(starts):
        rng = random.Random(derive_row_id(identity.rng_seed, identity.round_key, stage, number))
        texts = draw_texts(rng, demos, accepted, settings)
        asked.append((f"{demo.row_id}:{number}", identity.templates.render(INPUT_STEP, **texts)))
    requests = build_requests(identity, stage, asked, 1)
    samples = close_thoughts(inputs.ask(stage, requests))
    prompts = [
        read_new_prompt(identity.templates, INPUT_STEP, sample) if sample.finish_reason == "stop" else None
        for sample in samples
    ]
    known = [*(demo.prompt for demo in demos), *accepted]
    reasons = select_inputs(prompts, known, bounds=bounds, noise=settings.all_noise)
    origins = [
        Origin(demo.row_id, demo.row_id, (wave - 1) * settings.wave_size + number, prompt, None)
        for number, (demo, prompt) in enumerate(zip(starts, prompts, strict=True))
    ]
    rows = record_samples("new_prompt", origins, requests, samples)
    return [
        replace(row, refused_reason=_UNREAD[row.finish_reason] if row.prompt is None else reason)
        for row, reason in zip(rows, reasons, strict=True)
    ]


def draw_texts(
    rng: random.Random, demos: Sequence[Seed], accepted: Sequence[str], settings: SelfGuideSettings
) -> dict[str, object]:
    """What one request for an input shows: the variables of its template.

    Args:
        rng: draws the order of the demonstrations, earlier inputs and the label.
        demos: the demonstrations.
        accepted: inputs of earlier waves.
        settings: how many may be shown, and how long they may be.

    Returns:
        `examples`, the demonstrations in a drawn order; `generated`, one to `max_shown` earlier inputs, numbered, fewer
        where they would be too long; `label`, drawn from all labels; `prompt`, one of the inputs that are shown, for
        templates that show a single one; and the `instruction`.
    """
    shuffled = rng.sample(list(demos), len(demos))
    most = min(settings.max_shown, len(accepted))
    drawn = rng.sample(list(accepted), rng.randint(1, most)) if most else []
    room = settings.max_shown_chars - len(settings.instruction) - sum(len(demo.prompt) for demo in demos)
    shown = list[str]()
    for text in drawn:
        room -= len(text)
        if room < 0:
            break
        shown.append(text)
    label = rng.choice(list(settings.labels)) if settings.labels else ""
    return {
        "instruction": settings.instruction,
        "examples": show_examples(shuffled),
        "generated": "\n".join(f"{number}. {show_prompt(text)}" for number, text in enumerate(shown, start=1)),
        "label": label,
        "prompt": rng.choice([*(demo.prompt for demo in shuffled), *shown]),
    }


def annotate(inputs: Inputs, demos: Sequence[Seed], proposed: Sequence[Generation]) -> list[Generation]:
    """The annotations of every accepted input, as kind "annotation", and what they agree on, as kind "completion".

    Each accepted input has one completion: refused, with the reason, where too few annotations agree.
    """
    identity, settings = inputs.identity, inputs.settings
    kept = [(row, row.prompt) for row in proposed if row.refused_reason is None and row.prompt is not None]
    asked = [(row.row_id, word_task(inputs, demos, prompt)) for row, prompt in kept]
    requests = build_requests(identity, "annotation", asked, settings.num_annotations)
    samples = close_thoughts(inputs.ask("annotation", requests))
    labels = settings.read_labels
    bounds = None
    if settings.filters_output_length and labels is None:
        bounds = measure_bounds([demo.completion.strip() for demo in demos])
    rows, completions = list[Generation](), list[Generation]()
    for place, (row, prompt) in enumerate(kept):
        own = slice(place * settings.num_annotations, (place + 1) * settings.num_annotations)
        said = [
            read_completion(identity, sample) if sample.finish_reason == "stop" else None for sample in samples[own]
        ]
        found = choose_consistent(
            # Labels are read without thoughts, texts are trained on as they are.
            [None if text is None else strip_thinking(text) for text in said] if labels is not None else said,
            min_agreement=settings.min_agreement,
            bounds=bounds,
            noise=settings.all_noise,
            labels=labels,
        )
        origins = [Origin(row.seed_id, row.row_id, number, prompt, text) for number, text in enumerate(said)]
        annotations = record_samples("annotation", origins, requests[own], samples[own])
        rows += [
            replace(one, refused_reason=_UNREAD[one.finish_reason] if text is None else reason)
            for one, text, reason in zip(annotations, said, found.reasons, strict=True)
        ]
        completions.append(_record_chosen(annotations[0], found))
    return rows + completions


def _record_chosen(first: Generation, found: Annotated) -> Generation:
    """What the annotations of an input agree on, as a row of its own; its tokens are counted with theirs."""
    return replace(
        first,
        row_id=derive_row_id(first.parent_id, "agreed"),
        kind="completion",
        sample_number=0,
        completion=found.output,
        raw_text=found.output or "",
        finish_reason="stop",
        error=None,
        prompt_tokens=0,
        completion_tokens=0,
        agreement=found.agreement,
        refused_reason=found.reason,
    )
