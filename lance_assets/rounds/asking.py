"""How a round asks its models: which engine does a stage, what it finishes kept on disk, and what it costs counted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from lance_assets.algorithms.measures.progress import START_ROUND
from lance_assets.recipes.axes import RecipeSettings
from lance_assets.records import Request, Sample, SamplingSettings
from lance_assets.rounds.costs import Cost
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.platform import Platform
from lance_assets.settings.engines import EngineSettings
from resources.engines.contract import Engine, GrammarIgnoredError
from resources.engines.durable_stage import run_durably
from resources.machine.engine_leases import EngineLease

ROUND_MODEL = "round_model"
"""Who does a stage that the recipe gives no other role."""


@dataclass(frozen=True)
class Opened:
    """An engine on the model of a role."""

    engine: Engine
    settings: EngineSettings
    fingerprint: str
    """Of the model: its weights' hash, or a hash of the name a server knows it by."""
    leases: list[EngineLease]
    """Of the processes that hold the model here."""


@dataclass
class Asker:
    """Asks the models of a round for one noun (`records.Ask`).

    An engine is opened when a stage first needs it. Engines that hold a model here are open one at a time; servers
    stay open.
    """

    plan: Plan
    platform: Platform
    round_key: str
    noun: str
    fingerprint: str
    """Of the noun's identity; samples of another one are not taken up."""
    model_path: Path
    """The round's own model."""
    cost: Cost
    log: Callable[[str], None]
    role: str | None = None
    """Who does every stage; None for whom the recipe gives it to."""
    opened: dict[str, Opened] = field(default_factory=dict)
    """By role."""

    @property
    def folder(self) -> Path:
        """Where what is finished is kept until the noun is written."""
        return self.platform.root / "stages" / self.plan.name / self.round_key / self.noun

    def __call__(
        self, stage: str, requests: Sequence[Request], sampling: SamplingSettings | None = None
    ) -> list[Sample]:
        """Samples in the order of the requests.

        Raises:
            EngineError: the engine cannot go on, too many rows failed, or it ignores a grammar that is required.
        """
        if not requests:
            return []
        if sampling is None:
            parameters = self.plan.settings.parameters
            assert isinstance(parameters, RecipeSettings), f"{type(parameters).__name__}: how to sample {stage}?"
            sampling = parameters.sampling
        role = self._find_role(stage)
        mine = self._open(role)
        chosen = self._with_grammar(mine, sampling)
        finished = run_durably(
            requests,
            generate=lambda rows: mine.engine.generate(rows, chosen),
            folder=self.folder,
            fingerprint=f"{self.fingerprint}-{mine.fingerprint}",
            log=self.log,
            stage=stage,
            sampling=chosen,
            flush_seconds=mine.settings.flush_seconds,
            max_failure_rate=mine.settings.max_failure_rate,
        )
        self.cost.add(
            finished.samples,
            seconds=finished.seconds,
            num_taken_up=finished.num_taken_up,
            is_constrained=chosen.grammar is not None,
            prices=mine.settings.prices,
        )
        self.cost.raise_peak(mine.engine.measure_peak())
        return finished.samples

    def close(self) -> None:
        """Close every engine."""
        for role in list(self.opened):
            self._close(role)

    def _close(self, role: str) -> None:
        opened = self.opened.pop(role)
        opened.engine.close()
        for lease in opened.leases:
            self.platform.leases.release(lease)

    def _find_role(self, stage: str) -> str:
        if self.role is not None:
            return self.role
        roles = self.plan.recipe.ROLE_OF_STAGE
        role = roles[stage] if stage in roles else ROUND_MODEL
        is_trained_here = role == "label" and self.plan.trains_label_model
        return role if role in self.plan.roles or is_trained_here else ROUND_MODEL

    def _open(self, role: str) -> Opened:
        if role in self.opened:
            return self.opened[role]
        roles = self.plan.roles
        engine = roles[role].engine if role in roles else self.plan.settings.engine
        if engine.kind != "openai":
            for name in [name for name, other in self.opened.items() if other.settings.kind != "openai"]:
                self._close(name)
        adapter = None
        if role == ROUND_MODEL:
            path: Path | None = self.model_path
            fingerprint = self.platform.checkpoints.hash_checkpoint(self.model_path)[:16]
            adapter = self.platform.find_adapter(
                self.plan.settings, self.plan.folder, self.model_path, name=f"{self.plan.name}-{self.round_key}"
            )
        elif role in roles:
            path, fingerprint = self.platform.find_role_model(roles[role], base=self.plan.folder)
        else:
            path = self.platform.checkpoints.find(self.plan.label_model, START_ROUND)
            fingerprint = self.platform.checkpoints.hash_checkpoint(path)[:16]
        leases: list[EngineLease] = []

        def note_process(pid: int) -> None:
            serves = f"the {role} of {self.noun} by {engine.kind}"
            where = {"experiment": self.plan.name, "round_key": self.round_key}
            leases.append(self.platform.leases.hold(pid, serves, **where))

        opened = self.platform.open_engine(engine, path, adapter=adapter, note_process=note_process, log=self.log)
        self.opened[role] = Opened(opened, engine, fingerprint, leases)
        return self.opened[role]

    def _with_grammar(self, mine: Opened, sampling: SamplingSettings) -> SamplingSettings:
        """The sampling settings without their grammar where the engine does not constrain."""
        if sampling.grammar is None:
            return sampling
        wish = mine.settings.structured_output
        if wish != "off" and mine.engine.can_constrain():
            return sampling
        if wish == "required":
            raise GrammarIgnoredError(
                f"{self.plan.name}: structured_output is required, and the {mine.settings.kind} engine's answers do "
                "not obey a grammar; use a server or version with structured outputs, or structured_output: auto"
            )
        return replace(sampling, grammar=None)
