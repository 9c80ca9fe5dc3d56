"""A platform without models, for tests of what stands around them: rounds of it take a second."""

import hashlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import numpy as np

from lance_assets.assets import showing
from lance_assets.assets.running.platform import PlatformResource
from lance_assets.prompts import Templates
from lance_assets.recipes.lance_settings import RUBRIC
from lance_assets.records import Request, Sample, SamplingSettings
from lance_assets.settings.engines import EngineSettings
from lance_assets.settings.experiment import ExperimentSettings
from lance_assets.small_world.tasks import complete, parse_prompt
from resources.engines.contract import Engine, ModellessEngine
from resources.machine.processes import MemoryPeak
from tests.assets.tiny_experiment import TRAINING

SCRIPTED_TRAINER = (sys.executable, str(Path(__file__).parent / "scripted_trainer.py"))
"""A launcher that trains nothing; the checkpoint differs from its start in a few bytes, by settings and rows."""
_STEPS = {
    step: Templates("compact").render(f"lance/{step}", prompt="", completion="", **RUBRIC.scale).split("\n")[0]
    for step in ("review", "new_prompt", "degrade")
} | {
    step: Templates("compact").render(f"kun/{step}", prompt="", text="").split("\n")[0].strip()
    for step in ("label", "verdict", "polish")
}


@dataclass(frozen=True)
class ScriptedEngine(ModellessEngine):
    """Says what a fair model might, by the words it is asked with and the row's sampling seed."""

    platform: "ScriptedPlatform"

    def generate(self, requests: Sequence[Request], sampling: SamplingSettings) -> Iterator[list[Sample]]:
        """One sample for each request, each a group."""
        for request in requests:
            text = self._say(request.messages[-1]["content"], request.sampling_seed)
            cut = self.platform.cuts_completions and "Task:" not in request.messages[-1]["content"]
            yield [Sample(request.row_id, text, "length" if cut else "stop", 10, len(text.split()))]

    def _say(self, asked: str, seed: int) -> str:
        digits = " ".join(f"{seed:018d}"[-6 - seed % 3 :])
        if asked.startswith(_STEPS["review"]):
            return self.platform.says_in_review or f"Prompt: fair. Work: checked. score: {seed % 11}"
        if asked.startswith(_STEPS["new_prompt"]):
            proposed = self.platform.proposes or f"Reverse the list {digits}."
            return f"Thought Process: more digits. Final Answer: {proposed}"
        if asked.startswith(_STEPS["degrade"]):
            guess = f"With no work at all it may be that the answer is {digits}."
            return f"Thought Process: a wrong guess. Final Answer: {guess}"
        if asked.startswith("age: "):
            return "yes"
        if asked.startswith("Write a row: age, "):
            return f"{20 + seed % 40}, {1 + seed % 2}, 25.5, 93, 180, 110.5, 48, 4, 4.7, 90, {('no', 'yes')[seed % 2]}"
        if asked.startswith(_STEPS["label"]):
            return f"Reverse the list {digits}."
        if asked.startswith(_STEPS["verdict"]):
            return ("Clear. [good]", "Unclear. [bad]", "It may be.")[seed % 3]
        # of a text to polish the prompt stands in the last line
        problem = parse_prompt(asked.rpartition("\nTask: ")[2] if asked.startswith(_STEPS["polish"]) else asked)
        return (
            complete(problem)
            if problem is not None and seed % 4
            else f"I can not find out how this goes, the answer is {digits}."
        )


@dataclass(frozen=True)
class ScriptedEmbedder:
    """A vector for each text by its hash."""

    model_hash: str = "scripted"

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [num_texts, 64], L2-normalised."""
        rows = [
            np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])).normal(size=64)
            for text in texts
        ]
        vectors = np.array(rows, dtype=np.float32).reshape(len(texts), 64)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class ScriptedPlatform(PlatformResource):
    """The platform with a scripted engine and embedder."""

    says_in_review: str = ""
    """Said in every review; without it each has a score of its own."""
    proposes: str = ""
    """Every new prompt; without it each is another list."""
    cuts_completions: bool = False
    """Whether completions reach the token limit."""

    def open_engine(self, engine: EngineSettings, model_path: Path | None, **_: object) -> ScriptedEngine:
        """A scripted one."""
        return ScriptedEngine(self)

    def open_embedder(self, settings: ExperimentSettings) -> ScriptedEmbedder:  # type: ignore[override]
        """A scripted one."""
        return ScriptedEmbedder()


SCRIPTED_TRAINING: dict[str, object] = TRAINING | {"launcher": SCRIPTED_TRAINER}
SCRIPTED_SETTINGS: dict[str, object] = {"training": SCRIPTED_TRAINING, "engine": {"batch_size": 8, "device": "cpu"}}
"""Sections of an experiment without models; what is asked is stored once a stage, not sample by sample."""
SCRIPTED: dict[str, object] = {"platform_class": ScriptedPlatform, **SCRIPTED_SETTINGS}
"""What `open_world` needs for rounds without models."""


def draw_nothing(fact: object) -> dg.MetadataValue:
    """In place of `showing.show_picture`: drawing and rendering are a third of a scripted round."""
    del fact
    return dg.MetadataValue.md("*not drawn*")


@contextmanager
def without_drawing() -> Iterator[None]:
    """The pictures of rounds are not drawn."""
    show_picture = showing.show_picture
    showing.show_picture = draw_nothing
    try:
        yield
    finally:
        showing.show_picture = show_picture


@dataclass(frozen=True)
class WatchedEngine:
    """A real engine of which is known what it was asked, and which can die on the way."""

    engine: Engine
    asked: Path
    kill_after: int

    def generate(self, requests: Sequence[Request], sampling: SamplingSettings) -> Iterator[list[Sample]]:
        """The engine's groups."""
        for group in self.engine.generate(requests, sampling):
            num_asked = len(self.asked.read_text().split()) if self.asked.exists() else 0
            if self.kill_after and num_asked >= self.kill_after:
                os.kill(os.getpid(), signal.SIGKILL)
            with self.asked.open("a") as file:
                file.write("".join(f"{sample.row_id}\n" for sample in group))
            yield group

    def can_constrain(self) -> bool:
        """As the engine."""
        return self.engine.can_constrain()

    def can_prefill(self) -> bool:
        """As the engine."""
        return self.engine.can_prefill()

    def measure_peak(self) -> MemoryPeak:
        """As the engine."""
        return self.engine.measure_peak()

    def measure_start(self) -> float:
        """As the engine."""
        return self.engine.measure_start()

    def close(self) -> None:
        """Close the engine."""
        self.engine.close()


class WatchedPlatform(PlatformResource):
    """The real platform with a watched engine."""

    kill_after: int = 0
    """Samples after which the process is killed; 0 for never."""

    def open_engine(self, engine: EngineSettings, model_path: Path | None, **more: object) -> WatchedEngine:
        """The real one, watched."""
        opened = super().open_engine(engine, model_path, **more)  # type: ignore[arg-type]
        return WatchedEngine(opened, self.root / "asked.txt", self.kill_after)
