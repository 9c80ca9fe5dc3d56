"""Which engine does a stage, what a grammar becomes, and what is counted."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from lance_assets.assets.running.platform import PlatformResource
from lance_assets.records import FollowUp, Request, Sample, SamplingSettings, TurnNotContinuedError
from lance_assets.rounds.asking import Asker, Cost
from lance_assets.rounds.plan import Plan
from lance_assets.settings.engines import EngineSettings
from lance_assets.small_world import SMALL_MODEL
from resources.engines.contract import GrammarIgnoredError
from resources.engines.durable_stage import TooManyFailuresError
from resources.machine.processes import MemoryPeak
from tests.assets.tiny_experiment import plan_tiny, write_tiny_experiment

SAMPLING = SamplingSettings(0.7, 0.9, 8, grammar="score: [0-9]")
OPENED: list[str] = []
REVIEWERS_BATCH = 7
SERVER = {
    "kind": "openai",
    "batch_size": REVIEWERS_BATCH,
    "openai": {"base_url": "http://127.0.0.1:9/v1", "model": "judge"},
}


@dataclass
class NotingEngine:
    """Says its name and whether a grammar reached it."""

    name: str
    constrains: bool
    failing: frozenset[str] = frozenset()
    events: list[str] = field(default_factory=list)

    def generate(self, requests: Sequence[Request], sampling: SamplingSettings) -> Iterator[list[Sample]]:
        for request in requests:
            failed = request.row_id in self.failing
            text = f"{self.name} {sampling.grammar}"
            yield [
                Sample(request.row_id, text, "error", 1, 0, "no")
                if failed
                else Sample(request.row_id, text, "stop", 3, 2)
            ]

    def can_constrain(self) -> bool:
        return self.constrains

    def can_prefill(self) -> bool:
        return False

    def measure_peak(self) -> MemoryPeak:
        return MemoryPeak(1.5, 0.0)

    def measure_start(self) -> float:
        return 0.0

    def close(self) -> None:
        OPENED.append(f"close {self.name}")


@dataclass
class HoldingEngine(NotingEngine):
    """Asks what follows while it holds the samples, and says how."""

    def generate_followed(
        self,
        requests: Sequence[Request],
        sampling: SamplingSettings,
        follow_up: FollowUp,
        follow_sampling: SamplingSettings,
    ) -> Iterator[list[Sample]]:
        for request in requests:
            text = f"{follow_up.stage} {follow_sampling.grammar} {follow_sampling.temperature}"
            sample = Sample(request.row_id, "It is", "length", 3, 2)
            own = [Sample(one.row_id, text, "stop", 5, 1) for one in follow_up.list_requests(request, sample)]
            yield [replace(sample, followed=tuple(own))]


class NotingPlatform(PlatformResource):
    """Opens engines that note it."""

    constrains: bool = False
    failing: str = ""
    holds: bool = False

    def open_engine(self, engine: EngineSettings, model_path: Path | None, **more: object) -> NotingEngine:
        role = "reviewer" if engine.batch_size == REVIEWERS_BATCH else "round_model"
        if engine.kind != "openai":
            more["note_process"](os.getpid())
        name = f"{engine.kind} {role}"
        OPENED.append(f"open {name}")
        kind = HoldingEngine if self.holds else NotingEngine
        return kind(name, self.constrains, frozenset([self.failing]))


def build_asker(tmp_path: Path, *, machines: dict | None = None, **changed: object) -> Asker:
    OPENED.clear()
    plan: Plan = plan_tiny(write_tiny_experiment(tmp_path / "tiny"), **changed)
    platform = NotingPlatform(data_root=str(tmp_path / "data"), **(machines or {}))
    return Asker(plan, platform, "r0001", "raw_generations", "", SMALL_MODEL, Cost(), lambda _: None)


def ask(asker: Asker, stage: str, num_rows: int = 2) -> list[str]:
    requests = [Request(f"{stage}{n}", ({"role": "user", "content": "?"},), n) for n in range(num_rows)]
    return [sample.text for sample in asker(stage, requests, SAMPLING)]


def test_the_round_model_does_what_has_no_other(tmp_path: Path) -> None:
    asker = build_asker(tmp_path)
    assert ask(asker, "seed_review") == ask(asker, "new_prompt") == ["transformers round_model None"] * 2
    asker.close()
    assert OPENED == ["open transformers round_model", "close transformers round_model"]


def test_a_reviewer_does_the_reviews_and_engines_here_take_turns(tmp_path: Path) -> None:
    asker = build_asker(tmp_path, roles={"reviewer": {"model": "small", "engine": {"batch_size": REVIEWERS_BATCH}}})
    assert ask(asker, "seed_review") == ["transformers reviewer None"] * 2
    (alive,) = asker.platform.leases.list_alive()
    assert (alive.lease.pid, alive.lease.serves) == (os.getpid(), "the reviewer of raw_generations by transformers")
    assert ask(asker, "new_prompt") == ["transformers round_model None"] * 2
    assert ask(asker, "review") == ["transformers reviewer None"] * 2
    asker.close()
    assert asker.platform.leases.list_alive() == []
    assert OPENED[:4] == [
        *("open transformers reviewer", "close transformers reviewer"),
        *("open transformers round_model", "close transformers round_model"),
    ]


def test_a_server_stays_open(tmp_path: Path) -> None:
    asker = build_asker(tmp_path, roles={"reviewer": {"engine": SERVER}})
    for stage in ("seed_review", "new_prompt", "review"):
        ask(asker, stage)
    assert OPENED == ["open openai reviewer", "open transformers round_model"]
    asker.close()
    assert {line.split()[0] for line in OPENED[2:]} == {"close"}


def test_no_requests_open_nothing(tmp_path: Path) -> None:
    assert ask(build_asker(tmp_path), "review", num_rows=0) == []
    assert OPENED == []


def test_a_grammar_reaches_an_engine_that_constrains(tmp_path: Path) -> None:
    asker = build_asker(tmp_path, machines={"constrains": True})
    assert ask(asker, "review") == ["transformers round_model score: [0-9]"] * 2
    assert asker.cost.num_constrained == 2


def test_a_grammar_is_dropped_or_demanded(tmp_path: Path) -> None:
    off = {"engine": SERVER | {"structured_output": "off"}}
    asker = build_asker(tmp_path / "off", machines={"constrains": True}, roles={"reviewer": off})
    assert ask(asker, "review") == ["openai reviewer None"] * 2
    assert asker.cost.num_constrained == 0
    required = {"engine": SERVER | {"structured_output": "required"}}
    asker = build_asker(tmp_path / "required", roles={"reviewer": required})
    with pytest.raises(GrammarIgnoredError, match=r"structured_output is required, and the openai engine.*: auto"):
        ask(asker, "review")


def test_a_turn_that_has_begun_is_asked_of_no_engine_that_would_answer_it(tmp_path: Path) -> None:
    asker = build_asker(tmp_path)
    begun = Request("r", ({"role": "user", "content": "Review it."},), 0, prefill="score: ")
    with pytest.raises(TurnNotContinuedError, match="review_ending: the transformers engine does not go on"):
        asker("review_ending", [begun])


@pytest.mark.parametrize("force_ending", [True, False])
@pytest.mark.parametrize("holds", [True, False])
def test_what_follows_reaches_an_engine_that_holds_its_samples(tmp_path: Path, holds: bool, force_ending: bool) -> None:
    """By the sampling of the endings' stage, and kept with the sample in what an interrupted stage takes up."""
    given = {"machines": {"holds": holds, "constrains": True}, "force_ending": force_ending}
    asked = [Request(f"r{n}", ({"role": "user", "content": "Review it."},), n) for n in range(2)]
    for _ in range(2):
        asker = build_asker(tmp_path, **given)
        followed = [one for sample in asker("review", asked) for one in sample.followed]
        assert [one.text for one in followed] == (
            ["review_ending  ?(10|9|8|7|6|5|4|3|2|1|0) 0.0"] * 2 if holds and force_ending else []
        )
        assert asker.cost.num_samples == 2 + len(followed)
        # What nothing follows is asked as it was.
        assert asker("new_prompt", asked)[0].followed == ()


def test_failed_rows_count_against_the_experiments_bar(tmp_path: Path) -> None:
    machines = {"failing": "review1"}
    asker = build_asker(tmp_path / "a", machines=machines, engine={"max_failure_rate": 0.25})
    assert ask(asker, "review", num_rows=4)[1] == "transformers round_model None"
    assert (asker.cost.num_failed, asker.cost.num_stopped) == (1, 3)
    asker = build_asker(tmp_path / "b", machines=machines, engine={"max_failure_rate": 0.2})
    with pytest.raises(TooManyFailuresError, match=r"1 of 4 rows failed \(25.0%\)"):
        ask(asker, "review", num_rows=4)


def test_what_was_asked_is_counted(tmp_path: Path) -> None:
    asker = build_asker(tmp_path, engine={"prices": {"completion_per_million": 1e6}})
    ask(asker, "new_prompt", num_rows=3)
    assert (asker.cost.prompt_tokens, asker.cost.completion_tokens, asker.cost.price) == (9, 6, 6.0)
    assert asker.cost.peak_host_gib == 1.5
    again = build_asker(tmp_path, engine={"prices": {"completion_per_million": 1e6}})
    ask(again, "new_prompt", num_rows=3)
    assert (again.cost.num_samples, again.cost.num_taken_up) == (3, 3)
