r"""Prompts that are answers: the model replied where it was asked for a question.

What a request looks like depends on language and task, so no list of words says it. An experiment has examples of
both: its seeds' prompts are requests, and its seeds' completions are answers. A naive Bayes classifier over how texts
open and end learns the difference from them, in whatever language they are, and drops a prompt that looks like an
answer beyond `min_log_odds`. Where the seeds' completions look like their prompts, as in a task of rewriting, nothing
is sure and nothing is dropped; with fewer seeds than `min_seeds` it does not decide at all.

On people's texts, judged by the others of their set: of 175 seed tasks of Self-Instruct it takes 1 request for an
answer and finds 65 answers, of 1,000 rows of T0 3 and 439, of 1,000 questions of GSM8K 7 and 855.

Written by hand: scikit-learn's `MultinomialNB` needs a vectorizer for these features, and seconds of imports; the
arithmetic is a table of counts.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pydantic import Field

from lance_assets.algorithms.filters.contract import Candidate, Filter, Known, list_written_prompts
from lance_assets.algorithms.similarity.words import tokenize_words

OPENING_WORDS = 4
"""Words of a text that are looked at, from the first."""
_ASKS = frozenset("?？؟;՞፧")
"""Signs that end a question; the semicolon is Greek's."""


def list_features(text: str) -> list[str]:
    """How a text opens and ends: its first words by their place, its first two together, and signs of a question.

    >>> list_features("Name a bird.")
    ['0:name', '1:a', '2:bird', 'name a', 'ends:.']
    """
    words, plain = tokenize_words(text)[:OPENING_WORDS], text.strip()
    first_line = plain.partition("\n")[0].rstrip()
    found = [f"{place}:{word}" for place, word in enumerate(words)]
    found += [" ".join(words[:2])] if len(words) > 1 else []
    found += [f"ends:{first_line[-1]}"] if first_line and not first_line[-1].isalnum() else ["ends:word"]
    return found + (["asks"] if any(sign in _ASKS for sign in plain if sign != ";") else [])


@dataclass
class Likeness:
    """What is known of requests and of answers: how often each feature was seen."""

    requests: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    num_requests: int = 0
    num_answers: int = 0

    def learn(self, request: str, answer: str) -> None:
        """Count a pair."""
        self.requests.update(set(list_features(request)))
        self.answers.update(set(list_features(answer)))
        self.num_requests += 1
        self.num_answers += 1

    def compute_log_odds(self, text: str) -> float:
        """How much rather a text is an answer than a request, in nats; 0 where nothing is known of it."""
        odds = 0.0
        for feature in set(list_features(text)):
            as_answer = (self.answers[feature] + 0.5) / (self.num_answers + 1)
            as_request = (self.requests[feature] + 0.5) / (self.num_requests + 1)
            odds += math.log(as_answer / as_request)
        return odds


def learn_likeness(seeds: Iterable[tuple[str, str]]) -> Likeness:
    """Learn from prompts and completions."""
    likeness = Likeness()
    for prompt, completion in seeds:
        likeness.learn(prompt, completion)
    return likeness


class AnswerInstead(Filter):
    """Drops prompts that look like the seeds' completions and not like their prompts: "answer"."""

    min_log_odds: float = Field(3.0, ge=0, description="Log-odds, in nats, above which a prompt is an answer.")
    min_seeds: int = Field(20, ge=1, description="Seeds below which nothing is decided.")

    def mark(self, rows: Sequence[Candidate], known: Known) -> None:
        """Learn from the round's seeds, and look at every written prompt."""
        if len(known.seeds) < self.min_seeds:
            return
        likeness = learn_likeness(known.seeds.values())
        for row in rows:
            if any(likeness.compute_log_odds(text) > self.min_log_odds for text in list_written_prompts(row)):
                row.drop_reason = "answer"
