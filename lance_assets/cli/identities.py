"""What `lance show` prints of identities: what a round was made with, and what differs from another round."""

from collections.abc import Callable

from lance_assets.rounds.identity.kept import Difference, NoIdentityError, compare_identities, read_identity
from lance_assets.rounds.nouns import NOUNS
from lance_assets.rounds.platform import Platform


def show_identity(platform: Platform, experiment: str, round_key: str, *, say: Callable[[str], None]) -> None:
    """Print what each noun of a round was made with; of its code the hash alone.

    Args:
        platform: where the tables are.
        experiment: whose.
        round_key: of which round.
        say: takes the text.
    """
    for noun in _list_made(platform, experiment, round_key):
        say(f"\n{noun}")
        try:
            identity = read_identity(platform.tables, experiment, round_key, noun)
        except NoIdentityError as error:
            say(f"  {error}")
            continue
        # every place differs from nothing, so this lists all of them
        for place in compare_identities({}, identity | {"code": identity["code"]["hash"]}):
            say(f"  {place.path:<44} {place.after}")


def show_differences(
    platform: Platform, experiment: str, round_key: str, other_key: str, *, say: Callable[[str], None]
) -> None:
    """Print what each noun of a round was made with that another round's was not, by path, the other round first.

    Args:
        platform: where the tables are.
        experiment: whose.
        round_key: of which round.
        other_key: the round that it is compared with.
        say: takes the text.
    """
    for noun in _list_made(platform, experiment, round_key):
        try:
            identities = [read_identity(platform.tables, experiment, key, noun) for key in (other_key, round_key)]
        except NoIdentityError as error:
            say(f"{noun}: {error}")
            continue
        found = compare_identities(*identities)
        say(f"{noun}: {'made alike' if not found else ''}".rstrip())
        for difference in found:
            say(f"  {format_difference(difference)}")


def format_difference(difference: Difference) -> str:
    """One place in which two identities differ, in a line."""
    return f"{difference.path}: {difference.before} -> {difference.after}"


def _list_made(platform: Platform, experiment: str, round_key: str) -> list[str]:
    """The nouns of a round that have a table.

    Raises:
        ValueError: the round has none.
    """
    found = [noun for noun in NOUNS if platform.tables.exists(experiment, round_key, noun)]
    if not found:
        raise ValueError(f"{experiment} {round_key} has no tables in {platform.root / 'tables'}")
    return found
