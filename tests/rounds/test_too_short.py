"""What LANCE's shortest text leaves out of the training sets is counted and said."""

from pathlib import Path

import polars as pl

from lance_assets.records import PREFERENCE_PAIRS, REVIEWED_SET, SEED_SET, SFT_SET, START_CHECKPOINT
from lance_assets.rounds.making.training_sets import make_sft_set, report_preference_pairs, report_sft_set
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.platform import Platform
from lance_assets.rounds.report import SUMMARY
from lance_assets.rounds.round import Round
from lance_assets.settings.experiment import ExperimentSettings


def open_round(folder: Path, **parameters: object) -> Round:
    """r0001 with a seed of one word, three completions and a worse one."""
    settings = ExperimentSettings.model_validate(
        {
            "recipe": "lance",
            "parameters": parameters,
            "model": "small",
            "seeds": {"path": "seeds.jsonl"},
            "evaluation": {"world": {"name": "lance_assets.small_world:WORLD"}},
        }
    )
    this_round = Round(Plan("mini", folder, settings), Platform(str(folder / "home")), "r0001", lambda _: None)
    said = [("seed", "Yes.", 9.0), ("completion", "24", 9.0), ("completion", "It is 24.", 9.0)]
    said += [("completion", "Bad.", 2.0), ("degraded_completion", "No.", 3.0)]
    rows = [
        {"row_id": f"{kind}{place}", "kind": kind, "seed_id": "seed0", "prompt": "Is it so?"}
        | {"completion": completion, "review_score": score}
        for place, (kind, completion, score) in enumerate(said)
    ]
    start = dict.fromkeys(START_CHECKPOINT) | {"left_out": []}
    this_round.write("start_checkpoint", pl.DataFrame([start], schema=START_CHECKPOINT))
    this_round.write("reviewed_set", pl.DataFrame(rows, schema=REVIEWED_SET))
    seed = dict.fromkeys(SEED_SET) | {"row_id": "seed0", "prompt": "Is it so?", "completion": "Yes."}
    this_round.at("r0000").write("seed_set", pl.DataFrame([seed], schema=SEED_SET))
    this_round.write("seed_set", pl.DataFrame([seed], schema=SEED_SET))
    this_round.at("r0000").write("sft_set", pl.DataFrame(schema=SFT_SET))
    this_round.at("r0000").write("preference_pairs", pl.DataFrame(schema=PREFERENCE_PAIRS))
    this_round.write("preference_pairs", pl.DataFrame(schema=PREFERENCE_PAIRS))
    this_round.write("pair_judgements", this_round.empty("pair_judgements"))
    return this_round


def test_what_is_too_short_is_counted(tmp_path: Path) -> None:
    this_round = open_round(tmp_path, min_chars=5)
    table = make_sft_set(this_round).table
    this_round.write("sft_set", table)
    assert table["completion"].to_list() == ["It is 24."]
    report = report_sft_set(this_round)
    assert (report["num_new"], report["num_too_short"]) == (1, 1)
    assert str(report[SUMMARY]).endswith("1 new in r0001, scored 9 on average; 1 row left out as too short (min_chars)")
    pairs = report_preference_pairs(this_round)
    assert pairs["num_too_short"] == 1
    assert "the scores gave 1 pair, each with a text that is too short (min_chars)" in str(pairs[SUMMARY])


def test_by_the_seeds_only_what_is_shorter_than_theirs_is_left_out(tmp_path: Path) -> None:
    this_round = open_round(tmp_path)
    table = make_sft_set(this_round).table
    this_round.write("sft_set", table)
    assert table["completion"].to_list() == ["It is 24."], "the seed's answer has 4 characters, and 24 has 2"
    assert report_sft_set(this_round)["num_too_short"] == 1
    this_round = open_round(tmp_path / "other", min_chars=0)
    this_round.write("sft_set", make_sft_set(this_round).table)
    assert this_round.read("sft_set")["completion"].to_list() == ["24", "It is 24."]
    report = report_sft_set(this_round)
    assert report["num_too_short"] == 0
    assert "too short" not in str(report[SUMMARY])
