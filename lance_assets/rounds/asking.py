"""How a round asks its models: which engine does a stage, what is kept on disk, and what it takes.

What a step took is never part of a table, since it differs from run to run.
"""

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

from lance_assets.algorithms.measures.progress import START_ROUND
from lance_assets.algorithms.selection.mixing import deal_rows
from lance_assets.recipes.contract import ROUND_MODEL
from lance_assets.records import FollowUp, Request, Sample, SamplingSettings, TurnNotContinuedError
from lance_assets.rounds.plan import GENERATOR, Plan
from lance_assets.rounds.platform import Platform
from lance_assets.settings.engines import EngineSettings, PriceSettings
from resources.engines.contract import Engine, FollowingEngine, GrammarIgnoredError
from resources.engines.durable_stage import run_durably
from resources.machine.handover import EngineLease
from resources.machine.processes import MemoryPeak

OWN = "own"
"""What the round's own model is called among generators."""

logger = logging.getLogger(__name__)


@dataclass
class Cost:
    """What one noun of a round took."""

    seconds: float = 0.0
    """From start to end of the step that finished it."""
    engine_seconds: float = 0.0
    """Of engines at work, tries that were interrupted included."""
    model_seconds: float = 0.0
    """Of models at work: asked, read, trained and evaluated, without starting and loading them."""
    num_samples: int = 0
    """Samples it holds."""
    num_taken_up: int = 0
    """Of them, those an interrupted try had finished."""
    prompt_tokens: int = 0
    """Of all samples, cached ones included."""
    cached_tokens: int = 0
    """Of the prompt tokens, those the engine took from its cache."""
    completion_tokens: int = 0
    """Of all samples."""
    num_stopped: int = 0
    """Samples that ended by themselves."""
    num_cut_off: int = 0
    """Samples cut at the token limit."""
    num_failed: int = 0
    """Samples the engine could not give."""
    num_constrained: int = 0
    """Samples that a grammar constrained."""
    num_embedded: int = 0
    """Texts embedded for the first time."""
    peak_host_gib: float = 0.0
    """The most memory of the machine that the step's processes held."""
    peak_gpu_gib: float = 0.0
    """The most GPU memory they held; 0 without a GPU."""
    price: float = 0.0
    """In the currency of `engine.prices`; 0 where none are given."""
    ended: float = 0.0
    """When the step ended, in seconds since 1970; 0 where that is not known."""

    def add(
        self,
        samples: Sequence[Sample],
        *,
        seconds: float,
        num_taken_up: int,
        is_constrained: bool,
        prices: PriceSettings,
        start_seconds: float = 0.0,
    ) -> None:
        """Count a stage's samples and what the engine took for them, `start_seconds` of it to load its model."""
        prompt, cached, completion = (
            sum(getattr(sample, name) for sample in samples)
            for name in ("prompt_tokens", "cached_tokens", "completion_tokens")
        )
        self.engine_seconds += seconds
        self.model_seconds += max(0.0, seconds - start_seconds)
        self.num_samples += len(samples)
        self.num_taken_up += num_taken_up
        self.prompt_tokens += prompt
        self.cached_tokens += cached
        self.completion_tokens += completion
        self.num_stopped += sum(sample.finish_reason == "stop" for sample in samples)
        self.num_cut_off += sum(sample.finish_reason == "length" for sample in samples)
        self.num_failed += sum(sample.finish_reason == "error" for sample in samples)
        self.num_constrained += len(samples) if is_constrained else 0
        # Providers bill prompt tokens from their cache at a price of their own.
        per_million = (
            (prompt - cached) * prices.prompt_per_million
            + cached * prices.cached_per_million
            + completion * prices.completion_per_million
        )
        self.price += per_million / 1e6 + seconds / 3600 * prices.per_hour

    def note_model_seconds(self, seconds: float) -> None:
        """Count seconds of a model at work that is no engine: a reader, a trainer or the harness."""
        self.model_seconds += seconds

    def raise_peak(self, peak: MemoryPeak) -> None:
        """Take a larger peak."""
        self.peak_host_gib = max(self.peak_host_gib, round(peak.host_gib, 3))
        self.peak_gpu_gib = max(self.peak_gpu_gib, round(peak.gpu_gib, 3))

    @property
    def tokens_per_second(self) -> float | None:
        """Completion tokens a second of the engine; None where it was not asked."""
        return self.completion_tokens / self.engine_seconds if self.engine_seconds else None

    def describe(self) -> dict[str, float]:
        """As metadata, without zeros: what was not asked and not paid needs no line."""
        found = {name: value for name, value in asdict(self).items() if value and name != "ended"}
        described = {f"cost/{name}": round(value, 4) for name, value in found.items()}
        rate = self.tokens_per_second
        return described if not rate else described | {"cost/tokens_per_second": round(rate, 1)}


_DAMAGED: set[Path] = set()
"""The files of costs that were told of in this process."""


def read_cost(path: Path, experiment: str) -> Cost | None:
    """What a noun took, from its file; None where that cannot be read, which is said once a process.

    Args:
        path: the file.
        experiment: whose, for the message.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        # Another version of this project may have counted more or less.
        known = {each.name: found[each.name] for each in fields(Cost) if each.name in found}
        if not known or not all(isinstance(value, int | float) for value in known.values()):
            raise ValueError(f"it holds no counts: {found}")
        return Cost(**known)
    except (ValueError, TypeError, OSError) as error:
        if path not in _DAMAGED:
            _DAMAGED.add(path)
            logger.warning(
                "%s is half-written or damaged (%s): what it counts is left out of every sum, and of max_tokens and "
                "max_hours; lance doctor %s --fix moves it aside",
                *(path, error, experiment),
            )
        return None


def add_costs(costs: Sequence[Cost]) -> Cost:
    """The sum of several nouns' costs; of peaks the largest, and of ends the last."""
    total = Cost()
    for cost in costs:
        for name, value in asdict(cost).items():
            mine = getattr(total, name)
            setattr(total, name, max(mine, value) if name.startswith("peak_") or name == "ended" else mine + value)
    return total


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
    """The role that answers every stage, in a step with stages of its own; None: as the recipe declares each stage."""
    opened: dict[str, Opened] = field(default_factory=dict)
    """By role."""
    written_by: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Of the rows of stages that several generators write: its generator's name and model, by row id."""

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
            TurnNotContinuedError: a request begins the model's turn, and the engine does not go on from there.
            ValueError: the recipe declares no such stage.
        """
        if not requests:
            return []
        parts = self._deal(stage, requests)
        # A model that is open already goes first, so that none is loaded twice.
        order = sorted(parts, key=lambda role: (role not in self.opened, role))
        samples = {one.row_id: one for role in order for one in self._ask(role, stage, parts[role], sampling)}
        return [samples[request.row_id] for request in requests]

    def _deal(self, stage: str, requests: Sequence[Request]) -> dict[str, list[Request]]:
        """The requests by the role that answers them: one, but for a stage that several generators write."""
        role, generators = self._find_role(stage), self.plan.generators
        if self.role is not None or not generators or not self.plan.recipe.find_stage(stage).mixes:
            return {role: list(requests)}
        shares = {name: one.share for name, one in generators.items()}
        row_ids = [request.row_id for request in requests]
        parts: dict[str, list[Request]] = {}
        for request, drawn in zip(
            requests, deal_rows(row_ids, shares, rng_seed=self.plan.settings.rng_seed), strict=True
        ):
            parts.setdefault(drawn or role, []).append(request)
            self.written_by[request.row_id] = self._name_writer(drawn)
        return parts

    def _name_writer(self, drawn: str | None) -> tuple[str, str]:
        """A generator's name and model; of the round's own model the hash of its weights."""
        if drawn is None:
            return OWN, self.platform.checkpoints.hash_checkpoint(self.model_path)[:16]
        one = self.plan.generators[drawn]
        served = one.engine.openai.model if one.engine.openai is not None else None
        return drawn.removeprefix(GENERATOR), one.model or served or "the server's only model"

    def _ask(
        self, role: str, stage: str, requests: Sequence[Request], sampling: SamplingSettings | None
    ) -> list[Sample]:
        """The samples that one model gives, in the order of the requests."""
        mine = self._open(role)
        follow_up = self.plan.recipe.find_follow_up(stage, self.plan.settings.parameters) if sampling is None else None
        if sampling is None:
            sampling = self.plan.recipe.find_sampling(stage, self.plan.settings.parameters)
        if any(request.prefill for request in requests) and not mine.engine.can_prefill():
            raise TurnNotContinuedError(f"{stage}: the {mine.settings.kind} engine does not go on from a begun turn")
        # Whether there is a grammar is settled before stored samples are looked up, since it is part of what they are
        # found by.
        chosen = self._with_grammar(mine, sampling)
        following = self._find_following(mine, follow_up)
        started = mine.engine.measure_start()
        finished = run_durably(
            requests,
            generate=self._choose_way(mine, chosen, follow_up, following),
            folder=self.folder,
            # Samples of other weights, or of another identity of the noun, must not be taken up.
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
            start_seconds=mine.engine.measure_start() - started,
        )
        # What failed is asked again in its own stage, and the seconds are counted above.
        followed = [one for sample in finished.samples for one in sample.followed if one.finish_reason != "error"]
        is_constrained = following is not None and following.grammar is not None
        self.cost.add(followed, seconds=0.0, num_taken_up=0, is_constrained=is_constrained, prices=mine.settings.prices)
        # The engine may have processes of its own, which this process's peak does not cover.
        self.cost.raise_peak(mine.engine.measure_peak())
        return finished.samples

    def _find_following(self, mine: Opened, follow_up: FollowUp | None) -> SamplingSettings | None:
        """How what follows a sample is sampled; None where nothing does, or the engine does not ask it at once."""
        if follow_up is None or not isinstance(mine.engine, FollowingEngine):
            return None
        return self._with_grammar(mine, self.plan.recipe.find_sampling(follow_up.stage, self.plan.settings.parameters))

    def _choose_way(
        self,
        mine: Opened,
        sampling: SamplingSettings,
        follow_up: FollowUp | None,
        following: SamplingSettings | None,
    ) -> Callable[[Sequence[Request]], Iterable[list[Sample]]]:
        """How rows are asked: with what follows each, where there is such and the engine can ask it at once."""
        engine = mine.engine
        if follow_up is None or following is None or not isinstance(engine, FollowingEngine):
            return lambda rows: engine.generate(rows, sampling)
        return lambda rows: engine.generate_followed(rows, sampling, follow_up, following)

    def lend(self) -> Engine:
        """The engine on the round's own model, for what asks it otherwise than by stages; it stays the asker's."""
        return self._open(ROUND_MODEL).engine

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
        role = self.plan.recipe.find_role(stage)
        is_trained_here = role == "label" and self.plan.trains_label_model
        return role if role in self.plan.roles or is_trained_here else ROUND_MODEL

    def _open(self, role: str) -> Opened:
        if role in self.opened:
            return self.opened[role]
        roles = self.plan.roles
        engine = roles[role].engine if role in roles else self.plan.settings.engine
        if engine.kind != "openai":
            # Two models may not fit into the memory together, so the other one goes before this one is loaded.
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
            made_by = f"{self.plan.name}/label_checkpoint"
            path = self.platform.checkpoints.find(self.plan.label_model, START_ROUND, made_by=made_by)
            fingerprint = self.platform.checkpoints.hash_checkpoint(path)[:16]
        leases: list[EngineLease] = []

        def note_process(pid: int) -> None:
            # A lease says who holds memory, so that training can wait for it and an error can name it.
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
