"""EFT rows made of the seeds: what is asked is what a round asks, and what is learned is what a round reads."""

import json
from pathlib import Path

import pytest

from lance_assets.algorithms.reviews.pairwise import parse_verdict
from lance_assets.algorithms.reviews.review_parsing import parse_review
from lance_assets.algorithms.reviews.signal_pairs import SignalSeed
from lance_assets.algorithms.selection.taught_rows import OWN, draw_taught_rows
from lance_assets.cli.teaching import teach
from lance_assets.conversations import Turn, write_conversation
from lance_assets.prompts import PROFILES, Templates
from lance_assets.recipes.asking import read_new_prompt, read_proposal
from lance_assets.recipes.contract import find_recipe
from lance_assets.recipes.steps.taught_rows import write_taught_rows
from lance_assets.records import Sample
from resources.readers.seed_files import read_eft_file
from tests.assets.tiny_experiment import plan_tiny, write_tiny_experiment

SEEDS = [
    SignalSeed(
        f"s{n}", f"How many are {n} and {n}?", f"We add {n} to {n}. It is easy. So there are {2 * n}.", str(2 * n)
    )
    for n in range(2, 14)
]
TALK = SignalSeed("t", write_conversation([Turn("system", "Brief."), Turn("user", "Hi?")]), "Hello to you, my friend.")
EVERYTHING = {"num_judged_pairs": 4, "score_from": "text"}


def write(profile: str, recipe: str = "lance", seeds: list[SignalSeed] = SEEDS, **changed: object):
    found = find_recipe(recipe)
    settings = found.settings(**changed)
    taught = draw_taught_rows(seeds, rng_seed=0)
    assert found.list_prompts is not None
    steps = found.list_prompts(settings)
    rows = write_taught_rows(Templates(profile, recipe), steps, recipe=recipe, taught=taught, num_examples=3)
    return taught, {step.name: step for step in steps}, rows


def say(text: str) -> Sample:
    return Sample("r", text, "stop", 1, 1)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("scale", [(0, 10), (1, 5), (0, 3)])
def test_each_review_is_asked_as_a_round_asks_and_read_as_its_score(profile: str, scale: tuple[int, int]) -> None:
    low, high = scale
    levels = {"branch_threshold": high, "sft_threshold": high, "score_gap": high - low}
    taught, steps, rows = write(profile, **{"lowest_score": low, "highest_score": high, **levels})
    assert len(rows["review"]) == len(taught.reviews) == 2 * len(SEEDS)
    for (asked, written), review in zip(rows["review"], taught.reviews, strict=True):
        texts = {"prompt": review.prompt, "completion": review.completion} | steps["review"].given
        assert asked == Templates(profile, "lance").render("lance/review", **texts)
        score = parse_review(written, lowest=float(low), highest=float(high))
        assert score == review.place(lowest=low, highest=high)
        assert (score > (low + high) / 2) == (review.rule == OWN)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("recipe", ["lance", "self_rewarding", "i_sheep"])
def test_each_new_prompt_is_another_seeds_that_is_not_shown(profile: str, recipe: str) -> None:
    _, _, rows = write(profile, recipe, [*SEEDS, TALK])
    prompts = {seed.prompt for seed in SEEDS}
    templates = Templates(profile, recipe)
    assert len(rows["new_prompt"]) >= len(SEEDS)
    for asked, written in rows["new_prompt"]:
        read = read_new_prompt(templates, f"{recipe}/new_prompt", say(written))
        assert read in prompts
        assert read not in asked


@pytest.mark.parametrize("profile", PROFILES)
def test_a_worse_completion_is_read_and_is_no_copy_of_a_seeds(profile: str) -> None:
    taught, _, rows = write(profile)
    good = {seed.completion for seed in SEEDS}
    assert len(rows["degrade"]) == len(SEEDS)
    for (_, written), pair in zip(rows["degrade"], taught.worse, strict=True):
        assert read_proposal(Templates(profile), "lance/degrade", say(written)) == pair.worse
        assert pair.worse not in good


@pytest.mark.parametrize("profile", PROFILES)
def test_comparisons_name_the_better_one_in_either_place(profile: str) -> None:
    taught, _, rows = write(profile, **EVERYTHING)
    verdicts = [parse_verdict(written, finish_reason="stop") for _, written in rows["judge_pair"]]
    assert verdicts == ["A", "B"] * (len(SEEDS) // 2)
    for (asked, _), pair, verdict in zip(rows["judge_pair"], taught.comparisons, verdicts, strict=True):
        assert (asked.rindex(pair.better) < asked.rindex(pair.worse)) == (verdict == "A") or pair.worse in pair.better


def test_only_what_the_settings_ask_is_taught() -> None:
    assert set(write("full")[2]) == {"review", "new_prompt", "degrade"}
    assert set(write("full", branches="low", score_from="yes_no")[2]) == {"yes_no", "new_prompt"}
    _, _, rows = write("full", score_from="yes_no")
    assert [written for _, written in rows["yes_no"]] == ["Answer: yes", "Answer: no"] * len(SEEDS)
    with pytest.raises(ValueError, match=r"recipe spin asks by none of the steps review, .*; use lance"):
        write("full", "spin")


def test_neither_the_order_of_the_seeds_nor_a_number_changes_what_is_drawn() -> None:
    whole = draw_taught_rows(SEEDS, rng_seed=0)
    assert draw_taught_rows(SEEDS[::-1], rng_seed=0) == whole
    assert draw_taught_rows(SEEDS, rng_seed=1) != whole
    some = draw_taught_rows(SEEDS, rng_seed=0, max_seeds=4)
    assert len(some.reviews) == 8
    assert some.reviews[::2] == whole.reviews[:8:2]
    with pytest.raises(ValueError, match="two seeds or more, got 1 with a completion"):
        draw_taught_rows(SEEDS[:1], rng_seed=0)


def test_the_command_writes_a_file_that_a_round_reads_as_it_was_written(tmp_path: Path) -> None:
    said: list[str] = []
    for profile in PROFILES:
        plan = plan_tiny(write_tiny_experiment(tmp_path / profile), prompt_profile=profile)
        file = tmp_path / f"{profile}.jsonl"
        teach(plan, to=file, max_seeds=6, say=said.append)
        read = read_eft_file(file)
        assert read["source"].unique().to_list() == ["eft"]
        chats = [json.loads(line)["messages"] for line in file.read_text().splitlines()]
        asked = [plan.templates.build_messages(prompt) for prompt in read["prompt"]]
        own = [message for message in plan.templates.build_messages("") if message["role"] == "system"]
        assert asked == [[*own, *chat[:-1]] for chat in chats]
        assert read["completion"].to_list() == [chat[-1]["content"] for chat in chats]
    assert "eft_path: " in said[1]
    with pytest.raises(ValueError, match=r"exists already; remove it, or name another file with --to"):
        teach(plan, to=file, max_seeds=None, say=said.append)
