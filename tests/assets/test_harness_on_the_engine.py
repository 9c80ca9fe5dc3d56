"""A round whose engine is vLLM evaluates by it: the world's problems and the harness's tasks, with one start of it."""

from pathlib import Path

import pytest

from lance_assets.rounds.making.evaluating import evaluate
from lance_assets.rounds.platform import Platform
from lance_assets.rounds.round import Round
from lance_assets.small_world import SMALL_MODEL
from tests.assets.tiny_experiment import WORLD, plan_tiny, write_tiny_experiment
from tests.resources.test_evaluator import write_harness_tasks
from tests.resources.test_vllm_engine import Scripted


@pytest.mark.slow
def test_the_engine_of_the_round_answers_the_world_and_the_harness(tmp_path: Path) -> None:
    folder = write_tiny_experiment(tmp_path / "tiny")
    (folder / "tasks").mkdir()
    write_harness_tasks(folder / "tasks")
    scripted = Scripted(tmp_path)
    plan = plan_tiny(
        folder,
        evaluation={"world": WORLD, "lm_eval": {"tasks": ["a_task"], "include_path": "tasks", "limit": 3}},
        engine={"kind": "vllm", "device": "cpu", "vllm": {"python": str(scripted.write_python()), "max_num_seqs": 64}},
    )
    platform = Platform(str(tmp_path / "data"))
    leases: list[int] = []
    this_round = Round(plan, platform, "r0000", log=lambda _: leases.append(len(platform.leases.list_alive())))
    found = evaluate(this_round, "checkpoint", SMALL_MODEL)
    told = scripted.read_records()
    assert len(told) == 1, "one process of the engine, for both"
    begun = [message["begin"] for message in told[0] if "begin" in message]
    assert ["scores" in one for one in begun] == [False] * (len(begun) - 1) + [True]
    assert max(leases) == 1, "who holds the model is known while the harness asks"
    assert platform.leases.list_alive() == []
    assert set(found.report["benchmark"]) == {plan.world.name if plan.world else "", "a_task"}
    assert found.harness_items.height == 2 * 3
    assert this_round.cost.peak_host_gib >= 0.5, "that of the engine's processes, as they tell it"
    # Another try of the step asks nothing again, and starts no engine.
    again = evaluate(this_round, "checkpoint", SMALL_MODEL)
    assert again.harness_items.equals(found.harness_items)
    assert len(scripted.read_records()) == 1
