"""The rows, tokens, memory, disk and hours of every stage of an experiment's rounds, and what will not fit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lance_assets.algorithms.forecast.costs import GIB, count_checkpoint_bytes
from lance_assets.algorithms.forecast.machine_rates import add_known, count_hours
from lance_assets.algorithms.forecast.round_forecast import RoundForecast, StageForecast
from lance_assets.forecast.engine import Host
from lance_assets.forecast.lengths import Measured
from lance_assets.forecast.throughput import Machine, MeasuredRow, ThroughputTable
from lance_assets.forecast.trainer import Trainer
from lance_assets.records import SECOND_LOSSES, SecondLoss
from lance_assets.rounds.guard import read_judge_prompts
from lance_assets.rounds.plan import Plan
from lance_assets.settings.engines import EngineSettings
from lance_assets.settings.evaluation import JudgeSettings
from lance_assets.worlds import World, draw_problems
from resources.models.model_shapes import FoundModel
from resources.training.stage_settings import GrpoSettings

DAGSTER_GIB = 2 / 1024
"""GiB of Dagster's own records of a round; measured on mini_lance."""
TEXT_BYTES = 3 * 4.0
"""Bytes of a token in the tables: its text is in up to three of them."""
EMBEDDED_TOKENS = 256
"""Most tokens of a text that the packaged embedding model reads."""
VECTOR_BYTES = 2 * 384 * 4
"""Bytes of the vectors of a text, in the history and in the store of all embeddings."""


@dataclass(frozen=True)
class Row:
    """One stage of a round; None for what is unknown."""

    name: str
    """Its name, in words."""
    noun: str
    """The asset whose step it belongs to."""
    rows: float | None = None
    """Rows, as expected."""
    rows_at_most: float | None = None
    """Most rows of any round."""
    prompt_tokens: float | None = None
    """Tokens that are read, or trained on in all epochs, as expected."""
    completion_tokens: float | None = None
    """Sampled tokens, as expected; 0 for a stage that only reads."""
    tokens_at_most: float | None = None
    """Most prompt and completion tokens."""
    gib: float | None = None
    """Memory on each device; None for a server."""
    hours: float | None = None
    """Hours, as expected, with the time to load the model."""
    hours_at_most: float | None = None
    """Hours for the most tokens."""
    disk_gib: float | None = None
    """Most GiB that it leaves on disk; None if unknown."""
    cost: float | None = None
    """Cost at the engine's prices, as expected."""


@dataclass(frozen=True)
class Forecaster:
    """An experiment on a machine, ready for the arithmetic."""

    plan: Plan
    """The experiment."""
    machine: Machine
    """The machine it would run on."""
    table: ThroughputTable
    """Tokens per second of machines and engines."""
    model: FoundModel
    """The rounds' model."""
    role_models: Mapping[str, FoundModel]
    """The shapes of second models by role; that of a server's is not known."""
    measured: Measured
    """The seeds."""

    def host(self, role: str | None) -> Host:
        """The engine that runs a stage."""
        roles, lengths = self.plan.settings.roles, self.measured.lengths
        longest = max([*lengths.longest_asked.values(), lengths.chat + lengths.prompt])
        engine = roles[role].engine if role in roles else self.plan.settings.engine
        model = self.role_models.get(role or "") if role in roles else self.model
        parameters, recipe = self.plan.settings.parameters, self.plan.recipe
        limits = [recipe.sample_stage(stage, parameters).max_new_tokens for stage in recipe.stages]
        # A recipe that asks nothing reads whole rows.
        limit = max(limits, default=self.plan.settings.training.sft.max_length)
        return Host(engine, None if engine.kind == "openai" else model, self.machine, self.table, longest, limit)

    @property
    def second_loss(self) -> SecondLoss:
        """The loss that follows SFT in the rounds; DPO where none does, of no pairs."""
        return self.plan.settings.parameters.second_loss or "dpo"

    @property
    def trainer(self) -> Trainer:
        """The trainer on this machine."""
        return Trainer(self.plan.settings.training, self.plan.folder, self.model, self.machine, self.table)

    def forecast_stages(self, expected: RoundForecast, at_most: RoundForecast) -> list[Row]:
        """The stages that ask a model; the first of each step includes the time to load it."""
        rows, started = [], set()
        for stage, bound in zip(expected.stages, at_most.stages, strict=True):
            host = self.host(stage.role)
            wait = self.machine.start_seconds / 3600 if stage.rows and stage.noun not in started else 0.0
            if stage.rows:
                started.add(stage.noun)
            memory = host.forecast_memory(_mean_tokens(stage)) if stage.rows else None
            hours = add_known(wait, host.count_hours(stage))
            rows.append(
                Row(
                    stage.name,
                    stage.noun,
                    stage.rows,
                    bound.rows,
                    stage.prompt_tokens,
                    stage.completion_tokens,
                    bound.prompt_tokens + bound.completion_tokens,
                    memory.total_gib if memory is not None else None,
                    hours,
                    add_known(wait, host.count_hours(bound)),
                    TEXT_BYTES * (bound.prompt_tokens + bound.completion_tokens) / GIB,
                    count_cost(host.engine, stage, hours),
                )
            )
        return rows

    def forecast_confidence(self) -> list[Row]:
        """What r0000 asks about the seeds where the experiment leaves out those that its model does not trust."""
        rule, lengths, number = self.plan.settings.seeds.confidence, self.measured.lengths, self.measured.pool.num_seeds
        if rule is None:
            return []
        read = lengths.chat + lengths.prompt
        parts = (
            ("own completions", rule.num_samples, read, lengths.completion, rule.max_new_tokens),
            # A question is about as long as a prompt and a completion together, and its own words.
            ("reflections", rule.num_reflections, read + lengths.completion + 80, 60.0, rule.max_reflection_tokens),
        )
        stages, bounds = (
            tuple(
                StageForecast(
                    f"confidence in seeds: {name}",
                    "seed_set",
                    None,
                    number * times,
                    times,
                    number * times * asked,
                    number * times * (most if is_bound else min(most, written)),
                )
                for name, times, asked, written, most in parts
                if times
            )
            for is_bound in (False, True)
        )
        nothing = dict.fromkeys(("num_kept", "kept_tokens", "num_reviewed", "num_sft", "sft_tokens"), 0.0)
        rounds = [
            RoundForecast(key="r0000", num_seeds=number, stages=own, num_pairs=0.0, pair_tokens=0.0, **nothing)
            for own in (stages, bounds)
        ]
        return self.forecast_stages(*rounds)

    def forecast_embedding(self, expected: RoundForecast, at_most: RoundForecast) -> Row:
        """Embedding of the texts that cleaning keeps, each once; the rate of a GPU is unknown."""
        on_cpu = self.plan.settings.embedder.device == "cpu"
        rate = self.table.embedding.tokens_per_second if on_cpu else None
        wait = self.table.embedding.start_seconds / 3600
        read, most = (min(this.kept_tokens, this.num_kept * EMBEDDED_TOKENS) for this in (expected, at_most))
        return Row(
            "embedding",
            "cleaned_set",
            *(expected.num_kept, at_most.num_kept, read, 0.0, most),
            self.table.embedding.memory_gib,
            add_known(wait, count_hours(read, rate)) if read else 0.0,
            add_known(wait, count_hours(most, rate)) if most else 0.0,
            at_most.num_kept * VECTOR_BYTES / GIB,
        )

    def forecast_training(self, expected: RoundForecast, at_most: RoundForecast, *, number: int) -> list[Row]:
        """SFT and the loss that follows, with the tokens of all epochs; the disk of the checkpoint counts with SFT."""
        trainer, training, rows = self.trainer, self.plan.settings.training.at_round(expected.key), []
        budget = training.token_budget if number else None
        loss = self.second_loss
        on_pairs = training.find_stage(loss)
        pair_tokens = [this.pair_tokens * on_pairs.num_epochs for this in (expected, at_most)]
        sft_tokens = [this.sft_tokens * training.sft.num_epochs for this in (expected, at_most)]
        if budget is not None:
            pair_tokens = [min(budget, tokens) for tokens in pair_tokens]
            sft_tokens = [budget - pair_tokens[0], float(budget)]
        if number and self.plan.settings.parameters.losses == "grpo":
            sft_tokens = [0.0, 0.0]
        for name, settings, counts, tokens in (
            ("SFT", training.sft, (expected.num_sft, at_most.num_sft), sft_tokens),
            (SECOND_LOSSES[loss], on_pairs, (expected.num_pairs, at_most.num_pairs), pair_tokens),
        ):
            is_second_loss = name != "SFT"
            stage = trainer.describe(settings, is_preference=is_second_loss)
            rate, wait = trainer.find_rate(stage), 0.0
            if counts[0]:
                # The first of the stages that a round has starts the trainer.
                is_second = is_second_loss and expected.num_sft > 0
                wait = (self.machine.stage_start_seconds if is_second else self.machine.training_start) / 3600
            memory = trainer.forecast_memory(stage).total_gib if counts[1] else None
            hours, bound = (add_known(wait, count_hours(number, rate)) for number in tokens)
            if name == SECOND_LOSSES["grpo"] and number:
                counts, tokens, sampled = self._count_rewarded(training.grpo, expected, at_most)
                hours, bound = (
                    add_known(count_hours(number, rate), self.host(None).count_hours(own))
                    for number, own in zip(tokens, sampled, strict=True)
                )
                memory = trainer.forecast_memory(stage).total_gib if counts[1] else None
                rows.append(
                    Row(
                        name,
                        "checkpoint",
                        *counts,
                        tokens[0],
                        sampled[0].completion_tokens,
                        tokens[1],
                        memory,
                        hours,
                        bound,
                    )
                )
                continue
            disk = TEXT_BYTES * (at_most.sft_tokens if name == "SFT" else at_most.pair_tokens) / GIB
            disk += self.count_checkpoint_gib(number) if name == "SFT" else 0.0
            rows.append(Row(name, "checkpoint", *counts, tokens[0], 0.0, tokens[1], memory, hours, bound, disk))
        return [*self.forecast_label_training(expected, at_most), *rows]

    def forecast_label_training(self, expected: RoundForecast, at_most: RoundForecast) -> list[Row]:
        """SFT of the label model; nothing where none is trained in the round."""
        if not expected.num_label_rows or not self.plan.trains_label_model:
            return []
        trainer, settings = self.trainer, self.plan.settings.training.for_label_model().sft
        stage = trainer.describe(settings, is_preference=False)
        rate, wait = trainer.find_rate(stage), self.machine.training_start / 3600
        tokens = [this.label_tokens * settings.num_epochs for this in (expected, at_most)]
        hours, bound = (add_known(wait, count_hours(number, rate)) for number in tokens)
        memory, disk = trainer.forecast_memory(stage).total_gib, self.count_checkpoint_gib(0)
        counts = (expected.num_label_rows, at_most.num_label_rows, tokens[0], 0.0, tokens[1])
        return [Row("SFT of the label model", "label_checkpoint", *counts, memory, hours, bound, disk)]

    def _count_rewarded(
        self, grpo: GrpoSettings, expected: RoundForecast, at_most: RoundForecast
    ) -> tuple[tuple[float, float], list[float], list[StageForecast]]:
        """Completions that GRPO samples, tokens that it trains on, and the sampling, as expected and at most.

        Prompts are those of all SFT rows, and a row's tokens are taken for those of a prompt: both are upper bounds. A
        completion is expected to be as long as such a row.
        """
        counts, tokens, stages = [], [], []
        for this, is_bound in ((expected, False), (at_most, True)):
            mean = this.sft_tokens / this.num_sft if this.num_sft else 0.0
            number = this.num_sft * grpo.num_generations * grpo.num_epochs
            completion = grpo.max_new_tokens if is_bound else min(mean, grpo.max_new_tokens)
            counts.append(number)
            tokens.append(number * (mean + completion))
            stages.append(
                StageForecast(
                    "grpo", "checkpoint", None, number, grpo.num_generations, number * mean, number * completion
                )
            )
        return (counts[0], counts[1]), tokens, stages

    def forecast_evaluation(self, *, num_models: int) -> list[Row]:
        """The evaluation. The size of the harness's tasks and the tokens of a judge are unknown."""
        evaluation, rows = self.plan.settings.evaluation, []
        if (world := self.plan.world) is not None and evaluation.world is not None:
            number = num_models * len(draw_problems(world, evaluation.world.per_stratum))
            number *= len(evaluation.world.metrics)
            rows.append(self._forecast_world(world, evaluation.world.max_new_tokens, number, num_models))
        if evaluation.lm_eval is not None:
            bounds = [part.limit and part.limit * len(part.tasks) for part in evaluation.lm_eval.split()]
            known = [bound for bound in bounds if bound is not None]
            bound_rows = sum(known) * num_models if len(known) == len(bounds) else None
            measured = self.table.find_measured(self.machine.name, "transformers", self.model.shape.num_parameters)
            rows.append(self._forecast_harness(measured, bound_rows, num_models))
        if evaluation.judge is not None:
            rows.append(
                Row("evaluation: judge", "eval_report", rows_at_most=self.bound_judging(evaluation.judge, num_models))
            )
        return rows

    def _forecast_harness(self, measured: MeasuredRow | None, bound: int | None, num_models: int) -> Row:
        """The harness's tasks: known where this computer was measured with them, a process for each model."""
        name = "evaluation: lm_eval"
        if measured is None or measured.harness_item_seconds is None or measured.num_harness_items is None:
            return Row(name, "eval_report", rows_at_most=bound)
        number = measured.num_harness_items
        seconds = number * measured.harness_item_seconds + (measured.harness_start_seconds or 0.0)
        hours = num_models * seconds / 3600
        return Row(name, "eval_report", num_models * number, num_models * number, hours=hours, hours_at_most=hours)

    def _forecast_world(self, world: World, max_new_tokens: int, number: int, num_models: int) -> Row:
        """The completions of a world's problems; only their number is known if the world has no measured tokens."""
        name = f"evaluation: {world.name.replace('_', ' ')}"
        if world.mean_tokens is None:
            return Row(name, "eval_report", number, number)
        prompt, completion = world.mean_tokens
        stage, bound = (
            StageForecast("evaluation", "eval_report", None, number, 1, number * prompt, number * tokens)
            for tokens in (completion, max_new_tokens)
        )
        # One process asks all models; what it imports takes longer than another model.
        host, wait = self.host(None), self.machine.start_seconds / 3600
        memory = host.forecast_memory(_mean_tokens(stage))
        hours = add_known(wait, host.count_hours(stage))
        return Row(
            name,
            "eval_report",
            *(number, number, stage.prompt_tokens, stage.completion_tokens),
            bound.prompt_tokens + bound.completion_tokens,
            memory.total_gib if memory is not None else None,
            hours,
            add_known(wait, host.count_hours(bound)),
            TEXT_BYTES * (bound.prompt_tokens + bound.completion_tokens) / GIB,
            count_cost(host.engine, stage, hours),
        )

    def bound_judging(self, judge: JudgeSettings, num_models: int) -> int:
        """Most rows of a judge's evaluation: completions and judgements of each model and of the opponent.

        A round asks nothing of the opponent where one before it has.
        """
        number = len(list(read_judge_prompts(judge, self.plan.folder))[: judge.limit])
        of_model, of_opponent = (3, 0) if judge.by == "verdict" else (2, 1)
        if judge.force_ending:
            # Every judgement may be asked once more for its ending.
            of_model, of_opponent = 2 * of_model - 1, 2 * of_opponent
        return number * (of_model * num_models + of_opponent + (judge.opponent == "backbone"))

    def count_checkpoint_gib(self, number: int) -> float:
        """GiB of a round's checkpoint, of which SFT and DPO of every round up to it are stages."""
        lora = self.plan.settings.training.lora
        # 'auto' saves float32 where bfloat16 would lose the update, as it does at the usual rates.
        stored = 2 if self.plan.settings.training.save_dtype == "bfloat16" else 4
        rank = lora.r if lora is not None else None
        size = count_checkpoint_bytes(
            self.model.shape, stored_bytes=stored, lora_rank=rank, num_stages=2 * (number + 1)
        )
        return size / GIB

    def count_passing_gib(self) -> float:
        """GiB of the downloaded base model, and of the float32 SFT result that exists until DPO has ended."""
        downloaded = 0 if self.model.is_local else self.model.stored_bytes
        return self.model.shape.num_parameters * (downloaded + 4) / GIB

    def find_problems(self, rounds: Sequence[RoundForecast], bounds: Sequence[RoundForecast]) -> list[str]:
        """Everything that will not fit on the machine, each once."""
        found: list[str] = []
        asked = [stage for this in rounds for stage in this.stages if stage.rows]
        for role in (None, *self.plan.settings.roles):
            mine = [_mean_tokens(stage) for stage in asked if (stage.role in self.plan.settings.roles) == bool(role)]
            if mine:
                found += self.host(role).find_problems(max(mine), what=f"engine of the {role or 'round'}'s model")
        training = self.plan.settings.training
        for name, settings in (
            ("SFT", training.sft),
            (SECOND_LOSSES[self.second_loss], training.find_stage(self.second_loss)),
        ):
            if name == "SFT" or bounds[-1].num_pairs or self.second_loss == "grpo":
                described = self.trainer.describe(settings, is_preference=name != "SFT")
                found += self.trainer.find_problems(settings, described, what=name)
        return list(dict.fromkeys(found))


def _mean_tokens(stage: StageForecast) -> float:
    return (stage.prompt_tokens + stage.completion_tokens) / stage.rows


def count_cost(engine: EngineSettings, stage: StageForecast, hours: float | None) -> float | None:
    """The cost of a stage at an engine's prices, without cached tokens; None if it depends on unknown hours."""
    prices = engine.prices
    by_tokens = (
        stage.prompt_tokens * prices.prompt_per_million + stage.completion_tokens * prices.completion_per_million
    )
    if not prices.per_hour:
        return by_tokens / 1e6
    return None if hours is None else by_tokens / 1e6 + hours * prices.per_hour
