"""The harness's model that asks the round's engine: real sockets and processes, with a worker that is scripted."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from transformers import AutoTokenizer

from lance_assets.small_world import SMALL_MODEL
from resources.engines.contract import EngineError, ModelLoadError
from resources.evaluation.engine_link import EngineLink
from resources.evaluation.evaluator import HarnessRun, run_lm_eval
from resources.evaluation.harness_requests import cut_pair
from tests.resources.scripted_vllm_worker import score_tokens, write_tokens
from tests.resources.test_evaluator import write_harness_tasks
from tests.resources.test_vllm_engine import Scripted, scripted

__all__ = ["scripted"]
CONTEXT = 512
"""Tokens that the scripted worker can hold."""


@contextmanager
def open_model(scripted: Scripted, script: dict | None = None, **options: Any) -> Iterator[tuple[Any, EngineLink]]:
    """The model of the harness, and what answers it."""
    from resources.evaluation.engine_model import EngineModel

    engine = scripted.open(script, **options)
    # The harness has a process of its own. Here both would make the same tokenizer at once, which crashed once.
    engine._load_tokenizer()
    with closing(EngineLink(engine)) as link:
        # As in the harness's process, which inherits a copy of it.
        model = EngineModel(pretrained=str(SMALL_MODEL), link=os.dup(link.descriptor), rng_seed=3)
        try:
            yield model, link
        finally:
            model.link.close()


def keep_partial(model: Any) -> list[tuple[str, Any, Any]]:
    """What the model gives to be kept, as it comes."""
    kept: list[tuple[str, Any, Any]] = []
    model.cache_hook.add_partial = lambda kind, asked, found: kept.append((kind, asked, found))
    return kept


def build_choices(num_contexts: int, *, longest: int = 40) -> list[tuple[tuple[str, str], list[int], list[int]]]:
    """Three continuations of one to three tokens for each context."""
    contexts = [[5 + (place + n) % 200 for n in range(1 + place % longest)] for place in range(num_contexts)]
    return [
        ((f"context {place}", f"end {number}"), context, [9] * number)
        for place, context in enumerate(contexts)
        for number in (1, 2, 3)
    ]


@pytest.mark.parametrize("num_copies", [1, 2])
def test_scores_are_the_engine_s_for_each_request_in_order(scripted: Scripted, num_copies: int) -> None:
    """Also those of a copy that died and was started again."""
    requests = build_choices(60)
    # So slowly that one copy is not done before the other one has started.
    script = {"die_after": 20, "rows_per_step": 5, "seconds_per_step": 0.2 * (num_copies - 1)}
    with open_model(scripted, script, data_parallel_size=num_copies, max_num_seqs=16) as (model, _):
        kept = keep_partial(model)
        found = model._loglikelihood_tokens(requests, disable_tqdm=True)
    assert found == [score_tokens([*context, *end], len(context)) for _, context, end in requests]
    assert sorted(kept) == sorted(
        ("loglikelihood", asked, score) for (asked, _, _), score in zip(requests, found, strict=True)
    )
    assert len(scripted.pids) == num_copies + 1
    if num_copies == 2:
        assert min(scripted.count_told()[:2]) > 0, "both copies answer"


def test_what_is_too_long_loses_its_beginning_and_leaves_room(scripted: Scripted) -> None:
    context, end = list(range(5, 205)) * 4, [9, 8]
    with open_model(scripted) as (model, _):
        ((value, _),) = model._loglikelihood_tokens([(("a", "b"), context, end)], disable_tqdm=True)
    assert model.max_length == CONTEXT - 2
    kept, num_context = cut_pair(context, end, longest=CONTEXT - 1)
    assert (len(kept), num_context) == (CONTEXT - 1, CONTEXT - 3)
    assert value == score_tokens(list(kept), num_context)[0]


def test_a_text_is_read_in_windows(scripted: Scripted) -> None:
    """Each token but the first of the prefix is scored once, in windows that the engine can hold."""
    text = "reverse 1 2 3 " * 200
    with open_model(scripted) as (model, _):
        kept = keep_partial(model)
        (total,) = model.loglikelihood_rolling([SimpleNamespace(args=(text,))], disable_tqdm=True)
    (told,) = scripted.read_records()
    rows = [row for message in told for row in message.get("rows", [])]
    assert max(len(tokens) for _, tokens, _ in rows) == CONTEXT - 1
    assert min(number for *_, number in rows) >= 1
    tokenizer = AutoTokenizer.from_pretrained(SMALL_MODEL)
    assert sum(len(tokens) - number for _, tokens, number in rows) == len(tokenizer(text)["input_ids"])
    assert total == pytest.approx(sum(score_tokens(tokens, number)[0] for _, tokens, number in rows))
    assert kept == [("loglikelihood_rolling", (text,), total)]


def ask(context: str, **wishes: Any) -> Any:
    return SimpleNamespace(args=(context, {"until": [], "max_gen_toks": 8, "do_sample": False} | wishes))


def test_texts_are_those_of_the_engine_s_tokens(scripted: Scripted) -> None:
    """Requests that ask for different things, in any order, each cut at its own stop text."""
    tokenizer = AutoTokenizer.from_pretrained(SMALL_MODEL)
    texts = [f"sort {number} 4 2" for number in range(12)]
    wishes: list[dict[str, Any]] = [{}, {"max_gen_toks": 3}, {"until": [" "]}]
    requests = [ask(text, **wishes[place % 3]) for place, text in enumerate(texts)]
    with open_model(scripted) as (model, _):
        kept = keep_partial(model)
        found = model.generate_until(requests, disable_tqdm=True)
    for place, (text, written) in enumerate(zip(texts, found, strict=True)):
        (told,) = [row for row in list_rows(scripted) if row[1] == tokenizer(text)["input_ids"]]
        whole = tokenizer.decode(write_tokens(told[1], told[2], 3 if place % 3 == 1 else 8), skip_special_tokens=True)
        assert written == (whole.split(" ")[0] if place % 3 == 2 else whole)
    assert sorted(asked[0] for _, asked, _ in kept) == sorted(texts)
    begun = [message["begin"] for told in scripted.read_records() for message in told if "begin" in message]
    assert [one["temperature"] for one in begun] == [0.0] * 3
    # The end of the model's turn is among the tokens, and its text among the stops, as the harness has it.
    assert all(tokenizer.eos_token_id in one["stop_ids"] and tokenizer.eos_token in one["stop"] for one in begun)


def list_rows(scripted: Scripted) -> list[list]:
    return [row for told in scripted.read_records() for message in told for row in message.get("rows", [])]


def test_what_samples_has_a_stream_of_its_own(scripted: Scripted) -> None:
    """The same text asked twice is drawn twice, and drawn the same in another run."""
    requests = [ask("sort 1 2", do_sample=True, temperature=0.8, top_p=0.9) for _ in range(2)]
    seeds = []
    for _ in range(2):
        with open_model(scripted) as (model, _link):
            model.generate_until(requests, disable_tqdm=True)
        seeds.append(sorted(row[2] for row in list_rows(scripted)))
    assert seeds[0] == seeds[1]
    assert len(set(seeds[0])) == 2
    (begun,) = [message["begin"] for told in scripted.read_records() for message in told if "begin" in message]
    assert (begun["temperature"], begun["top_p"]) == (0.8, 0.9)


def test_what_the_engine_does_not_do_is_refused(scripted: Scripted) -> None:
    with open_model(scripted) as (model, _):
        with pytest.raises(ValueError, match=r"num_beams: asked for by .* set evaluation\.lm_eval\.backend: hf"):
            model.generate_until([ask("sort 1 2", num_beams=4)], disable_tqdm=True)
        with pytest.raises(ValueError, match="lower max_gen_toks"):
            model.generate_until([ask("sort 1 2", max_gen_toks=CONTEXT)], disable_tqdm=True)


def test_a_request_that_kills_the_engine_fails_and_all_others_are_kept(scripted: Scripted) -> None:
    """Rows of one token of context and 22 of it; the scripted worker takes the number for a seed, and dies with it."""
    requests = build_choices(22, longest=30)
    with open_model(scripted, {"poison": [22]}, max_num_seqs=16) as (model, _):
        kept = keep_partial(model)
        with pytest.raises(EngineError, match="3 of 66 requests failed; the first: vLLM died with this row alone"):
            model._loglikelihood_tokens(requests, disable_tqdm=True)
    assert len(kept) == 63


def run_on(engine: Any, folder: Path, log: Callable[[str], None], **kept: Path) -> Any:
    write_harness_tasks(folder)
    with closing(EngineLink(engine)) as link:
        (found,) = run_lm_eval(
            SMALL_MODEL,
            [HarnessRun(["a_task", "words"], **kept)],
            model_name="checkpoint",
            include_path=folder,
            link=link,
            log=log,
        )
    return found


@pytest.mark.slow
def test_the_harness_s_process_asks_it_and_a_second_try_asks_nothing_again(scripted: Scripted, tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    reports = []
    for _ in range(2):
        lines: list[str] = []
        engine = scripted.open()
        found = run_on(engine, tmp_path / "tasks", lines.append, kept=tmp_path / "kept")
        reports.append(found.report)
        engine.close()
    assert reports[0].equals(reports[1])
    assert set(reports[0]["num_items"]) == {5}
    assert found.items.height == 10
    assert not any("rows" in message for told in scripted.read_records() for message in told)
    assert sum("Requests remaining: 0" in line for line in lines) == 2


@pytest.mark.slow
def test_an_engine_that_cannot_be_started_is_what_the_step_says(scripted: Scripted, tmp_path: Path) -> None:
    engine = scripted.open({"exit_before_ready": "out of memory"})
    with pytest.raises(ModelLoadError, match="it does not fit: lower gpu_memory_utilization"):
        run_on(engine, tmp_path, lambda line: None)


STEP = """
import sys
from contextlib import closing
from pathlib import Path
from lance_assets.small_world import SMALL_MODEL
from resources.engines.vllm.engine import VllmEngine
from resources.evaluation.engine_link import EngineLink
from resources.machine.processes import stream_process

def note(pid):
    Path(sys.argv[2]).write_text(str(pid))

engine = VllmEngine(SMALL_MODEL, python=sys.argv[1], on_start=note)
with closing(EngineLink(engine)) as link:
    command = [sys.executable, "-c", sys.argv[4], str(link.descriptor), sys.argv[3]]
    stream_process(command, added_environment={}, log=print, descriptors=[link.descriptor])
"""
ASKING = """
import os, sys
from pathlib import Path
from resources.evaluation.engine_link import LinkedEngine
engine = LinkedEngine(int(sys.argv[1]))
for group in engine.score([([5, 6, 7 + number], 1) for number in range(100)]):
    Path(sys.argv[2]).write_text(str(os.getpid()))
"""


@pytest.mark.slow
def test_a_step_that_is_killed_takes_the_asking_process_and_the_engine_along(
    scripted: Scripted, tmp_path: Path, project_root: Path
) -> None:
    python = scripted.write_python(seconds_per_step=0.5, rows_per_step=1)
    files = [tmp_path / "engine", tmp_path / "asking"]
    command = [sys.executable, "-c", STEP, str(python), *map(str, files), ASKING]
    environment = os.environ | {"PYTHONPATH": str(project_root)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, start_new_session=True) as step:
        wait_until(lambda: all(file.exists() and file.read_text() for file in files))
        pids = [int(file.read_text()) for file in files]
        assert all(psutil.pid_exists(pid) for pid in pids), "both work"
        step.send_signal(signal.SIGKILL)
    wait_until(lambda: not any(is_at_work(pid) for pid in pids))


def is_at_work(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)
