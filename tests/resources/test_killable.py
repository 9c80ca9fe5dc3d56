"""A person's function and math-verify in processes that are killed: a hang costs its own row and nothing else."""

import importlib.util
import json
from pathlib import Path

import pytest

from lance_assets.algorithms.verifying.answers import NO_GOLD
from lance_assets.algorithms.verifying.verdict import Completed, Verdict
from resources.verifying.killable import KillableRows, VerifierError, describe_job, read_answer
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


TALKATIVE = """
import ctypes, os, subprocess, sys
os.write(1, b"imported\\n")

def judge(prompt, completion, answer):
    if completion == "stderr":
        os.write(2, b"{}\\n")
    if completion == "descriptor":
        os.write(1, b"no verdict\\n" * 1000)
    if completion == "program":
        subprocess.run(["echo", '{"share": 0.0, "reason": "echo"}'], check=True)
    if completion == "own":
        print('{"share": 0.0, "reason": "print"}', file=sys.__stdout__, flush=True)
    if completion == "library":
        libc = ctypes.CDLL(None)
        libc.printf(b"no verdict\\n")
        libc.fflush(None)
    if completion == "forked" and os.fork() == 0:
        print("a child", file=sys.__stdout__, flush=True)
        os._exit(0)
    if completion == "reading":
        return sys.stdin.read() == "" and subprocess.run(["cat"], capture_output=True).stdout == b""
    if completion == "asking":
        input()
    if completion == "long":
        return 0.5, "long" * 1_000_000
    if completion == "long error":
        raise ValueError("long" * 1_000_000)
    if completion in ("answer", "json", "nothing"):
        said = {"answer": b"no verdict", "json": b"[5]", "nothing": b""}
        for descriptor in range(3, 20):
            try:
                if not os.get_inheritable(descriptor):
                    os.write(descriptor, said[completion] + b"\\n")
            except OSError:
                pass
    return True
"""


def test_what_a_function_prints_and_reads_costs_no_row(tmp_path: Path) -> None:
    """Each of the first rows is right whatever it does with its streams, and each is followed by a plain one."""
    (tmp_path / "my_check.py").write_text(TALKATIVE)
    noisy = ["stderr", "descriptor", "program", "own", "library", "forked", "reading"]
    found = judge(tmp_path, [text for one in noisy for text in (one, "plain")], num_processes=1)
    assert [(share, why) for share, why, _ in found] == [(1.0, None)] * 2 * len(noisy)
    found = judge(tmp_path, ["asking", "plain", "long", "plain", "long error", "plain"], num_processes=1)
    assert [(share, why) for share, why, _ in found] == [
        *[(None, "failed"), (1.0, None), (0.5, None), (1.0, None), (None, "failed"), (1.0, None)],
    ]
    assert "EOFError" in found[0][2], "there is nothing to be read"
    assert len(found[2][2]) == 500


def test_a_line_that_is_no_answer_fails_its_row_alone(tmp_path: Path) -> None:
    """A function that finds the descriptor of the answers writes there; the row after it has a process of its own."""
    (tmp_path / "my_check.py").write_text(TALKATIVE)
    found = judge(tmp_path, ["answer", "plain", "json", "plain", "nothing", "plain"], num_processes=1)
    assert [(share, why) for share, why, _ in found] == [(None, "failed"), (1.0, None)] * 3
    assert "it wrote b'no verdict' in place of an answer" in found[0][2]


@pytest.mark.parametrize("line", ["", "5", "[]", "{}", "nan", '{"share": 2.0, "reason": ""}', '{"share": "1"}', "\xff"])
def test_what_is_no_answer_is_told(line: str) -> None:
    assert read_answer(line.encode("latin-1"), is_start=False) is None
    assert read_answer(line.encode("latin-1"), is_start=True) is None
    ready, right = json.dumps({"ready": True}).encode(), b'{"share": 1.0, "reason": "so"}'
    assert (read_answer(ready, is_start=False), read_answer(right, is_start=True)) == (None, None)
    assert read_answer(ready, is_start=True) == {"ready": True}
    assert read_answer(right, is_start=False) == {"share": 1.0, "reason": "so"}


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
