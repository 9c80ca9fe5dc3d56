import re
from dataclasses import fields

import polars as pl
import pytest

from lance_assets.prompts import Templates
from lance_assets.recipes.asking import RoundIdentity
from lance_assets.recipes.axes import AxisSettings
from lance_assets.recipes.steps.reviewing import Rubric, review_rows
from lance_assets.recipes.steps.rows import (
    CleanedRow,
    Generation,
    Origin,
    ReviewedRow,
    Seed,
    SftRow,
    build_reviewed_row,
    build_table,
    complete_new_prompts,
    propose_in_manner_of,
    read_kept,
    read_rows,
    record_samples,
)
from lance_assets.recipes.steps.sets import reviewed_as_sft_rows, seeds_as_sft_rows, start_sft_set
from lance_assets.records import (
    CLEANED_SET,
    RAW_GENERATIONS,
    REVIEWED_SET,
    SEED_SET,
    SFT_SET,
    Request,
    Sample,
    derive_row_id,
)
from tests.recipes.scripted_ask import ScriptedAsk
from tests.recipes.scripted_round import EFT, build_inputs, identify, seeds

IDENTITY = RoundIdentity("mini", "r0001", 0, Templates("full"))
RUBRIC = Rubric("i_sheep/review", 0, 10)
SIX = read_rows(Seed, seeds(dict.fromkeys("abcdef")))


def propose(
    rows: list[Seed] = SIX, *, identity: RoundIdentity = IDENTITY, num_examples: int = 3, num_samples: int = 1
) -> tuple[list[Generation], list[list[str]]]:
    """What was recorded, and the seeds each request shows, in their order."""
    ask = ScriptedAsk(lambda stage, text, number: f"Thought.\nFinal Answer: New {number}")
    step = "i_sheep/new_prompt"
    made = propose_in_manner_of(identity, ask, rows, step=step, num_examples=num_examples, num_samples=num_samples)
    texts = [request.messages[-1]["content"] for request in ask.requests["new_prompt"]]
    shown = [re.findall(r"^\d+\. Prompt of (\w)$", text, re.MULTILINE) for text in texts]
    return made, shown


def test_each_seed_is_once_the_first_example_beside_different_others() -> None:
    made, shown = propose()
    assert [names[0] for names in shown] == list("abcdef") == [row.seed_id for row in made]
    assert [len(set(names)) for names in shown] == [3] * 6
    assert len({tuple(sorted(names[1:])) for names in shown}) > 1


def test_examples_are_numbered_as_shown() -> None:
    ask = ScriptedAsk(lambda stage, text, number: "")
    propose_in_manner_of(IDENTITY, ask, SIX[:2], step="i_sheep/new_prompt", num_examples=2, num_samples=1)
    first, second = (request.messages[-1]["content"] for request in ask.requests["new_prompt"])
    assert "1. Prompt of a\n2. Prompt of b\n" in first
    assert "1. Prompt of b\n2. Prompt of a\n" in second


def test_examples_are_drawn_by_round_and_rng_seed_alone() -> None:
    """The same whatever the order of the seeds and the experiment; others in another round."""
    _, shown = propose()
    _, backward = propose(SIX[::-1])
    assert backward[::-1] == shown
    assert propose(identity=RoundIdentity("mini", "r0002", 0, Templates("full")))[1] != shown
    assert propose(identity=RoundIdentity("mini", "r0001", 1, Templates("full")))[1] != shown


@pytest.mark.parametrize(("num_examples", "num_shown"), [(1, 1), (6, 6), (32, 6)])
def test_no_more_examples_than_seeds(num_examples: int, num_shown: int) -> None:
    assert {len(names) for names in propose(num_examples=num_examples)[1]} == {num_shown}


def test_every_sample_of_a_seed_sees_the_same_examples_and_has_its_own_stream() -> None:
    made, shown = propose(num_samples=2)
    assert shown[0::2] == shown[1::2]
    assert [row.sample_number for row in made] == [0, 1] * 6
    assert [row.prompt for row in made[:2]] == ["New 0", "New 1"]
    assert len({row.sampling_seed for row in made}) == len({row.row_id for row in made}) == 12


def test_without_seeds_nothing_is_proposed() -> None:
    assert propose([]) == ([], [])


def test_completions_are_asked_of_prompts_that_were_read_whole() -> None:
    said = ["Final Answer: Whole", ("Final Answer: Cut", "length"), "No marker", ("", "error")]
    ask = ScriptedAsk(lambda stage, text, number: said["abcd".index(text[-1])])
    made = propose_in_manner_of(
        RoundIdentity("mini", "r0001", 0, Templates("compact")),
        ask,
        SIX[:4],
        step="i_sheep/new_prompt",
        num_examples=1,
        num_samples=1,
    )
    assert [row.prompt for row in made] == ["Whole", "Cut", None, None]
    completing = ScriptedAsk(lambda stage, text, number: [" Two lines.\n", "  "][number])
    completions = complete_new_prompts(IDENTITY, completing, made, 2)
    assert completing.counts == {"completion": 2}
    assert [(row.parent_id, row.seed_id, row.prompt, row.completion) for row in completions] == [
        (made[0].row_id, "a", "Whole", "Two lines."),
        (made[0].row_id, "a", "Whole", None),
    ]
    assert [row.raw_text for row in completions] == [" Two lines.\n", "  "]


def test_a_failed_sample_is_recorded_with_its_error() -> None:
    origin = Origin("s", "s", 0, "p", None)
    (row,) = record_samples("k", [origin], [Request("id", (), 9)], [Sample("id", "", "error", 3, 0, "out of memory")])
    table = build_table([row], RAW_GENERATIONS)
    assert table.schema == RAW_GENERATIONS
    assert table.select("kind", "finish_reason", "error", "prompt_tokens", "sampling_seed").row(0) == (
        *("k", "error", "out of memory", 3, 9),
    )
    with pytest.raises(ValueError, match="zip"):
        record_samples("k", [origin, origin], [Request("id", (), 9)], [Sample("id", "", "stop", 3, 0)])


def test_reviews_stay_with_their_rows() -> None:
    """Row a: 6 and 8 are 7. Row b: one cut off and one without a score are none."""
    said = {"a": ["score: 6", "score: 8"], "b": [("score: 1", "length"), "I had rather not."]}
    ask = ScriptedAsk(lambda stage, text, number: said["a" if "Good a" in text else "b"][number])
    found = review_rows(IDENTITY, ask, SIX[:2], rubric=RUBRIC, num_reviews=2)
    assert [own.texts for own in found] == [("score: 6", "score: 8"), ("score: 1", "I had rather not.")]
    assert [own.result.review_score for own in found] == [7.0, None]
    assert found[1].result.unscored_reasons == ["cut_off", "no_score"]
    assert ask.sampling == {"review": None}, "the recipe declares how the stage is sampled"
    texts = {"prompt": "Prompt of a", "completion": "Good a"} | RUBRIC.scale
    assert ask.requests["review"][0].messages[-1]["content"] == Templates("full").render("i_sheep/review", **texts)


def test_without_reviews_every_row_is_unscored() -> None:
    ask = ScriptedAsk(lambda stage, text, number: "score: 9")
    found = review_rows(IDENTITY, ask, SIX[:2], rubric=RUBRIC, num_reviews=0)
    assert [(own.texts, own.result.scores, own.result.review_score) for own in found] == [((), [], None)] * 2


def test_a_reviewed_row_is_blank_where_nothing_is_said() -> None:
    row = CleanedRow("c", "completion", "a", "n", "p", "q")
    (reviews,) = review_rows(
        IDENTITY, ScriptedAsk(lambda stage, text, number: "score: 9"), [row], rubric=RUBRIC, num_reviews=1
    )
    table = build_table([build_reviewed_row(row, reviews), build_reviewed_row(SIX[0])], REVIEWED_SET)
    assert table.schema == REVIEWED_SET
    assert table.rows() == [
        ("c", "completion", "a", "p", "q", None, ["score: 9"], [9.0], [None], 9.0, None, None),
        ("a", "seed", "a", "Prompt of a", "Good a", "gold a", [], [], [], None, None, None),
    ]


@pytest.mark.parametrize(
    ("record", "schema"),
    [(Seed, SEED_SET), (SftRow, SFT_SET), (Generation, RAW_GENERATIONS), (ReviewedRow, REVIEWED_SET)],
)
def test_a_record_has_the_columns_of_its_table(record: type, schema: pl.Schema) -> None:
    assert [field.name for field in fields(record)] == schema.names()
    assert build_table([], schema).schema == schema


def test_rows_are_read_as_they_were_written() -> None:
    made, _ = propose()
    assert read_rows(Generation, build_table(made, RAW_GENERATIONS)) == made


def test_only_kept_rows_of_the_kinds_are_read() -> None:
    rows = [
        {"row_id": name, "kind": kind, "prompt": "p", "completion": text, "drop_reason": reason}
        for name, kind, text, reason in (
            ("n", "new_prompt", None, None),
            ("c", "completion", "q", None),
            ("x", "completion", "q", "cut_off"),
            ("d", "degraded_completion", "q", None),
        )
    ]
    cleaned = pl.DataFrame(rows, schema=CLEANED_SET)
    assert [row.row_id for row in read_kept(cleaned, kinds=("completion",))] == ["c"]
    assert [row.row_id for row in read_kept(cleaned)] == ["n", "c", "d"]


def test_the_first_sft_set_is_the_seeds_and_the_eft_rows() -> None:
    """A seed's own score is of no round's review: it does not go along."""
    table = seeds({"a": 9.0, "b": None})
    first = start_sft_set(build_inputs(AxisSettings(), identify("r0000")), table, EFT)
    assert first.schema == SFT_SET
    assert first.drop("prompt", "completion").rows() == [
        ("a", "seed", "r0000", "a", None),
        ("b", "seed", "r0000", "b", None),
        ("eft", "eft", "r0000", None, None),
    ]
    assert first.head(2).equals(seeds_as_sft_rows(table, round_key="r0000"))
    assert start_sft_set(build_inputs(AxisSettings(), IDENTITY), table.clear(), EFT.clear()).is_empty()


def test_accepted_rows_point_back_and_have_ids_of_their_round() -> None:
    row = {"row_id": "c", "prompt": "p", "completion": "q", "review_score": 8.5}
    reviewed = pl.DataFrame([row], schema=REVIEWED_SET)
    first, second = (reviewed_as_sft_rows(reviewed, round_key=key) for key in ("r0001", "r0002"))
    assert first.schema == SFT_SET
    assert first.rows() == [(derive_row_id("sft_set", "r0001", "c"), "p", "q", "generated", "r0001", "c", 8.5)]
    assert first["row_id"][0] != second["row_id"][0]
    assert reviewed_as_sft_rows(reviewed.clear(), round_key="r0001").schema == SFT_SET
