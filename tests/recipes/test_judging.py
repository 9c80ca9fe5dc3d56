import re
from collections.abc import Sequence

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lance_assets.algorithms.reviews.pairwise import parse_verdict
from lance_assets.prompts import Templates
from lance_assets.recipes.asking import RoundIdentity
from lance_assets.recipes.lance import RECIPE, LanceSettings, judge_pairs
from lance_assets.recipes.steps.judging import VERDICT_GRAMMAR, drop_judged_pairs
from lance_assets.records import PAIR_JUDGEMENTS, PREFERENCE_PAIRS, Request, Sample, SamplingSettings
from tests.recipes.scripted_round import build_inputs

IDENTITY = RoundIdentity("mini", "r0001", 0, Templates("compact"))
PAIRS = pl.DataFrame(
    [
        {"row_id": name, "prompt": f"Prompt {name}", "chosen": f"good {name}", "rejected": f"bad {name}"}
        | {"score_gap": 3.0, "source_round": "r0001"}
        for name in ("p", "q", "r", "s", "t")
    ],
    schema=PREFERENCE_PAIRS,
)


class Judge:
    """Says for each prompt what a function of (prompt, whether the good one is A) gives."""

    def __init__(self, verdicts: dict[str, tuple[str, str]]) -> None:
        self.verdicts = verdicts
        self.asked: list[Request] = []
        self.sampling: SamplingSettings | None = None
        self.settings = LanceSettings()

    def __call__(
        self, stage: str, requests: Sequence[Request], sampling: SamplingSettings | None = None
    ) -> list[Sample]:
        assert RECIPE.find_role(stage) == "reviewer"
        self.asked, self.sampling = list(requests), sampling or RECIPE.find_sampling(stage, self.settings)
        samples = []
        for request in requests:
            text = request.messages[-1]["content"]
            found = re.search(r"Prompt (\w)", text)
            assert found
            said = self.verdicts[found[1]][0 if re.search(r"A: good", text) else 1]
            samples.append(Sample(request.row_id, said, "length" if said == "cut" else "stop", 1, 1))
        return samples


VERDICTS = {
    "p": ("verdict: A", "verdict: B"),
    "q": ("verdict: A", "verdict: A"),
    "r": ("verdict: B", "[[A]]"),
    "s": ("tie", "tie"),
    "t": ("verdict: A", "cut"),
}
"""With the chosen completion first, and with the rejected one."""


def judge(ask: Judge, pairs: pl.DataFrame = PAIRS, **settings) -> pl.DataFrame:
    # Endings are forced elsewhere (test_forced_verdicts).
    chosen = LanceSettings(**{"force_ending": False, **settings})
    judged = judge_pairs(build_inputs(chosen, IDENTITY, ask=ask), pairs)
    assert judged.schema == PAIR_JUDGEMENTS
    return judged


def test_every_pair_is_judged_in_both_orders() -> None:
    ask = Judge(VERDICTS)
    judged = judge(ask, num_judged_pairs=5)
    assert dict(judged.select("row_id", "outcome").rows()) == {
        "p": "chosen",
        "q": "flipped",
        "r": "rejected",
        "s": "tie",
        "t": "unread",
    }
    assert judged["drop_reason"].null_count() == 5
    row = judged.filter(pl.col("row_id") == "t").row(0, named=True)
    assert (row["chosen_first_verdict"], row["rejected_first_verdict"]) == ("A", None)
    assert (row["chosen_first_reason"], row["rejected_first_reason"]) == (None, "cut_off")
    assert (row["rejected_first_text"], row["chosen"], row["score_gap"]) == ("cut", "good t", 3.0)
    assert len({request.row_id for request in ask.asked}) == len({r.sampling_seed for r in ask.asked}) == 10
    assert ask.sampling is not None
    assert (ask.sampling.grammar, ask.sampling.max_new_tokens) == (
        VERDICT_GRAMMAR,
        LanceSettings().sampling.max_new_tokens,
    )


def test_pairs_not_preferred_in_both_orders_are_left_out_with_the_reason() -> None:
    """Five pairs: p stays, and of a round before an unjudged one."""
    judged = judge(Judge(VERDICTS), num_judged_pairs=5, drop_flipped_pairs=True)
    assert dict(judged.select("row_id", "drop_reason").rows()) == {
        "p": None,
        "q": "flipped",
        "r": "rejected",
        "s": "tie",
        "t": "unread",
    }
    earlier = PAIRS.head(1).with_columns(row_id=pl.lit("earlier"), source_round=pl.lit("r0000"))
    kept = drop_judged_pairs(pl.concat([PAIRS, earlier]), judged)
    assert kept["row_id"].to_list() == ["p", "earlier"]
    assert kept.schema == PREFERENCE_PAIRS


def test_the_same_pairs_are_judged_whatever_their_order() -> None:
    some = judge(Judge(VERDICTS), num_judged_pairs=2)
    again = judge(Judge(VERDICTS), PAIRS.reverse(), num_judged_pairs=2)
    assert len(some) == 2
    assert some.sort("row_id").equals(again.sort("row_id"))


@pytest.mark.parametrize(("pairs", "number"), [(PAIRS, 0), (PAIRS.clear(), 9)])
def test_nothing_to_judge_asks_nothing(pairs: pl.DataFrame, number: int) -> None:
    ask = Judge({})
    judged = judge(ask, pairs, num_judged_pairs=number)
    assert judged.is_empty()
    assert ask.asked == []
    assert drop_judged_pairs(pairs, judged).equals(pairs)


@given(st.from_regex(VERDICT_GRAMMAR, fullmatch=True))
def test_what_the_grammar_allows_is_always_a_verdict(text: str) -> None:
    assert parse_verdict(text) in ("A", "B", "tie")


@given(st.lists(st.sampled_from(["[[B]]", "verdict: B", "A is better", "<think>", "not ", "\n", ". ", "tie"])))
def test_nothing_in_a_comparison_hides_the_verdict(words: list[str]) -> None:
    for text in (f"a{''.join(words)}\nverdict: A", f"a{''.join(words)}. **Verdict:** A"):
        assert re.fullmatch(VERDICT_GRAMMAR, text)
        assert parse_verdict(text) == "A"
