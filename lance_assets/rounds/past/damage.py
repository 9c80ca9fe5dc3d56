"""Whether the tables of rounds are what was written, and what a finding of `lance doctor` is."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lance_assets.rounds.asking import read_cost
from lance_assets.rounds.nouns import find_owner, list_nouns
from lance_assets.rounds.round import Round
from resources.stores.tables import CorruptTableError


@dataclass(frozen=True)
class Finding:
    """One thing that differs."""

    where: str
    """The experiment, and the round where it is of one."""
    what: str
    """What differs, in words."""
    remedy: str
    """What to do."""
    fix: Callable[[], object] | None = None
    """Does it, where nothing can be lost by it."""

    def describe(self) -> str:
        """One line for a person."""
        return f"{self.where}: {self.what}; {self.remedy}"


def list_tables(this_round: Round) -> list[str]:
    """Every table of a round that is on the disk, in the order of making."""
    names = [name for noun in list_nouns(this_round.plan) for name in (noun.name, *noun.tables)]
    return [name for name in names if this_round.has(name, this_round.key)]


def find_damaged(this_round: Round) -> Iterator[Finding]:
    """Each table whose file is not what was written."""
    tables, place = this_round.platform.tables, (this_round.plan.name, this_round.key)
    for name in list_tables(this_round):
        try:
            tables.hash(*place, name)
        except CorruptTableError:
            yield Finding(
                " ".join(place),
                f"{tables.path(*place, name)} is not what was written: it has another hash than was recorded",
                f"bring it back, or {tables.explain_again(*place, name)}, or: lance run {place[0]} --redo-from "
                f"{place[1]}; if you changed it on purpose, remove {tables.record_path(*place, name)}",
            )


def find_damaged_costs(this_round: Round, fixes: str) -> Iterator[Finding]:
    """Each file of what a noun took that cannot be read: the loop goes on without what it counts."""
    for path in this_round.list_cost_files():
        if read_cost(path, this_round.plan.name) is None:
            yield Finding(
                f"{this_round.plan.name} {this_round.key}",
                f"{path} is half-written or damaged, so that what {path.stem} took counts nowhere",
                f"{fixes} moves it aside",
                lambda path=path: path.replace(path.with_suffix(".damaged")),  # type: ignore[misc]
            )


def find_unrecorded(this_round: Round, fixes: str) -> Iterator[Finding]:
    """The tables that an older version wrote without keeping their hash, as one finding."""
    tables, place = this_round.platform.tables, (this_round.plan.name, this_round.key)
    names = [name for name in list_tables(this_round) if not tables.is_recorded(*place, name)]
    if names:

        def record() -> None:
            for name in names:
                tables.record_as_it_is(*place, name, made_by=find_owner(name))

        told = ", ".join(names)
        yield Finding(
            " ".join(place),
            f"no hash was recorded of {told}, so that a changed byte is not noticed",
            f"{fixes} records what is there now",
            record,
        )
