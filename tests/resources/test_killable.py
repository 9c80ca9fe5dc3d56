"""A person's function and math-verify in processes that are killed: a hang costs its own row and nothing else."""

import importlib.util
from pathlib import Path

import pytest

from lance_assets.algorithms.verifying.answers import NO_GOLD
from lance_assets.algorithms.verifying.verdict import Completed, Verdict
from resources.verifying.killable import KillableRows, VerifierError, describe_job
from resources.verifying.settings import VerifierSettings
from resources.verifying.verifier import Killable, open_verifier

RIGHT = Verdict(1.0, "")
FUNCTION = """
import time

def judge(prompt, completion, answer):
    print("what a function prints is no verdict")
    if completion == "hang":
        time.sleep(1e6)
    if completion == "die":
        import os
        os._exit(3)
    if completion == "wrong type":
        return "yes"
    if completion == "too much":
        return 2
    if completion == "leave":
        raise SystemExit(0)
    if completion == "half":
        return 0.5, f"half of {answer}"
    return completion == answer
"""


def judge(folder: Path, texts: list[str], **settings: object) -> list[tuple[float | None, str | None, str]]:
    own = VerifierSettings.model_validate({"kind": "function", "name": "my_check.py:judge"} | settings)
    with open_verifier(own, folder=folder) as verifier:
        verdicts = verifier.judge([Completed(f"r{place}", "p", text, "good") for place, text in enumerate(texts)])
    return [(verdict.share, verdict.unverified, verdict.reason) for verdict in verdicts]


def test_each_error_is_its_rows_and_the_next_row_is_judged(tmp_path: Path) -> None:
    (tmp_path / "my_check.py").write_text(FUNCTION)
    texts = ["good", "hang", "bad", "die", "wrong type", "too much", "leave", "half"]
    found = judge(tmp_path, texts, timeout_seconds=1, num_processes=1)
    assert [(share, why) for share, why, _ in found] == [
        *[(1.0, None), (None, "timed_out"), (0.0, None), (None, "died"), (None, "failed"), (None, "failed")],
        *[(None, "failed"), (0.5, None)],
    ]
    said = [reason for _, _, reason in found]
    assert said[1] == "verifying took more than 1 s, and was killed"
    assert "it returned 'yes'" in said[4]
    assert "a share lies in 0 to 1; it returned 2" in said[5]
    assert "SystemExit" in said[6]
    assert said[7] == "half of good"


def test_a_function_that_cannot_be_found_says_why(tmp_path: Path) -> None:
    (tmp_path / "my_check.py").write_text("1 / 0")
    with pytest.raises(VerifierError, match=r"ZeroDivisionError.*correct verifier\.name"):
        judge(tmp_path, ["good"])


def test_no_process_is_started_where_no_row_is_judged(tmp_path: Path) -> None:
    job = describe_job("function", setting="name", memory_mib=512, folder=tmp_path, name="nothing.py:judge")
    rows = KillableRows(job, 1.0)
    assert rows.judge([]) == []


def test_what_announces_an_answer_is_math_verifys_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a completion with the mark math-verify is given the answer alone; one without it is wrong, and not asked."""
    monkeypatch.setattr("resources.verifying.settings.require_extra", lambda *args, **kwargs: None)
    own = VerifierSettings(kind="answer", reader="math_verify", answer_mark="####")
    texts = ["2 + 3 = 5\n#### 5", "<think>#### 9</think> It is 5.", "####\n\\[\n\\frac{10}{2}\n\\]"]
    rows = [Completed(f"r{place}", "p", text, "5") for place, text in enumerate(texts)]
    for mark, given in (("####", ["5", "\\[\n\\frac{10}{2}\n\\]"]), (None, [texts[0], " It is 5.", texts[2]])):
        judge, asked = Killable(own, tmp_path, mark=mark), list[Completed]()
        monkeypatch.setattr(judge.rows, "judge", lambda rows, asked=asked: asked.extend(rows) or [RIGHT] * len(rows))
        said = judge.judge([*rows, Completed("r3", "q", "#### 1", None)])
        assert [row.completion.strip() for row in asked] == [text.strip() for text in given]
        missing = "no answer could be read, and gold is 5"
        assert [verdict.reason for verdict in said] == ["", "" if mark is None else missing, "", NO_GOLD.reason]


@pytest.mark.skipif(importlib.util.find_spec("math_verify") is None, reason="the extra verify is not installed")
def test_math_verify_tells_equal_expressions_and_a_hang_costs_its_row(tmp_path: Path) -> None:
    own = VerifierSettings(kind="answer", reader="math_verify", timeout_seconds=3, num_processes=1)
    rows = [
        *[("So x is $\\frac{1}{2}$.", "0.5"), ("It is $(x+1)^2$.", "$x^2+2x+1$"), ("$9^{9^{9^{9}}}$", "3"), ("7", "8")],
        *[("7", None), ("I do not know.", "8")],
    ]
    with open_verifier(own, folder=tmp_path) as verifier:
        found = verifier.judge([Completed(f"{place}", "p", *row) for place, row in enumerate(rows)])
    shares = [verdict.share for verdict in found]
    assert shares[:2] == [1.0, 1.0]
    assert shares[2] != 1.0
    assert shares[3:] == [0.0, None, 0.0]
    assert found[4].unverified == "no_gold"


def test_math_verify_that_is_not_installed_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lance_assets.extras.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"verifier.reader: math_verify needs the library math_verify.*\[verify\]"):
        VerifierSettings(kind="answer", reader="math_verify")
