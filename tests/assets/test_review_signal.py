"""r0000 measures its reviewer on balanced pairs of its own seeds, and says so before a round builds on reviews."""

import re
from collections.abc import Sequence
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from lance_assets.algorithms.measures.signals import ScoredPair, SignalMeasures, measure_signal
from lance_assets.assets.names import find_key
from lance_assets.recipes.asking import StateRow
from lance_assets.recipes.contract import list_recipes
from lance_assets.records import PAIR_JUDGEMENTS, REVIEW_SIGNAL
from lance_assets.rounds.finished.summary import describe_reviewer
from lance_assets.rounds.making.measuring import judge_signal, measure_table
from lance_assets.rounds.nouns import NOUNS, identify, list_inputs, list_nouns
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.round import Round
from lance_assets.settings.engines import EngineSettings
from tests.assets.conftest import OpenWorld
from tests.assets.scripted_platform import ScriptedEngine, ScriptedPlatform
from tests.assets.tiny_experiment import World, find_failures, plan_tiny, write_tiny_experiment


class Reader:
    """Finds shorter texts likelier, by the prompt or without."""

    def measure_likelihood(self, rows: Sequence[StateRow]) -> pl.DataFrame:
        nats = [-len(text) - 10.0 * (not messages[-1]["content"]) for messages, text in rows]
        return pl.DataFrame({"log_likelihood": nats, "num_tokens": [1] * len(rows)})

    def close(self) -> None:
        """Nothing to give back."""


@pytest.fixture(autouse=True)
def read_by_script(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the trained model would read."""
    monkeypatch.setattr(Round, "read_states", lambda self, **_: Reader())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_experiment(tmp_path_factory.mktemp("signal"))


def pair_up(*scores: tuple[float | None, float | None], kind: str = "truncated") -> SignalMeasures:
    return measure_signal([ScoredPair(kind, better, worse, 5, 5) for better, worse in scores])


def read_check(world: World, result: dg.ExecuteInProcessResult) -> dg.AssetCheckEvaluation:
    (check,) = [one for one in result.get_asset_check_evaluations() if one.check_name == "review_signal"]
    assert check.asset_key == find_key(world.plan, "review_signal")
    return check


def test_r0000_shows_what_its_reviewer_is_worth_and_a_later_round_measures_nothing(
    make_scripted_world: OpenWorld,
) -> None:
    world = make_scripted_world(num_signal_pairs=3)
    result = world.materialize("r0000", "review_signal")
    assert result.success, find_failures(result)
    table = world.round("r0000").read("review_signal")
    assert table.schema == REVIEW_SIGNAL
    assert table["kind"].value_counts(sort=True)["count"].to_list() == [3] * 5
    written = table.filter(kind="written")
    assert written["rule"].unique().to_list() == ["asked"]
    assert all("the answer is" in text for text in written["worse"])
    seeds = world.round("r0000").read("seed_set")
    assert set(table["seed_id"]) <= set(seeds["row_id"])
    own = dict(seeds.select("row_id", "completion").iter_rows())
    assert [own[seed_id] for seed_id in table["seed_id"]] == table["better"].to_list()
    # One completion of one prompt is reviewed once, whatever the number of its pairs.
    of_better = table.group_by("seed_id").agg(pl.col("better_score").n_unique())
    assert of_better["better_score"].to_list() == [1] * len(of_better)
    assert table["better_reviews"].list.len().to_list() == [world.plan.settings.parameters.num_reviews] * 15
    assert table["worse_likelihood"].to_list() == [-float(len(text)) for text in table["worse"]]
    assert table["better_mutual_information"].to_list() == [10.0] * 15
    shown, measured = world.metadata("review_signal", "r0000"), measure_table(table)
    assert shown["auc"] == pytest.approx(measured.overall.auc.value, abs=1e-4)
    assert {
        "auc_interval",
        "accuracy",
        "other_signals",
        "accuracy_interval",
        "unscored_rate",
        "bias/length",
        "by_kind",
    } <= set(shown)
    # The scripted reviewer draws its scores, and without a bar a person is told.
    check = read_check(world, result)
    assert check.severity == dg.AssetCheckSeverity.WARN
    assert check.passed == measured.overall.auc.is_above_chance
    said = describe_reviewer(world.plan, world.platform)
    assert said.startswith(f"reviewer of r0000: AUC {shown['auc']} ")
    assert check.passed or check.description in said
    later, noun = world.round("r0001"), NOUNS["review_signal"]
    assert noun.make(later).table.is_empty()
    assert noun.judge(noun.checks[0], later).passed


def test_below_the_bar_r0000_is_not_evaluated(make_scripted_world: OpenWorld) -> None:
    checks = {"min_review_auc": 0.9, "max_unscored_rate": 1.0, "min_pairs": 0}
    world = make_scripted_world(machines={"says_in_review": "It is fine. score: 7"}, num_signal_pairs=2, checks=checks)
    result = world.materialize("r0000", "review_signal", "eval_report")
    assert not result.success
    made = {event.asset_key.path[-1] for event in result.get_asset_materialization_events() if event.asset_key}
    assert made == {"review_signal"}
    check = read_check(world, result)
    assert not check.passed
    assert check.severity == dg.AssetCheckSeverity.ERROR
    assert "its AUC is 0.50" in check.description
    assert "below checks.min_review_auc=0.9" in check.description


def test_the_message_names_the_settings_that_the_experiment_has(folder: Path) -> None:
    plan = plan_tiny(folder)
    chance = judge_signal(plan, pair_up(*[(5.0, 5.0)] * 10, (None, 3.0)))
    assert not chance.passed
    assert not chance.is_error
    for part in (
        "its AUC is 0.50",
        "over 10 of 11 pairs, not above chance",
        "5% of its reviews have no score",
        "weakest on truncated pairs (0.50)",
        "roles.reviewer",
        "parameters.score_from: expected or yes_no",
        "parameters.num_reviews (now 1)",
        "parameters.num_judged_pairs",
        "seeds.answer_field",
        "num_signal_pairs (now 0)",
    ):
        assert part in chance.description, chance.description
    # It has EFT rows already.
    assert "eft_path" not in chance.description
    expected = judge_signal(plan_tiny(folder, score_from="expected", num_judged_pairs=2), pair_up((1.0, 2.0)))
    assert "score_from" not in expected.description
    assert "num_judged_pairs" not in expected.description
    unread = judge_signal(plan, pair_up((None, None)))
    assert "no pair has two scores that could be read" in unread.description
    assert not unread.passed
    good = judge_signal(plan, pair_up(*[(9.0, 1.0)] * 10))
    assert good.passed
    assert good.description is None
    # i_sheep has no role for a second reviewer, and no scores by probabilities.
    sheep = judge_signal(plan_tiny(folder, recipe="i_sheep"), pair_up((1.0, 2.0)))
    assert "roles.reviewer" not in sheep.description
    assert "score_from" not in sheep.description


def test_a_bar_is_kept_by_the_value_and_missing_pairs_break_it(folder: Path) -> None:
    barred = plan_tiny(folder, checks={"min_review_auc": 0.7})
    assert judge_signal(barred, pair_up((9.0, 1.0), (8.0, 2.0))).passed
    below = judge_signal(barred, pair_up((1.0, 9.0), (8.0, 2.0)))
    assert not below.passed
    assert below.is_error
    nothing = judge_signal(barred, measure_signal([]))
    assert not nothing.passed
    assert nothing.is_error
    assert judge_signal(plan_tiny(folder), measure_signal([])).passed


@pytest.mark.parametrize(
    ("changed", "is_there"),
    [
        ({"num_signal_pairs": 4}, True),
        ({"num_signal_pairs": 0}, False),
        ({"num_signal_pairs": 4, "reviewer": "none"}, False),
        ({"num_signal_pairs": 4, "recipe": "self_rewarding"}, True),
        ({"num_signal_pairs": 4, "recipe": "spin"}, False),
    ],
)
def test_it_is_there_for_recipes_that_review(folder: Path, changed: dict[str, object], is_there: bool) -> None:
    plan = plan_tiny(folder, **changed)
    assert ("review_signal" in [noun.name for noun in list_nouns(plan)]) == is_there
    assert ("review_signal" in list_inputs(plan, NOUNS["eval_report"])) == is_there


def test_how_the_reviewer_is_asked_is_part_of_it_and_the_evaluation_stays_as_it_is(folder: Path) -> None:
    def differ(**changed: object) -> set[str]:
        plans: list[Plan] = [
            plan_tiny(folder, num_signal_pairs=4),
            plan_tiny(folder, **{"num_signal_pairs": 4, **changed}),
        ]
        return {
            name
            for name in ("review_signal", "eval_report", "checkpoint")
            if len({str(identify(p, name)) for p in plans}) > 1
        }

    assert differ() == set()
    assert differ(num_signal_pairs=5) == {"review_signal"}
    assert differ(num_reviews=3) == {"review_signal"}
    assert differ(score_from="expected") == {"review_signal"}
    # A bar decides about what is there already.
    assert differ(checks={"min_review_auc": 0.6}) == set()


class PlacedEngine(ScriptedEngine):
    """Prefers a place, whatever stands there."""

    def _say(self, asked: str, seed: int) -> str:
        said = f"Both are fine. verdict: {self.platform.favours}"
        return said if asked.startswith("Which is better") else super()._say(asked, seed)


class PlacedPlatform(ScriptedPlatform):
    """The platform with an engine that prefers a place."""

    favours: str = "A"

    def open_engine(self, engine: EngineSettings, model_path: Path | None, **_: object) -> PlacedEngine:
        return PlacedEngine(self)


class LongerEngine(ScriptedEngine):
    """Prefers the longer completion, wherever it stands; of two that are equally long the later one by letters."""

    def _say(self, asked: str, seed: int) -> str:
        if not asked.startswith("Which is better"):
            return super()._say(asked, seed)
        first, second = (asked.split(f"\n{name}: ")[1].split("\nB: ")[0] for name in "AB")
        return f"verdict: {'A' if (len(first), first) > (len(second), second) else 'B'}"


class LongerPlatform(ScriptedPlatform):
    """The platform with an engine that prefers the longer completion."""

    def open_engine(self, engine: EngineSettings, model_path: Path | None, **_: object) -> LongerEngine:
        return LongerEngine(self)


@pytest.mark.parametrize(("favours", "rate", "place"), [("A", 1.0, "first"), ("B", 0.0, "second"), ("tie", None, None)])
def test_a_reviewer_that_favours_a_place_is_told(
    make_scripted_world: OpenWorld, favours: str, rate: float | None, place: str | None
) -> None:
    world = make_scripted_world(
        platform_class=PlacedPlatform, machines={"favours": favours}, num_signal_pairs=3, num_judged_pairs=100
    )
    result = world.materialize("r0000", "review_signal")
    assert result.success, find_failures(result)
    this_round = world.round("r0000")
    pairs, judged = this_round.read("review_signal"), this_round.read("signal_judgements")
    assert judged.schema == PAIR_JUDGEMENTS
    assert judged.select("row_id", "chosen", "rejected").rows() == pairs.select("row_id", "better", "worse").rows()
    shown = world.metadata("review_signal", "r0000")
    assert shown["bias/position"] == ("not measurable" if rate is None else rate)
    assert (shown["judging/num_judged"], shown["judging/num_unread"]) == (len(pairs), 0)
    said = f"Of two completions it favours the {place} place: {rate:.2f} [" if place is not None else "favours the"
    assert (said in shown["summary"]) == (place is not None)


def test_a_reviewer_that_goes_by_what_is_written_has_no_place(make_scripted_world: OpenWorld) -> None:
    """By hand: the longer of two is preferred in both orders, so that half of the verdicts are for the first place."""
    world = make_scripted_world(platform_class=LongerPlatform, num_signal_pairs=3, num_judged_pairs=4)
    assert world.materialize("r0000", "review_signal").success
    shown, judged = world.metadata("review_signal", "r0000"), world.round("r0000").read("signal_judgements")
    assert len(judged) == shown["judging/num_judged"] == 4
    assert (shown["bias/position"], shown["judging/flip_rate"]) == (0.5, 0.0)
    both = judged.select("chosen", "rejected").rows()
    num_longer = sum((len(better), better) > (len(worse), worse) for better, worse in both)
    assert shown["judging/accuracy"] == num_longer / 4
    assert "favours" not in shown["summary"]


def test_places_are_measured_where_pairs_are_judged_and_how_is_part_of_it(folder: Path) -> None:
    plans = {number: plan_tiny(folder, num_signal_pairs=4, num_judged_pairs=number) for number in (0, 2, 3)}
    assert len({str(identify(plan, "review_signal")) for plan in plans.values()}) == 3
    assert "judged" not in identify(plans[0], "review_signal")["settings"]


def test_the_page_says_of_every_recipe_whether_its_reviewer_is_measured(project_root: Path) -> None:
    page = (project_root / "docs" / "signals.md").read_text(encoding="utf-8")
    table = page.split("| recipes | measured in r0000 |")[1].split("\n\n")[0]
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| `")]
    told = {name: not said.startswith("nothing") for names, said in rows for name in re.findall(r"`(\w+)`", names)}
    assert told == {recipe.name: recipe.score_rows is not None for recipe in list_recipes()}


def judge(plan: Plan, reviewer: SignalMeasures, **others: SignalMeasures) -> str:
    judged = judge_signal(plan, reviewer, others)
    return judged.description or ""


def test_a_signal_that_does_better_on_the_same_pairs_is_proposed_with_its_figures(folder: Path) -> None:
    plan = plan_tiny(folder)
    chance, good = pair_up(*[(5.0, 5.0)] * 12), pair_up(*[(0.9, 0.1)] * 12)
    fair = pair_up(*[(8.0, 2.0)] * 50, *[(2.0, 8.0)] * 10)
    said = judge(plan, chance, likelihood=good)
    assert "Try one of: parameters.score_from: likelihood (its AUC on the same pairs is 1.00 [0.76, 1.00]" in said
    assert "truncated 1.00; choose the thresholds again)" in said
    # The reviewer passes, and a person is told all the same; what is no better, or is used already, is not proposed.
    assert judge_signal(plan, fair, {}).passed
    better = judge(plan, fair, ifd=pair_up(*[(0.9, 0.1)] * 60))
    assert better.startswith("Another signal does better: parameters.score_from: ifd (its AUC")
    assert "score_from: likelihood" not in judge(plan, chance, likelihood=chance)
    assert judge(plan, good, likelihood=good) == ""
    assert "likelihood (" not in judge(plan_tiny(folder, score_from="likelihood"), chance, likelihood=good)


def test_a_signal_that_prefers_whatever_the_model_wrote_is_told_and_never_proposed(folder: Path) -> None:
    """Right on what rules spoilt, and the wrong way round on what the model was asked to make worse."""
    plan = plan_tiny(folder)
    rule, written = [ScoredPair("degraded", 0.9, 0.1, 5, 5)] * 60, [ScoredPair("written", 0.1, 0.9, 5, 5)] * 12
    inverted = measure_signal([*rule, *written])
    assert inverted.overall.auc.is_above_chance
    said = judge(plan, inverted)
    assert "above the seeds' own (AUC 0.00 [0.00, 0.24] on written pairs)" in said
    assert "parameters.branches: low builds none" in said
    assert "likelihood (" not in judge(plan, pair_up(*[(5.0, 5.0)] * 12), likelihood=inverted)
