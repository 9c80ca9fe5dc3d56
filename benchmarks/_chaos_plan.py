"""When and what `benchmarks.chaos` kills: over all stages of the rounds, each kind of process as often as the others.

A stage is a step of a round, such as "r0001 sft_set" or its check "r0001 sft_set.no_evaluation_overlap". It lasts until
the next one begins, so that a kill also falls between two steps.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

TARGETS = {
    "command": ("step", "run", "trainer", "group"),
    "daemon": ("step", "run", "trainer", "group", "daemon", "code_server"),
}
"""What is killed, by who runs the rounds; the first two are there in every stage."""
MAX_TRAINERS = 2
"""Kills of the trainer in one stage: a run tries a training that was killed again so often."""


@dataclass(frozen=True)
class Stage:
    """A step of a round, as a run that was left alone made it."""

    name: str
    """The round and the step."""
    seconds: float
    """From its begin to that of the next stage."""
    num_train_steps: int = 0
    """Steps that the trainer makes in it."""


@dataclass(frozen=True)
class Kill:
    """A kill that is to come."""

    target: str
    """One of `TARGETS`."""
    stage: int
    """The place of its stage, from 0; it comes in the first stage at work from this one on."""
    share: float
    """What of the stage is over, in [0, 1): of its seconds, or of its training steps for the trainer."""


def draw_kills(
    stages: Sequence[Stage], way: str, num_kills: int, rng: random.Random, *, num_owed: int = 0
) -> list[Kill]:
    """Draw the kills of one run, in the order in which they come.

    Kills of the trainer are dealt out over the stages that train. All others are drawn from parts of the timeline with
    equally many stages, one from each part.

    Args:
        stages: of the run that was left alone, in their order; at least one trains.
        way: who runs the rounds.
        num_kills: how many kills there are.
        rng: draws.
        num_owed: kills that shall be of the trainer, since earlier ones came too late; at most `num_kills`.
    """
    training = [place for place, stage in enumerate(stages) if stage.num_train_steps > 1]
    drawn = zip(range(num_kills - num_owed), _repeat(TARGETS[way], rng), strict=False)
    targets = ["trainer"] * num_owed + [target for _, target in drawn]
    num_trainers = min(targets.count("trainer"), MAX_TRAINERS * len(training))
    others = [target for target in targets if target != "trainer"]
    others += [rng.choice(TARGETS[way][:2]) for _ in range(num_kills - num_trainers - len(others))]
    rng.shuffle(training)
    kills = [Kill("trainer", training[number % len(training)], rng.random()) for number in range(num_trainers)]
    for number, target in enumerate(others):
        # In integers, so that each stage is in one part, or each part in one stage.
        first, after = (edge * len(stages) // len(others) for edge in (number, number + 1))
        kills.append(Kill(target, rng.randrange(first, max(after, first + 1)), rng.random()))
    return sorted(kills, key=lambda kill: (kill.stage, kill.share))


def _repeat(targets: Sequence[str], rng: random.Random) -> Iterator[str]:
    """All targets in a random order, again and again."""
    while True:
        yield from rng.sample(targets, len(targets))
