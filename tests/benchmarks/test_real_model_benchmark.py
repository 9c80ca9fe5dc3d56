"""The benchmark of review signals: its pairs, its table, and what is best."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.__main__ import list_benchmarks
from benchmarks._models import choose_profile, find_model
from benchmarks._signal_tables import describe_signal, tabulate
from benchmarks.real_model import (
    OWN_SEEDS,
    SOLVERS,
    bound_pairs,
    build_all_pairs,
    find_best,
    measure_all,
    read_instructions,
    read_own_seeds,
    read_solutions,
)
from lance_assets.algorithms.measures.signals import ScoredPair, SignalMeasures, measure_signal
from lance_assets.algorithms.reviews.signal_pairs import SignalPair
from lance_assets.prompts import Templates
from lance_assets.recipes.asking import RoundIdentity
from lance_assets.recipes.lance_settings import LanceSettings
from lance_assets.recipes.steps.signals import SignalModels, remember
from lance_assets.records import Request, Sample, SamplingSettings, TokenChoice
from lance_assets.small_world import SMALL_MODEL


def measure(*scores: tuple[float | None, float | None]) -> SignalMeasures:
    return measure_signal([ScoredPair("gold", *pair, 3, 3) for pair in scores])


def write_solutions(folder: Path) -> Path:
    rows = []
    for number in range(4):
        solutions = {solver: {"is_correct": False, "solution": f"{number}\nA: 1"} for solver in SOLVERS}
        if number:
            solutions[SOLVERS[2]] = {"is_correct": True, "solution": f"{number} + 2 = <<{number}+2=9>>9\nA: 9"}
        rows.append({"question": f"How many, {number}?", **solutions})
    path = folder / "gsm8k_example_model_solutions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_solutions_are_right_and_wrong_ones_of_one_question(tmp_path: Path) -> None:
    seeds = read_solutions(write_solutions(tmp_path), max_words=40)
    # The first question has no right solution.
    assert [(seed.completion, seed.wrong) for seed in seeds] == [
        (f"{number} + 2 = 9\nA: 9", (f"{number}\nA: 1",)) for number in (1, 2, 3)
    ]
    assert read_solutions(tmp_path / "gsm8k_example_model_solutions.jsonl", max_words=3) == []


def test_seeds_without_answers_get_gold_pairs_from_the_solutions(tmp_path: Path) -> None:
    write_solutions(tmp_path)
    rows = [{"instruction": f"Say {word}.", "output": f"This is what {word} is said to be."} for word in "abcde"]
    (tmp_path / "self_instruct_seed_tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {"num_pairs": 3, "rng_seed": 0, "max_words": 80, "seeds": None, "data": tmp_path}
    options = argparse.Namespace(model=tmp_path, **given)
    pairs = build_all_pairs(options, read_own_seeds(options))
    assert [pair.kind for pair in pairs] == [k for k in ("other_seed", "degraded", "truncated", "gold") for _ in "123"]
    assert {pair.rule for pair in pairs if pair.kind == "gold"} == {"known_wrong"}
    # The packaged model has its own seeds, which carry answers.
    options = argparse.Namespace(model=SMALL_MODEL, **given)
    own = build_all_pairs(options, read_own_seeds(options))
    assert {pair.rule for pair in own if pair.kind == "gold"} == {"answer"}


def test_long_seeds_are_left_out() -> None:
    every, short = (read_instructions(OWN_SEEDS, max_words=most) for most in (1000, 25))
    assert 0 < len(short) < len(every)
    assert all(seed.answer for seed in every)


def test_the_table_has_a_row_a_signal_and_the_best_is_one_that_scores() -> None:
    measured = {
        "sampled": measure((9, 1), (5, 5)),
        # Half of what cannot be scored may be chosen by, and no more.
        "yes_no": measure((0.9, 0.1), (None, None), (None, None)),
        "likelihood": measure((1, 2), (1, 3)),
    }
    assert find_best(measured) == "sampled"
    lines = tabulate(measured).split("\n")
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| sampled", "| yes_no", "| likelihood"]
    assert len({line.count("|") for line in lines}) == 1
    figures = describe_signal(measured["sampled"])
    assert (figures["auc"], figures["accuracy"], figures["tied_rate"]) == (0.875, 0.75, 0.5)
    json.dumps(figures)


def test_it_runs_with_the_others() -> None:
    assert "real_model" in list_benchmarks()


def test_a_model_is_named_as_for_lance_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser(prog="real_model")
    assert find_model("small", parser) == find_model(str(SMALL_MODEL), parser) == SMALL_MODEL
    no_gguf = tmp_path / "weights.gguf"
    no_gguf.write_bytes(b"GGUF and nothing more")
    for name, words in ((str(tmp_path), "config.json"), (str(no_gguf), "weights.gguf"), ("./none", "is not there")):
        with pytest.raises(SystemExit):
            find_model(name, parser)
        said = capsys.readouterr().err
        assert "--model: " in said
        assert words in said


def test_the_profile_is_that_of_the_models_size(tmp_path: Path) -> None:
    """Llama's shapes of 135M and of 7B parameters, without their weights."""
    sizes = {
        "small": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "vocab_size": 49152},
        "full": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "vocab_size": 32000},
    }
    assert choose_profile(SMALL_MODEL) == "compact"
    for profile, shape in sizes.items():
        folder = tmp_path / profile
        folder.mkdir()
        heads = {"num_attention_heads": 8, "num_key_value_heads": 8, "model_type": "llama"}
        config = {"architectures": ["LlamaForCausalLM"], **heads, **shape}
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        assert choose_profile(folder) == profile


def test_the_pairs_of_written_reviews_are_bounded_by_kind() -> None:
    kinds = ["gold", "gold", "degraded", "gold", "degraded"]
    pairs = [SignalPair(f"p{place}", kind, "rule", "s", "p", "b", "w") for place, kind in enumerate(kinds)]
    assert [pair.row_id for pair in bound_pairs(pairs, 1)] == ["p0", "p2"]
    assert bound_pairs(pairs, None) == pairs
    assert bound_pairs(pairs, 0) == []


def test_agreement_is_measured_where_no_review_has_a_score(capsys: pytest.CaptureFixture[str]) -> None:
    """Reviews that never end: their row is empty, their forced one is not, and the samples agree as they do."""

    def ask(stage: str, requests: Sequence[Request], sampling: SamplingSettings | None = None) -> list[Sample]:
        digit = {"review_ending": "7", "agreement": "It is five."}.get(stage)
        tail = (TokenChoice(digit, {digit: -0.1}),) if digit else ()
        return [
            Sample(one.row_id, digit or "And so on", "stop" if digit else "length", 9, 2, tail=tail) for one in requests
        ]

    settings = LanceSettings()
    models = SignalModels(
        identity=RoundIdentity("x", "r0001", 0, Templates("small", "lance")),
        ask=remember(ask),
        reader=None,  # type: ignore[arg-type]
        rubric=settings.rubric,
        sampling=settings.sampling,
    )
    pairs = [SignalPair(f"p{n}", "gold", "r", f"s{n}", f"What is {n}?", "It is five.", "None.") for n in range(3)]
    measured, _ = measure_all(models, pairs, ["sampled", "agreement"], num_reviewed=2)
    assert list(measured) == ["sampled", "sampled, ending forced", "agreement"]
    assert [own.overall.num_pairs for own in measured.values()] == [2, 2, 3]
    assert measured["sampled"].unscored_rate == 1
    assert measured["sampled, ending forced"].unscored_rate == 0
    assert measured["agreement"].overall.auc.value == 1
    assert capsys.readouterr().out.startswith("agreement: 1.00")


KEYS = {
    *("model", "reviewer_auc", "reviewer_accuracy", "unscored_rate", "new_prompt_valid_rate"),
    *("degraded_worse_rate", "tokens_per_second", "minutes", "agreement_auc", "best_signal", "as_written"),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signals", "none"),
    [
        (["sampled", "forced_digit", "mutual_information", "pairwise"], {"agreement_auc"}),
        (["pairwise"], {"reviewer_auc", "reviewer_accuracy", "unscored_rate", "best_signal", "degraded_worse_rate"}),
    ],
)
def test_the_last_line_has_every_figure(
    signals: list[str], none: set[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks import real_model

    arguments = ["real_model", "--quick", "--num-pairs", "1", "--max-new-tokens", "48", "--signals", *signals]
    monkeypatch.setattr("sys.argv", arguments)
    real_model.main()
    figures = json.loads(capsys.readouterr().out.strip().split("\n")[-1])
    assert set(figures) >= KEYS
    assert {key for key in KEYS if figures[key] is None} >= none
    forced = ["sampled, ending forced"] if "sampled" in signals else []
    assert set(figures["signals"]) == {*signals, *forced}
    # With no pair there are new prompts all the same, which come from the seeds.
    assert figures["tokens_per_second"] > 0
    assert 0 <= figures["new_prompt_valid_rate"] <= 1
