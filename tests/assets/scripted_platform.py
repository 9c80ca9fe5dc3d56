"""A platform without models, for tests of what stands around them: rounds of it take a second."""

import hashlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from lance_assets.assets.platform import Platform
from lance_assets.prompts import render_prompt
from lance_assets.records import Request, Sample, SamplingSettings
from lance_assets.settings import ExperimentSettings
from lance_assets.small_world.tasks import complete, parse_prompt

SCRIPTED_TRAINER = (sys.executable, str(Path(__file__).parent / "scripted_trainer.py"))
"""A launcher that trains nothing; the checkpoint differs from its start in one byte."""
_STEPS = {step: render_prompt("compact", step, prompt="", completion="").split("\n")[0] for step in ("review", "new_prompt", "degrade")}


@dataclass(frozen=True)
class ScriptedEngine:
    """Says what a fair model might, by the words it is asked with and the row's sampling seed."""

    platform: "ScriptedPlatform"

    def generate(self, requests: Sequence[Request], sampling: SamplingSettings) -> Iterator[Sample]:
        """One sample for each request."""
        for request in requests:
            self._note(request)
            text = self._say(request.messages[-1]["content"], request.sampling_seed)
            cut = self.platform.cuts_completions and "Task:" not in request.messages[-1]["content"]
            yield Sample(request.row_id, text, "length" if cut else "stop", 10, len(text.split()))

    def close(self) -> None:
        """Nothing to give back."""

    def _note(self, request: Request) -> None:
        """Write down who was asked, and die where the test says so."""
        path = self.platform.root / "asked.txt"
        if self.platform.kill_after and path.exists() and len(path.read_text().split()) >= self.platform.kill_after:
            os.kill(os.getpid(), signal.SIGKILL)
        with path.open("a") as file:
            file.write(f"{request.row_id}\n")

    def _say(self, asked: str, seed: int) -> str:
        digits = " ".join(f"{seed:018d}"[-6 - seed % 3 :])
        if asked.startswith(_STEPS["review"]):
            return self.platform.says_in_review or f"Prompt: fair. Work: checked. score: {seed % 11}"
        if asked.startswith(_STEPS["new_prompt"]):
            return f"Thought Process: more digits. Final Answer: Reverse the list {digits}."
        if asked.startswith(_STEPS["degrade"]):
            return f"Thought Process: a wrong guess. Final Answer: With no work at all it may be that the answer is {digits}."
        problem = parse_prompt(asked)
        return complete(problem) if problem is not None and seed % 4 else f"I can not find out how this goes, the answer is {digits}."


@dataclass(frozen=True)
class ScriptedEmbedder:
    """A vector for each text by its hash."""

    model_hash: str = "scripted"

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [num_texts, 64], L2-normalised."""
        rows = [np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])).normal(size=64) for text in texts]
        vectors = np.array(rows, dtype=np.float32).reshape(len(texts), 64)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class ScriptedPlatform(Platform):
    """The platform with a scripted engine and embedder."""

    says_in_review: str = ""
    """Said in every review; without it each has a score of its own."""
    cuts_completions: bool = False
    """Whether completions reach the token limit."""
    kill_after: int = 0
    """Samples after which the engine's process is killed."""

    def open_engine(self, settings: ExperimentSettings, model_path: Path) -> ScriptedEngine:
        """A scripted one."""
        return ScriptedEngine(self)

    def open_embedder(self, settings: ExperimentSettings) -> ScriptedEmbedder:  # type: ignore[override]
        """A scripted one."""
        return ScriptedEmbedder()

    def read_asked(self) -> pl.Series:
        """Row ids of everything asked so far, in order."""
        return pl.Series((self.root / "asked.txt").read_text().split())
