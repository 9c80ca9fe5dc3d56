"""The gate before training: every blocking check of all that a noun is made from has passed, whenever it was made.

A blocking check stops a run, and only the run that it is in. So each verdict is kept beside the tables, in
`checks/<experiment>/<round>/<noun>.<check>.json`, with a hash of all that the check looked at. A check that was never
judged, or not of what is there now, is judged when the gate is reached.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from lance_assets.algorithms.measures.progress import format_round, parse_round
from lance_assets.rounds.identity.parts import identify_guard
from lance_assets.rounds.nouns import list_before, list_handed_over_of, list_nouns
from lance_assets.rounds.plan import Check, Noun, Plan
from lance_assets.rounds.platform import Platform
from lance_assets.rounds.report import Judged
from resources.stores.files import write_file_atomically

Judge = Callable[[Noun, Check], Judged]
"""Judges a check of a noun of the round."""


class GateError(ValueError):
    """A noun is not made, because a blocking check of what it is made from has not passed."""


@dataclass(frozen=True)
class Verdict:
    """What a check found, as it is kept."""

    subject: str
    """A hash of what the check looked at."""
    passed: bool
    """Whether the check passed, or its failure is no error."""
    told: str
    """The figures and bars that decided, in words."""


def hash_subject(plan: Plan, platform: Platform, key: str, noun: Noun) -> str:
    """A hash of what a check of a noun looks at: its tables, what earlier rounds hand over, and the settings.

    Raises:
        MissingTableError: the noun, or an earlier round, has not made one of its tables.
    """
    # A noun of an older version of this project may have fewer tables beside its own.
    beside = [name for name in noun.tables if platform.tables.exists(plan.name, key, name)]
    named = [(key, name) for name in (noun.name, *beside)]
    earlier = map(format_round, range(parse_round(key)))
    named += [(one, name) for one in earlier for name in list_handed_over_of(plan, platform.tables, one)]
    hashes = [platform.tables.hash(plan.name, *each) for each in named]
    text = json.dumps(
        [hashes, plan.settings.model_dump(mode="json"), identify_guard(plan)], sort_keys=True, default=str
    )
    return hashlib.sha256(text.encode()).hexdigest()


def record_verdict(plan: Plan, platform: Platform, key: str, noun: Noun, check: Check, judged: Judged) -> Verdict:
    """Keep what a check found.

    Args:
        plan: the experiment.
        platform: where it is kept.
        key: the round.
        noun: what was checked.
        check: by which check.
        judged: what it found.
    """
    passed = judged.passed or not judged.is_error
    verdict = Verdict(hash_subject(plan, platform, key, noun), passed, describe_verdict(judged))
    write_file_atomically(_find_file(plan, platform, key, noun, check), json.dumps(asdict(verdict), indent=2).encode())
    return verdict


def describe_verdict(judged: Judged) -> str:
    """The figures that decided, in words: plain values alone, since rows are no figures."""
    plain = (int, float, str, list, Mapping)
    figures = ", ".join(f"{name}: {value}" for name, value in judged.facts.items() if isinstance(value, plain))
    return f"{judged.description} ({figures})" if judged.description else figures


def list_failures(plan: Plan, platform: Platform, key: str, noun: Noun, judge: Judge) -> list[str]:
    """Every blocking check of what a noun is made from that has not passed: check, noun and figures in words.

    Args:
        plan: the experiment.
        platform: where verdicts are kept.
        key: the round.
        noun: what is to be made.
        judge: judges what has no verdict, or not one of what is there now.
    """
    failures = []
    for one, check in _list_blocking(plan, noun):
        verdict = _read_verdict(_find_file(plan, platform, key, one, check))
        if verdict is None or verdict.subject != hash_subject(plan, platform, key, one):
            verdict = record_verdict(plan, platform, key, one, check, judge(one, check))
        if not verdict.passed:
            failures.append(f"{check.name} of {one.name}: {verdict.told}")
    return failures


def has_passed(plan: Plan, platform: Platform, key: str, noun: Noun) -> bool:
    """Whether every blocking check of a noun was judged of what is there now, and passed."""
    verdicts = [
        _read_verdict(_find_file(plan, platform, key, noun, check)) for check in noun.checks if check.is_blocking
    ]
    return not verdicts or all(
        verdict is not None and verdict.passed and verdict.subject == hash_subject(plan, platform, key, noun)
        for verdict in verdicts
    )


def read_failures(plan: Plan, platform: Platform, key: str) -> list[str]:
    """Every blocking check of a round that was judged of what is there now and failed: check, noun and why."""
    failures = []
    for noun in list_nouns(plan):
        for check in noun.checks:
            verdict = _read_verdict(_find_file(plan, platform, key, noun, check)) if check.is_blocking else None
            if verdict is None or verdict.passed or not platform.tables.exists(plan.name, key, noun.name):
                continue
            if verdict.subject == hash_subject(plan, platform, key, noun):
                failures.append(f"{check.name} of {noun.name}: {verdict.told}")
    return failures


def pass_gate(plan: Plan, platform: Platform, key: str, noun: Noun, judge: Judge, *, accepted: str) -> list[str]:
    """The failures that a person accepted; none where every check passed.

    Args:
        plan: the experiment.
        platform: where verdicts are kept.
        key: the round.
        noun: what is to be made.
        judge: as for `list_failures`.
        accepted: why failures are accepted, in a person's words; empty: they are not.

    Raises:
        GateError: a check has not passed, and nobody accepted it.
    """
    failures = list_failures(plan, platform, key, noun, judge) if noun.is_gated else []
    if failures and not accepted.strip():
        raise GateError(
            f"{len(failures)} blocking checks of what {noun.name} is made from have not passed: {'; '.join(failures)}. "
            "Mend the cause and materialize what was checked again, or say in the run config of "
            f"{noun.name} why it is accepted (accept_failed_checks)"
        )
    return failures


def _list_blocking(plan: Plan, noun: Noun) -> Iterator[tuple[Noun, Check]]:
    for one in list_before(plan, noun):
        yield from ((one, check) for check in one.checks if check.is_blocking)


def _find_file(plan: Plan, platform: Platform, key: str, noun: Noun, check: Check) -> Path:
    return platform.root / "checks" / plan.name / key / f"{noun.name}.{check.name}.json"


def _read_verdict(path: Path) -> Verdict | None:
    """What is kept; None where nothing is, or where an older version kept it in another form."""
    try:
        return Verdict(**json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, TypeError, ValueError):
        return None
