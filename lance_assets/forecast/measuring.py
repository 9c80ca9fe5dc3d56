"""What this computer does with an experiment's model: short steps that are timed, and kept for later plans.

The steps read, decode and train with the experiment's own dtype, batch size, threads and adapters. So the rates are
those of its rounds but for the lengths of the rows. What `training.gpu` asks for is measured too. They are kept under
`LANCE_HOME/forecast`, in a file that is named by a hash of the model, these settings and the computer.
"""

import datetime
import gc
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from lance_assets.algorithms.forecast.batch_parts import FILLED_SHARE
from lance_assets.algorithms.forecast.costs import Training
from lance_assets.forecast.engine import MORE_TOKENS, find_memory
from lance_assets.forecast.throughput import Machine, MeasuredRow
from lance_assets.forecast.trainer import Trainer
from lance_assets.records import SFT_SET, SamplingSettings
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.platform import Platform
from resources.engines.loading import load_tokenizer
from resources.engines.transformers.model_states import ModelReader
from resources.engines.vllm.engine import VllmEngine
from resources.evaluation.engine_link import EngineLink
from resources.evaluation.evaluator import HarnessRun, run_lm_eval
from resources.models.chat_format import encode_row
from resources.models.foreign_code import WITHOUT_CODE
from resources.models.model_shapes import FoundModel
from resources.stores.checkpoints import hash_checkpoint
from resources.stores.files import write_file_atomically

if TYPE_CHECKING:
    from torch import Tensor

    from resources.training.gpu.choosing import GpuChoices

HERE = "here"
"""The machine that a plan is made on."""
LEAST_TOKENS, MOST_TOKENS = 16, 512
"""Of the prompts that are read, which are as long as the experiment's questions."""
MOST_ROWS, DECODED_TOKENS = 128, 12
"""Rows that are read and decoded together, if the engine takes so many, and the tokens of each."""
MOST_EMBEDDED = 128
"""Tokens of the texts that are embedded."""
TRAINED_TOKENS = 128
"""Of each row that is trained on."""
_START_SECONDS = 10.0
TIMED_AS = ("lora", "save_dtype", "dtype", "trained_positions_only", "frozen_dtype", "gpu", "memory_gib", "num_threads")
"""Settings of training that its start is timed with."""
# A step's process begins with what the fork server has imported.
_BEGIN = """
import importlib, sys, time
from pathlib import Path
from lance_assets.step_processes import MODELS, list_preloaded
for name in MODELS:
    if name in list_preloaded():
        importlib.import_module(name)
started = time.perf_counter()
"""
_LOAD = f"""{_BEGIN}
from resources.engines.transformers.engine import TransformersEngine
TransformersEngine(Path(sys.argv[1])).load()
print(time.perf_counter() - started)
"""
_LOAD_EMBEDDER = f"""{_BEGIN}
from resources.stores.embeddings import Embedder
Embedder(sys.argv[1], device=sys.argv[2]).embed(["the"])
print(time.perf_counter() - started)
"""


def time_process(code: str, *arguments: str) -> float:
    """The seconds that some Python prints, in a process of its own.

    Raises:
        ValueError: it failed; the message has its last line.
    """
    paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"this computer cannot be measured: {(done.stderr.strip().splitlines() or ['no word'])[-1]}")
    return float(done.stdout.split()[-1])


def describe_computer(plan: Plan) -> Machine:
    """This computer as a machine: its GPU, where torch sees one and the experiment uses it, or its CPU."""
    import torch

    if torch.cuda.is_available() and plan.settings.engine.device != "cpu":
        gpu = torch.cuda.get_device_properties(0)
        device, number, gib = "cuda", torch.cuda.device_count(), gpu.total_memory / 2**30
        words = f"this computer: {number} x {gpu.name}"
    else:
        device, number, gib, words = "cpu", 1, None, f"this computer: {os.cpu_count()} CPU cores"
    return Machine.model_validate(
        {
            **{"name": HERE, "description": words, "device": device, "num_devices": number, "memory_gib": gib},
            **{"start_seconds": _START_SECONDS, "source": f"this computer; start assumed {_START_SECONDS:g} s"},
        }
    )


def free_memory() -> None:
    """Give back what a timed stage held: a model whose layers name it lives until they are collected."""
    import torch

    gc.collect()
    torch.cuda.empty_cache()


@dataclass(frozen=True)
class Measuring:
    """The rates of an experiment's model on this computer."""

    plan: Plan
    """The experiment."""
    model: FoundModel
    """Its model, whose weights are local."""
    trainer: Trainer
    """Its trainer on this computer."""
    home: Path
    """LANCE_HOME."""
    row_tokens: int = 128
    """Tokens of a question, mean over the experiment's steps."""
    whole_tokens: int = 256
    """Tokens of a row that is read whole, prompt and completion."""

    @property
    def file(self) -> Path:
        """Where the rates are kept."""
        settings = self.plan.settings
        engine = settings.engine.model_dump(include={"kind", "device", "dtype", "batch_size", "num_threads"})
        training = settings.training.model_dump(
            include={"dtype", "lora", "num_threads", "memory_gib", "trained_positions_only"}
        )
        # At its default it has no entry, as in a checkpoint's identity.
        if settings.training.gpu.changed:
            training["gpu"] = settings.training.gpu.changed
        evaluation = settings.evaluation.lm_eval
        tasks = None if evaluation is None else evaluation.model_dump()
        computer = [platform.node(), platform.machine(), os.cpu_count()]
        embedder = settings.embedder.model_dump()
        lengths = [self.row_tokens, self.whole_tokens]
        decides = [hash_checkpoint(self.model.folder), engine, training, tasks, embedder, lengths, computer]
        name = hashlib.sha256(json.dumps(decides, default=str).encode()).hexdigest()[:16]
        return self.home / "forecast" / f"{name}.json"

    def read_kept(self) -> MeasuredRow | None:
        """The rates that were measured before; None for none."""
        # Hashing a large model takes seconds, which is wasted where nothing was ever measured.
        if not self.model.is_local or not (self.home / "forecast").is_dir() or not self.file.is_file():
            return None
        return MeasuredRow.model_validate_json(self.file.read_text())

    def measure(self) -> MeasuredRow:
        """Measure, and keep the rates.

        Raises:
            ValueError: the model's weights are not on this computer, or it cannot train as `training.gpu` says.
        """
        if not self.model.is_local:
            raise ValueError(
                f"{self.plan.settings.model}: its weights are not on this computer, so it cannot be measured; download "
                "it, or leave --measure out"
            )
        # What this computer has not is said before minutes are spent.
        for stage in self.stages.values():
            self.choose_gpu_paths(stage)
        engine = {} if self.plan.settings.engine.kind != "transformers" else self._time_engine()
        row = MeasuredRow(
            source=f"measured on this computer, {platform.machine()}, {datetime.date.today()}",
            machine=HERE,
            engine="transformers",
            num_parameters=self.model.shape.num_parameters,
            read_tokens_per_second=self._time_reader(),
            **engine,
            **self._time_training(),
            **self._time_embedder(),
            start_seconds=time_process(_LOAD, str(self.model.folder)),
            train_start_seconds=self._time_trainer(),
            **self._time_harness(),
        )
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write_file_atomically(self.file, row.model_dump_json(indent=1).encode())
        return row

    def _time_engine(self) -> dict[str, Any]:
        """Tokens that are read a second, and that are decoded, by the experiment's engine, and a step of one row."""
        import torch

        from resources.engines.sampling import SeededTopP
        from resources.engines.transformers.decoding import Rules, decode_batch
        from resources.engines.transformers.engine import TransformersEngine

        settings = self.plan.settings.engine
        given = settings.model_dump(include={"batch_size", "device", "dtype", "num_threads"})
        engine = TransformersEngine(self.model.folder, **given)
        model, _ = engine.load()
        draws = torch.Generator().manual_seed(0)

        class ClockedTopP(SeededTopP):
            """Notes when each token is drawn."""

            def pick(self, *given: "Tensor", **named: "Tensor | int") -> "Tensor":
                marks.append(time.perf_counter())
                return super().pick(*given, **named)

        def decode(num_rows: int, length: int, num_new: int) -> None:
            prompts = torch.randint(self.model.shape.vocab_size, (num_rows, length), generator=draws).tolist()
            sampling = SamplingSettings(temperature=1.0, top_p=0.9, max_new_tokens=num_new)
            sampler = ClockedTopP(list(range(num_rows)), sampling, device=model.device)
            marks[:] = [time.perf_counter()]
            decode_batch(model, prompts, sampler, Rules(frozenset(), pad_id=0))

        # What runs for the first time takes longer.
        length, num_rows = min(max(self.row_tokens, LEAST_TOKENS), MOST_TOKENS), min(settings.batch_size, MOST_ROWS)
        marks: list[float] = []
        decode(num_rows, LEAST_TOKENS, 3)
        decode(1, length, 1 + DECODED_TOKENS)
        alone = (marks[-1] - marks[1]) / DECODED_TOKENS
        decode(num_rows, length, 1 + DECODED_TOKENS)
        # The first token comes with reading the prompt.
        started, begun, *_, ended = marks
        found: dict[str, Any] = {
            "prefill_tokens_per_second": num_rows * length / (begun - started),
            "decode_tokens_per_second": num_rows * DECODED_TOKENS / (ended - begun),
            "decode_rows": num_rows,
            "decode_step_seconds": alone,
        }
        context = self.model.shape.max_positions
        # Behind shorter prompts where there is room below, since completions have less before them than reviews.
        other = length + MORE_TOKENS if length < 2 * MORE_TOKENS else MORE_TOKENS // 2
        if context is None or other + DECODED_TOKENS <= context:
            decode(num_rows, other, 1 + DECODED_TOKENS)
            more = ((marks[-1] - marks[1]) - (ended - begun)) / DECODED_TOKENS / num_rows / (other - length)
            found["decode_context"] = length + (DECODED_TOKENS + 1) / 2
            found["context_seconds"] = max(0.0, more)
        engine.close()
        return found

    def _time_embedder(self) -> dict[str, float]:
        """The start of the embedding model, and the tokens that it reads a second; nothing where a cluster has it."""
        settings = self.plan.settings
        if settings.embedder.copies_on != "machine":
            return {}
        embedder = Platform(str(self.home)).open_embedder(settings)
        embedder.embed(["the"])
        loaded = time.perf_counter()
        length, number = min(max(self.row_tokens, LEAST_TOKENS), MOST_EMBEDDED), 2 * settings.embedder.batch_size
        # A short word is one token of nearly every vocabulary, and a text that comes again is not embedded again.
        embedder.embed([f"{place} {'the ' * (length - 1)}" for place in range(number)])
        ended = time.perf_counter()
        return {
            # What it imports is imported here already.
            "embed_start_seconds": time_process(_LOAD_EMBEDDER, settings.embedder.model, settings.embedder.device),
            "embed_tokens_per_second": number * length / (ended - loaded),
        }

    def _time_reader(self) -> float | None:
        """Tokens of whole rows that are read a second, for likelihoods and states; None where it is not this engine."""
        settings = self.plan.settings.engine
        if settings.kind != "transformers":
            return None
        given = settings.model_dump(include={"batch_size", "device", "dtype", "num_threads"})
        seconds: list[float] = []
        reader = ModelReader(self.model.folder, max_length=MOST_TOKENS, note_seconds=seconds.append, **given)
        length, num_rows = min(max(self.whole_tokens, LEAST_TOKENS), MOST_TOKENS), min(settings.batch_size, MOST_ROWS)
        # A short word is one token of nearly every vocabulary.
        row = ([{"role": "user", "content": "the " * (length // 2)}], "the " * (length // 2))
        num_tokens = sum(map(len, encode_row(load_tokenizer(self.model.folder), *row)))
        # The first batch of a size takes its memory from the system.
        for _ in range(2):
            reader.embed([row] * num_rows)
        reader.close()
        return num_rows * min(num_tokens, MOST_TOKENS) / seconds[-1]

    def _time_harness(self) -> dict[str, float | int]:
        """What the harness takes on the experiment's tasks, by a first batch of each; nothing without the harness."""
        evaluation = self.plan.settings.evaluation
        if evaluation.lm_eval is None:
            return {}
        settings, parts = evaluation.lm_eval, evaluation.lm_eval.split()
        engine = self._open_copies() if settings.asks_engine(self.plan.settings.engine) else None
        # So many that every copy of an engine has a batch.
        most = settings.batch_size if engine is None else MOST_ROWS * engine.data_parallel_size
        started = time.perf_counter()
        link = None if engine is None else EngineLink(engine)
        results = run_lm_eval(
            self.model.folder,
            [HarnessRun(part.tasks, part.num_fewshot, min(most, part.limit or most)) for part in parts],
            model_name="measured",
            log=lambda _: None,
            include_path=self.plan.folder / settings.include_path if settings.include_path else None,
            allow_task_code=evaluation.allow_task_code,
            backend="hf" if settings.backend == "hf" else "batched",
            link=link,
            batch_size=settings.batch_size,
            apply_chat_template=settings.apply_chat_template,
            fewshot_as_multiturn=settings.fewshot_as_multiturn,
            system_message=self.plan.templates.system,
        )
        if link is not None and engine is not None:
            link.close()
            engine.close()
        worked = sum(found.seconds for found in results)
        asked = sum(sum(found.num_asked.values()) for found in results)
        items = sum(
            min(number, part.limit or number)
            for part, found in zip(parts, results, strict=True)
            for number in found.num_items.values()
        )
        return {
            "harness_start_seconds": time.perf_counter() - started - worked,
            "harness_item_seconds": worked / max(asked, 1),
            "num_harness_items": items,
        }

    def _open_copies(self) -> VllmEngine:
        """The experiment's engine of kind vllm, on its model."""
        engine = Platform(str(self.home)).open_engine(
            self.plan.settings.engine,
            self.model.folder,
            adapter=None,
            note_process=lambda pid: None,
            log=lambda line: None,
        )
        assert isinstance(engine, VllmEngine), "only such an engine answers the harness"
        return engine

    def _time_training(self) -> dict[str, float | None]:
        """Tokens that SFT and DPO train on a second; a stage without room has none.

        DPO's step reads the batch once more, as its reference model does, but by the model itself: a second one would
        take memory, and no other time.
        """
        room = FILLED_SHARE * find_memory(self.trainer.machine)
        rates: dict[str, float | None] = {}
        for name, stage in self.stages.items():
            has_room = self.trainer.forecast_memory(stage).total_gib <= room
            # The room is that of an empty GPU, or what was measured before would take a part of it.
            free_memory()
            rates[f"{name}_tokens_per_second"] = self._time_stage(stage) if has_room else None
        free_memory()
        return rates

    def _time_trainer(self) -> float:
        """What training on one short row takes: the process, the model that is loaded, and what is saved."""
        from resources.training.trainer import TrainJob, train_checkpoint

        training = self.plan.settings.training
        with tempfile.TemporaryDirectory() as scratch:
            row = dict.fromkeys(SFT_SET) | {"row_id": "1", "prompt": "the " * 8, "completion": "the " * 8}
            pl.DataFrame([row], schema=SFT_SET).write_parquet(Path(scratch) / "rows.parquet")
            job = TrainJob(
                start_checkpoint=self.model.folder,
                sft_path=Path(scratch) / "rows.parquet",
                staging=Path(scratch) / "staging",
                sft=training.sft.model_copy(update={"num_epochs": 1}),
                **{name: getattr(training, name) for name in TIMED_AS},
                save_every_minutes=None,
            )
            started = time.perf_counter()
            train_checkpoint(job, log=lambda line: None)
            return time.perf_counter() - started

    @property
    def stages(self) -> dict[str, Training]:
        """The stages that are timed, by the names of their rates."""
        training = self.plan.settings.training
        return {
            "train": self.trainer.describe(training.sft, is_preference=False),
            "pair": self.trainer.describe(training.dpo, is_preference=True),
        }

    def choose_gpu_paths(self, stage: Training) -> "GpuChoices":
        """What of `training.gpu` a stage is trained with on this computer, as the trainer chooses it.

        Raises:
            ValueError: something that is asked for is not here.
        """
        from transformers import AutoConfig

        from resources.training.gpu.choosing import choose, shares_prompts, supports_attention

        training = self.plan.settings.training
        config = AutoConfig.from_pretrained(self.model.folder, local_files_only=True, **WITHOUT_CODE)
        shares = shares_prompts(
            config,
            training.gpu.attention,
            has_pairs=stage.is_preference,
            trained_positions_only=training.trained_positions_only,
        )
        return choose(
            training.gpu,
            on_gpu=self.trainer.machine.device == "cuda",
            precision=self.trainer.choose_precision(),
            is_sharded=stage.is_sharded,
            takes_flash=not shares and supports_attention(config, "flash_attention_2"),
        )

    def _time_stage(self, stage: Training) -> float:
        """Tokens that a stage trains on a second, by the second of two steps."""
        import torch
        from trl.trainer.utils import add_fused_lm_head

        from resources.training.gpu.choosing import build_optimizer, keep_adapters_precise
        from resources.training.saving import load_for_training
        from resources.training.trained_positions import IGNORED, score_trained_positions

        training, chosen = self.plan.settings.training, self.choose_gpu_paths(stage)
        if training.num_threads is not None:
            torch.set_num_threads(training.num_threads)
        device = "cuda" if self.trainer.machine.device == "cuda" else "cpu"
        model = load_for_training(self.model.folder, getattr(torch, training.frozen_dtype), chosen.loading)
        if training.lora is not None:
            from peft import LoraConfig, get_peft_model

            named = training.lora.target_modules
            targets = named if isinstance(named, str) else list(named)
            config = LoraConfig(r=training.lora.r, target_modules=targets, task_type="CAUSAL_LM")
            model = get_peft_model(model, config)
        if chosen.compute_dtype is None:
            model = model.to(device)
        else:
            # Weights in four bits are on their GPU since they were loaded.
            keep_adapters_precise(model)
        model.train()
        if chosen.has_liger:
            from transformers.integrations.liger import apply_liger_kernel

            apply_liger_kernel(model, chosen.arguments["liger_kernel_config"])
        if stage.gradient_checkpointing:
            model.gradient_checkpointing_enable()
        # As the trainer computes it: TRL's output embedding, and no more than is trained on where that is asked for.
        base = model.get_base_model() if training.lora is not None else model
        add_fused_lm_head(base)
        if training.trained_positions_only:
            score_trained_positions(base, has_pairs=stage.is_preference)
        optimizer = build_optimizer(chosen, [weight for weight in model.parameters() if weight.requires_grad])
        shape = (stage.rows_at_once, min(TRAINED_TOKENS, stage.max_length))
        rows = torch.randint(self.model.shape.vocab_size, shape, generator=torch.Generator().manual_seed(0)).to(device)
        labels = rows.clone()
        # Half of a row is its prompt.
        labels[:, : shape[1] // 2] = IGNORED
        if stage.is_preference:
            # Both completions of a pair lie behind one prompt, here of the same length; chosen sides come first.
            rejected = rows.flip(0)
            rejected[:, : shape[1] // 2] = rows[:, : shape[1] // 2]
            rows, labels = torch.cat([rows, rejected]), torch.cat([labels, rejected.where(labels != IGNORED, labels)])
        is_rounded = self.trainer.choose_precision() == "bfloat16_autocast"

        def step(ids: "Tensor") -> float:
            started = time.perf_counter()
            with torch.autocast(device, dtype=torch.bfloat16, enabled=is_rounded):
                given = {"input_ids": ids, "labels": labels[: len(ids)], "attention_mask": torch.ones_like(ids)}
                for _ in range(stage.passes_beside):
                    with torch.no_grad():
                        model(**given, fused_lm_head=True)
                loss = model(**given, fused_lm_head=True).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            # The loss is read, so that a GPU has ended.
            loss.item()
            return time.perf_counter() - started

        step(rows[:2])
        return rows.numel() / step(rows)
