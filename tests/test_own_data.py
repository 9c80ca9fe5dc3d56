"""Every example of the page on one's own data is read as it says, and its first one goes through two rounds."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest
import yaml

from lance_assets.algorithms.measures.signals import ScoredPair, measure_signal
from lance_assets.rounds.experiments import read_plan
from lance_assets.rounds.making.measuring import judge_signal
from lance_assets.rounds.making.reviewing import explain_unscored
from lance_assets.rounds.making.varying import say_dropped
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.round import Round
from lance_assets.settings.checks import CheckSettings
from lance_assets.settings.experiment import SeedSettings
from lance_assets.settings.writing.new_experiment import create_experiment
from resources.readers.mistakes import SeedFileError
from resources.readers.seed_files import open_seeds
from tests.assets.scripted_platform import SCRIPTED, without_drawing
from tests.assets.tiny_experiment import find_failures, open_world, write_tiny_experiment

PAGE = Path(__file__).parents[1] / "docs" / "your-own-data.md"
EXAMPLE = re.compile(
    r"(?:```yaml\n(?P<yaml>[^`]*)```\n\n)?"
    r"```(?:csv|json) (?P<name>\S+)\n(?P<data>[^`]*)```\n\n```text\n(?P<told>[^`]*)```"
)
EXAMPLES = {match["name"]: match for match in EXAMPLE.finditer(PAGE.read_text(encoding="utf-8"))}
MESSAGES = dict(re.findall(r"^```txt (\w+)\n([^`]*)```", PAGE.read_text(encoding="utf-8"), re.M))
"""What the page quotes of a round's messages, by their name."""
NEWCOMER = "## From a CSV of questions and answers to a second round"
"""The section that a newcomer follows."""


def write_newcomers_experiment(folder: Path) -> Path:
    """What `lance new` writes, with the file of the page and its lines in place of the seeds."""
    create_experiment(folder, recipe="lance")
    return change_seeds(folder)


def change_seeds(folder: Path, *, per_stratum: int | None = None) -> Path:
    """Do in an experiment's folder what the page says: the CSV beside the file, and the file's seeds as it has them.

    A test that runs it may evaluate on fewer held-out problems.
    """
    (folder / "questions.csv").write_text(EXAMPLES["questions.csv"]["data"], encoding="utf-8")
    (lines,) = re.findall(r"```yaml\n(seeds: [^`]*)```", read_section(NEWCOMER))
    file = folder / "defs.yaml"
    written = yaml.safe_load(file.read_text(encoding="utf-8"))
    written["attributes"] |= yaml.safe_load(lines)
    if per_stratum is not None:
        written["attributes"]["evaluation"]["world"]["per_stratum"] = per_stratum
    file.write_text(yaml.safe_dump(written), encoding="utf-8")
    return folder


def read_section(heading: str) -> str:
    """A section of the page, without those after it."""
    return PAGE.read_text(encoding="utf-8").split(f"{heading}\n")[1].split("\n## ")[0]


def say_signal_of_chance(plan: Plan) -> str:
    """What the check says of a reviewer that gives every completion one score."""
    kinds = ("other_seed", "degraded", "truncated")
    pairs = [ScoredPair(kind, 7.0, 7.0, 5, 5) for kind in kinds for _ in range(4)]
    return str(judge_signal(plan, measure_signal(pairs)).description)


def say_unscored(plan: Plan) -> str:
    """What stops a round of which two of three reviews are no reviews."""
    table = pl.DataFrame(
        {
            "reviews": [["The question asks for a list."], ["score: 7"], ["The answer is right. The answer is right."]],
            "unscored_reasons": [["no_score"], [None], ["cut_off"]],
        },
        schema={"reviews": pl.List(pl.String), "unscored_reasons": pl.List(pl.String)},
    )
    rates = {"unscored_rate": 2 / 3, "unscored_row_rate": 2 / 3}
    return explain_unscored(table, rates, CheckSettings().max_unscored_rate)


def say_few_kept(plan: Plan) -> str:
    """What stops a round of which nearly all completions are dropped."""
    reasons = ["cut_off"] * 60 + ["like_seed"] * 4
    table = pl.DataFrame(
        {
            "kind": ["completion"] * 64,
            "drop_reason": reasons,
            "prompt": ["Sort the list 9 4 6."] * 64,
            "completion": ["Sort the list. Sort the list. Sort"] * 60 + ["The answer is 3 7 8."] * 4,
        }
    )
    return say_dropped(table, CheckSettings())


def say_no_news(plan: Plan) -> str:
    """What is said of a round that brought no row, in the code's own words."""
    nothing = pl.DataFrame({"source_round": []}, schema={"source_round": pl.String})
    this_round = SimpleNamespace(
        key="r0001", is_start=False, plan=plan, read=lambda name: nothing, read_new_sft_rows=lambda: nothing
    )
    return Round.explain_no_news(this_round)  # type: ignore[arg-type]


SAID = {
    "review_signal": say_signal_of_chance,
    "unscored_rate": say_unscored,
    "kept_rows": say_few_kept,
    "no_news": say_no_news,
}


@pytest.mark.parametrize("name", sorted({*SAID, *MESSAGES}))
def test_a_rounds_message_is_quoted_as_the_code_says_it(name: str, tmp_path: Path) -> None:
    plan = read_plan(write_newcomers_experiment(tmp_path / "my_run") / "defs.yaml")
    assert " ".join(MESSAGES[name].split()) == " ".join(SAID[name](plan).split())


def test_the_page_has_examples_of_every_kind_of_block() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert (
        len(EXAMPLES) == len(re.findall(r"^```(?:csv|json) ", text, re.M)) == len(re.findall(r"^```text", text, re.M))
    )
    assert sum("cannot" in match["told"] or "; " in match["told"] for match in EXAMPLES.values()) >= 7
    named = {name.removesuffix(".json") for name in EXAMPLES}
    assert {"prompt_completion", "alpaca", "self_instruct", "sharegpt", "messages", "trl", "preference"} <= named


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_an_example_is_read_as_the_page_says(name: str, tmp_path: Path) -> None:
    example = EXAMPLES[name]
    (tmp_path / name).write_text(example["data"], encoding="utf-8")
    written = yaml.safe_load(example["yaml"])["seeds"] if example["yaml"] else {"path": name}
    assert written["path"] == name
    try:
        told = open_seeds(SeedSettings.model_validate(written), tmp_path).how
    except SeedFileError as error:
        told = str(error).replace(f"{tmp_path}/", "")
    assert " ".join(told.split()) == " ".join(example["told"].split())


@pytest.mark.parametrize("turns", ["carry", "join", "last", "split"])
def test_turns_are_as_the_page_says(tmp_path: Path, turns: str) -> None:
    (tmp_path / "turns.json").write_text(EXAMPLES["turns.json"]["data"])
    settings = SeedSettings.model_validate({"path": "turns.json", "turns": turns})
    rows = open_seeds(settings, tmp_path).table.select("prompt", "completion").rows()
    page = PAGE.read_text(encoding="utf-8")
    assert f"| `{turns}` |" in page
    if turns in ("carry", "join"):
        shown = re.search(rf"\*\*`{turns}`\*\*.*?```text\n(.*?)\n```", page.replace("```txt", "```text"), re.S)
        assert shown is not None
        assert rows == [(shown.group(1), "A duck.")]
    elif turns == "last":
        assert rows == [("Another?", "A duck.")]
    else:
        assert [completion for _, completion in rows] == ["A hen.", "A duck."]


@pytest.mark.slow
def test_the_csv_goes_through_two_rounds(tmp_path: Path) -> None:
    """The page of `seed_set` says as what the file was read, and the rows of r0000 are those of the file."""
    data = EXAMPLES["questions.csv"]["data"] + "What is 8 1 3 when sorted?,It is 1 3 8.\n"
    (write_tiny_experiment(tmp_path / "tiny") / "questions.csv").write_text(data)
    arguments = SCRIPTED | {"seeds": {"path": "questions.csv"}}
    with open_world(tmp_path, in_memory=True, **arguments) as world, without_drawing():
        for key in ("r0000", "r0001", "r0002"):
            result = world.run(key)
            assert result.success, find_failures(result)
        seeds = world.round("r0000").read("seed_set")
        shown = world.metadata("seed_set", "r0000")
        trained = world.round("r0002").read("sft_set")
    assert seeds["prompt"].to_list()[:2] == ["Sort the list 7 3 8.", "Add the numbers 4, 1 and 9."]
    assert seeds["prompt"].to_list() == seeds["prompt"].unique(maintain_order=True).to_list()
    assert shown["read_as"] == (
        "read 5 rows as prompt and completion (columns question and answer) from questions.csv; left out 1 whose "
        "prompt comes earlier (0 with the same completion): questions.csv line 6 repeats questions.csv line 5"
    )
    assert shown["num_repeated_prompts"] == 1
    assert "| questions.csv line 6 | questions.csv line 5 | False | What is 8 1 3 when sorted? |" in str(
        shown["preview_repeated_prompts"]
    )
    assert len(trained) > len(seeds)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_pages_own_commands_end_in_a_second_round(tmp_path: Path, project_root: Path) -> None:
    """The packaged model, real training and the page's own lines, as a newcomer types them; it takes minutes.

    Only the evaluation is shortened, which takes longer than the rest.
    """
    home, experiments = tmp_path / "home", tmp_path / "experiments"
    experiments.mkdir()
    environment = os.environ | {"LANCE_HOME": str(home), "LANCE_EXPERIMENTS": str(experiments), "COLUMNS": "200"}
    environment["PYTHONPATH"] = str(project_root)
    code = "import sys; sys.argv[0] = 'lance'; from lance_assets.cli.app import main; main()"
    (block,) = re.findall(r"```\n(lance new [^`]*)```", read_section(NEWCOMER))
    commands = [shlex.split(line, comments=True) for line in block.splitlines()]
    assert [command[1] for command in commands] == ["new", "plan", "run", "show"]
    assert commands[2][-2:] == ["--rounds", "2"]
    told = {}
    for _, *arguments in commands:
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, check=False
        )
        # A plan of what this computer has no room for ends with 3.
        assert done.returncode in ((0, 3) if arguments[0] == "plan" else (0,)), done.stdout + done.stderr
        told[arguments[0]] = done.stdout
        if arguments[0] == "new":
            change_seeds(experiments / "my_run", per_stratum=1)
    assert [key in told["run"] for key in ("== my_run r0000", "== my_run r0001", "== my_run r0002")] == [True] * 3
    assert "reviewer of r0000: AUC " in told["run"]
    assert "r0002 against r0000: " in told["run"]
    assert "checkpoint" in told["show"]
