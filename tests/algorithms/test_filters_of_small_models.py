"""What small models write in place of a proposal: each kind with its reason, and what people write is kept."""

import json
from collections import Counter
from pathlib import Path

import polars as pl
import pytest

from lance_assets.algorithms.filters.answers import AnswerInstead, learn_likeness
from lance_assets.algorithms.filters.contract import Candidate, Filter, Known, RowFilter, apply_filters
from lance_assets.algorithms.filters.loops import Loop, measure_loops
from lance_assets.algorithms.filters.proposals import (
    Chatter,
    CopiedExample,
    InventedExample,
    Truncated,
    find_invented_example,
    is_chatter,
    is_truncated,
)
from lance_assets.prompts import Templates
from lance_assets.settings.filters import FILTERS, OF_SMALL_MODELS, find_filter

DATA = Path(__file__).parents[2].parent / "shared" / "data"
SEEDS = {
    "a": ("Name three birds that live near the sea.", "Gulls, terns and puffins live near the sea."),
    "b": ("Explain how bread is made.", "The baker mixes flour, water and yeast."),
}


def propose(text: str, kind: str = "new_prompt", completion: str | None = None, row_id: str = "r") -> Candidate:
    return Candidate(row_id, kind, "a", "a", text, completion)


def find_reason(rule: Filter, row: Candidate, shown: tuple[str, ...] = ()) -> str | None:
    apply_filters(Known([row], SEEDS, shown), [rule])
    return row.drop_reason


LOOPS = [
    # as SmolLM2-135M-Instruct wrote them
    "I'm a friend of a friend. I'm going to the party tomorrow and I'll be going with them. "
    + "I'm going to the party with them. " * 4,
    "Thesaurus: To expand" + " : to broaden : to expand" * 12,
    "The first person is a woman.\n" + "".join(f"{n}: The {n} person in the list is a man.\n" for n in "BCDEFGHIJK"),
    "分数很低，因为回答很短。" * 12,
    "Оценка низкая, потому что ответ короткий. " * 9,
]


@pytest.mark.parametrize("text", LOOPS)
def test_a_loop_is_found_in_any_language(text: str) -> None:
    assert find_reason(Loop(), propose(text)) == "loop"
    assert find_reason(Loop(), propose("Name a bird.", "completion", text)) == "loop"
    assert find_reason(Loop(), propose("Name a bird.", "lesson", text)) == "loop"


@pytest.mark.parametrize(
    "text",
    [
        "no no no no",
        "1 2 3 4 5 6 7 8 9 10",
        "| a | b |\n| --- | --- |\n| 1 | 2 |\n| 3 | 4 |",
        "Row, row, row your boat, gently down the stream. Merrily, merrily, merrily, merrily, life is but a dream.",
        "",
    ],
)
def test_what_is_short_or_only_similar_is_no_loop(text: str) -> None:
    assert find_reason(Loop(), propose(text)) is None


def test_loops_are_measured_by_hand() -> None:
    """Of nine words the last four are said again; a text under 100 bytes is not compressed."""
    found = measure_loops("go to the sea then go to the sea")
    assert (found.compression, found.repeated_rate) == (1.0, 4 / 9)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Sure! Here is a task:\n\nName three birds.", True),
        ("Sure, here is a bad answer to this question: birds.", True),
        ("**Here is a new task:**\nName three birds.", True),
        ("Natürlich! Hier ist eine Aufgabe:\nNenne drei Vögel.", True),
        ("Voici une tâche :\nNomme trois oiseaux.", True),
        ("当然！以下是一个任务：\n说出三种鸟。", True),
        ("もちろん！\n鳥を三種類挙げてください。", True),
        ("Sure!\nName three birds.", True),
        ("Translate this into French:\nGood day", False),
        ("Here is a short story: Anna met Ben. Who met Ben?", False),
        ("Here are three sentences. Which one is wrong?", False),
        ("Surely you know this: who wrote Faust?", False),
        ("Okay is a word: explain where it comes from.", True),
        ("Sure", False),
        ("", False),
    ],
)
def test_chatter_announces_itself(text: str, expected: bool) -> None:
    assert is_chatter(text) == expected
    assert (find_reason(Chatter(), propose(text)) == "chatter") == expected
    # A plain completion may well begin so.
    assert find_reason(Chatter(), propose("Name a bird.", "completion", text)) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Translate the following sentence into French:", True),
        ("把下面的句子翻译成英语：", True),
        ("Name a bird,", True),
        ("Write a function (", True),
        ("List them:\n1. gull\n2.", True),
        ("Explain this:\n```python\nprint(1)", True),
        ("Name a bird", False),
        ("Translate this: good day", False),
        ("In which year did Yao Ming retire?\nAnswer:", False),
        ("Hot : cold :: up :\n", True),
        ("Complete the pairs.\nHot : cold :: up :", False),
        ("oh yes, inevitably :(", False),
        ("john chubb -lrb- locksmith -rrb-", False),
        ("Write it in 3.", False),
    ],
)
def test_a_truncated_text_ends_in_the_middle(text: str, expected: bool) -> None:
    assert is_truncated(text) == expected
    assert (find_reason(Truncated(), propose(text)) == "truncated") == expected


@pytest.mark.parametrize(
    ("prompt", "text", "begins"),
    [
        ("Question: What is 2 + 2?\nAnswer:", "4\n\nQuestion: What is 3 + 3?\nAnswer: 6", "Question: What is 3"),
        ("Name a bird.", "A gull.\n<|im_start|>user\nName a fish.", "<|im_start|>"),
        ("Name a bird.", "Answer: A gull.\nTask: Name a fish.\nAnswer: A cod.", "Answer: A cod."),
        ("Nenne einen Vogel.", "Antwort: Möwe\nAufgabe: Nenne einen Fisch.\nAntwort: Dorsch", "Antwort: Dorsch"),
        ("Write a dialogue.", "Anna: Hi.\nBen: Hi.\nAnna: Bye.", None),
        ("Are they alike?", "Question 1: Is it?\nQuestion 2: Is it not?", None),
        ("Write a question with its answer.", "Question: Is it?\nAnswer: It is.", None),
    ],
)
def test_an_invented_example_begins_with_a_label_again(prompt: str, text: str, begins: str | None) -> None:
    place = find_invented_example(text, prompt)
    assert (None if place is None else text[place:].startswith(begins or "?")) is (None if begins is None else True)
    expected = None if begins is None else "invented_example"
    assert find_reason(InventedExample(), propose(prompt, "completion", text)) == expected


SHOTS = ("Describe in your own words why leaves turn red in autumn.", "Write a task for an assistant.")


@pytest.mark.parametrize(
    ("text", "nearest", "tier"),
    [
        ("name three birds that live near the sea", "a", "exact"),
        ("Explain to me how bread is made.", "b", "lexical"),
        ("Gulls, terns, and puffins live near the sea.", "a", "exact"),
        ("Describe in your own words why leaves turn red in the autumn.", None, "lexical"),
        ("Write a task for an assistant.", None, "exact"),
    ],
)
def test_a_copy_of_whatever_was_shown_is_dropped(text: str, nearest: str | None, tier: str) -> None:
    row = propose(text)
    assert find_reason(CopiedExample(), row, SHOTS) in ("copied_example",)
    assert row.nearest_id == nearest
    assert row.similarity is not None
    assert row.similarity > 0.8


@pytest.mark.parametrize(
    "text",
    ["Explain how bread is made, in which countries, and since when people have known it.", "Bread.", "Name it."],
)
def test_a_text_that_only_holds_an_example_is_no_copy(text: str) -> None:
    assert find_reason(CopiedExample(), propose(text), SHOTS) is None


def test_what_a_person_wrote_is_not_judged() -> None:
    """A degraded completion has its seed's own prompt, and a pool's rows are human."""
    prompt, completion = SEEDS["a"]
    assert find_reason(CopiedExample(), propose(prompt, "degraded_completion", "Some.")) is None
    assert find_reason(Truncated(), propose("Sort these:", "degraded_completion", "1 2 3")) is None
    assert find_reason(Loop(), propose(prompt, "pool_row", LOOPS[0])) is None
    assert find_reason(Loop(), propose(LOOPS[0], "named_prompt", completion)) == "loop"


def test_the_words_of_the_templates_are_among_what_is_shown() -> None:
    assert "Write a task for an assistant." in Templates("small").list_shown("lance/new_prompt")
    shown = Templates("full").list_shown("lance/degrade")
    assert any(text.startswith("The sky is blue because of the oceans") for text in shown)


VERBS = ("name", "list", "explain", "write")
PAIRS = {
    f"s{n}": (f"{VERBS[n % 4].title()} the number {n} for me.", f"The answer for you is {n}, as all know.")
    for n in range(24)
}


@pytest.mark.parametrize(
    ("text", "expected"), [("The answer is 99.", "answer"), ("Explain it.", None), ("Zebra", None)]
)
def test_an_answer_is_known_by_the_seeds_completions(text: str, expected: str | None) -> None:
    row = propose(text)
    apply_filters(Known([row], PAIRS), [AnswerInstead()])
    assert row.drop_reason == expected


def test_few_seeds_and_seeds_whose_halves_are_alike_decide_nothing() -> None:
    alike = {name: (completion, completion) for name, (_, completion) in PAIRS.items()}
    for seeds in (dict(list(PAIRS.items())[:19]), alike):
        row = propose("The answer is 99.")
        apply_filters(Known([row], seeds), [AnswerInstead()])
        assert row.drop_reason is None


def test_every_filter_of_small_models_has_a_name() -> None:
    assert set(OF_SMALL_MODELS) <= set(FILTERS)
    assert all(issubclass(find_filter(name), Filter) for name in OF_SMALL_MODELS)


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared data is not here")
def test_people_write_none_of_it() -> None:
    """Of human prompts and completions at most one in 100 is dropped by any rule, and no loop is seen at all."""
    rows = []
    for line in (DATA / "self_instruct_seed_tasks.jsonl").read_text().splitlines():
        task = json.loads(line)
        instance = task["instances"][0]
        rows.append((f"{task['instruction']}\n{instance['input']}".strip(), instance["output"]))
    for line in (DATA / "gsm8k_train.jsonl").read_text().splitlines()[:300]:
        row = json.loads(line)
        rows.append((row["question"], row["answer"]))
    pool = pl.read_parquet(DATA / "t0_train_50k.parquet").sample(300, seed=0)
    rows += pool.select("prompt", "completion").rows()
    rules: list[RowFilter] = [Loop(), Chatter(), Truncated(), InventedExample()]
    dropped: Counter[str] = Counter()
    for prompt, completion in rows:
        for row in (propose(prompt), propose(prompt, "completion", completion)):
            dropped.update(reason for rule in rules if (reason := rule.find_reason(row)))
    assert dropped["loop"] == 0
    assert sum(dropped.values()) <= 0.01 * 2 * len(rows), dropped


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared data is not here")
def test_human_requests_do_not_look_like_answers() -> None:
    """Ten times a tenth of the seed tasks, judged by the others."""
    pairs = []
    for line in (DATA / "self_instruct_seed_tasks.jsonl").read_text().splitlines():
        task = json.loads(line)
        pairs.append((f"{task['instruction']}\n{task['instances'][0]['input']}", task["instances"][0]["output"]))
    taken = Counter()
    for fold in range(10):
        likeness = learn_likeness(pair for place, pair in enumerate(pairs) if place % 10 != fold)
        for prompt, completion in pairs[fold::10]:
            taken["request"] += likeness.compute_log_odds(prompt) > AnswerInstead().min_log_odds
            taken["answer"] += likeness.compute_log_odds(completion) > AnswerInstead().min_log_odds
    assert taken["request"] <= 2
    assert taken["answer"] >= 50
