import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lance_assets.algorithms.reviews.review_parsing import ExpectedScore, Unscored, compute_expected_score
from lance_assets.records import FinishReason, Sample, TokenChoice


def choose(text: str, **probabilities: float) -> TokenChoice:
    """A sampled token and the probabilities of alternatives; `s8` is the token " 8" and `t8` the token "8"."""
    named = {name.replace("s", " ").replace("t", ""): math.log(p) for name, p in probabilities.items()}
    return TokenChoice(text, named)


def review(text: str, *tail: TokenChoice, finish_reason: FinishReason = "stop") -> Sample:
    return Sample("r", text, finish_reason, 9, 9, tail=tail)


LEAD = TokenChoice("score:", {"score:": 0.0})


def expect(sample: Sample, **scale: float) -> ExpectedScore:
    result = compute_expected_score(sample, **scale)
    assert isinstance(result, ExpectedScore), result
    return result


def test_mean_of_the_scores_by_their_probability() -> None:
    """(0.5 * 8 + 0.25 * 7 + 0.15 * 9) / 0.9 = 7.888...; the other tenth, no score, is left out."""
    sample = review("Fine. score: 8", LEAD, choose(" 8", s8=0.5, s7=0.25, s9=0.15, sx=0.1))
    result = expect(sample)
    assert result.value == pytest.approx(7.1 / 0.9)
    assert result.covered == pytest.approx(0.9)
    assert result.max_error == 0


def test_a_token_of_its_own_for_ten() -> None:
    """0.6 * 10 + 0.4 * 9 = 9.6."""
    assert expect(review("score: 10", LEAD, choose(" 10", s10=0.6, s9=0.4))).value == pytest.approx(9.6)


def test_ten_as_two_tokens() -> None:
    """ "1" has 0.8, of which "0" takes 0.75: 0.6 for 10, 0.2 for 1; 9 has 0.2. 6 + 0.2 + 1.8 = 8."""
    sample = review("score: 10", LEAD, choose("1", t1=0.8, t9=0.2), choose("0", t0=0.75, tx=0.25))
    result = expect(sample)
    assert (result.value, result.covered) == (pytest.approx(8.0), pytest.approx(1.0))
    assert result.max_error == 0


def test_one_that_might_have_been_ten_by_the_next_token() -> None:
    """The same place where the model went on with a full stop: the same expectation."""
    sample = review("score: 1.", LEAD, choose("1", t1=0.8, t9=0.2), choose(".", t0=0.75, **{".": 0.25}))
    assert expect(sample).value == pytest.approx(8.0)


def test_eleven_is_off_the_scale() -> None:
    """Of "1" 0.9: 0.1 goes on to 11, which no longer counts: 0.81 for 1, 0.1 for 2. (0.81 + 0.2) / 0.91."""
    sample = review("score: 1.", LEAD, choose("1", t1=0.9, t2=0.1), choose(".", t1=0.1, **{".": 0.9}))
    result = expect(sample)
    assert (result.value, result.covered) == (pytest.approx(1.01 / 0.91), pytest.approx(0.91))


def test_one_that_was_not_sampled_counts_as_one_and_says_how_wrong_that_may_be() -> None:
    """0.9 * 8 + 0.1 * 1 = 7.3; were it all 10, 8.2: 0.9 more."""
    result = expect(review("score: 8", LEAD, choose(" 8", s8=0.9, s1=0.1)))
    assert result.value == pytest.approx(7.3)
    assert result.max_error == pytest.approx(0.9)


def test_one_without_a_next_token_may_be_wrong_too() -> None:
    result = expect(review("score: 1", LEAD, choose("1", t1=0.5, t2=0.5)))
    assert result == ExpectedScore(pytest.approx(1.5), pytest.approx(1.0), pytest.approx(4.5))


def test_on_a_scale_without_ten_one_is_one() -> None:
    result = expect(review("score: 1", LEAD, choose("1", t1=0.5, t2=0.5)), highest=5.0)
    assert result == ExpectedScore(pytest.approx(1.5), pytest.approx(1.0), 0.0)


def test_decimals_count_as_the_whole_number() -> None:
    sample = review("score: 8.5", LEAD, choose(" 8", s8=0.5, s9=0.5), choose(".", **{".": 1.0}), choose("5", t5=1.0))
    assert expect(sample).value == pytest.approx(8.5)


@pytest.mark.parametrize(
    "after", ["/10", ". It has 3 flaws, 2 of them small.", "\n\n1. Clear\n2. Right"], ids=["scale", "prose", "list"]
)
def test_the_place_is_that_of_the_score_that_counts(after: str) -> None:
    """The tail ends in other numbers, some equal to the score."""
    tail = (choose(" 8", s8=0.5, s6=0.5), *(TokenChoice(sign, {sign: 0.0}) for sign in after))
    assert expect(review(f"score: 8 of 10? No. score: 8{after}", LEAD, *tail)).value == pytest.approx(7.0)


def test_signs_in_the_scores_token() -> None:
    """Tokens ": 8" and ": 7" begin alike; "8**" ends in markup."""
    tail = (choose("**score"), TokenChoice(": 8", {": 8": math.log(0.5), ": 7": math.log(0.5)}), choose("**"))
    assert expect(review("**score: 8**", *tail)).value == pytest.approx(7.5)
    tail = (LEAD, TokenChoice(" 8**", {" 8**": math.log(0.5), " 7": math.log(0.5)}))
    assert expect(review("score: 8**", *tail)).value == pytest.approx(7.5)


@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        (review("score: 8"), "no_tail"),
        (review("score: 8. It is long.", choose(" It"), choose(" is"), choose(" long"), choose(".")), "no_tail"),
        (review("score: 10", choose("0", t0=1.0)), "no_tail"),
        (review("score: eight", LEAD, choose(" eight", seight=1.0)), "no_tail"),
        (review("评分：８", LEAD, choose("８")), "no_tail"),
        (review("score: 8", LEAD, TokenChoice(" 8", {})), "no_tail"),
        (review("score: 8", LEAD, choose(" 8", s8=0.3, s7=0.1, sx=0.6)), "low_mass"),
        (review("score: 8", LEAD, choose(" 8", s8=0.4, s11=0.6)), "low_mass"),
        (review("I cannot say.", choose(" say"), choose(".")), "no_score"),
        (review("score: 1", LEAD, choose(" 1", s1=1.0), finish_reason="length"), "cut_off"),
        (review("", finish_reason="error"), "error"),
    ],
)
def test_without_an_expected_score_there_is_a_reason(sample: Sample, reason: str) -> None:
    assert compute_expected_score(sample) == Unscored(reason, sample.text)


def test_scales_beyond_ten_are_refused() -> None:
    with pytest.raises(ValueError, match="up to 10, got highest=100"):
        compute_expected_score(review("score: 8"), highest=100.0)


@given(
    st.dictionaries(st.sampled_from([str(n) for n in range(13)] + ["x"]), st.floats(0.001, 1), min_size=1),
    st.dictionaries(st.sampled_from([*"0123456789", "", "."]), st.floats(0.001, 1), min_size=1),
    st.integers(0, 10),
)
def test_stays_on_the_scale(first: dict[str, float], second: dict[str, float], score: int) -> None:
    def normalise(weights: dict[str, float]) -> dict[str, float]:
        total = sum(weights.values())
        return {token: math.log(weight / total) for token, weight in weights.items()}

    tail = (LEAD, *(TokenChoice(digit, normalise(first if n == 0 else second)) for n, digit in enumerate(str(score))))
    for more in ((), (TokenChoice(".", normalise(second)),)):
        result = compute_expected_score(review(f"score: {score}{'.' * len(more)}", *tail, *more))
        if isinstance(result, Unscored):
            assert result.reason == "low_mass"
        else:
            assert 0 <= result.value <= 10
            assert 0.5 <= result.covered <= 1
            assert 0 <= result.value + result.max_error <= 10.0000001
