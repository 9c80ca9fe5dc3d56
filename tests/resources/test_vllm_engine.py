"""How VllmEngine deals out rows and outlives its processes: real processes over the real socket, without vLLM."""

import importlib.util
import json
import os
import random
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

import resources.engines.vllm.dispatch
import resources.engines.vllm.process
from lance_assets.records import Request, Sample, SamplingSettings, TokenChoice
from lance_assets.small_world import SMALL_MODEL
from resources.engines.contract import (
    Adapter,
    ModelLoadError,
    ModelWithoutChatTemplateError,
    sample_in_order,
)
from resources.engines.durable_stage import run_durably
from resources.engines.vllm.engine import VllmDiedError, VllmEngine
from resources.engines.vllm.process import build_environment
from resources.models.chat_format import encode_messages
from tests.resources.scripted_vllm_worker import write_tokens

WORKER = Path(__file__).with_name("scripted_vllm_worker.py")
SAMPLING = SamplingSettings(temperature=0.7, top_p=0.9, max_new_tokens=10)


def ask(number: int, words: int = 1) -> Request:
    content = f"question {number}" + " and so on" * (words - 1)
    return Request(f"q{number}", ({"role": "user", "content": content},), number)


REQUESTS = [ask(number) for number in range(300)]


@dataclass
class Scripted:
    """Makes engines whose interpreter is a script that runs the scripted worker."""

    folder: Path
    log: list[str] = field(default_factory=list)
    pids: list[int] = field(default_factory=list)
    engines: list[VllmEngine] = field(default_factory=list)

    def write_python(self, **script) -> Path:
        record = self.folder / f"record{len(list(self.folder.glob('record*')))}"
        record.mkdir()
        python = self.folder / f"python-{record.name}"
        words = [sys.executable, "-I", str(WORKER), json.dumps({"record": str(record)} | script)]
        python.write_text(f'#!/bin/sh\nshift 2\nexec {shlex.join(words)} "$@"\n')
        python.chmod(0o755)
        return python

    def open(self, script: dict | None = None, **options) -> VllmEngine:
        options = {"max_num_seqs": 64, "stall_seconds": 60.0} | options
        python = str(self.write_python(**(script or {})))
        engine = VllmEngine(SMALL_MODEL, python=python, on_start=self.pids.append, log=self.log.append, **options)
        self.engines.append(engine)
        return engine

    def read_records(self) -> list[list[dict]]:
        """What each process of the latest engine was told, in the order of their starts."""
        files = sorted(max(self.folder.glob("record*")).iterdir())
        return [[json.loads(line) for line in file.read_text().splitlines()] for file in files]

    def count_told(self) -> list[int]:
        """Rows given to each process."""
        return [sum(len(message.get("rows", [])) for message in told) for told in self.read_records()]

    def list_running(self) -> list[int]:
        return [pid for pid in self.pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]


@pytest.fixture
def scripted(tmp_path: Path) -> Iterator[Scripted]:
    scripted = Scripted(tmp_path)
    yield scripted
    for engine in scripted.engines:
        engine.close()
    assert scripted.list_running() == []


@pytest.fixture(scope="module")
def shuffling_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmEngine]:
    engine = Scripted(tmp_path_factory.mktemp("shuffling")).open({"rows_per_step": 3}, max_num_seqs=5)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(SMALL_MODEL)


@pytest.fixture(scope="module")
def expected(tokenizer: PreTrainedTokenizerBase) -> dict[str, Sample]:
    return {request.row_id: expect(tokenizer, request) for request in REQUESTS}


def expect(tokenizer: PreTrainedTokenizerBase, request: Request, sampling: SamplingSettings = SAMPLING) -> Sample:
    """What the scripted worker's tokens are as a sample."""
    prompt = list(encode_messages(tokenizer, request.messages))
    tokens = write_tokens(prompt, request.sampling_seed, sampling.max_new_tokens)
    reason = "length" if len(tokens) == sampling.max_new_tokens else "stop"
    return Sample(request.row_id, tokenizer.decode(tokens), reason, len(prompt), len(tokens))


def check_failed(samples: list[Sample], expected: dict[str, Sample], failed: set[int], match: str) -> None:
    """Exactly these rows are errors, and every other is what it should be."""
    assert len(samples) == len(REQUESTS)
    assert {int(sample.row_id[1:]) for sample in samples if sample.finish_reason == "error"} == failed
    for sample in samples:
        if sample.finish_reason == "error":
            assert match in sample.error
            assert (sample.text, sample.prompt_tokens) == ("", expected[sample.row_id].prompt_tokens)
        else:
            assert sample == expected[sample.row_id]


@given(rows=st.lists(st.integers(0, 299), unique=True, max_size=60))
@settings(max_examples=25)
def test_order_and_neighbours_change_no_sample(
    shuffling_engine: VllmEngine, expected: dict[str, Sample], rows: list[int]
) -> None:
    """The worker takes its rows in an order by lot; each comes once, with its own tokens."""
    samples = sample_in_order(shuffling_engine, [REQUESTS[row] for row in rows], SAMPLING)
    assert samples == [expected[f"q{row}"] for row in rows]
    assert [sample.cached_tokens for sample in samples] == [sample.prompt_tokens // 2 for sample in samples]


def test_groups_come_as_they_finish(scripted: Scripted, expected: dict[str, Sample]) -> None:
    engine = scripted.open({"seconds_per_step": 0.005})
    groups = list(engine.generate(REQUESTS, SAMPLING))
    # On a busy machine several come at once.
    assert len(groups) > 2
    assert max(map(len, groups)) < len(REQUESTS)
    assert {sample.row_id: sample for group in groups for sample in group} == expected
    assert sum(map(len, groups)) == len(REQUESTS)


def test_a_stuck_copy_does_not_keep_the_other_waiting(scripted: Scripted, expected: dict[str, Sample]) -> None:
    """One copy stops in one of its two rows; the other finishes all the rest meanwhile."""
    engine = scripted.open({"stall": 1, "rows_per_step": 1}, data_parallel_size=2, max_num_seqs=1)
    groups, samples = engine.generate(REQUESTS[:8], SAMPLING), []
    while len(samples) < 6:
        samples += next(groups)
    groups.close()
    assert {sample.row_id: sample for sample in samples}.items() <= expected.items()


def test_rows_are_given_by_windows_in_the_order_of_their_tokens(
    scripted: Scripted, tokenizer: PreTrainedTokenizerBase
) -> None:
    engine = scripted.open({"rows_per_step": 2}, max_num_seqs=8)
    sample_in_order(engine, REQUESTS, SAMPLING)
    (told,) = scripted.read_records()
    given = [message["rows"] for message in told if "rows" in message]
    assert len(given[0]) == 16
    assert all(4 <= len(rows) <= 16 for rows in given[:-1])
    prompts = [tuple(row[1]) for rows in given for row in rows]
    assert prompts == sorted(encode_messages(tokenizer, request.messages) for request in REQUESTS)


@pytest.mark.parametrize("poison", [[0], [299], [17, 18, 250]])
@pytest.mark.parametrize("num_copies", [1, 2])
def test_a_poisoned_row_fails_alone(
    scripted: Scripted, expected: dict[str, Sample], poison: list[int], num_copies: int
) -> None:
    engine = scripted.open({"poison": poison}, data_parallel_size=num_copies, max_num_seqs=150)
    samples = sample_in_order(engine, REQUESTS, SAMPLING)
    check_failed(samples, expected, set(poison), "died with this row alone: exit -9")
    # after 300 rows, 37, 4, and twice alone; beside the first of each copy
    assert len(scripted.pids) <= num_copies + 5 * len(poison)
    assert sum("it is started again" in line for line in scripted.log) == len(scripted.pids) - num_copies


def test_a_poisoned_prompt_asked_four_times(scripted: Scripted, tokenizer: PreTrainedTokenizerBase) -> None:
    """Four samples of one prompt, side by side in the queue: they fail within the deaths in a row that are allowed."""
    four = [Request(f"p{number}", REQUESTS[100].messages, 1000 + number) for number in range(4)]
    engine = scripted.open({"poison": [1000, 1001, 1002, 1003]}, max_num_seqs=150)
    samples = sample_in_order(engine, [*REQUESTS, *four], SAMPLING)
    assert [sample.finish_reason for sample in samples[300:]] == ["error"] * 4
    assert samples[:300] == [expect(tokenizer, request) for request in REQUESTS]


def test_a_row_that_was_alone_once_is_asked_again(scripted: Scripted, expected: dict[str, Sample]) -> None:
    engine = scripted.open({"stall": 7}, stall_seconds=3.0)
    assert sample_in_order(engine, REQUESTS[7:8], SAMPLING) == [expected["q7"]]
    assert len(scripted.pids) == 2


@pytest.mark.parametrize(
    ("script", "match"),
    [({"refuse": [5, 6]}, "vLLM refused the row: scripted"), ({"garble": [5, 6]}, "ended the row with 'repetition'")],
)
def test_rows_that_vllm_gives_up_fail_alone(
    scripted: Scripted, expected: dict[str, Sample], script: dict, match: str
) -> None:
    check_failed(sample_in_order(scripted.open(script), REQUESTS, SAMPLING), expected, {5, 6}, match)
    assert len(scripted.pids) == 1


def test_too_long_prompts_fail_alone(scripted: Scripted, tokenizer: PreTrainedTokenizerBase) -> None:
    engine = scripted.open({"context": 100})
    requests = [ask(1), ask(2, words=60), ask(3)]
    short, long, other = sample_in_order(engine, requests, SAMPLING)
    assert [short, other] == [expect(tokenizer, requests[0]), expect(tokenizer, requests[2])]
    assert long.finish_reason == "error"
    assert "exceed the model's context of 100 tokens" in long.error
    assert sample_in_order(engine, requests[1:2], SAMPLING) == [long]
    assert scripted.count_told() == [2]


def kill_now_and_then(scripted: Scripted, killed: list[int], num_kills: int, over: threading.Event) -> None:
    """Kill the youngest process at moments by lot, while it loads as well as while it works."""
    rng = random.Random(0)
    while len(killed) < num_kills:
        while scripted.pids[-1] in killed:
            if over.wait(0.002):
                return
        time.sleep(rng.uniform(0.0, 0.15))
        killed.append(scripted.pids[-1])
        os.kill(killed[-1], signal.SIGKILL)


def list_stored(folder: Path) -> list[str]:
    """The row id of every stored sample, from the database of each stage."""
    stored = []
    for file in folder.rglob("*.sqlite"):
        with closing(sqlite3.connect(file)) as connection:
            stored += [row[0] for row in connection.execute("SELECT json_extract(sample, '$.row_id') FROM samples")]
    return stored


@pytest.mark.slow
def test_killed_at_30_random_moments_of_a_stage(scripted: Scripted, tokenizer: PreTrainedTokenizerBase) -> None:
    """Nothing finished is lost or asked again, nothing is doubled, and the result is the uninterrupted one's."""
    requests = [ask(number) for number in range(1500)]
    engine = scripted.open({"rows_per_step": 3, "seconds_per_step": 0.004}, max_num_seqs=200, max_restarts=1000)
    # so that no model fails to load at first
    sample_in_order(engine, REQUESTS[:1], SAMPLING)
    given: list[str] = []
    killed: list[int] = []
    over = threading.Event()
    killer = threading.Thread(target=kill_now_and_then, args=(scripted, killed, 30, over))

    def generate(asked):
        for group in engine.generate(asked, SAMPLING):
            if killer.ident is None:  # a process that is killed while the stage opens would fail to load its model
                killer.start()
            given.extend(sample.row_id for sample in group)
            yield group

    place = {"folder": scripted.folder / "stage", "fingerprint": "f1", "stage": "review", "flush_seconds": 0.05}
    options = {"generate": generate, "log": scripted.log.append, "max_failure_rate": 0.02}
    first = run_durably(requests, **options, **place).samples
    over.set()
    killer.join()
    assert len(set(killed)) == 30
    assert sorted(given) == sorted(list_stored(scripted.folder / "stage")) == sorted(r.row_id for r in requests)
    # A row that was twice killed alone counts as poisoned, and a later call asks it again, and nothing else.
    failed = {sample.row_id for sample in first if sample.finish_reason == "error"}
    given.clear()
    again = run_durably(requests, **options, **place).samples
    assert set(given) == failed
    assert again == [expect(tokenizer, request) for request in requests]


def test_dies_too_often(scripted: Scripted, expected: dict[str, Sample]) -> None:
    """The first process gives 16 rows and dies, none after it starts: what was finished is on disk."""
    engine = scripted.open({"die_after": 16, "exit_later": "no more memory"}, max_restarts=2)
    place = {"folder": scripted.folder / "stage", "fingerprint": "f1", "stage": "review", "log": scripted.log.append}
    with pytest.raises(VllmDiedError, match=r"died 3 times in a row .*\(exit 1\).*max_num_seqs(.|\n)*no more memory"):
        run_durably(REQUESTS, generate=lambda asked: engine.generate(asked, SAMPLING), flush_seconds=1000, **place)
    assert len(scripted.pids) == 3
    stored = list_stored(scripted.folder / "stage")
    assert len(stored) == 16
    other = scripted.open()
    finished = run_durably(REQUESTS, generate=lambda asked: other.generate(asked, SAMPLING), **place)
    assert finished.num_taken_up == 16
    assert finished.samples == list(expected.values())
    with pytest.raises(ModelLoadError, match="no more memory"):
        sample_in_order(engine, REQUESTS, SAMPLING)


def test_what_finished_comes_before_the_dead_are_replaced(scripted: Scripted) -> None:
    engine = scripted.open({"die_after": 16, "exit_later": "gone"}, max_restarts=0)
    groups = engine.generate(REQUESTS, SAMPLING)
    assert len(next(groups)) == 16
    with pytest.raises(VllmDiedError):
        next(groups)


@pytest.mark.parametrize(
    "script", [{"stall": 7}, {"die_after": 20}, {"die_after": 20, "orphan": True}, {"trickle": True}]
)
def test_hangs_and_deaths_are_outlived(
    scripted: Scripted, expected: dict[str, Sample], script: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources.engines.vllm.dispatch, "LOOK_SECONDS", 0.2)
    engine = scripted.open(script, stall_seconds=3.0 if "stall" in script else 60.0)
    assert sample_in_order(engine, REQUESTS, SAMPLING) == list(expected.values())
    assert (len(scripted.pids) > 1) == ("trickle" not in script)
    assert any("said nothing for" in line for line in scripted.log) == ("stall" in script)
    assert scripted.list_running() == scripted.pids[-1:]


def test_a_stopped_process_that_takes_nothing_is_replaced(
    scripted: Scripted, tokenizer: PreTrainedTokenizerBase
) -> None:
    """More is told it than a socket holds, so the telling itself must not wait for ever."""
    engine = scripted.open(stall_seconds=3.0, max_num_seqs=500)
    sample_in_order(engine, REQUESTS[:1], SAMPLING)
    os.kill(scripted.pids[0], signal.SIGSTOP)
    requests = [ask(number, words=70) for number in range(900)]
    assert sample_in_order(engine, requests, SAMPLING) == [expect(tokenizer, request) for request in requests]
    assert len(scripted.pids) == 2


def test_killed_between_two_calls(scripted: Scripted, expected: dict[str, Sample]) -> None:
    engine = scripted.open(data_parallel_size=2)
    for _ in range(2):
        assert sample_in_order(engine, REQUESTS, SAMPLING) == list(expected.values())
        os.kill(scripted.pids[-1], signal.SIGKILL)
        psutil.wait_procs([psutil.Process(scripted.pids[-1])], timeout=0.2)
    assert len(scripted.pids) == 3


def test_a_slow_taker_is_not_a_stalled_process(scripted: Scripted, expected: dict[str, Sample]) -> None:
    engine = scripted.open({"seconds_per_step": 0.01}, stall_seconds=3.0, max_num_seqs=16)
    samples = []
    for group in engine.generate(REQUESTS, SAMPLING):
        if not samples:
            time.sleep(3.5)
        samples += group
    assert {sample.row_id: sample for sample in samples} == expected
    assert len(scripted.pids) == 1


def test_two_copies_share_the_work(scripted: Scripted, expected: dict[str, Sample]) -> None:
    engine = scripted.open({"seconds_per_step": 0.002, "rows_per_step": 4}, data_parallel_size=2, max_num_seqs=8)
    assert sample_in_order(engine, REQUESTS, SAMPLING) == list(expected.values())
    told = scripted.count_told()
    assert len(told) == 2
    assert sum(told) == len(REQUESTS)
    assert min(told) > 60


def test_an_abandoned_call_does_not_reach_into_the_next(scripted: Scripted, tokenizer: PreTrainedTokenizerBase) -> None:
    """What the first call's rows gave meanwhile lies in the socket when the second asks other rows."""
    engine = scripted.open({"rows_per_step": 2, "seconds_per_step": 0.002})
    groups = engine.generate(REQUESTS, SAMPLING)
    next(groups)
    time.sleep(0.15)
    groups.close()
    others = [Request(f"o{number}", ask(number + 700).messages, number) for number in range(200)]
    assert sample_in_order(engine, others, SAMPLING) == [expect(tokenizer, request) for request in others]
    assert len(scripted.pids) == 1
    assert [message for message in scripted.read_records()[0] if "abort" in message] == [{"abort": True}]


@pytest.mark.parametrize("deaf", [False, True])
def test_close_leaves_no_process(scripted: Scripted, deaf: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources.engines.vllm.process, "GRACE_SECONDS", 0.2)
    engine = scripted.open({"deaf": deaf}, data_parallel_size=2)
    first = sample_in_order(engine, REQUESTS[:9], SAMPLING)
    peak = engine.measure_peak()
    assert peak.host_gib > 2 * 0.5
    assert len(scripted.list_running()) == 2
    engine.close()
    assert scripted.list_running() == []
    # The kernel's own count of a peak moves back by a few pages.
    assert engine.measure_peak().host_gib >= peak.host_gib - 1e-3
    assert sample_in_order(engine, REQUESTS[:9], SAMPLING) == first
    engine.close()


PARENT = """
import time
from resources.engines.vllm.process import VllmProcess
job = {"stop_ids": [2]}
worker = VllmProcess(PYTHON, job, added_environment={}, timeout_seconds=60)
print(worker.process.pid, flush=True)
if NUM_ROWS:
    worker.read()
    worker.tell({"begin": {"max_new_tokens": 9, "tail_tokens": 0}})
    worker.tell({"rows": [[row, [1, 2, 3], row] for row in range(NUM_ROWS)]})
    worker.read()
    print("working", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(("num_rows", "wait_seconds"), [(0, 0.0), (100, 0.5), (20_000, 0.0)])
def test_a_killed_parent_leaves_no_worker(scripted: Scripted, num_rows: int, wait_seconds: float) -> None:
    """Killed while the model loads, when all is done and not all read, and in the midst of the work."""
    python = scripted.write_python(**({"seconds_per_step": 0.01} if num_rows else {"slow_start_seconds": 60.0}))
    source = PARENT.replace("PYTHON", repr(str(python))).replace("NUM_ROWS", str(num_rows))
    command = [sys.executable, "-c", source]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = psutil.Process(int(parent.stdout.readline()))
        assert not num_rows or parent.stdout.readline() == "working\n"
        while not list(max(scripted.folder.glob("record*")).iterdir()):
            time.sleep(0.01)
        time.sleep(wait_seconds)
        parent.kill()
    gone, alive = psutil.wait_procs([worker], timeout=10)
    assert gone
    assert not alive


def test_interpreters_and_models_that_do_not_serve(scripted: Scripted, tmp_path: Path) -> None:
    def load(model: Path, python: str) -> None:
        sample_in_order(VllmEngine(model, python=python, on_start=scripted.pids.append), REQUESTS[:1], SAMPLING)

    if importlib.util.find_spec("vllm") is None:
        with pytest.raises(ModelLoadError, match=r"has no vLLM.*LANCE_VLLM_PYTHON"):
            load(SMALL_MODEL, sys.executable)
    nowhere = str(tmp_path / "no-python")
    with pytest.raises(ModelLoadError, match=r"no interpreter '.*no-python'.*engine\.vllm\.python.*LANCE_VLLM_PYTHON"):
        load(SMALL_MODEL, nowhere)
    python = str(scripted.write_python())
    with pytest.raises(ModelLoadError, match=r"no config\.json"):
        load(tmp_path, python)
    bare = shutil.copytree(SMALL_MODEL, tmp_path / "bare")
    (bare / "chat_template.jinja").unlink()
    with pytest.raises(ModelWithoutChatTemplateError, match="no chat template"):
        load(bare, python)
    for words, remedy in {"CUDA out of memory.": "lower gpu_memory_utilization", "bad weights": "last lines"}.items():
        with pytest.raises(ModelLoadError, match=rf"could not be started by {tmp_path}.*{remedy}(.|\n)*{words}"):
            load(SMALL_MODEL, str(scripted.write_python(exit_before_ready=words)))
    assert scripted.list_running() == []


def test_one_copy_of_two_that_does_not_start(scripted: Scripted) -> None:
    # The first copy must not have answered all before the second one ends.
    script = {"exit_later": "the second GPU is taken", "seconds_per_step": 1.0}
    engine = scripted.open(script, data_parallel_size=2)
    with pytest.raises(ModelLoadError, match="the second GPU is taken"):
        sample_in_order(engine, REQUESTS, SAMPLING)
    assert scripted.list_running() == []


def test_a_model_that_never_loads(scripted: Scripted) -> None:
    engine = scripted.open({"slow_start_seconds": 60.0}, stall_seconds=0.3)
    with pytest.raises(ModelLoadError, match="could not be started"):
        sample_in_order(engine, REQUESTS, SAMPLING)
    assert scripted.list_running() == []


def test_cuda_where_there_is_none(scripted: Scripted) -> None:
    with pytest.raises(ModelLoadError, match="device is cuda and vLLM sees no CUDA device"):
        sample_in_order(scripted.open(device="cuda"), REQUESTS, SAMPLING)
    assert scripted.list_running() == []


def test_adapter_for_small_stages_and_merged_weights_for_large_ones(scripted: Scripted, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"r": 4, "lora_alpha": 4}')
    adapter = Adapter(path=folder, base=tmp_path / "base", name="mini-r0001-abc", number=7)
    engine = scripted.open(adapter=adapter, merge_adapters_above=50)
    served = []
    for num_rows in (50, 51, 4, 30):
        sample_in_order(engine, REQUESTS[:num_rows], SAMPLING)
        served.append(scripted.read_records()[-1][0]["job"])
    # 4 rows, a probe, do not start the model anew
    assert len(scripted.pids) == 3
    assert [job["model"] for job in served] == [
        str(adapter.base),
        str(SMALL_MODEL),
        str(SMALL_MODEL),
        str(adapter.base),
    ]
    assert served[0]["adapter"] == {"name": "mini-r0001-abc", "number": 7, "path": str(folder), "rank": 8}
    assert served[1]["adapter"] is None


def test_settings_reach_the_worker(scripted: Scripted) -> None:
    options = {"dtype": "float32", "max_model_len": 256, "block_size": 16, "max_num_batched_tokens": 512}
    engine = scripted.open(**options, num_threads=3, kv_cache_gib=2, device="cpu", prefix_caching=False)
    sample_in_order(engine, REQUESTS[:2], SamplingSettings(0.5, 0.8, 9, grammar="[0-9]{2}", tail_tokens=2))
    ((start, begin, _),) = scripted.read_records()
    assert options.items() <= start["job"].items()
    assert start["job"]["prefix_caching"] is False
    assert start["job"]["stop_ids"] == [2]
    environment = start["environment"]
    assert (environment["OMP_NUM_THREADS"], environment["VLLM_CPU_KVCACHE_SPACE"]) == ("3", "2")
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert begin["begin"] == {
        "temperature": 0.5,
        "top_p": 0.8,
        "max_new_tokens": 9,
        "grammar": "[0-9]{2}",
        "tail_tokens": 2,
        "num_alternatives": 20,
    }


def test_the_process_is_told_of_a_penalty_only_where_there_is_one(scripted: Scripted) -> None:
    sample_in_order(scripted.open(), REQUESTS[:2], SamplingSettings(0.5, 0.8, 9, repetition_penalty=1.2))
    (_, begin, _) = scripted.read_records()[0]
    assert begin["begin"]["repetition_penalty"] == 1.2


@pytest.mark.parametrize("tail_tokens", [1, 3])
def test_tail_is_the_last_tokens_and_the_end_of_turn(
    scripted: Scripted, tokenizer: PreTrainedTokenizerBase, tail_tokens: int
) -> None:
    sampling = SamplingSettings(0.7, 0.9, 10, tail_tokens=tail_tokens)
    samples = sample_in_order(scripted.open(), REQUESTS, sampling)
    assert {sample.finish_reason for sample in samples} == {"stop", "length"}
    for request, sample in zip(REQUESTS, samples, strict=True):
        prompt = list(encode_messages(tokenizer, request.messages))
        last = write_tokens(prompt, request.sampling_seed, 10)[-tail_tokens:]
        choices = [
            TokenChoice(tokenizer.decode([t]), {tokenizer.decode([t + 1]): -1.5, tokenizer.decode([t]): -0.25})
            for t in last
        ]
        end = [TokenChoice("", {tokenizer.eos_token: -0.125})] if sample.finish_reason == "stop" else []
        assert sample.tail == (*choices, *end)


def test_an_engine_that_ignores_the_grammar(scripted: Scripted) -> None:
    engine = scripted.open()
    assert not engine.can_constrain()
    assert not engine.can_constrain()
    assert scripted.count_told() == [4]


def test_no_requests(scripted: Scripted) -> None:
    assert list(scripted.open().generate([], SAMPLING)) == []
    assert scripted.pids == []


@pytest.mark.parametrize(
    ("visible", "expected"),
    [(None, ["0,1", "2,3"]), ("4,5,6,7", ["4,5", "6,7"]), ("GPU-a,GPU-b,1,0", ["GPU-a,GPU-b", "1,0"])],
)
def test_copies_have_gpus_of_their_own(
    visible: str | None, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    options = {"device": "cuda", "num_threads": None, "kv_cache_gib": 1, "num_copies": 2, "gpus_per_copy": 2}
    assert [build_environment(number, **options)["CUDA_VISIBLE_DEVICES"] for number in (0, 1)] == expected
