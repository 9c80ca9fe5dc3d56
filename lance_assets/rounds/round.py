"""One round at work: reading and writing its tables, asking its model, and what its steps cost."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import polars as pl

from lance_assets.algorithms.measures.progress import START_ROUND, format_round, parse_round
from lance_assets.algorithms.similarity.dividing import RunParts
from lance_assets.algorithms.verifying.verdict import RowVerifier
from lance_assets.recipes.asking import (
    ReadStates,
    RoundIdentity,
    ask_nothing,
    list_no_texts,
    read_no_places,
    read_no_states,
    recognise_nothing,
)
from lance_assets.recipes.contract import RoundInputs
from lance_assets.records import Ask, DealtAsk, SeedPlaces
from lance_assets.rounds.asking import Asker, Cost, read_cost
from lance_assets.rounds.guard import EvaluationGuard
from lance_assets.rounds.identity.kept import (
    MadeRecord,
    NoIdentityError,
    hash_tables,
    read_identity,
    record_identity,
    record_made,
)
from lance_assets.rounds.nouns import (
    compute_fingerprint,
    explain_round_identity,
    find_owner,
    list_inputs,
    list_nouns,
    list_schemas,
)
from lance_assets.rounds.overrides import (
    Launch,
    Overrides,
    choose_overrides,
    describe_changes,
    plan_round,
    read_overrides,
)
from lance_assets.rounds.past.origin import record_origin
from lance_assets.rounds.plan import Noun, Plan
from lance_assets.rounds.platform import Platform
from lance_assets.rounds.report import Made, Report
from resources.engines.contract import Engine
from resources.engines.durable_stage import clear_stage
from resources.engines.transformers.model_states import ModelReader
from resources.evaluation.evaluator import read_task_prompts
from resources.machine.processes import MemoryPeak, measure_own_peak, measure_peak_of_children
from resources.models.finding import resolve_model
from resources.readers.seed_files import read_seeds
from resources.readers.text_files import read_texts
from resources.stores.embeddings import Embedder
from resources.stores.files import read_json_file, write_file_atomically
from resources.stores.tables import TableVersion

TRAINER_PEAKS = ("memory/training_peak_host_gib", "memory/training_peak_gpu_gib")
"""The facts of a maker that say what a trainer's processes held at most, all of them together."""


class RoundAsk(DealtAsk, Protocol):
    """Asks the models of a round's step; a protocol, so that the code of engines is in no identity that asks none."""

    def lend(self) -> Engine:
        """The engine on the round's own model, for what asks it otherwise than by stages; it stays the asker's."""
        ...


@dataclass(frozen=True)
class Round:
    """One round of one experiment."""

    experiment: Plan
    """The experiment as its file has it."""
    platform: Platform
    """The machines."""
    key: str
    """The round."""
    log: Callable[[str], None]
    """Takes what is said of progress."""
    cost: Cost = field(default_factory=Cost)
    """What the noun being made has taken so far."""
    begins_with: Overrides | None = None
    """What a launch sets, in the step that makes start_checkpoint; None: what that step recorded."""

    def __post_init__(self) -> None:
        parse_round(self.key)

    @property
    def overrides(self) -> Overrides:
        """The settings of this round that are not the file's."""
        if self.begins_with is not None:
            return self.begins_with
        return read_overrides(self.platform.tables, self.experiment.name, self.key)

    @cached_property
    def plan(self) -> Plan:
        """The experiment as this round has it: what its file says, and the round's overrides.

        Raises:
            ValueError: the file has changed since, and the overrides do not suit it any more.
        """
        return plan_round(self.experiment, self.key, self.overrides)

    @property
    def is_start(self) -> bool:
        """Whether this is r0000, SFT on the seeds."""
        return self.key == START_ROUND

    @property
    def earlier_keys(self) -> list[str]:
        """Every round before this one, oldest first."""
        return [format_round(number) for number in range(parse_round(self.key))]

    @property
    def left_out(self) -> list[str]:
        """The rounds before this one that were rejected, and without whose data it is made."""
        return [] if self.is_start else self.read("start_checkpoint")["left_out"][0].to_list()

    @property
    def kept_keys(self) -> list[str]:
        """The rounds before this one whose data it builds on, oldest first."""
        left_out = self.left_out
        return [key for key in self.earlier_keys if key not in left_out]

    def read_grown(self, noun: str) -> pl.DataFrame:
        """A set that grows over rounds, as the last round left it whose data this one builds on."""
        grown = self.read(noun, self.kept_keys[-1])
        # That round may have been made while the data of a round before it was still kept.
        return grown.filter(~pl.col("source_round").is_in(left_out)) if (left_out := self.left_out) else grown

    def describe_overrides(self) -> dict[str, str]:
        """The fact that names what the round has otherwise than the file, in words; none where it has nothing."""
        said = describe_changes(self.experiment, self.overrides)
        return {"overrides": said} if said else {}

    def at(self, key: str) -> "Round":
        """Another round of the experiment."""
        # The other round is given a cost of its own, so that reading it is not charged to the noun being made.
        return replace(self, key=key, cost=Cost(), begins_with=None)

    def compute_fingerprint(self, noun: str) -> str:
        """A hash of what changes a noun beside its inputs."""
        return compute_fingerprint(self.plan, noun)

    @property
    def identity(self) -> RoundIdentity:
        """What ids and sampling seeds derive from."""
        settings = self.plan.settings
        words = (self.plan.templates, self.plan.role_templates)
        return RoundIdentity(self.plan.name, self.key, settings.rng_seed, *words, settings.thoughts)

    def build_inputs(
        self,
        *,
        ask: Ask = ask_nothing,
        is_evaluation_prompt: Callable[[str], bool] = recognise_nothing,
        texts: pl.DataFrame | None = None,
        seeds: pl.DataFrame | None = None,
        read_states: ReadStates = read_no_states,
        verifier: RowVerifier | None = None,
        read_places: Callable[[], SeedPlaces] = read_no_places,
    ) -> RoundInputs[Any]:
        """What a step of the recipe is handed beside its tables; a step that uses what it was not handed fails.

        Args:
            ask: asks the models.
            is_evaluation_prompt: recognises the evaluation's prompts.
            texts: the experiment's texts without prompts.
            seeds: the round's.
            read_states: reads the states of rows with a model.
            verifier: judges completions by rule.
            read_places: reads where the seeds stand in their file.
        """
        return RoundInputs(
            identity=self.identity,
            settings=self.plan.settings.parameters,
            ask=ask,
            is_evaluation_prompt=is_evaluation_prompt,
            texts=list_no_texts() if texts is None else texts,
            seeds=self.empty("seed_set") if seeds is None else seeds,
            filters=self.plan.settings.filters,
            read_states=read_states,
            verifier=verifier,
            read_places=read_places,
        )

    @cached_property
    def guard(self) -> EvaluationGuard:
        """What decides which prompts belong to the evaluation."""
        return EvaluationGuard(
            self.plan.settings.evaluation,
            self.plan.folder,
            read_task_prompts=self._read_task_prompts,
            embed=self.embed,
            read_seed_prompts=self._read_seed_prompts,
        )

    def _read_seed_prompts(self) -> list[str]:
        """Of the whole file, also of seeds that are left out, so that every step finds the same wording."""
        return read_seeds(self.plan.settings.seeds, self.plan.folder)["prompt"].to_list()

    def _read_task_prompts(self) -> list[str]:
        """The prompts of the harness's tasks, read once; none where a file of protected prompts replaces them."""
        evaluation = self.plan.settings.evaluation
        if evaluation.lm_eval is None or evaluation.protected_prompts is not None:
            return []
        folder = self.platform.root / "evaluation_prompts" / self.plan.name
        # The harness has to build its tasks to know their prompts, so they are kept until the evaluation's identity
        # changes.
        path = folder / f"{self.compute_fingerprint('eval_report')}.json"
        if not path.exists():
            include_path = evaluation.lm_eval.include_path
            prompts = read_task_prompts(
                evaluation.lm_eval.tasks,
                include_path=self.plan.folder / include_path if include_path else None,
                allow_task_code=evaluation.allow_task_code,
                log=self.log,
            )
            folder.mkdir(parents=True, exist_ok=True)
            write_file_atomically(path, json.dumps(prompts).encode())
        found: list[str] = read_json_file(path, remedy="remove it, and the prompts are read from the harness again")
        return found

    @cached_property
    def run_parts(self) -> RunParts:
        """What does the parts of a search for near-duplicates, on the machines that embed."""
        return self.platform.find_runner(self.plan.settings)

    @cached_property
    def embedder(self) -> Embedder:
        """The experiment's embedding model."""
        return self.platform.open_embedder(self.plan.settings)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of texts, float32 [num_texts, dim]; a text that was ever embedded is looked up."""
        embedded = self.platform.embeddings.embed_once(texts, self.embedder)
        self.cost.num_embedded += embedded.num_new
        return embedded.vectors

    def has(self, noun: str, key: str) -> bool:
        """Whether a table of a round exists."""
        return self.platform.tables.exists(self.experiment.name, key, noun)

    def read(self, noun: str, key: str | None = None) -> pl.DataFrame:
        """A table of this or another round."""
        return self.platform.tables.read(self.experiment.name, key or self.key, noun, schema=list_schemas()[noun])

    def read_new_sft_rows(self) -> pl.DataFrame:
        """The SFT rows that this round brought, generated or taken from a pool; none in r0000, which has the seeds."""
        is_new = (pl.col("source_round") == self.key) & (pl.col("source") != "eft") & pl.lit(not self.is_start)
        return self.read("sft_set").filter(is_new)

    def explain_no_news(self) -> str:
        """In words that the round brought no row to train on; empty where it brought one, or was not meant to."""
        if self.is_start or self.plan.settings.parameters.trains_without_news:
            return ""
        pairs = self.read("preference_pairs").filter(pl.col("source_round") == self.key)
        if len(pairs) or len(self.read_new_sft_rows()):
            return ""
        return (
            f"0 new rows: {self.key} brought no SFT row and no preference pair, so nothing new was trained on; "
            "cleaned_set says what was dropped and why, reviewed_set what was not scored, and checks.max_unscored_rate "
            "below 1 stops such a round"
        )

    def write(self, name: str, table: pl.DataFrame) -> TableVersion:
        """Store a table of this round, whole or not at all."""
        place = (self.experiment.name, self.key, name)
        return self.platform.tables.write(*place, table, schema=list_schemas()[name], made_by=find_owner(name))

    def empty(self, noun: str) -> pl.DataFrame:
        """A table without rows, for what r0000 does not have."""
        return pl.DataFrame(schema=list_schemas()[noun])

    def model_path(self, parent_round: str | None) -> Path:
        """The folder of a round's checkpoint, or of the base model."""
        settings = self.plan.settings
        if parent_round is None:
            return resolve_model(settings.model, base=self.plan.folder, revision=settings.model_revision)
        return self.platform.checkpoints.find(self.experiment.name, parent_round)

    def show_path(self, parent_round: str | None) -> Path:
        """As `model_path`, for a person: a checkpoint that is in a store alone is not fetched for it."""
        if parent_round is None:
            return self.model_path(None)
        return self.platform.checkpoints.locate(self.experiment.name, parent_round)

    def start_path(self) -> Path:
        """The folder of this round's start checkpoint.

        Raises:
            ValueError: the parent's checkpoint was trained again since start_checkpoint was materialized.
        """
        start = self.read("start_checkpoint").row(0, named=True)
        parent = start["parent_round"]
        # Rows of this round were made by the old weights, and training would start from the new ones.
        if parent is not None and self.read("checkpoint", parent)["content_hash"][0] != start["content_hash"]:
            raise ValueError(
                f"{self.plan.name} {self.key} started from a checkpoint of {parent} that was trained again since; "
                f"redo this round and all after it (lance run {self.plan.name} --redo-from {self.key}), or materialize "
                f"start_checkpoint of {self.key} again"
            )
        return self.model_path(parent)

    @property
    def trains_from_base(self) -> bool:
        """Whether training begins with the base model rather than the start checkpoint."""
        return self.is_start or self.plan.settings.parameters.starts_from == "base"

    def training_start(self) -> Path:
        """The folder of the model that this round's training begins with."""
        return self.model_path(None) if self.trains_from_base else self.start_path()

    @cached_property
    def texts(self) -> pl.DataFrame:
        """The experiment's texts without prompts, columns row_id and text; empty where it has none."""
        settings = self.plan.settings.texts
        if settings is None:
            return pl.DataFrame(schema={"row_id": pl.String, "text": pl.String})
        return read_texts(settings.find(self.plan.folder), field=settings.field, limit=settings.limit)

    def read_states(self, *, of_base: bool = False, model_path: Path | None = None) -> ModelReader:
        """The round's model, the base model or another, to read whole rows with, cut where training cuts them."""
        engine = self.plan.settings.engine
        return ModelReader(
            model_path or (self.model_path(None) if of_base else self.start_path()),
            batch_size=engine.batch_size,
            max_length=self.plan.settings.training.sft.max_length,
            device=engine.device,
            dtype=engine.dtype,
            num_threads=engine.num_threads,
            log=self.log,
            note_seconds=self.cost.note_model_seconds,
        )

    @contextmanager
    def asking(self, noun: str, model_path: Path, *, role: str | None = None) -> Iterator[RoundAsk]:
        """Open engines on a model and on those of the roles; what they finish is durable until the noun is written.

        Args:
            noun: what is made.
            model_path: the round's own model.
            role: the role that answers every stage, for a step with stages of its own; None: as the recipe declares
                each stage.
        """
        asker = Asker(
            plan=self.plan,
            platform=self.platform,
            round_key=self.key,
            noun=noun,
            fingerprint=self.compute_fingerprint(noun),
            model_path=model_path,
            cost=self.cost,
            log=self.log,
            role=role,
        )
        try:
            yield asker
        finally:
            asker.close()

    def forget_stage(self, noun: str) -> None:
        """Remove a noun's finished chunks, once its table exists."""
        clear_stage(self.stage_folder(noun))

    def stage_folder(self, noun: str) -> Path:
        """Where what is finished of a noun is kept until its table exists."""
        return self.platform.root / "stages" / self.plan.name / self.key / noun

    def record_cost(self, noun: str, started: float, facts: Report | None = None) -> dict[str, float]:
        """Keep what a noun took beside the tables, and return it by name; `facts` are what its maker found."""
        self.cost.seconds, self.cost.ended = time.monotonic() - started, time.time()
        self.cost.raise_peak(measure_own_peak())
        self.cost.raise_peak(measure_peak_of_children())
        # Only the trainer's own processes know what they held of the GPUs, and all of them together.
        for name, gib in (facts or {}).items():
            if name in TRAINER_PEAKS and isinstance(gib, float):
                self.cost.raise_peak(MemoryPeak(*((gib, 0.0) if "host" in name else (0.0, gib))))
        path = self._cost_path(noun)
        try:
            write_file_atomically(path, json.dumps(asdict(self.cost)).encode())
        except OSError as error:
            # The table is stored, and what it took is an account of it: no account stops a loop.
            self.log(f"what {noun} took is not kept in {path} ({error}); max_tokens and max_hours do not count it")
        return self.cost.describe()

    def read_made_with(self, noun: str) -> dict[str, Any]:
        """The settings that a noun of this round was made with; empty where none were kept."""
        try:
            found = read_identity(self.platform.tables, self.experiment.name, self.key, noun)
        except NoIdentityError:
            return {}
        return dict(found["settings"]) if "settings" in found else {}

    def read_costs(self, key: str | None = None) -> dict[str, Cost]:
        """What each noun of a round took, for those that were made; a file that cannot be read is left out."""
        files = self.list_cost_files(key)
        return {path.stem: cost for path in files if (cost := read_cost(path, self.experiment.name)) is not None}

    def list_cost_files(self, key: str | None = None) -> list[Path]:
        """Where it is kept what each noun of a round took, by name."""
        return sorted(self._cost_path("any", key).parent.glob("*.json"))

    def _cost_path(self, noun: str, key: str | None = None) -> Path:
        return self.platform.root / "costs" / self.experiment.name / (key or self.key) / f"{noun}.json"


def begin_round(this_round: Round, launch: Launch) -> Round:
    """The round as a launch begins it, before anything of it is made.

    Args:
        this_round: the round.
        launch: what its launch sets.

    Raises:
        ValueError: a setting that cannot be set for a round, or a value outside its range.
    """
    plan, tables = this_round.experiment, this_round.platform.tables
    begun = replace(this_round, begins_with=choose_overrides(plan, tables, this_round.key, launch))
    holding = [noun.name for noun in list_nouns(plan) if noun.uses_model(begun.plan) and not noun.uses_model(plan)]
    # Which steps run one at a time is decided when the code location is loaded.
    if holding:
        raise ValueError(
            f"{', '.join(begun.plan.overrides)}: with this {', '.join(holding)} would hold a model, which by the "
            "experiment's file it does not; set it in the file"
        )
    return begun


def make_noun(this_round: Round, noun: Noun) -> Made:
    """Make one noun of a round and store its tables, the noun's own last, with what it took.

    Raises:
        ValueError, OSError: a user's mistake, see the noun's module.
    """
    # The identity is taken first, since a file may be changed while the noun is made.
    started, identity = time.monotonic(), explain_round_identity(this_round.plan, noun.name, this_round.key)
    made = noun.make(this_round)
    # The noun's own table is written last: where it exists, the others do too.
    for name, table in made.others.items():
        this_round.write(name, table)
    stored = this_round.write(noun.name, made.table)
    record_identity(this_round.platform.tables, this_round.plan.name, this_round.key, noun.name, identity)
    # What the evaluation asks is trained on by no round.
    is_asked = noun.asks(this_round.plan) and "checkpoint" not in noun.inputs and len(made.table)
    origin = this_round.read("start_checkpoint")["content_hash"][0] if is_asked else None
    record_origin(this_round.plan, this_round.platform, this_round.key, noun.name, origin)
    cost = this_round.record_cost(noun.name, started, made.facts)
    made = replace(made, version=made.version or stored.content_hash, facts={**made.facts, **cost})
    record_inputs(this_round, noun, str(made.version))
    # Finished samples are removed only now: after a kill before the record they are all there is.
    this_round.forget_stage(noun.name)
    return made


def record_inputs(this_round: Round, noun: Noun, version: str) -> None:
    """Keep what a noun was made from and what was written of it, so that whoever goes on knows that it is whole."""
    tables, name, key = this_round.platform.tables, this_round.plan.name, this_round.key
    own = hash_tables(tables, name, key, [noun.name, *noun.tables])
    inputs = hash_tables(tables, name, key, list_inputs(this_round.plan, noun))
    record_made(tables, name, key, noun.name, MadeRecord(version, own, inputs))
