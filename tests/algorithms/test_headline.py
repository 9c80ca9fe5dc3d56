import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lance_assets.algorithms.measures.headline import (
    Headline,
    ScoreRow,
    Wanted,
    choose_headline,
    combine_scores,
    compare_headlines,
    find_score,
    guess_direction,
    is_fall,
    name_score,
)
from lance_assets.algorithms.measures.statistics import compute_independent_difference, compute_paired_difference


def row(benchmark: str, metric: str, score: float, half: float | None = 0.1, **more) -> ScoreRow:
    """A score with an interval of so much to both sides."""
    ends = {"ci_low": half and score - half, "ci_high": half and score + half}
    names = {"model": "checkpoint", "benchmark": benchmark, "metric": metric, "task": "all", "stratum": None}
    return names | {"score": score, "num_items": 100, "higher_is_better": True, "part_of": None} | ends | more


def mean(*rows: ScoreRow, weights: list[float] | None = None) -> Headline:
    return combine_scores(rows, weights or [1.0] * len(rows))


def test_without_a_name_it_is_the_mean_of_each_tasks_main_metric_in_whatever_order_they_are() -> None:
    """Of b_task acc_norm before acc; of gsm8k the flexible filter; a group is not counted twice."""
    rows = [
        row("b_task", "acc", 0.9),
        row("b_task", "acc_norm", 0.4),
        row("gsm8k", "exact_match (strict-match)", 0.2),
        row("gsm8k", "exact_match (flexible-extract)", 0.8),
        row("a_task", "my_metric", 0.6),
        row("mmlu_stem", "acc", 0.1, part_of="mmlu"),
        row("mmlu", "acc", 0.7),
    ]
    found = choose_headline(rows)
    names = ["a_task my_metric", "b_task acc_norm", "gsm8k exact_match (flexible-extract)", "mmlu acc"]
    assert [name_score(one) for one in found] == names
    assert mean(*found)["score"] == pytest.approx((0.6 + 0.4 + 0.8 + 0.7) / 4)
    for order in itertools.islice(itertools.permutations(rows), 0, 5040, 97):
        assert choose_headline(order) == found


def test_the_world_comes_first_and_the_judge_last() -> None:
    judge = [row("judge", "win_rate", 0.9), row("judge", "length_controlled_win_rate", 0.5)]
    world = [row("own", "sampled", 0.1), row("own", "greedy", 0.2, task="sort"), row("own", "greedy", 0.3)]
    assert choose_headline([*judge, row("a", "acc", 0.6), *world])[0]["score"] == 0.3
    assert choose_headline([*judge, row("a", "acc", 0.6)])[0]["benchmark"] == "a"
    assert choose_headline(judge)[0]["metric"] == "length_controlled_win_rate"
    assert choose_headline([]) == []


def test_one_score_stays_as_it_is() -> None:
    one = row("a", "acc", 0.6)
    headline = mean(one, weights=[7.0])
    shared = ("benchmark", "metric", "score", "ci_low", "ci_high", "num_items", "higher_is_better")
    assert {name: headline[name] for name in shared} == {name: one[name] for name in shared}


def test_a_mean_has_the_interval_of_independent_scores() -> None:
    """Halves of 0.3 and 0.4 are one of 0.5 for the sum, and of 0.25 for the mean of two."""
    headline = mean(row("a", "acc", 0.5, 0.3), row("b", "acc", 0.7, 0.4))
    assert (headline["benchmark"], headline["metric"]) == ("mean of 2", "a acc, b acc")
    assert (headline["score"], headline["num_items"]) == (pytest.approx(0.6), 200)
    assert (headline["ci_low"], headline["ci_high"]) == pytest.approx((0.35, 0.85))
    assert mean(row("a", "acc", 0.5), row("b", "acc", 0.7, None))["ci_low"] is None


def test_weights_are_shares_of_the_mean() -> None:
    """The paper's mean of GSM8K and of the mean of two languages."""
    headline = mean(row("gsm8k", "m", 0.8, 0.2), row("de", "m", 0.6, None), row("fr", "m", 0.2), weights=[1, 0.5, 0.5])
    assert headline["score"] == pytest.approx(0.8 / 2 + 0.6 / 4 + 0.2 / 4)
    assert headline["weights"] == [0.5, 0.25, 0.25]


def test_scores_of_the_same_items_are_not_independent() -> None:
    """Two metrics of one task, and of the world a stratum and the whole, may rise together: half-widths add up."""
    one, other = row("a", "acc", 0.5, 0.2), row("a", "acc_norm", 0.5, 0.2)
    assert mean(one, other)["ci_high"] == pytest.approx(0.7)
    whole, stratum = row("own", "greedy", 0.5, 0.2), row("own", "greedy", 0.5, 0.2, stratum=4)
    assert mean(whole, stratum)["ci_high"] == pytest.approx(0.7)
    strata = [row("own", "greedy", 0.5, 0.2, stratum=place) for place in (1, 2)]
    assert mean(*strata)["ci_high"] == pytest.approx(0.5 + 0.2 / math.sqrt(2))


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_headline_that_is_no_number_says_which_score_it_is(score: float) -> None:
    with pytest.raises(ValueError, match=rf"wikitext word_perplexity, and it is {score}, .*evaluation.headline"):
        mean(row("a", "acc", 0.5), row("wikitext", "word_perplexity", score))


def test_scores_without_a_mean_say_why() -> None:
    lower = row("wikitext", "word_perplexity", 12.0, higher_is_better=False)
    with pytest.raises(ValueError, match="a acc higher, wikitext word_perplexity lower"):
        mean(row("a", "acc", 0.5), lower)
    with pytest.raises(ValueError, match="mmlu_stem is part of mmlu and would count twice"):
        mean(row("mmlu", "acc", 0.5), row("mmlu_stem", "acc", 0.5, part_of="mmlu"))


def test_a_score_that_is_not_there_names_those_that_are() -> None:
    rows = [row("gsm8k", "exact_match (strict-match)", 0.2), row("a", "acc", 0.2)]
    assert find_score(rows, Wanted("gsm8k", "exact_match (strict-match)"))["score"] == 0.2
    with pytest.raises(ValueError, match=r"no score 'gsm8k exact_match'; it has gsm8k exact_match \(strict-match\)$"):
        find_score(rows, Wanted("gsm8k", "exact_match"))
    with pytest.raises(ValueError, match=r"no score 'arc acc'; it has a, gsm8k$"):
        find_score(rows, Wanted("arc", "acc"))


def test_a_metrics_name_says_its_direction() -> None:
    lower = ["word_perplexity", "byte_perplexity", "bits_per_byte", "ppl", "wer", "eval_loss", "word_error_rate", "ter"]
    higher = ["acc", "acc_norm", "exact_match", "f1", "bleu", "chrf", "better", "losses_won", "rouge1", "mcc"]
    assert [metric for metric in lower if guess_direction(metric)] == []
    assert [metric for metric in higher if not guess_direction(metric)] == []


def test_a_single_score_compares_as_ever() -> None:
    before, after = mean(row("a", "acc", 0.5, 0.3)), mean(row("a", "acc", 0.9, 0.4))
    assert compare_headlines(before, after, [{}], [{}]) == pytest.approx((0.4, -0.1, 0.9))
    then, now = {"p": 1.0, "q": 0.0, "r": 0.0}, {"r": 1.0, "q": 0.0, "p": 1.0}
    paired = compute_paired_difference([1.0, 0.0, 0.0], [1.0, 0.0, 1.0])
    assert compare_headlines(before, after, [then], [now]) == paired


def test_a_mean_is_paired_score_by_score() -> None:
    """a is paired: of four items one changed, 0.25 +- 1.96 * 0.25. b is not: 0.1 +- 0.5. Mean 0.175 +- half of both."""
    before, after = (
        mean(row("a", "acc", a, 0.9), row("b", "acc", b, half)) for a, b, half in ((0.5, 0.4, 0.3), (0.75, 0.5, 0.4))
    )
    then, now = dict(enumerate([1.0, 1.0, 0.0, 0.0])), dict(enumerate([1.0, 1.0, 1.0, 0.0]))
    middle, low, high = compare_headlines(before, after, [then, {}], [now, {}])
    half = math.hypot(1.959964 * 0.25, 0.5) / 2
    assert (middle, low, high) == pytest.approx((0.175, 0.175 - half, 0.175 + half))


def test_headlines_of_other_scores_do_not_compare() -> None:
    with pytest.raises(ValueError, match="b acc does not compare with one of a acc"):
        compare_headlines(mean(row("a", "acc", 0.5)), mean(row("b", "acc", 0.5)), [{}], [{}])


def test_perplexities_are_not_cut_at_one() -> None:
    """Losses of items are no fractions: from 12 to 40 is a change of 28, and its interval is not [-1, 1]."""
    sides = [mean(row("w", "loss", score, higher_is_better=False)) for score in (12.0, 40.0)]
    difference = compare_headlines(*sides, [{"p": 11.0, "q": 13.0}], [{"p": 39.0, "q": 41.0}])
    assert difference == (28.0, 28.0, 28.0)
    assert is_fall(difference, higher_is_better=False)
    assert not is_fall(difference, higher_is_better=True)


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 0.5), st.floats(0.1, 3)), min_size=1, max_size=6)
)
def test_a_mean_lies_among_its_scores_and_there_and_back_is_nothing(
    drawn: list[tuple[float, float, float, float]],
) -> None:
    weights = [weight for *_, weight in drawn]
    before, after = (
        mean(*(row(f"t{place}", "acc", one[side], one[2]) for place, one in enumerate(drawn)), weights=weights)
        for side in (0, 1)
    )
    scores = [one[0] for one in drawn]
    assert min(scores) - 1e-9 <= before["score"] <= max(scores) + 1e-9
    nothing: list[dict] = [{}] * len(drawn)
    there, back = (compare_headlines(*pair, nothing, nothing) for pair in ((before, after), (after, before)))
    assert there == pytest.approx((-back[0], -back[2], -back[1]))
    assert there[0] == pytest.approx(after["score"] - before["score"])
    if len(drawn) == 1:
        ends = (
            (before["score"], before["ci_low"], before["ci_high"]),
            (after["score"], after["ci_low"], after["ci_high"]),
        )
        assert there == compute_independent_difference(*ends)
