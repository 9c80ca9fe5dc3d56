"""A round's training sets leave as other tools' formats, and come back as the same rows."""

import json
from pathlib import Path

import polars as pl
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from lance_assets.cli.app import app
from lance_assets.conversations import Turn, quote_prompt, write_conversation
from lance_assets.home import find_data_root
from lance_assets.records import CHECKPOINT, PREFERENCE_PAIRS, SFT_SET
from lance_assets.rounds.experiments import find_plan
from lance_assets.rounds.finished.card import write_model_card
from lance_assets.rounds.finished.export import export_data, write_alpaca
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.platform import Platform
from lance_assets.rounds.round import Round
from lance_assets.settings.experiment import SeedSettings
from lance_assets.settings.writing.new_experiment import create_experiment
from resources.readers.seed_files import open_seeds
from tests.assets.tiny_experiment import plan_tiny, write_tiny_experiment
from tests.rounds.test_training_report import ROW

TALK = write_conversation(
    [Turn("system", "Be brief."), Turn("user", "Name a bird."), Turn("assistant", "A hen."), Turn("user", "Another?")]
)
HOSTILE = [
    ("Was ist 2*3*4?", "24 <think>**ja**</think>"),
    (quote_prompt("␞ assistant"), "a\nb\r\n| c |"),
    (TALK, "An owl."),
    ('{"a": [1, "ü"]}', "<|im_end|> ไทย 中文"),
]


@pytest.fixture
def world(tmp_path: Path) -> tuple[Plan, Platform]:
    return plan_tiny(write_tiny_experiment(tmp_path / "tiny")), Platform(str(tmp_path / "data"))


def write_sets(world: tuple[Plan, Platform], rows: list[tuple[str, str]], pairs: list[tuple[str, str, str]]) -> None:
    """The training sets of r0002, as if a round had made them."""
    plan, platform = world
    this_round = Round(plan, platform, "r0002", lambda _: None)
    sft = [
        {
            **{"row_id": f"{place:016x}", "prompt": prompt, "completion": completion, "source_id": "0" * 16},
            **{"source": ["seed", "generated", "eft"][place % 3], "source_round": "r0001", "review_score": 7.5},
        }
        for place, (prompt, completion) in enumerate(rows)
    ]
    this_round.write("sft_set", pl.DataFrame(sft, schema=SFT_SET))
    preferences = [
        {
            **{"row_id": f"{place:016x}", "prompt": prompt, "chosen": chosen, "rejected": rejected},
            **{"chosen_id": "1" * 16, "rejected_id": "2" * 16, "chosen_score": 8.0, "rejected_score": 3.0},
            **{"score_gap": 5.0, "source_round": "r0002"},
        }
        for place, (prompt, chosen, rejected) in enumerate(pairs)
    ]
    this_round.write("preference_pairs", pl.DataFrame(preferences, schema=PREFERENCE_PAIRS))


def write_files(files: dict[str, bytes], folder: Path) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def read_as_seeds(folder: Path, name: str) -> list[tuple[str, str]]:
    table = open_seeds(SeedSettings.model_validate({"path": name}), folder).table
    return table.select("prompt", "completion").rows()


@pytest.mark.parametrize(
    "name", ["sft.parquet", "sft.jsonl", "other_formats/sft_sharegpt.json", "other_formats/sft_alpaca.json"]
)
def test_every_format_is_read_as_seeds_to_the_same_rows(
    world: tuple[Plan, Platform], tmp_path: Path, name: str
) -> None:
    write_sets(world, HOSTILE, [])
    folder = write_files(export_data(*world, "r0002"), tmp_path / "out")
    assert read_as_seeds(folder, name) == HOSTILE


TEXTS = st.text(min_size=1, max_size=30).filter(lambda text: bool(text.strip()))


@given(st.lists(st.tuples(TEXTS, TEXTS), max_size=3), st.none() | TEXTS, TEXTS)
@settings(max_examples=30)
def test_any_talk_of_questions_and_replies_is_written_as_alpaca(
    before: list[tuple[str, str]], system: str | None, asked: str
) -> None:
    turns = [*([Turn("system", system)] if system else [])]
    turns += [turn for pair in before for turn in (Turn("user", pair[0]), Turn("assistant", pair[1]))]
    row = write_alpaca(write_conversation([*turns, Turn("user", asked)]), "Yes.")
    assert row is not None
    assert (row["instruction"], row["system"], row["output"]) == (asked, system or "", "Yes.")
    assert row["history"] == [list(pair) for pair in before]


def test_a_talk_that_alpaca_cannot_say_is_in_the_other_formats_alone(world: tuple[Plan, Platform]) -> None:
    two_questions = write_conversation([Turn("user", "Name a bird."), Turn("user", "A big one.")])
    write_sets(world, [(two_questions, "An ostrich.")], [])
    files = export_data(*world, "r0002")
    assert "other_formats/sft_alpaca.json" not in files
    assert json.loads(files["sft.jsonl"])["prompt"] == [
        {"role": "user", "content": "Name a bird."},
        {"role": "user", "content": "A big one."},
    ]
    assert "sft_alpaca" not in files["README.md"].decode()


def test_load_dataset_opens_the_folder_offline(world: tuple[Plan, Platform], tmp_path: Path) -> None:
    from datasets import load_dataset

    write_sets(world, HOSTILE, [(TALK, "An owl.", "A hen.")])
    folder = write_files(export_data(*world, "r0002"), tmp_path / "out")
    cache = str(tmp_path / "cache")
    sft = load_dataset(str(folder), "sft", split="train", cache_dir=cache)
    assert [row["completion"][0]["content"] for row in sft] == [completion for _, completion in HOSTILE]
    assert sft[0]["source"] == "seed"
    pairs = load_dataset(str(folder), "preference_pairs", split="train", cache_dir=cache)
    assert pairs[0]["chosen"] == [{"role": "assistant", "content": "An owl."}]
    assert [turn["role"] for turn in pairs[0]["prompt"]] == ["system", "user", "assistant", "user"]


def test_the_same_round_gives_the_same_bytes(world: tuple[Plan, Platform]) -> None:
    write_sets(world, HOSTILE, [("a", "b", "c")])
    assert export_data(*world, "r0002") == export_data(*world, "r0002")


def test_sources_are_chosen_and_counted(world: tuple[Plan, Platform]) -> None:
    write_sets(world, HOSTILE, [])
    files = export_data(*world, "r0002", sources=["generated"])
    assert [json.loads(line)["source"] for line in files["sft.jsonl"].splitlines()] == ["generated"]
    assert "- generated: 1" in files["README.md"].decode()
    with pytest.raises(ValueError, match="seed, eft, generated, got people"):
        export_data(*world, "r0002", sources=["people"])


def test_a_round_without_rows_says_so(world: tuple[Plan, Platform]) -> None:
    write_sets(world, [], [])
    with pytest.raises(ValueError, match="r0002 has nothing to export"):
        export_data(*world, "r0002")


def test_a_round_that_is_not_there_is_told(world: tuple[Plan, Platform]) -> None:
    with pytest.raises(OSError, match="sft_set"):
        export_data(*world, "r0007")


def test_the_card_says_where_rows_came_from_and_names_no_folder(world: tuple[Plan, Platform], tmp_path: Path) -> None:
    write_sets(world, HOSTILE, [("a", "b", "c")])
    card = export_data(*world, "r0002", licence="apache-2.0")["README.md"].decode()
    head = yaml.safe_load(card.split("---")[1])
    assert head["license"] == "apache-2.0"
    assert [config["config_name"] for config in head["configs"]] == ["sft", "preference_pairs"]
    assert "| r0002 | gone | gone | gone | 4 | 1 |" in card
    assert "states apache-2.0" in card
    assert str(tmp_path) not in card
    assert "stated no licence" in export_data(*world, "r0002")["README.md"].decode()


def test_the_card_of_a_model_says_what_it_was_trained_on(world: tuple[Plan, Platform]) -> None:
    plan, platform = world
    this_round = Round(plan, platform, "r0001", lambda _: None)
    this_round.write("checkpoint", pl.DataFrame([ROW], schema=CHECKPOINT))
    card = write_model_card(this_round, licence=None)
    assert "library_name: transformers" in card
    assert "content hash" in card


def test_the_command_writes_a_folder_that_holds_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create_experiment(tmp_path / "mine" / "own_run", recipe="lance")
    monkeypatch.setenv("LANCE_EXPERIMENTS", str(tmp_path / "mine"))
    monkeypatch.setenv("LANCE_HOME", str(tmp_path / "home"))
    plan = find_plan("own_run")
    write_sets((plan, Platform(str(find_data_root()))), HOSTILE, [])
    command = ["export", plan.name, "r0002", "--to", str(tmp_path / "out")]
    for _ in range(2):  # the same folder may be written again
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("README.md", "sft.parquet", "sft.jsonl", "other_formats"),
    }
    (tmp_path / "out" / "mine.txt").write_text("kept")
    refused = CliRunner().invoke(app, command)
    assert "mine.txt" in str(refused.exception)
    both = CliRunner().invoke(app, [*command, "--checkpoint", "--source", "seed"])
    assert "give one of them" in str(both.exception)


@pytest.mark.slow
def test_trl_trains_a_step_from_the_exported_files_alone(
    world: tuple[Plan, Platform], tmp_path: Path, small_model: Path
) -> None:
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    write_sets(world, HOSTILE, [(TALK, "An owl.", "A hen."), ("Name a fish.", "A carp.", "No.")])
    folder = write_files(export_data(*world, "r0002"), tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(small_model)
    shared = {"output_dir": str(tmp_path / "run"), "max_steps": 1, "report_to": "none", "use_cpu": True}
    for name, trainer_class, config in (
        ("sft", SFTTrainer, SFTConfig(**shared, per_device_train_batch_size=4)),
        ("preference_pairs", DPOTrainer, DPOConfig(**shared, per_device_train_batch_size=2)),
    ):
        rows = load_dataset(str(folder), name, split="train", cache_dir=str(tmp_path / "cache"))
        model = AutoModelForCausalLM.from_pretrained(small_model)
        trainer = trainer_class(model=model, args=config, train_dataset=rows, processing_class=tokenizer)
        assert trainer.train().training_loss > 0
