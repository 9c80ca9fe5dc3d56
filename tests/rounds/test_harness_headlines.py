"""Result files of lm-evaluation-harness whose headline was once the first score that stood in them."""

from lance_assets.algorithms.measures.progress import RoundOutcome, find_best_outcome
from lance_assets.rounds.headline import Headline, read_headline
from lance_assets.settings.evaluation import EvaluationSettings
from resources.evaluation.harness_report import parse_lm_eval

TASK = "c4_tiny"


def read(results: dict[str, dict], directions: dict[str, dict], **evaluation: object) -> Headline:
    """The headline of a result file."""
    report = {"results": results, "higher_is_better": directions, "n-samples": {}}
    settings = EvaluationSettings.model_validate({"lm_eval": {"tasks": list(results)}, **evaluation})
    found = read_headline(parse_lm_eval(report, model_name="checkpoint"), evaluation=settings)
    assert found is not None
    return found


def test_case_lm_eval_wikitext() -> None:
    """Of two perplexities the lower one is the best round's."""
    outcomes = []
    for key, perplexity in (("r0000", 52.5), ("r0001", 11.25)):
        scores = {"word_perplexity,none": perplexity, "word_perplexity_stderr,none": "N/A"}
        headline = read({TASK: scores}, {TASK: {"word_perplexity": False}})
        assert (headline["score"], headline["higher_is_better"]) == (perplexity, False)
        outcomes.append(
            RoundOutcome(
                key, perplexity, False, num_tokens=0, seconds=0.0, higher_is_better=headline["higher_is_better"]
            )
        )
    assert find_best_outcome(outcomes) == "r0001"


def test_case_lm_eval_gsm8k() -> None:
    """Of two filters of one metric the experiment names the one that counts, whichever stands first."""
    scores = {"exact_match,strict-match": 0.125, "exact_match,flexible-extract": 0.75}
    named = [{"benchmark": "sums", "metric": "exact_match", "filter": "flexible-extract"}]
    for written in (scores, dict(reversed(scores.items()))):
        assert read({"sums": written}, {"sums": {"exact_match": True}}, headline=named)["score"] == 0.75
