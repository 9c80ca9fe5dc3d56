"""What may tell a good completion from a bad one: review signals, each from rows to a number or the reason for none.

| signal | a completion's number | what it costs |
| --- | --- | --- |
| sampled | the mean of the scores that reviews end in | a rationale for each review |
| expected | the same, each score as its probabilities expect it (G-Eval, arXiv 2303.16634) | the same reviews |
| forced_digit | the expected score where the review begins with its score | one reading |
| yes_no | the probability of yes against no, asked if it is good (Kadavath et al., arXiv 2207.05221) | one reading |
| likelihood | its mean log-probability by token, given the prompt | one reading |
| mutual_information | that less the same without the prompt: by how much the prompt explains it | two readings |
| ifd | minus the ratio of its loss given the prompt to that without it (Li et al., arXiv 2308.12032) | two readings |
| agreement | its mean ROUGE-L F to samples of the same prompt, or the share with its answer | samples of a prompt |

`pairwise` is another kind: it compares two completions of one prompt, in both orders (MT-Bench, arXiv 2306.05685), by
the probabilities of A and B where the verdict begins. It gives no single completion a number.

More is better in all of them. Differences from the sources:

1. "Without the prompt" is the same chat with an empty user message, since many chat templates refuse a chat without
   one. IFD's authors leave the template out.
2. IFD is the ratio of the losses, as in the paper's formula. Of the ratio of perplexities (Superfiltering, arXiv
   2402.00530) the logarithm is minus the mutual information by token, so it orders rows exactly as that does.
3. A word that is not among the likeliest tokens counts as the least likely of those that are listed, which it cannot
   exceed. Where neither word is among them there is no number.
4. IFD chooses training rows in the paper, and its authors leave rows above 1 out. Here it is a signal like the others.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

from lance_assets.algorithms.measures.signals import ScoredPair
from lance_assets.algorithms.reviews.answer_kinds import AnswerRule
from lance_assets.algorithms.reviews.review_parsing import ExpectedScore, Unscored, compute_expected_score
from lance_assets.algorithms.reviews.signal_pairs import SignalPair
from lance_assets.algorithms.similarity.words import compute_rouge_l, count_words
from lance_assets.recipes.asking import RoundIdentity, StateReader, build_requests, close_thoughts, read_completion
from lance_assets.recipes.steps.reviewing import Rubric, ScoreFrom, build_review_requests, review_rows
from lance_assets.recipes.steps.rows import Example, Shown
from lance_assets.records import Ask, Request, Sample, SamplingSettings, derive_row_id

Score = float | Unscored
"""A completion's number, or why there is none."""

SCORE_PREFILL = "Score:"
"""What a review begins with where its score is forced."""
CHOICE_PREFILL = "Answer:"
"""What the reply to a question of yes or no begins with."""
VERDICT_PREFILL = "verdict:"
"""What a verdict begins with."""
YES_NO = ("yes", "no")
A_B = ("a", "b")
NUM_FORCED = 3
"""Tokens that are read of a forced reply: a space, a digit, and what may follow it in "10"."""


@dataclass(frozen=True)
class SignalModels:
    """The model under measure, and how it is asked."""

    identity: RoundIdentity
    """What ids and sampling seeds derive from, with the words that are asked."""
    ask: Ask
    """Asks the model; the stage `review` without sampling settings is sampled as reviews are, tokens' tail included."""
    reader: StateReader
    """Reads whole rows with the model."""
    rubric: Rubric
    """What a review is asked for."""
    sampling: SamplingSettings
    """How completions are sampled, for their agreement."""
    num_reviews: int = 1
    """Reviews of each row."""
    num_samples: int = 4
    """Samples of each prompt, for their agreement."""
    force_ending: bool = False
    """Whether a review that was cut or has no score is made to end in one, as rounds do by default."""
    answer_rule: AnswerRule | None = None
    """How answers are read, where the task has answers that are equal or not."""
    _read: dict[tuple[str, str], tuple[float, int]] = field(default_factory=dict, repr=False, compare=False)
    """Likelihoods that were read already: three signals share them."""

    def read_likelihoods(self, asked: Sequence[tuple[str, str]]) -> list[tuple[float, int]]:
        """(log-likelihood in nats, tokens) of each prompt's completion, each read once."""
        missing = [one for one in dict.fromkeys(asked) if one not in self._read]
        build = self.identity.templates.build_messages
        table = self.reader.measure_likelihood([(build(prompt), completion) for prompt, completion in missing])
        self._read.update(zip(missing, table.iter_rows(), strict=True))
        return [self._read[one] for one in asked]


@dataclass(frozen=True)
class Signal:
    """A way to give a completion a number."""

    name: str
    score: Callable[[SignalModels, Sequence[Shown]], list[Score]]
    """The models and rows to each row's number, in order; rows with equal ids are asked about once."""


def score_by_reviews(score_from: ScoreFrom) -> Callable[[SignalModels, Sequence[Shown]], list[Score]]:
    """The reviewer as the rounds ask it."""

    def score(models: SignalModels, rows: Sequence[Shown]) -> list[Score]:
        reviews = review_rows(
            models.identity,
            models.ask,
            rows,
            rubric=models.rubric,
            num_reviews=models.num_reviews,
            score_from=score_from,
            force_ending=models.force_ending,
        )
        scores: list[Score] = []
        for row in reviews:
            reasons = [reason for reason in row.result.unscored_reasons if reason is not None]
            known = row.result.review_score
            scores.append(Unscored(reasons[0], row.texts[0]) if known is None else known)
        return scores

    return score


def force(requests: Sequence[Request], prefill: str) -> list[Request]:
    """The requests with the text that the reply begins with."""
    return [replace(request, prefill=prefill) for request in requests]


FORCED = SamplingSettings(temperature=0.0, top_p=1.0, max_new_tokens=NUM_FORCED, tail_tokens=NUM_FORCED)
"""How a forced reply is read: the probabilities at its first tokens."""


def score_by_forced_digit(models: SignalModels, rows: Sequence[Shown]) -> list[Score]:
    """The expected score of a review that begins with its score."""
    requests = build_review_requests(models.identity, "forced_digit", rows, rubric=models.rubric, num_reviews=1)
    samples = models.ask("forced_digit", force(requests, SCORE_PREFILL), FORCED)
    return [read_forced_digit(sample, rubric=models.rubric) for sample in samples]


def read_forced_digit(sample: Sample, *, rubric: Rubric) -> Score:
    """The expected score by the probabilities where a forced reply has its first digit.

    >>> from lance_assets.records import TokenChoice
    >>> tail = (TokenChoice(" 8", {" 8": math.log(0.5), " 6": math.log(0.5)}), TokenChoice(".", {}))
    >>> read_forced_digit(Sample("r", " 8.", "length", 9, 2, tail=tail), rubric=Rubric("lance/review", 0, 10))
    7.0
    """
    if sample.finish_reason == "error":
        return Unscored("error", sample.text)
    places = [place for place, choice in enumerate(sample.tail) if any(map(str.isdecimal, choice.text))]
    if not places:
        return Unscored("no_score" if sample.tail else "no_tail", sample.text)
    # What follows the number is no part of it: "8/1" would be another scale, only since it was cut there.
    following = sample.tail[places[0] + 1 : places[0] + 2]
    tail = sample.tail[: places[0] + 1] + tuple(choice for choice in following if choice.text[:1].isdecimal())
    text = "score:" + "".join(choice.text for choice in tail)
    read = replace(sample, text=text, finish_reason="stop", tail=tail)
    expected = compute_expected_score(read, lowest=float(rubric.lowest), highest=float(rubric.highest))
    return expected.value if isinstance(expected, ExpectedScore) else replace(expected, raw_text=sample.text)


def read_choice(sample: Sample, words: tuple[str, str]) -> Score:
    """The probability of the first of two words where a forced reply begins, of that of both.

    Args:
        sample: with the alternatives of its first tokens.
        words: in lower case.

    >>> from lance_assets.records import TokenChoice
    >>> tail = (TokenChoice(" Yes", {" Yes": math.log(0.3), "yes": math.log(0.3), " No": math.log(0.2)}),)
    >>> round(read_choice(Sample("r", " Yes", "length", 9, 1, tail=tail), ("yes", "no")), 3)
    0.75
    """
    if sample.finish_reason == "error":
        return Unscored("error", sample.text)
    if not sample.tail:
        return Unscored("no_tail", sample.text)
    for choice in sample.tail:
        mass = dict.fromkeys(words, 0.0)
        for token, log_probability in choice.alternatives.items():
            if (word := token.strip(" \n*\"'.,:([").lower()) in mass:
                mass[word] += math.exp(log_probability)
        if any(mass.values()):
            least = math.exp(min(choice.alternatives.values()))
            first, second = (mass[word] or least for word in words)
            return first / (first + second)
        # A space or a line end may come before the word; anything else is another reply.
        if choice.text.strip(" \n*\"'([") or not choice.text:
            break
    return Unscored("low_mass", sample.text)


def score_by_yes_no(models: SignalModels, rows: Sequence[Shown]) -> list[Score]:
    """The probability of yes, asked whether the completion is a good reply."""
    samples = models.ask("yes_no", build_yes_no_requests(models.identity, "yes_no", rows), FORCED)
    return [read_choice(sample, YES_NO) for sample in samples]


def build_yes_no_requests(identity: RoundIdentity, stage: str, rows: Sequence[Shown]) -> list[Request]:
    """A question of yes or no about each row, asked with the words of the role `reviewer`."""
    reviewer = identity.of_role("reviewer")
    asked = [
        (row.row_id, reviewer.templates.render("lance/yes_no", prompt=row.prompt, completion=row.completion))
        for row in rows
    ]
    return force(build_requests(reviewer, stage, asked, 1), CHOICE_PREFILL)


def score_by_likelihood(models: SignalModels, rows: Sequence[Shown]) -> list[Score]:
    """The mean log-probability by token."""
    found = models.read_likelihoods([(row.prompt, row.completion) for row in rows])
    return [total / number if number else Unscored("cut_off", "") for total, number in found]


def _compare_likelihoods(
    models: SignalModels, rows: Sequence[Shown], combine: Callable[[float, float], float]
) -> list[Score]:
    """From the mean log-probabilities with and without the prompt to a number."""
    given = models.read_likelihoods([(row.prompt, row.completion) for row in rows])
    alone = models.read_likelihoods([("", row.completion) for row in rows])
    # A completion that is certain without its prompt leaves nothing to explain, and nothing to divide by.
    return [
        combine(own / number, free / other) if number and other and free else Unscored("cut_off", "")
        for (own, number), (free, other) in zip(given, alone, strict=True)
    ]


def score_by_mutual_information(models: SignalModels, rows: Sequence[Shown]) -> list[Score]:
    """By how many nats a token the prompt explains the completion."""
    return _compare_likelihoods(models, rows, lambda given, alone: given - alone)


def score_by_ifd(models: SignalModels, rows: Sequence[Shown]) -> list[Score]:
    """Minus the ratio of the losses: nearer to 0, the more the prompt explains."""
    return _compare_likelihoods(models, rows, lambda given, alone: -given / alone)


def score_by_agreement(models: SignalModels, rows: Sequence[Shown]) -> list[Score]:
    """How far the model's own samples of the prompt agree with the completion, 0 to 1."""
    prompts = list(dict.fromkeys(row.prompt for row in rows))
    asked = [(derive_row_id("agreement", prompt), prompt) for prompt in prompts]
    requests = build_requests(models.identity, "agreement", asked, models.num_samples)
    samples = close_thoughts(models.ask("agreement", requests, models.sampling))
    texts = [read_completion(models.identity, sample) for sample in samples]
    own = {
        prompt: [text for text in texts[place * models.num_samples :][: models.num_samples] if text]
        for place, prompt in enumerate(prompts)
    }
    return [_measure_agreement(row.completion, own[row.prompt], models.answer_rule) for row in rows]


def _measure_agreement(completion: str, samples: Sequence[str], rule: AnswerRule | None) -> Score:
    if rule is None:
        agreed = [compute_rouge_l(completion, sample).f for sample in samples]
        return fmean(agreed) if agreed else Unscored("empty", "")
    answers = [rule.read(sample) for sample in samples]
    known = [rule.normalise(answer) for answer in answers if answer is not None]
    if not known:
        return Unscored("no_score", "\n".join(samples))
    answer = rule.read(completion)
    return fmean(answer is not None and rule.normalise(answer) == other for other in known)


SIGNALS: Mapping[str, Signal] = {
    signal.name: signal
    for signal in (
        Signal("sampled", score_by_reviews("text")),
        Signal("expected", score_by_reviews("expected")),
        Signal("forced_digit", score_by_forced_digit),
        Signal("yes_no", score_by_yes_no),
        Signal("likelihood", score_by_likelihood),
        Signal("mutual_information", score_by_mutual_information),
        Signal("ifd", score_by_ifd),
        Signal("agreement", score_by_agreement),
    )
}
"""Every signal that gives a completion a number."""


@dataclass(frozen=True)
class Comparison:
    """What a judge says of a pair by the probabilities of its verdict."""

    value: Score
    """Its preference for the better completion, mean of both orders, 0 to 1."""
    first_shown: tuple[float, ...]
    """Its preference for the completion shown first, in each order that could be read."""


def compare_pairs(models: SignalModels, pairs: Sequence[SignalPair]) -> list[Comparison]:
    """Show the two completions of each pair together, in both orders, and read where the verdict begins."""
    judge = models.identity.of_role("reviewer")
    asked = []
    for pair in pairs:
        for order, first, second in (
            ("better_first", pair.better, pair.worse),
            ("worse_first", pair.worse, pair.better),
        ):
            texts = {"completion_a": first, "completion_b": second}
            text = judge.templates.render("lance/judge_pair", prompt=pair.prompt, **texts)
            asked.append((f"{pair.row_id}:{order}", text))
    samples = models.ask("pairwise", force(build_requests(judge, "pairwise", asked, 1), VERDICT_PREFILL), FORCED)
    read = [read_choice(sample, A_B) for sample in samples]
    compared = []
    for better_first, worse_first in zip(read[::2], read[1::2], strict=True):
        known = tuple(score for score in (better_first, worse_first) if not isinstance(score, Unscored))
        unread = next((score for score in (better_first, worse_first) if isinstance(score, Unscored)), None)
        # One order alone would show which place the judge prefers.
        compared.append(Comparison(unread or (known[0] + 1 - known[1]) / 2, known))
    return compared


def score_pairs(signal: Signal, models: SignalModels, pairs: Sequence[SignalPair]) -> list[ScoredPair]:
    """Both completions of each pair by a signal, each text of a prompt once."""
    rows = list_rows(pairs)
    scores = dict(zip(rows, signal.score(models, list(rows.values())), strict=True))
    return combine_scores(pairs, scores)


def list_rows(pairs: Sequence[SignalPair]) -> dict[tuple[str, str], Example]:
    """Each completion of each prompt once, by its texts, with an id that derives from them."""
    texts = [(pair.prompt, text) for pair in pairs for text in (pair.better, pair.worse)]
    return {one: Example(derive_row_id("signal", *one), *one) for one in texts}


def combine_scores(pairs: Sequence[SignalPair], scores: Mapping[tuple[str, str], Score]) -> list[ScoredPair]:
    """The pairs with the scores of their texts, lengths in words."""
    scored = []
    for pair in pairs:
        better, worse = (scores[pair.prompt, text] for text in (pair.better, pair.worse))
        scored.append(
            ScoredPair(
                pair.kind,
                None if isinstance(better, Unscored) else better,
                None if isinstance(worse, Unscored) else worse,
                count_words(pair.better),
                count_words(pair.worse),
            )
        )
    return scored


def score_comparisons(pairs: Sequence[SignalPair], compared: Sequence[Comparison]) -> list[ScoredPair]:
    """The pairs with what a comparison says of each: a preference, and what is left of 1."""
    return [
        ScoredPair(
            pair.kind,
            None if isinstance(one.value, Unscored) else one.value,
            None if isinstance(one.value, Unscored) else 1 - one.value,
            count_words(pair.better),
            count_words(pair.worse),
        )
        for pair, one in zip(pairs, compared, strict=True)
    ]


def remember(ask: Ask) -> Ask:
    """An ask that asks each request once: signals that read the same reviews share them."""
    known: dict[tuple[str, str, str], Sample] = {}

    def ask_once(stage: str, requests: Sequence[Request], sampling: SamplingSettings | None = None) -> list[Sample]:
        keys = [(stage, request.row_id, request.prefill) for request in requests]
        missing = {key: request for key, request in zip(keys, requests, strict=True) if key not in known}
        if missing:
            known.update(zip(missing, ask(stage, list(missing.values()), sampling), strict=True))
        return [known[key] for key in keys]

    return ask_once
