"""Copies of a model on nodes of a Ray cluster: real nodes on this machine, and scripted workers in place of vLLM."""

import importlib
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from resources.engines.contract import ModelLoadError, sample_in_order
from tests.resources.test_engine_model import run_on
from tests.resources.test_vllm_engine import REQUESTS, SAMPLING, Scripted, expected, scripted, tokenizer

pytest.importorskip("ray", reason="the extra [ray] is not installed")
pytestmark = pytest.mark.slow
on_ray = importlib.import_module("resources.engines.vllm.on_ray")

__all__ = ["expected", "scripted", "tokenizer"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes with one core each, so that two copies lie on two nodes; their address is where a user sets it."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    before = os.environ.get("RAY_ADDRESS")
    os.environ["RAY_ADDRESS"] = cluster.address
    yield cluster
    os.environ.pop("RAY_ADDRESS") if before is None else os.environ.update(RAY_ADDRESS=before)
    cluster.shutdown()


OPTIONS = {"copies_on": "ray", "data_parallel_size": 2, "device": "cpu", "num_threads": 1}


def list_workers() -> list[psutil.Process]:
    """The scripted workers that run, wherever Ray started them."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any("scripted_vllm_worker.py" in word for word in process.info["cmdline"] or [])
    ]


def test_two_nodes_give_the_samples_of_one_machine(cluster, scripted: Scripted, expected) -> None:
    """Both do a part, and nothing is left of them when the engine is closed."""
    engine = scripted.open({"seconds_per_step": 0.01, "rows_per_step": 4}, max_num_seqs=8, **OPTIONS)
    assert sample_in_order(engine, REQUESTS, SAMPLING) == list(expected.values())
    assert min(scripted.count_told()) > 50
    assert len(list_workers()) == 2
    engine.close()
    assert wait_until(lambda: not list_workers())


def test_the_harness_is_answered_by_copies_on_two_nodes(cluster, scripted: Scripted, tmp_path: Path) -> None:
    """Its report is that of one copy on this machine, and both copies were asked."""
    (tmp_path / "tasks").mkdir()
    engine = scripted.open()
    here = run_on(engine, tmp_path / "tasks", lambda line: None)
    engine.close()
    engine = scripted.open({"seconds_per_step": 0.05, "rows_per_step": 1}, max_num_seqs=1, **OPTIONS)
    elsewhere = run_on(engine, tmp_path / "tasks", lambda line: None)
    assert len(list_workers()) == 2
    engine.close()
    told = scripted.count_told()
    assert elsewhere.report.equals(here.report)
    assert elsewhere.items.equals(here.items)
    assert len(told) == 2
    assert min(told) > 0


def wait_until(is_so, seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.05)
    return is_so()


def test_a_node_that_dies_loses_no_row(cluster, scripted: Scripted, expected) -> None:
    """Its processes are killed as a machine's are; the rows of its copy are asked again on another node."""
    lost = cluster.add_node(num_cpus=1)
    engine = scripted.open(
        {"seconds_per_step": 0.02, "rows_per_step": 2}, max_num_seqs=8, **OPTIONS | {"data_parallel_size": 3}
    )
    samples = {}
    for group in engine.generate(REQUESTS, SAMPLING):
        samples |= {sample.row_id: sample for sample in group}
        if len(samples) > 30 and lost is not None:
            cluster.remove_node(lost, allow_graceful=False)
            lost = None
            cluster.add_node(num_cpus=1)
    assert samples == expected
    assert any("died" in line for line in scripted.log)
    assert len(scripted.pids) == 4


def test_a_row_that_kills_its_process_fails_alone(cluster, scripted: Scripted, expected) -> None:
    engine = scripted.open({"poison": [7]}, max_num_seqs=16, **OPTIONS)
    samples = sample_in_order(engine, REQUESTS[:40], SAMPLING)
    assert [sample.row_id for sample in samples if sample.finish_reason == "error"] == ["q7"]
    assert [sample for sample in samples if sample.row_id != "q7"] == [
        sample for row_id, sample in list(expected.items())[:40] if row_id != "q7"
    ]


def test_a_worker_ends_with_the_engines_process(cluster, scripted: Scripted) -> None:
    """What passes words on is killed, as with the step that started it: the worker on the node does not go on."""
    engine = scripted.open(**OPTIONS | {"data_parallel_size": 1})
    sample_in_order(engine, REQUESTS[:2], SAMPLING)
    assert len(list_workers()) == 1
    os.kill(scripted.pids[0], signal.SIGKILL)
    assert wait_until(lambda: not list_workers())


def test_without_a_cluster_the_remedy_is_named(scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    engine = scripted.open(**OPTIONS | {"data_parallel_size": 1})
    with pytest.raises(ModelLoadError, match="set RAY_ADDRESS to the address of a cluster that runs"):
        sample_in_order(engine, REQUESTS[:2], SAMPLING)


def test_who_does_not_know_the_token_is_not_listened_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong words, too many, none at all, and half of the token; then the worker itself, with words behind it."""
    token = secrets.token_hex(8)
    monkeypatch.setattr(on_ray, "CONNECT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert on_ray.welcome(listener, token) is None
        for said in (b"wrong\n", b"x" * 1000, b"", token[:4].encode(), (token + "0\n").encode()):
            with socket.create_connection(listener.getsockname()) as stranger:
                stranger.sendall(said)
                assert on_ray.welcome(listener, token) is None
        with socket.create_connection(listener.getsockname()) as worker:
            worker.sendall(f'{token}\n{{"ready": 1}}\n'.encode())
            found = on_ray.welcome(listener, token)
            assert found is not None
            assert found.recv(100) == b'{"ready": 1}\n'
            found.close()


def test_words_are_passed_on_until_either_is_gone() -> None:
    engine, ours = socket.socketpair()
    theirs, worker = socket.socketpair()
    passing = threading.Thread(target=on_ray.pass_on, args=(ours, theirs))
    passing.start()
    engine.sendall(b"rows" * 100_000)
    received = b""
    while len(received) < 400_000:
        received += worker.recv(1 << 16)
    assert received == b"rows" * 100_000
    assert not on_ray.has_gone(ours)
    engine.close()
    assert worker.recv(10) == b""
    passing.join(5)
    assert on_ray.has_gone(ours)
    for one in (ours, theirs, worker):
        one.close()
