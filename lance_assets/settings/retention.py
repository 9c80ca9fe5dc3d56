"""What is kept of finished rounds on the disk; tables are always kept."""

from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from lance_assets.algorithms.measures.progress import parse_round
from lance_assets.settings.values import Settings


def _check_round(name: str) -> str:
    parse_round(name)
    return name


class KeptRounds(Settings):
    """Of which finished rounds something is kept: of all, or of the last ones, the best one and milestones."""

    last: int | None = Field(
        None, ge=1, description="Of how many rounds at the end it is kept. None: of all rounds, and nothing is removed."
    )
    best: bool = Field(True, description="Whether it is kept of the best round so far.")
    every: int | None = Field(
        None, ge=1, description="Milestones: it is kept of each round whose number is a multiple. None: of none."
    )
    rounds: tuple[Annotated[str, AfterValidator(_check_round)], ...] = Field(
        (), description="Milestones by name, such as [r0000, r0007]."
    )

    @model_validator(mode="after")
    def _removes_something(self) -> Self:
        if self.last is None and (self.every is not None or self.rounds):
            raise ValueError("every and rounds add to the last rounds, and without last all are kept; set last too")
        return self

    @property
    def rule(self) -> str:
        """The rule in words, such as `last 2, best, every 10`."""
        if self.last is None:
            return "all"
        parts = [f"last {self.last}", *(["best"] if self.best else [])]
        parts += [f"every {self.every}"] if self.every is not None else []
        return ", ".join([*parts, *self.rounds])

    def keeps(self, key: str, *, finished: list[str], best: str | None) -> bool:
        """Whether it is kept of a finished round.

        Args:
            key: the round.
            finished: every finished round, oldest first.
            best: the best of them; None where there is none.

        >>> rule, finished = KeptRounds(last=1, every=2), ["r0000", "r0001", "r0002", "r0003", "r0004", "r0005"]
        >>> [key for key in finished if rule.keeps(key, finished=finished, best="r0001")]
        ['r0000', 'r0001', 'r0002', 'r0004', 'r0005']
        """
        if self.last is None or key in finished[-self.last :] or key in self.rounds:
            return True
        is_milestone = self.every is not None and parse_round(key) % self.every == 0
        return is_milestone or (self.best and key == best)


class RetentionSettings(Settings):
    """What is removed of a finished round, after each round: by default nothing.

    What something still needs is never removed: the weights that the next round or an unfinished one starts from, the
    best ones that a rollback goes back to, and those that another experiment's file names.
    """

    checkpoints: KeptRounds = Field(default_factory=KeptRounds, description="The weights of a round.")
    optimizer_states: KeptRounds = Field(
        default_factory=KeptRounds,
        description="What a trainer of your own leaves in a checkpoint to go on from: optimizer, schedule and random "
        "states. The packaged trainer leaves none.",
    )
    parts: KeptRounds = Field(
        default_factory=KeptRounds,
        description="What is left in stages/ of a step that has finished: samples, and half-trained models.",
    )
