import random
import time
from collections.abc import Sequence

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lance_assets.algorithms.filters.contract import (
    Candidate,
    Filter,
    Known,
    RowFilter,
    count_drop_reasons,
    filter_generations,
)
from lance_assets.algorithms.filters.rules import (
    Complete,
    EvaluationOverlap,
    LikeSiblings,
    Refused,
    SameAsSeed,
    ShorterThanSeeds,
    Words,
    list_word_filters,
    mark_dropped,
)
from lance_assets.algorithms.similarity.words import compute_similarity, tokenize_words
from lance_assets.records import CLEANED_SET, RAW_GENERATIONS, SEED_SET

PAPER = {"max_prompt_words": 4096, "max_completion_words": 4096, "threshold": 0.70}
RULES = list_word_filters(min_prompt_words=5, min_completion_words=10, **PAPER)
SHORT = list_word_filters(min_prompt_words=1, min_completion_words=1, **PAPER)
USABLE = [Refused(), Complete(), EvaluationOverlap(), SameAsSeed()]
REASONS = {
    *("generation_failed", "cut_off", "unparsed", "prompt_dropped", "no_completion", "evaluation_overlap"),
    *("prompt_too_short", "prompt_too_long", "completion_too_short", "completion_too_long"),
    *("like_seed", "like_sibling", "duplicate_in_round"),
}


def words(stem: str, count: int = 12) -> str:
    """A text of words that occur in no text of another stem."""
    return " ".join(f"{stem}{i}" for i in range(count))


def seed_set(*row_ids: str) -> pl.DataFrame:
    rows = [{"row_id": i, "prompt": words(f"{i}p"), "completion": words(f"{i}c"), "source": "seed"} for i in row_ids]
    return pl.DataFrame(rows, schema=SEED_SET)


def generation(row_id: str, kind: str, parent: str, prompt: str | None, completion: str | None = None, **more) -> dict:
    given = {"row_id": row_id, "kind": kind, "seed_id": "s1", "parent_id": parent, "sample_number": 0}
    return given | {"prompt": prompt, "completion": completion, "raw_text": "", "finish_reason": "stop"} | more


def clean(
    rows: list[dict], *, rules: Sequence[Filter] = RULES, added: Sequence[Filter] = (), evaluation: tuple[str, ...] = ()
) -> dict[str, dict]:
    frame = pl.DataFrame(rows, schema=RAW_GENERATIONS)
    cleaned = filter_generations(
        frame,
        seed_set("s1", "s2"),
        filters=rules,
        added=added,
        is_evaluation_prompt=lambda prompt: prompt in evaluation,
    )
    assert cleaned.schema == CLEANED_SET
    assert cleaned["row_id"].to_list() == frame["row_id"].to_list()
    assert sum(count_drop_reasons(cleaned).values()) == len(frame)
    return {row["row_id"]: row for row in cleaned.iter_rows(named=True)}


def reasons(rows: list[dict], **more) -> dict[str, str | None]:
    return {row_id: row["drop_reason"] for row_id, row in clean(rows, **more).items()}


def prompt_and(*completions: str, prompt: str | None = None, **more) -> list[dict]:
    prompt = prompt or words("new")
    rows = [generation("p", "new_prompt", "s1", prompt, **more)]
    for number, text in enumerate(completions):
        rows.append(generation(f"c{number}", "completion", "p", prompt, text, sample_number=number))
    return rows


def test_kept() -> None:
    assert reasons(prompt_and(words("a"), words("b"))) == {"p": None, "c0": None, "c1": None}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"finish_reason": "error"}, "generation_failed"),
        ({"finish_reason": "length"}, "cut_off"),
        ({"finish_reason": "length", "completion": None}, "cut_off"),
        ({"completion": None}, "unparsed"),
        ({"completion": words("a", 9)}, "completion_too_short"),
        ({"completion": words("a", 4097)}, "completion_too_long"),
        ({"completion": words("s1c")}, "like_seed"),
        ({"completion": words("a", 10)}, None),
        ({"completion": words("a", 4096)}, None),
    ],
)
def test_one_completion(change: dict, reason: str | None) -> None:
    rows = prompt_and(words("a"))
    rows[1] |= change
    assert reasons(rows) == {"p": reason and "no_completion", "c0": reason}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"finish_reason": "error"}, "generation_failed"),
        ({"finish_reason": "length"}, "cut_off"),
        ({"prompt": None}, "unparsed"),
        ({"prompt": words("n", 4)}, "prompt_too_short"),
        ({"prompt": words("n", 4097)}, "prompt_too_long"),
        ({"prompt": words("held")}, "evaluation_overlap"),
        ({"prompt": words("s1p")}, "like_seed"),
    ],
)
def test_single_new_prompt_is_cleaned_and_takes_its_completions_along(change: dict, reason: str) -> None:
    """The authors' code skips the prompt rules when one prompt is present."""
    rows = prompt_and(words("a"))
    rows[0] |= change
    assert reasons(rows, evaluation=(words("held"),)) == {"p": reason, "c0": "prompt_dropped"}


def test_own_failure_comes_before_the_prompts() -> None:
    rows = prompt_and(words("a"), prompt=words("n", 4))
    rows[1] |= {"finish_reason": "error"}
    assert reasons(rows)["c0"] == "generation_failed"


def test_chain_of_siblings_is_scanned_last_to_first() -> None:
    """b is like a, c is like b but not like a (8 then 6 of 10 words): the scan drops c for b, then b for a."""
    texts = ("0 1 2 3 4 5 6 7 8 9", "2 3 4 5 6 7 8 9 x y", "4 5 6 7 8 9 x y z w")
    rows = clean(prompt_and(*texts))
    assert [rows[f"c{i}"]["drop_reason"] for i in range(3)] == [None, "like_sibling", "like_sibling"]
    assert [rows[f"c{i}"]["nearest_id"] for i in range(3)] == [None, "c0", "c1"]
    assert [rows[f"c{i}"]["similarity"] for i in range(3)] == [0.0, 0.8, 0.8]


def test_siblings_that_failed_a_rule_of_their_own_are_not_compared() -> None:
    """The short one is contained in the long one, but is dropped for its length, so the long one stays."""
    assert reasons(prompt_and("0 1 2", "0 1 2 3 4 5 6 7 8 9 10")) == {
        "p": None,
        "c0": "completion_too_short",
        "c1": None,
    }


def test_sample_number_decides_not_the_order_of_rows() -> None:
    rows = prompt_and(words("a"), words("a"))
    assert reasons(rows) == reasons(rows[::-1]) == {"p": None, "c0": None, "c1": "like_sibling"}


def test_prompts_of_one_seed_are_siblings() -> None:
    rows = prompt_and(words("a"))
    rows.append(generation("q", "new_prompt", "s1", words("new"), sample_number=1))
    cleaned = clean(rows)
    assert (cleaned["q"]["drop_reason"], cleaned["q"]["nearest_id"], cleaned["q"]["similarity"]) == (
        "like_sibling",
        "p",
        1,
    )


def test_degraded_completions() -> None:
    prompt = words("s1p")
    texts = (words("a"), words("a"), words("s1c"), words("b"))
    rows = [
        generation(f"d{i}", "degraded_completion", "s1", prompt, text, sample_number=i) for i, text in enumerate(texts)
    ]
    assert reasons(rows) == {"d0": None, "d1": "like_sibling", "d2": "like_seed", "d3": None}
    assert set(reasons(rows, evaluation=(prompt,)).values()) == {"evaluation_overlap"}


def two_seeds_same_prompt(*, first_completion: str) -> list[dict]:
    other = generation("q", "new_prompt", "s2", words("new").upper() + "?", seed_id="s2")
    completion = generation("e0", "completion", "q", words("new"), words("b"), seed_id="s2")
    return [*prompt_and(first_completion), other, completion]


def test_same_prompt_of_two_seeds_keeps_the_smallest_row_id() -> None:
    rows = clean(two_seeds_same_prompt(first_completion=words("a")))
    assert {i: row["drop_reason"] for i, row in rows.items()} == {
        "p": None,
        "c0": None,
        "q": "duplicate_in_round",
        "e0": "prompt_dropped",
    }
    assert (rows["q"]["nearest_id"], rows["q"]["similarity"]) == ("p", 1.0)


def test_prompt_without_completions_does_not_push_out_its_duplicate() -> None:
    assert reasons(two_seeds_same_prompt(first_completion="too short")) == {
        "p": "no_completion",
        "c0": "completion_too_short",
        "q": None,
        "e0": None,
    }


def test_same_degraded_completion_of_two_seeds_with_one_prompt() -> None:
    rows = [
        generation("d1", "degraded_completion", "s1", "same prompt", words("a")),
        generation("d0", "degraded_completion", "s2", "Same prompt.", words("a"), seed_id="s2"),
        generation("d2", "degraded_completion", "s2", "other prompt", words("a"), seed_id="s2", sample_number=1),
    ]
    assert reasons(rows) == {"d1": "duplicate_in_round", "d0": None, "d2": "like_sibling"}


def test_chinese_characters_are_words() -> None:
    rows = prompt_and("先把三和五相加得到八再检查一遍", prompt="三加五是多少")
    assert reasons(rows) == {"p": None, "c0": None}


def test_unknown_seed_or_prompt_is_named() -> None:
    with pytest.raises(ValueError, match="names seed nowhere, which is not among the 2 seeds"):
        clean([generation("p", "new_prompt", "nowhere", words("a"), seed_id="nowhere")])
    with pytest.raises(ValueError, match="names new prompt q"):
        clean([generation("c", "completion", "q", words("a"), words("b"))])


def test_nothing() -> None:
    assert clean([]) == {}


def is_near_duplicate(text: str, other: str) -> bool:
    return compute_similarity(tokenize_words(text), tokenize_words(other)) > 0.70


def scan_like_the_paper(texts: list[str], seed_text: str) -> list[str]:
    """`filter_data.py`: last to first, dropping i when it is like the seed's text or any j < i that is present."""
    present = list(texts)
    for i in reversed(range(len(present))):
        if is_near_duplicate(present[i], seed_text) or any(is_near_duplicate(present[i], present[j]) for j in range(i)):
            del present[i]
    return present


@given(st.lists(st.lists(st.sampled_from("abcdefghs"), min_size=2, max_size=6).map(" ".join), min_size=1, max_size=8))
@settings(deadline=None)
def test_siblings_equal_the_papers_scan(texts: list[str]) -> None:
    cleaned = clean(prompt_and(*texts), rules=SHORT)
    kept = [text for i, text in enumerate(texts) if cleaned[f"c{i}"]["drop_reason"] is None]
    assert kept == scan_like_the_paper(texts, words("s1c"))


@given(st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=50)
def test_a_round_holds_together(rng: random.Random) -> None:
    rows = []
    for p in range(rng.randrange(6)):
        seed_id, prompt = rng.choice(["s1", "s2"]), rng.choice([None, "a b c d e", "f g h i j", "short", words("s1p")])
        finish = rng.choice(["stop", "stop", "length", "error"])
        rows.append(
            generation(f"p{p}", "new_prompt", seed_id, prompt, seed_id=seed_id, sample_number=p, finish_reason=finish)
        )
        for c in range(rng.randrange(4)):
            text = rng.choice([None, words("a"), words("b"), words("s1c"), "short"])
            rows.append(generation(f"c{p}{c}", "completion", f"p{p}", prompt, text, seed_id=seed_id, sample_number=c))
    rng.shuffle(rows)
    cleaned = clean(rows)
    kept = {row_id: row for row_id, row in cleaned.items() if row["drop_reason"] is None}
    assert {row["drop_reason"] for row in cleaned.values()} <= {None, *REASONS}
    for row in kept.values():
        if row["kind"] == "completion":
            assert row["parent_id"] in kept
        else:
            assert any(other["parent_id"] == row["row_id"] for other in kept.values())


def test_a_large_round_is_fast() -> None:
    """2,000 new prompts with 4 completions of 60 words each; 50,000 rows take five times as long."""
    rng = random.Random(0)
    rows = []
    for p in range(2000):
        text = " ".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=20))
        seed_id = f"s{p // 4}"
        rows.append(generation(f"p{p}", "new_prompt", seed_id, text, seed_id=seed_id, sample_number=p % 4))
        for c in range(4):
            completion = " ".join(str(rng.randrange(1000)) for _ in range(60))
            rows.append(
                generation(f"c{p}-{c}", "completion", f"p{p}", text, completion, seed_id=seed_id, sample_number=c)
            )
    frame = pl.DataFrame(rows, schema=RAW_GENERATIONS)
    seeds = seed_set(*(f"s{i}" for i in range(500)))
    started = time.process_time()
    cleaned = filter_generations(frame, seeds, filters=RULES, is_evaluation_prompt=lambda prompt: False)
    assert time.process_time() - started < 10
    assert len(cleaned) == len(frame)


def found(*rows: tuple[str, str | None, float | None]) -> pl.DataFrame:
    names = {"row_id": pl.String, "nearest_id": pl.String, "similarity": pl.Float64}
    return pl.DataFrame(rows, schema=names, orient="row").with_columns(tier=pl.lit("embedding"))


def cleaned_frame() -> pl.DataFrame:
    rows = [
        ("p", "new_prompt", "s1", None),
        ("c0", "completion", "p", None),
        ("c1", "completion", "p", "cut_off"),
        ("q", "new_prompt", "s1", None),
        ("e0", "completion", "q", None),
        ("d0", "degraded_completion", "s2", None),
    ]
    fields = [{"row_id": i, "kind": k, "seed_id": "s1", "parent_id": p, "drop_reason": r} for i, k, p, r in rows]
    return pl.DataFrame(fields, schema=CLEANED_SET)


def reasons_after(*rows: tuple[str, str | None, float | None]) -> list[str | None]:
    marked = mark_dropped(cleaned_frame(), found(*rows), reason="like_history")
    assert marked.schema == CLEANED_SET
    assert marked["row_id"].to_list() == cleaned_frame()["row_id"].to_list()
    return marked["drop_reason"].to_list()


def test_a_dropped_prompt_takes_its_completions_along() -> None:
    assert reasons_after(("p", "old", 0.95)) == ["like_history", "prompt_dropped", "cut_off", None, None, None]


def test_a_prompt_without_completions_goes() -> None:
    assert reasons_after(("e0", "old", 0.95)) == [None, None, "cut_off", "no_completion", "like_history", None]


def test_a_row_without_a_nearest_one_is_dropped_too() -> None:
    assert reasons_after(("d0", None, None))[5] == "like_history"


def test_nothing_found_changes_nothing() -> None:
    assert reasons_after() == cleaned_frame()["drop_reason"].to_list()


def test_dropped_rows_keep_their_reason() -> None:
    assert reasons_after(("c1", "old", 1.0))[2] == "cut_off"


def test_the_nearest_is_named() -> None:
    marked = mark_dropped(cleaned_frame(), found(("d0", "old", 0.97)), reason="like_in_round")
    assert marked.row(5, named=True) | {"seed_id": ""} == {
        "row_id": "d0",
        "kind": "degraded_completion",
        "seed_id": "",
        "parent_id": "s2",
        "prompt": None,
        "completion": None,
        "drop_reason": "like_in_round",
        "nearest_id": "old",
        "tier": "embedding",
        "similarity": 0.97,
    }
    assert count_drop_reasons(marked) == {"kept": 4, "cut_off": 1, "like_in_round": 1}


@pytest.mark.parametrize("rows", [[("p", "a", 0.1), ("p", "b", 0.2)], [("p", "a", float("nan"))]])
def test_what_cannot_be_is_refused(rows: list) -> None:
    with pytest.raises(ValueError, match=r"dropped"):
        mark_dropped(cleaned_frame(), found(*rows), reason="like_history")


def test_a_copy_of_another_seeds_prompt_is_dropped() -> None:
    cleaned = clean(prompt_and(words("right"), prompt=words("s2p").upper()))
    assert (cleaned["p"]["drop_reason"], cleaned["p"]["nearest_id"]) == ("duplicate_in_round", "s2")
    assert cleaned["c0"]["drop_reason"] == "prompt_dropped"


def own(row_id: str, completion: str | None, *, seed_id: str = "s1", prompt: str | None = None, **more) -> dict:
    """What the model itself completes a seed's prompt with."""
    prompt = prompt or words(f"{seed_id}p")
    return generation(row_id, "own_completion", seed_id, prompt, completion, seed_id=seed_id, **more)


def unusable(*rows: dict, evaluation: tuple[str, ...] = ()) -> pl.DataFrame:
    frame = pl.DataFrame(rows, schema=RAW_GENERATIONS)
    marked = filter_generations(
        frame, seed_set("s1", "s2"), filters=USABLE, is_evaluation_prompt=lambda prompt: prompt in evaluation
    )
    assert marked.schema == CLEANED_SET
    same = ["row_id", "kind", "seed_id", "parent_id", "prompt", "completion"]
    assert marked.select(same).equals(frame.select(same))
    return marked


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (own("o", words("a")), None),
        (own("o", "7"), None),
        (own("o", words("s2c")), None),
        (own("o", words("s1c") + " more"), None),
        (own("o", words("s1c")), "same_as_seed"),
        (own("o", f" {words('S1C')}.\n"), "same_as_seed"),
        (own("o", None), "unparsed"),
        (own("o", words("a"), finish_reason="length"), "cut_off"),
        (own("o", None, finish_reason="error"), "generation_failed"),
        (own("o", words("a"), prompt="held out"), "evaluation_overlap"),
        (own("o", words("s1c"), prompt="held out"), "evaluation_overlap"),
        (own("o", words("a"), prompt="held out", finish_reason="length"), "cut_off"),
        (own("o", words("a"), refused_reason="surplus", finish_reason="length"), "surplus"),
    ],
)
def test_what_cannot_be_used_is_told_by_its_first_reason(row: dict, reason: str | None) -> None:
    """Neither lengths nor likeness count, but to repeat the own seed; case, blanks and a final stop do not matter."""
    assert unusable(row, evaluation=("held out",))["drop_reason"].to_list() == [reason]


def test_the_seed_is_named_where_it_is_repeated_and_siblings_may_be_alike() -> None:
    rows = [own("o1", words("s1c")), own("o2", words("a")), own("o3", words("a")), own("o4", words("b"), seed_id="s2")]
    marked = unusable(*rows)
    assert marked.select("drop_reason", "nearest_id", "tier", "similarity").rows() == [
        ("same_as_seed", "s1", "exact", 1.0),
        *[(None, None, None, None)] * 3,
    ]
    assert count_drop_reasons(marked) == {"kept": 3, "same_as_seed": 1}
    assert unusable().is_empty()


def test_without_seeds_no_row_repeats_one() -> None:
    frame = pl.DataFrame([own("s1", words("s1c"))], schema=RAW_GENERATIONS)
    marked = filter_generations(
        frame, seed_set().cast(SEED_SET), filters=USABLE, is_evaluation_prompt=lambda prompt: False
    )
    assert marked["drop_reason"].to_list() == [None]


def test_reasons_are_counted_the_most_frequent_first() -> None:
    """The kept rows come first, equal counts go by name, and the counts add up."""
    reasons = ["teacher_disagrees", "no_completion", None, "asks_for_context", "cut_off", "teacher_disagrees"]
    counts = count_drop_reasons(pl.DataFrame({"drop_reason": reasons}))
    assert list(counts.items()) == [
        ("kept", 1),
        ("teacher_disagrees", 2),
        ("asks_for_context", 1),
        ("cut_off", 1),
        ("no_completion", 1),
    ]
    assert count_drop_reasons(pl.DataFrame(schema=CLEANED_SET)) == {"kept": 0}


class NoWord(RowFilter):
    """Drops rows that hold a word."""

    word: str

    def find_reason(self, row: Candidate) -> str | None:
        return "has_word" if self.word in (row.text or "").split() else None


def filter_more(rows: list[dict], *filters: Filter) -> dict[str, str | None]:
    """What further filters drop of what the recipe's kept."""
    before = clean(rows)
    after = clean(rows, added=filters)
    assert all(after[row_id] == row for row_id, row in before.items() if row["drop_reason"] is not None)
    return {row_id: row["drop_reason"] for row_id, row in after.items()}


def test_further_filters_see_what_is_kept_and_take_along_what_depends_on_it() -> None:
    rows = [
        *prompt_and(words("a"), words("b"), "too short"),
        generation("q", "new_prompt", "s1", words("other"), sample_number=1),
        generation("d0", "completion", "q", words("other"), words("c")),
    ]
    kept = {"p": None, "c0": None, "c1": None, "c2": "completion_too_short", "q": None, "d0": None}
    assert filter_more(rows) == kept
    assert filter_more(rows, NoWord(word="a3")) == kept | {"c0": "has_word"}
    assert filter_more(rows, NoWord(word="new0"), NoWord(word="a3")) == kept | {
        "p": "has_word",
        "c0": "prompt_dropped",
        "c1": "prompt_dropped",
    }
    assert filter_more(rows, NoWord(word="c1")) == kept | {"q": "no_completion", "d0": "has_word"}
    assert filter_more(rows, NoWord(word="c1", kinds=("new_prompt",))) == kept


def test_further_filters_compare_siblings_in_the_order_of_their_samples() -> None:
    """Ids say otherwise: z was sampled first."""
    rows = [
        own("z", words("a"), sample_number=0),
        own("y", words("a"), sample_number=1),
        own("x", words("s1c"), sample_number=2),
    ]
    assert reasons(rows, rules=[Complete(), LikeSiblings()]) == {"z": None, "y": "like_sibling", "x": "like_seed"}


@pytest.mark.parametrize("of", ["prompt", "completion"])
def test_words_measures_one_text_of_a_row(of: str) -> None:
    """Both bounds are allowed; a row without the text is kept."""
    for count, reason in ((2, "too_short"), (3, None), (4, None), (5, "too_long")):
        texts = {"prompt": "one", "completion": "one"} | {of: words("w", count)}
        row = Candidate("r", "pool_row", "s", "s", **texts)
        assert Words(of=of, min_words=3, max_words=4).find_reason(row) == (reason and f"{of}_{reason}")
        assert Words(of=of).find_reason(row) is None
    assert Words(of=of, min_words=3).find_reason(Candidate("r", "new_prompt", "s", "s", None, None)) is None


def filter_completions(*completions: str, keeps_contrast: bool = True, kind: str = "degraded_completion") -> list:
    """The drop reasons of completions of one prompt, whose seed says that the sentiment is positive."""
    rows = [
        Candidate(
            f"{place}", kind, "s", "s" if kind != "completion" else "p", "Which sentiment?", text, sample_number=place
        )
        for place, text in enumerate(completions)
    ]
    seeds = {"s": ("Which sentiment?", "The sentiment is positive.")}
    LikeSiblings().mark(rows, Known(rows, seeds, keeps_contrast=keeps_contrast))
    return [row.drop_reason for row in rows]


def test_like_siblings_keeps_what_says_something_else() -> None:
    """Another label, its denial, and the right label in other words; a copy and a repetition go."""
    said = ("The sentiment is negative.", "The sentiment is not positive.", "So its sentiment is positive")
    assert filter_completions(*said) == [None, None, None]
    assert filter_completions(*said, keeps_contrast=False) == ["like_seed"] * 3
    assert filter_completions("the sentiment is positive", "It is fine.", "It's fine!") == ["like_seed", None, None]
    again = "I would call this film a cheerful one, since all in it end well and laugh a lot."
    assert filter_completions(again, again.replace("since", "as")) == [None, "like_sibling"]


def test_a_short_seed_is_not_like_every_text_that_contains_it() -> None:
    text = "What I read says that the sentiment of the first half is rather dark, and of the other half positive."
    assert filter_completions(text, keeps_contrast=False, kind="completion") == ["like_seed"]
    assert filter_completions(text, kind="completion") == [None]


@pytest.mark.parametrize(
    ("seeds", "bound"), [([4] * 30, 4), ([40] * 30, 10), ([1, 4] * 15, 1), ([1] + [6] * 39, 6), ([], 0)]
)
def test_the_shortest_completion_goes_by_the_seeds(seeds: list[int], bound: int) -> None:
    """The 5th percentile of the seeds' lengths, at most 10 words."""
    known = {f"s{place}": ("p", words("w", count)) for place, count in enumerate(seeds)}
    rows = [Candidate(f"{count}", "completion", "s0", "p", "p", words("c", count)) for count in range(1, 12)]
    ShorterThanSeeds().mark(rows, Known(rows, known))
    assert [row.drop_reason for row in rows] == ["completion_too_short" if n < bound else None for n in range(1, 12)]
    assert [type(one) for one in list_word_filters(min_prompt_words=1, min_completion_words=None, **PAPER)].count(
        ShorterThanSeeds
    ) == 1
