"""Every page of a round opens with a sentence, and every check says what it found."""

from pathlib import Path

from lance_assets.assets.showing import show_description
from lance_assets.rounds.nouns import list_nouns
from tests.assets.conftest import OpenWorld


def test_every_page_opens_with_a_sentence_and_has_no_empty_line(
    make_scripted_world: OpenWorld, scripted_rounds: Path
) -> None:
    world = make_scripted_world(made_before=scripted_rounds)
    for key in ("r0000", "r0001"):
        for noun in list_nouns(world.plan):
            shown = world.metadata(noun.name, key)
            assert next(iter(shown)) == "summary", f"{noun.name} of {key}"
            assert len(str(shown["summary"]).split()) > 2
            assert not [name for name, value in shown.items() if name.startswith("cost/") and not value]
            assert "cost/price" not in shown, "nobody named a price"
    assert "on r0000; " in str(world.metadata("eval_report", "r0001")["summary"])
    accounting = str(world.metadata("eval_report", "r0001")["accounting"])
    assert "waited between steps" in accounting
    assert "price" not in accounting


def test_every_check_says_what_it_found_and_against_which_bar(
    make_scripted_world: OpenWorld, scripted_rounds: Path
) -> None:
    world = make_scripted_world(made_before=scripted_rounds)
    for key in ("r0000", "r0001"):
        for noun in list_nouns(world.plan):
            for check in noun.checks:
                said = show_description(noun.judge(check, world.round(key)))
                assert said is not None, f"{check.name} of {key} says nothing"
                assert len(said.split()) > 2
