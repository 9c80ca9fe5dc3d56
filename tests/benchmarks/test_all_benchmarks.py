"""What runs all benchmarks: which get real data, and what the table says."""

from pathlib import Path

from benchmarks.__main__ import choose_arguments, describe_machine, format_table, list_benchmarks


def test_real_data_goes_to_the_benchmarks_that_take_it(tmp_path: Path) -> None:
    (tmp_path / "t0_train_50k.parquet").touch()
    assert choose_arguments("orchestration", quick=False, data=tmp_path) == []
    assert choose_arguments("orchestration", quick=True, data=None) == ["--quick"]
    assert choose_arguments("rouge_l", quick=False, data=tmp_path) == ["--data", str(tmp_path)]
    corpus = ["--corpus", str(tmp_path / "t0_train_50k.parquet")]
    assert choose_arguments("dedup", quick=True, data=tmp_path) == ["--quick", *corpus]


def test_every_claim_has_its_file() -> None:
    assert set(list_benchmarks()) >= {"dedup", "embedding", "kcenter", "rouge_l", "small_model", "vendi"}


def test_a_failed_benchmark_keeps_its_row() -> None:
    table = format_table({"a": None, "b": {"speedup": 2.0, "arms": {}}}, {"a": 1.0, "b": 2.0})
    assert table.split("\n")[2:] == ["| a | FAILED | |", "| b | speedup | 2 |", "| b | (ran for) | 2 s |"]


def test_the_machine_is_told_without_its_paths() -> None:
    told = describe_machine()
    assert "commit" in told
    assert "cores" in told
    assert "/" not in told
