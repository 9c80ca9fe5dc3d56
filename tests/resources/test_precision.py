"""What a machine trains in: its memory and its instructions, as they are and as they are told."""

from pathlib import Path

import psutil
import pytest
import torch

from resources.machine.instructions import has_bfloat16_instructions
from resources.training import precision
from resources.training.precision import find_device, read_host_gib

GIB = 2**30


def test_the_memory_is_all_of_the_machine_or_the_containers_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not what is free at the moment: the same job has the same parts whenever it runs."""
    total, limit = psutil.virtual_memory().total / GIB, tmp_path / "memory.max"
    monkeypatch.setattr(precision, "_CONTAINER_LIMIT", limit)
    assert read_host_gib() == total
    for told, found in ((str(GIB), 1.0), ("max\n", total), (str(2**62), total)):
        limit.write_text(told)
        assert read_host_gib() == found


def test_processes_of_a_cpu_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    alone, shared, told = find_device(None), find_device(None, num_local_processes=2), find_device(6.0)
    assert (alone.kind, shared.memory_gib) == ("cpu", alone.memory_gib / 2)
    assert told.memory_gib == 6.0


@pytest.mark.parametrize("name", ["avx512_bf16", "amx_bf16", "bf16"])
def test_the_processor_says_what_it_has(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True, "architecture": "x86_64"})
    assert not has_bfloat16_instructions()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {name: True})
    assert has_bfloat16_instructions()
