"""Every example of the page on one's own data is read as it says, and its first one goes through two rounds."""

import re
from pathlib import Path

import pytest
import yaml

from lance_assets.settings.experiment import SeedSettings
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
