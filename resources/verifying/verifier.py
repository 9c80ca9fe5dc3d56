"""The verifier that an experiment's file describes: rows in, verdicts out, and whatever it started ends with it."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from lance_assets.algorithms.reviews.answer_kinds import AnswerRule
from lance_assets.algorithms.reviews.thoughts import strip_thinking
from lance_assets.algorithms.verifying.answers import NO_GOLD, check_answer, lack_answer
from lance_assets.algorithms.verifying.programs import extract_program, list_tested, read_tests
from lance_assets.algorithms.verifying.rules import judge_by_rules, read_rules
from lance_assets.algorithms.verifying.verdict import Completed, Verdict
from resources.verifying.killable import KillableRows, describe_job
from resources.verifying.sandbox import Bounds, Sandbox
from resources.verifying.settings import VerifierSettings

MIN_MATH_MIB = 2048
"""Address space that sympy needs beside what the setting allows."""


class Judge(Protocol):
    """Judges rows."""

    def judge(self, rows: Sequence[Completed]) -> list[Verdict]:
        """A verdict for each row, in order."""
        ...

    def close(self) -> None:
        """End what was started."""
        ...


class Answers:
    """Gold answers, by this project's readers."""

    def __init__(self, rule: AnswerRule) -> None:
        """Read them by a rule."""
        self.rule = rule

    def judge(self, rows: Sequence[Completed]) -> list[Verdict]:
        """A verdict for each row, in order."""
        return [check_answer(row, self.rule) for row in rows]

    def close(self) -> None:
        """Nothing was started."""


class Killable:
    """Gold answers by math-verify, or a person's function: in processes that can be killed."""

    def __init__(self, settings: VerifierSettings, folder: Path, *, mark: str | None = None) -> None:
        """Start nothing yet.

        Args:
            settings: what is started.
            folder: in which a person's function lies.
            mark: what announces an answer, of which math-verify is then given what follows alone. A person's function
                is given whole completions.
        """
        self.needs_gold = settings.kind == "answer"
        self.mark = mark if self.needs_gold else None
        kind, setting = ("math_verify", "reader") if self.needs_gold else ("function", "name")
        memory = settings.memory_mib + (MIN_MATH_MIB if self.needs_gold else 0)
        job = describe_job(kind, setting=setting, memory_mib=memory, folder=folder, name=settings.name)
        self.rows = KillableRows(job, settings.timeout_seconds, settings.num_processes)

    def judge(self, rows: Sequence[Completed]) -> list[Verdict]:
        """A verdict for each row, in order; without a gold answer none is asked for."""
        found, asked = {}, []
        for place, row in enumerate(rows):
            said = strip_thinking(row.completion)
            read = said if self.mark is None else _cut(said, self.mark)
            if self.needs_gold and not (row.answer or "").strip():
                found[place] = NO_GOLD
            elif read is None:
                found[place] = lack_answer(row.answer or "")
            else:
                asked.append((place, replace(row, completion=read)))
        judged = self.rows.judge([row for _, row in asked])
        found |= {place: verdict for (place, _), verdict in zip(asked, judged, strict=True)}
        return [found[place] for place in range(len(rows))]

    def close(self) -> None:
        """End the processes."""
        self.rows.close()


def _cut(said: str, mark: str) -> str | None:
    """All that follows the last mark, since mathematics may take several lines; None without one."""
    _, found, after = said.rpartition(mark)
    return after.strip() or None if found else None


class Programs:
    """Tests of programs, in a sandbox."""

    def __init__(self, settings: VerifierSettings) -> None:
        """Open the sandbox.

        Raises:
            SandboxError: programs cannot be run in a sandbox here.
        """
        bounds = Bounds(settings.timeout_seconds, settings.memory_mib)
        self.sandbox, self.num_processes = Sandbox(bounds=bounds, isolation=settings.isolation), settings.num_processes
        try:
            self.sandbox.probe()
        except Exception:
            self.sandbox.close()
            raise

    def judge(self, rows: Sequence[Completed]) -> list[Verdict]:
        """A verdict for each row, in order."""
        with ThreadPoolExecutor(self.num_processes) as pool:
            return list(pool.map(self._judge_one, rows))

    def _judge_one(self, row: Completed) -> Verdict:
        if not (row.answer or "").strip():
            return Verdict(None, "no seed of this prompt has tests", "no_tests")
        try:
            tests = read_tests(row.answer or "")
        except ValueError as error:
            return Verdict(None, f"{error}", "tests_unread")
        program = extract_program(row.completion)
        if program is None:
            return Verdict(0.0, "there is no program in the completion")
        return self.sandbox.check(program, tests, interface=list_tested(tests.asserts))

    def close(self) -> None:
        """Remove the sandbox's folder."""
        self.sandbox.close()


class Rules:
    """Rules of form."""

    def __init__(self, settings: VerifierSettings) -> None:
        """Take the rules of every row, where there are such."""
        self.of_all, self.counts_parts = settings.rules, settings.counts_parts

    def judge(self, rows: Sequence[Completed]) -> list[Verdict]:
        """A verdict for each row, in order."""
        return [self._judge_one(row) for row in rows]

    def _judge_one(self, row: Completed) -> Verdict:
        rules = self.of_all
        if not rules:
            if not (row.answer or "").strip():
                return Verdict(None, "no seed of this prompt has rules", "no_rules")
            try:
                rules = read_rules(row.answer or "")
            except ValueError as error:
                return Verdict(None, f"{error}", "rules_unread")
        said = strip_thinking(row.completion)
        return judge_by_rules(said, rules, counts_parts=self.counts_parts)

    def close(self) -> None:
        """Nothing was started."""


@contextmanager
def open_verifier(settings: VerifierSettings, *, folder: Path, answer_after: str | None = None) -> Iterator[Judge]:
    """The verifier of an experiment.

    Args:
        settings: the section `verifier`.
        folder: the experiment's, in which a file of a function lies.
        answer_after: the seeds' mark of the gold answer.

    Raises:
        SandboxError: programs cannot be run in a sandbox here.
    """
    judge = _build(settings, folder, answer_after)
    try:
        yield judge
    finally:
        judge.close()


def _build(settings: VerifierSettings, folder: Path, answer_after: str | None) -> Judge:
    if settings.kind == "code":
        return Programs(settings)
    if settings.kind == "rules":
        return Rules(settings)
    if settings.kind == "function" or settings.reader == "math_verify":
        return Killable(settings, folder, mark=settings.answer_mark or answer_after)
    return Answers(settings.read_answers(answer_after))
