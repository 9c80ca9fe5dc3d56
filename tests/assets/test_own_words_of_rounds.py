"""Rounds with words of an experiment's own: every model is asked with them, and every recipe declares what it shows."""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from lance_assets.prompts import Templates
from lance_assets.recipes.contract import list_recipes
from lance_assets.records import Request, Sample, SamplingSettings
from lance_assets.rounds.making.training import build_job
from lance_assets.rounds.plan import Noun
from lance_assets.settings.engines import EngineSettings
from tests.assets.scripted_platform import SCRIPTED, ScriptedEngine, ScriptedPlatform, without_drawing
from tests.assets.test_recipes_through_dagster import SMALL
from tests.assets.tiny_experiment import WORLD, find_failures, open_world

pytestmark = pytest.mark.slow

SYSTEM = "You are a nurse."
REVIEW = (
    "Review this. You are strict.\nTask: {{ prompt }}\nCompletion: {{ completion }}\nFrom {{ lowest }} to {{ highest }}"
    "{% for criterion in criteria %}\n- {{ criterion.text }}{% endfor %}"
)
CRITERIA = "- {of: response, text: It names the dose.}\n"


@dataclass(frozen=True)
class NotingEngine(ScriptedEngine):
    """A scripted engine that keeps the messages it is asked."""

    def generate(self, requests: Sequence[Request], sampling: SamplingSettings) -> Iterator[list[Sample]]:
        """As the scripted one, noted."""
        with (self.platform.root / "asked.jsonl").open("a") as file:
            file.writelines(json.dumps(list(request.messages)) + "\n" for request in requests)
        yield from super().generate(requests, sampling)


class NotingPlatform(ScriptedPlatform):
    """The scripted platform whose engines keep what they are asked."""

    def open_engine(self, engine: EngineSettings, model_path: Path | None, **_: object) -> NotingEngine:
        """A noting one."""
        return NotingEngine(self)


def write_own_words(folder: Path, **files: str) -> None:
    for name, text in files.items():
        file = folder / "prompts" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def test_every_model_of_a_round_is_asked_and_trained_with_the_experiments_own_words(tmp_path: Path) -> None:
    """Generation, reviews, evaluation and training have the system message; scores are read on the own scale."""
    words = {"system.j2": f"{SYSTEM}\n", "lance/review.j2": REVIEW, "lance/review.criteria.yaml": CRITERIA}
    write_own_words(tmp_path / "tiny", **words)
    scale = {"lowest_score": 1, "highest_score": 5, "branch_threshold": 3.0, "sft_threshold": 2.0}
    settings = SCRIPTED | {"platform_class": NotingPlatform, "force_ending": False} | scale
    with without_drawing(), open_world(tmp_path, in_memory=True, **settings) as world:
        for key in ("r0000", "r0001"):
            result = world.run(key)
            assert result.success, find_failures(result)
        asked = [json.loads(line) for line in (world.platform.root / "asked.jsonl").read_text().splitlines()]
        assert {messages[0]["content"] for messages in asked if messages[0]["role"] == "system"} == {SYSTEM}
        assert all([message["role"] for message in messages] == ["system", "user"] for messages in asked)
        reviews = [messages[-1]["content"] for messages in asked if messages[-1]["content"].startswith("Review this.")]
        assert reviews
        assert all(text.endswith("From 1 to 5\n- It names the dose.") for text in reviews)
        job = build_job(world.round("r0001"), tmp_path, world.plan.settings.training)
        assert job.system_message == SYSTEM
        reviewed = world.round("r0001").read("reviewed_set")
        scores = [score for row in reviewed["scores"] for score in row]
        assert {score for score in scores if score is not None} <= {1.0, 2.0, 3.0, 4.0, 5.0}
        assert None in scores, "the scripted reviewer also says 0 and 6 to 10, which are no scores here"
        assert {reason for row in reviewed["unscored_reasons"] for reason in row} == {None, "out_of_range"}


@pytest.mark.parametrize("recipe", [recipe.name for recipe in list_recipes()])
def test_every_recipe_declares_which_noun_is_asked_with_which_template_and_what_it_shows(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A template that a noun renders without declaring it would change unseen, and so would a variable."""
    making, rendered = [""], defaultdict(set)
    make, render = Noun.make, Templates.render

    def make_noted(noun: Noun, this_round: object) -> object:
        making[0] = noun.name
        return make(noun, this_round)

    def render_noted(templates: Templates, step: str, **variables: str) -> str:
        rendered[step, frozenset(variables)].add(making[0])
        return render(templates, step, **variables)

    (tmp_path / "tiny").mkdir()
    judged = {"prompt": "Name a tree of the forest.", "completion": "An alder."}
    (tmp_path / "tiny" / "judged.jsonl").write_text(json.dumps(judged) + "\n")
    judge = {"path": "judged.jsonl", "model": "small", "by": "score", "max_unread_rate": 1.0}
    own = SMALL[recipe]["evaluation"]["world"] if "evaluation" in SMALL[recipe] else WORLD
    more: dict[str, object] = {"evaluation": {"world": own, "judge": judge}}
    more |= {"num_judged_pairs": 4} if recipe == "lance" else {}
    if recipe == "star":
        # An explanation is asked for where no rationale is right.
        too_many = {"kind": "length_constraints:number_words", "num_words": 9999, "relation": "at least"}
        more["verifier"] = {"kind": "rules", "rules": [too_many]}
    settings = SCRIPTED | {"recipe": recipe} | SMALL[recipe] | more
    with without_drawing(), open_world(tmp_path, in_memory=True, **settings) as world:
        # The experiment's rows are written with templates too.
        monkeypatch.setattr(Noun, "make", make_noted)
        monkeypatch.setattr(Templates, "render", render_noted)
        for key in ("r0000", "r0001"):
            result = world.run(key)
            assert result.success, find_failures(result)
        asked = {step.name: step for step in world.plan.prompt_steps if step.is_asked}
        declared = {(f"{recipe}/{step.name}", frozenset(step.variables)): set(step.nouns) for step in asked.values()}
        of_judge = {
            (f"lance/{step.name}", frozenset(step.variables)): {"eval_report"} for step in world.plan.asked[1].steps
        }
        for key, nouns in rendered.items():
            assert nouns <= declared.get(key, set()) | of_judge.get(key, set()), key
        assert set(declared) <= set(rendered), "a step that is declared and never asked"
